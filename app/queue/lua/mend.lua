-- What waits in a lane and stands in no list of it goes back to the end of its subqueue; a subqueue that has something
-- goes back into the ring. Looks closely only where fewer stand in lists than wait.
-- KEYS: payloads, meta, ring, due, blocked, state, claimed   ARGV: list prefix   Returns how many stood nowhere
local payloads, meta, ring, due, blocked, state, claimed =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local prefix = ARGV[1]
local waiting = redis.call('HLEN', payloads) - redis.call('HLEN', claimed) - redis.call('ZCARD', due)
for _, sub in ipairs(redis.call('ZRANGE', ring, 0, -1)) do waiting = waiting - redis.call('LLEN', prefix .. sub) end
for _, sub in ipairs(redis.call('ZRANGE', blocked, 0, -1)) do
  if not redis.call('ZSCORE', ring, sub) then waiting = waiting - redis.call('LLEN', prefix .. sub) end
end
if waiting <= 0 then return 0 end

local metas, listed, priorities = redis.call('HGETALL', meta), {}, {}
for i = 2, #metas, 2 do
  local priority, _, sub = string.match(metas[i], '^(%d+) (%d+) (.*)$')
  if not priorities[sub] then
    priorities[sub] = priority
    for _, id in ipairs(redis.call('LRANGE', prefix .. sub, 0, -1)) do listed[id] = true end
  end
end
local mended = 0
for i = 1, #metas, 2 do
  local id = metas[i]
  if not listed[id] and redis.call('HEXISTS', payloads, id) == 1 and redis.call('HEXISTS', claimed, id) == 0
    and not redis.call('ZSCORE', due, id) then
    redis.call('RPUSH', prefix .. string.match(metas[i + 1], '^%d+ %d+ (.*)$'), id)
    mended = mended + 1
  end
end
for sub, priority in pairs(priorities) do
  if redis.call('LLEN', prefix .. sub) > 0 and not redis.call('ZSCORE', blocked, sub) then
    local base = tonumber(redis.call('HGET', state, 'v:' .. priority) or '0')
    redis.call('ZADD', ring, 'NX', tonumber(priority) * 1e13 + base, sub)
  end
end
return mended
