-- Reserved tokens were used, or are given back. See reserve.lua for the hashes.
-- KEYS: one for each throttle
-- ARGV: window, hold, bucket (ms), then for each record: slot (ms), used, given back, seen (us), number of its
--   throttles, their places in KEYS
-- Returns now in us
local t = redis.call('TIME')
local now_us = t[1] * 1000000 + t[2]
local now = math.floor(now_us / 1000)
local window, hold, bucket = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local first = math.floor(now / bucket)
local ended, used_by, freed_by = {}, {}, {}
for k = 1, #KEYS do
  ended[k] = tonumber(redis.call('HGET', KEYS[k], 'ended') or first)
  used_by[k], freed_by[k] = {}, {}
end
local at = 3
while at < #ARGV do
  local slot, used, back = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local seen, n = tonumber(ARGV[at + 4]) / 1000, tonumber(ARGV[at + 5])
  -- Not after now, since it has happened; before its slot is impossible: a clock was set meanwhile.
  if seen > now or seen < slot then seen = now end
  local ends, b = math.floor((seen + window) / bucket) + 1, math.floor(slot / bucket)
  for i = 1, n do
    local k = tonumber(ARGV[at + 5 + i])
    freed_by[k][b] = (freed_by[k][b] or 0) + used + back
    local counts = math.max(ends, ended[k] + 1)
    if used > 0 and ends > first then used_by[k][counts] = (used_by[k][counts] or 0) + used end
  end
  at = at + 5 + n
end
for k = 1, #KEYS do
  local used, freed = 0, 0
  for b, n in pairs(freed_by[k]) do
    local there = tonumber(redis.call('HGET', KEYS[k], 'r' .. b) or 0)
    if there <= n then
      redis.call('HDEL', KEYS[k], 'r' .. b)
      freed = freed + there
    else
      redis.call('HINCRBY', KEYS[k], 'r' .. b, 0 - n)
      freed = freed + n
    end
  end
  for b, n in pairs(used_by[k]) do
    redis.call('HINCRBY', KEYS[k], 'e' .. b, n)
    used = used + n
  end
  redis.call('HINCRBY', KEYS[k], 'used', used)
  redis.call('HINCRBY', KEYS[k], 'reserved', 0 - freed) -- not -0: Redis 7 takes it for no integer
  redis.call('HSETNX', KEYS[k], 'ended', first)
  redis.call('HSETNX', KEYS[k], 'aged', first - 1)
  redis.call('PEXPIRE', KEYS[k], window + hold + 1000)
end
return now_us
