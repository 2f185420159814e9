-- Take parcels from a lane, fairly by cost among its subqueues, urgent priorities first.
-- KEYS: payloads, meta, ring, due, blocked, state, claimed
-- ARGV: list prefix, lease, max_cost, max_parcels, promote_limit
-- Returns {version, next_ms (-1: empty), payload, payload, ...}; nothing from a lane that was closed
local payloads, meta, ring, due, blocked, state, claimed =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local prefix, lease, max_cost, max_parcels = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('HEXISTS', state, 'closed') == 1 then return {0, -1} end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local function join(sub, priority)
  local base = tonumber(redis.call('HGET', state, 'v:' .. priority) or '0')
  redis.call('ZADD', ring, 'NX', priority * 1e13 + base, sub)
end

for _, sub in ipairs(redis.call('ZRANGEBYSCORE', blocked, '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', blocked, sub)
  if redis.call('LLEN', prefix .. sub) > 0 then join(sub, tonumber(string.match(sub, '^%d+'))) end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, tonumber(ARGV[5]))) do
  redis.call('ZREM', due, id)
  local m = redis.call('HGET', meta, id)
  if m then
    local priority, _, sub = string.match(m, '^(%d+) (%d+) (.*)$')
    redis.call('RPUSH', prefix .. sub, id)
    if not redis.call('ZSCORE', blocked, sub) then join(sub, tonumber(priority)) end
  end
end

local out = {0, -1}
local cost_taken = 0
while cost_taken < max_cost and #out - 2 < max_parcels do
  local first = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
  if not first[1] then break end
  local sub, score = first[1], tonumber(first[2])
  local id = redis.call('LPOP', prefix .. sub)
  if not id then
    redis.call('ZREM', ring, sub)
  else
    local m = redis.call('HGET', meta, id)
    local payload = redis.call('HGET', payloads, id)
    if m and payload then
      local priority, cost = string.match(m, '^(%d+) (%d+)')
      redis.call('HSET', claimed, id, lease)
      redis.call('HSET', state, 'v:' .. priority, score - tonumber(priority) * 1e13)
      redis.call('ZINCRBY', ring, tonumber(cost), sub)
      cost_taken = cost_taken + tonumber(cost)
      out[#out + 1] = payload
    end
  end
end
out[1] = redis.call('HINCRBY', state, 'version', 1)
if redis.call('ZCARD', ring) > 0 then out[2] = now
else
  local a = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  local b = redis.call('ZRANGE', blocked, 0, 0, 'WITHSCORES')
  if a[2] then out[2] = tonumber(a[2]) end
  if b[2] and (out[2] < 0 or tonumber(b[2]) < out[2]) then out[2] = tonumber(b[2]) end
end
return out
