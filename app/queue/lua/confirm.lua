-- Reserved tokens were used (now), or are given back.
-- KEYS: one hash for each throttle   ARGV: bucket of the reservation, used, given back, bucket_ms
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local field = 'r' .. ARGV[1]
local used, back = tonumber(ARGV[2]), tonumber(ARGV[3])
for k = 1, #KEYS do
  if redis.call('HINCRBY', KEYS[k], field, -(used + back)) <= 0 then redis.call('HDEL', KEYS[k], field) end
  if used > 0 then redis.call('HINCRBY', KEYS[k], 'u' .. math.floor(now / tonumber(ARGV[4])), used) end
end
return 1
