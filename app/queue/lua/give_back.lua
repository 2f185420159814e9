-- Claimed parcels go back to the head of their subqueues, untouched.
-- KEYS: meta, ring, due, blocked, state, claimed
-- ARGV: list prefix, lease, block_until_ms (0: none), id, id, ...
-- With no id: everything that the lease holds. Returns {version, next_ms (-1: empty), n}
local meta, ring, due, blocked, state, claimed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local prefix, lease, until_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local ids = {}
for i = 4, #ARGV do ids[#ids + 1] = ARGV[i] end
if #ids == 0 then
  local all = redis.call('HGETALL', claimed)
  for i = 1, #all, 2 do if all[i + 1] == lease then ids[#ids + 1] = all[i] end end
end
local n = 0
for i = #ids, 1, -1 do
  local id = ids[i]
  if redis.call('HGET', claimed, id) == lease then
    redis.call('HDEL', claimed, id)
    local m = redis.call('HGET', meta, id)
    if m then
      n = n + 1
      local priority, _, sub = string.match(m, '^(%d+) (%d+) (.*)$')
      redis.call('LPUSH', prefix .. sub, id)
      if until_ms > 0 then
        redis.call('ZADD', blocked, until_ms, sub)
        redis.call('ZREM', ring, sub)
      elseif not redis.call('ZSCORE', blocked, sub) then
        local base = tonumber(redis.call('HGET', state, 'v:' .. priority) or '0')
        redis.call('ZADD', ring, 'NX', priority * 1e13 + base, sub)
      end
    end
  end
end
local next_ms = -1
if redis.call('ZCARD', ring) > 0 then
  local t = redis.call('TIME')
  next_ms = t[1] * 1000 + math.floor(t[2] / 1000)
else
  local a = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  local b = redis.call('ZRANGE', blocked, 0, 0, 'WITHSCORES')
  if a[2] then next_ms = tonumber(a[2]) end
  if b[2] and (next_ms < 0 or tonumber(b[2]) < next_ms) then next_ms = tonumber(b[2]) end
end
return {redis.call('HINCRBY', state, 'version', 1), next_ms, n}
