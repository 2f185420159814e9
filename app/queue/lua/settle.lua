-- Forget parcels that a lease claimed; only its own. Those that PostgreSQL no longer has are forgotten the same way.
-- KEYS: payloads, meta, claimed   ARGV: lease, id, id, ...
-- Returns how many were this lease's
local settled = 0
for i = 2, #ARGV do
  local owner = redis.call('HGET', KEYS[3], ARGV[i])
  if owner == ARGV[1] then
    redis.call('HDEL', KEYS[3], ARGV[i])
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('HDEL', KEYS[2], ARGV[i])
    settled = settled + 1
  end
end
return settled
