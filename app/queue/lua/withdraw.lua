-- Take parcels off the tail of a subqueue, for as long as each is the last one and nobody has claimed it.
-- KEYS: payloads, meta, claimed, the subqueue's list   ARGV: id, id, ... from the last one on
-- Returns how many were taken
local taken = 0
for i = 1, #ARGV do
  local id = ARGV[i]
  if redis.call('LINDEX', KEYS[4], -1) ~= id or redis.call('HEXISTS', KEYS[3], id) == 1 then break end
  redis.call('RPOP', KEYS[4])
  redis.call('HDEL', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  taken = taken + 1
end
return taken
