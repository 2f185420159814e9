-- The index of ready lanes: lane -> when it next has something. An older view of a lane never overwrites a newer one.
-- KEYS: ready, versions   ARGV: wake channel, then lane, version, next_ms (-1: empty) ...
local earlier = false
for i = 2, #ARGV, 3 do
  local lane, version, next_ms = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  if version >= tonumber(redis.call('HGET', KEYS[2], lane) or '0') then
    redis.call('HSET', KEYS[2], lane, version)
    if next_ms < 0 then
      redis.call('ZREM', KEYS[1], lane)
    else
      local old = redis.call('ZSCORE', KEYS[1], lane)
      if not old or tonumber(old) > next_ms then earlier = true end
      redis.call('ZADD', KEYS[1], next_ms, lane)
    end
  end
end
if earlier then redis.call('PUBLISH', ARGV[1], '') end
return 1
