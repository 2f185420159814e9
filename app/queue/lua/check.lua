-- Suppression, consent and frequency cap of the recipients of one parcel, all of one tenant.
-- KEYS: suppressions, consents, cap prefix   ARGV: sentinel, sender, need_consent, cap_max, cap_window_ms, now is the server's,
--   then (recipient hash, cap token) pairs; an empty cap token asks no cap
-- Returns a string of one letter for each: . pass, s suppressed, n no consent, c capped; or false when the copy is not whole
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then return false end
local need_consent, cap_max, cap_window = ARGV[3] == '1', tonumber(ARGV[4]), tonumber(ARGV[5])
local now = 0
if cap_max > 0 then local t = redis.call('TIME'); now = t[1] * 1000 + math.floor(t[2] / 1000) end
local asked = {}
for i = 6, #ARGV, 2 do
  asked[#asked + 1] = ARGV[i]
  asked[#asked + 1] = ARGV[i] .. ARGV[2]
end
local suppressed = redis.call('SMISMEMBER', KEYS[1], unpack(asked))
local consented = nil
if need_consent then
  local plain = {}
  for i = 6, #ARGV, 2 do plain[#plain + 1] = ARGV[i] end
  consented = redis.call('SMISMEMBER', KEYS[2], unpack(plain))
end
local out = {}
local n = 0
for i = 6, #ARGV, 2 do
  n = n + 1
  local verdict = '.'
  if suppressed[2 * n - 1] == 1 or suppressed[2 * n] == 1 then verdict = 's'
  elseif consented and consented[n] == 0 then verdict = 'n'
  elseif cap_max > 0 and ARGV[i + 1] ~= '' then
    local key = KEYS[3] .. ARGV[i]
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now - cap_window)
    if redis.call('ZSCORE', key, ARGV[i + 1]) then verdict = '.'
    elseif redis.call('ZCARD', key) >= cap_max then verdict = 'c'
    else
      redis.call('ZADD', key, now, ARGV[i + 1])
      redis.call('PEXPIRE', key, cap_window)
    end
  end
  out[n] = verdict
end
return table.concat(out)
