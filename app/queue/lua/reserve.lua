-- Tokens of sliding-window throttles: all the keys of one message group, or what the tightest allows.
-- A token counts from its reservation until one window after the moment it was confirmed as used, so
-- the rate holds in any sliding window as the carrier sees it. A reservation that is neither confirmed
-- nor refunded ages out after hold_ms.
-- KEYS: one hash for each throttle   ARGV: wanted, window_ms, hold_ms, bucket_ms, rate of each key
-- Returns {granted, bucket, retry_ms}
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local wanted, window, hold, width = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local granted, retry = wanted, 0
local sums = {}
for k = 1, #KEYS do
  local rate = tonumber(ARGV[4 + k])
  local used, soonest = 0, -1
  local all = redis.call('HGETALL', KEYS[k])
  for i = 1, #all, 2 do
    local kind, bucket = string.match(all[i], '^(%a)(%d+)$')
    local ends = tonumber(bucket) * width + width + (kind == 'u' and window or hold)
    if ends <= now then
      redis.call('HDEL', KEYS[k], all[i])
    else
      used = used + tonumber(all[i + 1])
      if kind == 'u' and (soonest < 0 or ends < soonest) then soonest = ends end
    end
  end
  local free = math.max(0, rate - used)
  if free < granted then
    granted = free
    retry = math.max(retry, soonest > 0 and soonest - now or width * 2)
  end
end
local bucket = math.floor(now / width)
if granted > 0 then
  for k = 1, #KEYS do
    redis.call('HINCRBY', KEYS[k], 'r' .. bucket, granted)
    redis.call('PEXPIRE', KEYS[k], window + hold + 1000)
  end
end
return {granted, bucket, retry}
