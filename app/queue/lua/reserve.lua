-- Tokens of sliding-window throttles: all the keys of one message group, or what the tightest allows.
-- A token counts from its reservation until one window after the moment it was confirmed as used, so
-- the rate holds in any sliding window as the carrier sees it. A reservation that is neither confirmed
-- nor refunded ages out after hold_ms. What an older epoch sent is not known here: nothing is granted
-- until it is over.
-- Segments of one text go together: `least` is what the first text needs. Less is not granted; a text of
-- more segments than the rate goes when the window is empty. While a text of several segments waits, it
-- is first in line (field 'w': urgent, until, who), so that shorter ones don't take each token that comes
-- free; an urgent text passes one that is not.
-- KEYS: the epoch's mark, then one hash for each throttle
-- ARGV: wanted, window_ms, hold_ms, bucket_ms, least, who, urgent ('1'), settle_ms, turn_ms, rate of each key
-- Returns {granted (-1: the copy is gone), bucket, retry_ms}
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local wanted, window, hold, width = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local least, who, urgent = tonumber(ARGV[5]), ARGV[6], ARGV[7]
local bucket = math.floor(now / width)
local built = tonumber(redis.call('GET', KEYS[1]))
if not built then return {-1, bucket, 0} end
local starts = built + window + tonumber(ARGV[8])
if now < starts then return {0, bucket, starts - now} end

local granted, retry = wanted, 0
local short = {} -- keys without enough for the first text
local behind = false
for k = 2, #KEYS do
  local rate = tonumber(ARGV[8 + k])
  local used, spent = 0, {}
  local all = redis.call('HGETALL', KEYS[k])
  for i = 1, #all, 2 do
    local kind, n = string.sub(all[i], 1, 1), tonumber(all[i + 1])
    if kind == 'w' then
      local rank, till, holder = string.match(all[i + 1], '^(%d) (%d+) (.*)$')
      if tonumber(till) <= now or holder == who then
        redis.call('HDEL', KEYS[k], all[i])
      elseif rank >= urgent then
        behind = true
      end
    else
      local ends = tonumber(string.sub(all[i], 2)) * width + width + (kind == 'u' and window or hold)
      if ends <= now then
        redis.call('HDEL', KEYS[k], all[i])
      else
        used = used + n
        if kind == 'u' then spent[#spent + 1] = {ends, n} end
      end
    end
  end
  local target = math.min(least, rate)
  granted = math.min(granted, math.max(0, rate - used))
  if used + target > rate then short[#short + 1] = KEYS[k] end
  if used + math.min(wanted, rate) > rate then
    -- when enough for the first text (or, if that is there, anything more) has aged out
    table.sort(spent, function(a, b) return a[1] < b[1] end)
    local wait, left = width * 2, used
    for _, one in ipairs(spent) do
      left = left - one[2]
      if left + target <= rate then wait = one[1] - now break end
    end
    retry = math.max(retry, wait)
  end
end
if #short > 0 then
  granted = 0
  if least > 1 and not behind then
    for _, key in ipairs(short) do
      redis.call('HSET', key, 'w', urgent .. ' ' .. (now + retry + tonumber(ARGV[9])) .. ' ' .. who)
    end
  end
elseif behind then
  granted, retry = 0, width * 2
else
  granted = math.max(granted, least)
end
if granted > 0 then
  for k = 2, #KEYS do
    redis.call('HINCRBY', KEYS[k], 'r' .. bucket, granted)
    redis.call('PEXPIRE', KEYS[k], window + hold + 1000)
  end
end
return {granted, bucket, retry}
