-- Put what people said into the consents while an epoch is built.
-- KEYS: consents   ARGV: the brand's scope ('': of all); recipients with their words, 8 and 9 bytes each
local scope, said, slice, n = ARGV[1], ARGV[2], {}, 0
for p = 1, #said, 17 do
  slice[n + 1], slice[n + 2] = string.sub(said, p, p + 7) .. scope, string.sub(said, p + 8, p + 16)
  n = n + 2
  if n == 4000 or p + 17 > #said then
    redis.call('HSET', KEYS[1], unpack(slice, 1, n))
    n = 0
  end
end
