-- Put people into a set while an epoch is built.
-- KEYS: the set   ARGV: recipients, 8 bytes each
local people, slice, n = ARGV[1], {}, 0
for p = 1, #people, 8 do
  n = n + 1
  slice[n] = string.sub(people, p, p + 7)
  if n == 4000 or p + 8 > #people then
    redis.call('SADD', KEYS[1], unpack(slice, 1, n))
    n = 0
  end
end
