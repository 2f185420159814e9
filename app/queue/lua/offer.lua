-- Put parcels into a lane. Offering one that is there already does nothing.
-- KEYS: payloads, meta, ring, due, blocked, state   ARGV: now_ms (0: server's), list prefix,
--   then for each parcel: id, subqueue, priority, cost, due_ms, head ('1': to the front), payload
-- Returns {version, next_ms (-1: empty), offered}
local payloads, meta, ring, due, blocked, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local now = tonumber(ARGV[1])
if now == 0 then local t = redis.call('TIME'); now = t[1] * 1000 + math.floor(t[2] / 1000) end
local prefix = ARGV[2]
local offered = 0
for i = 3, #ARGV, 7 do
  local id, sub, priority, cost, at, head, payload =
    ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4]), ARGV[i + 5], ARGV[i + 6]
  if redis.call('HSETNX', payloads, id, payload) == 1 then
    offered = offered + 1
    redis.call('HSET', meta, id, priority .. ' ' .. cost .. ' ' .. sub)
    if at > now then
      redis.call('ZADD', due, at, id)
    else
      redis.call(head == '1' and 'LPUSH' or 'RPUSH', prefix .. sub, id)
      if not redis.call('ZSCORE', blocked, sub) then
        -- start-time fair queueing: a newcomer starts where the lane now stands
        local base = tonumber(redis.call('HGET', state, 'v:' .. priority) or '0')
        redis.call('ZADD', ring, 'NX', priority * 1e13 + base, sub)
      end
    end
  end
end
local version = redis.call('HINCRBY', state, 'version', 1)
local next_ms = -1
if redis.call('ZCARD', ring) > 0 then next_ms = now
else
  local a = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  local b = redis.call('ZRANGE', blocked, 0, 0, 'WITHSCORES')
  if a[2] then next_ms = tonumber(a[2]) end
  if b[2] and (next_ms < 0 or tonumber(b[2]) < next_ms) then next_ms = tonumber(b[2]) end
end
return {version, next_ms, offered}
