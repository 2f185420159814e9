-- Tokens of sliding-window throttles, now and for the moments shortly ahead at which they come free.
-- A token counts from its reservation until one window after the moment by which its segment was seen, so the rate
-- holds in any sliding window as the carrier sees it. A reservation that is neither confirmed nor given back ages
-- out hold_ms after its slot. What an older epoch sent is not known here: nothing is granted until it is over.
-- Segments of one text go together: `least` is what the first text needs. Less is not granted; a text of more
-- segments than the rate goes when the window is empty. While a text of several segments waits, it is first in
-- line, so that shorter ones don't take each token that comes free; an urgent text passes one that is not.
-- KEYS: the epoch's mark, then one hash for each throttle; moments in it are numbers of buckets:
--   e<end>: tokens that are used and count until then   r<slot>: tokens reserved for then
--   used, reserved: the sums of these   ended, aged: up to where they were looked through
--   pace: the next token is given for no earlier slot (ms): spreads what could go at once
--   line: urgent, until (ms), who
-- ARGV: window, hold, settle, turn, ahead, pause, bucket (ms), spread, the rate of each throttle, then for each ask:
--   wanted, least, who, urgent ('1'), number of its throttles, their places in KEYS (1: the first after the mark)
-- Returns {now in us (-1: the copy is gone), for each ask {retry_ms, slot_ms, n, slot_ms, n, ...}}
-- The cost of a call does not grow with the rate: it touches what has ended since the last one, and the buckets ahead.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local window, hold, settle = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local turn, ahead, pause = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local bucket, spread = tonumber(ARGV[7]), tonumber(ARGV[8])
local CHUNK = 100 -- fields in one HMGET
local first, last = math.floor(now / bucket), math.floor((now + ahead) / bucket)
local out = {t[1] * 1000000 + t[2]}
local built = tonumber(redis.call('GET', KEYS[1]))
if not built then return {-1} end
local starts = built + window + settle

-- Calls `each(bucket, tokens)` for what there is of a kind between two buckets.
local function through(key, kind, from, to, each)
  while from <= to do
    local names = {}
    for b = from, math.min(to, from + CHUNK - 1) do names[#names + 1] = kind .. b end
    local values = redis.call('HMGET', key, unpack(names))
    for i = 1, #names do
      if values[i] and each(from + i - 1, tonumber(values[i])) then return end
    end
    from = from + CHUNK
  end
end

-- Forget what there is of a kind between two buckets; gives its sum.
local function drop(key, kind, from, to)
  local sum, gone = 0, {}
  through(key, kind, from, to, function(b, n)
    sum = sum + n
    gone[#gone + 1] = kind .. b
  end)
  for i = 1, #gone, CHUNK do redis.call('HDEL', key, unpack(gone, i, math.min(#gone, i + CHUNK - 1))) end
  return sum
end

local function load(key, rate)
  local f = redis.call('HMGET', key, 'used', 'reserved', 'ended', 'aged', 'pace', 'line')
  local self = {
    key = key, rate = rate, gap = 1000 / (rate * spread), taken = {},
    used = tonumber(f[1] or 0), reserved = tonumber(f[2] or 0),
    ended = tonumber(f[3] or first), aged = tonumber(f[4] or first - 1), pace = tonumber(f[5] or 0),
  }
  if self.ended > first + window / bucket then -- Redis' clock was set back: as if all had been used just now
    redis.call('DEL', key)
    redis.call('HSET', key, 'e' .. (first + window / bucket), rate)
    self.used, self.reserved, self.ended, self.aged, self.pace, f[6] = rate, 0, first, first - 1, 0, false
    self.changed = true
  end
  if self.ended < first then
    if self.used > 0 then self.used = self.used - drop(key, 'e', self.ended + 1, first) end
    self.ended, self.changed = first, true
  end
  local dead = first - math.floor(hold / bucket)
  if self.aged < dead then
    if self.reserved > 0 then self.reserved = self.reserved - drop(key, 'r', self.aged + 1, dead) end
    self.aged, self.changed = dead, true
  end
  if f[6] then
    local urgent, till, who = string.match(f[6], '^(%d) (%d+) (.*)$')
    if tonumber(till) > now then self.line = {urgent = urgent, who = who} end
  end
  self.free = rate - self.used - self.reserved
  return self
end

-- Tokens that come free until the horizon; looked up when first asked for.
local function soon(self)
  if not self.steps then
    self.steps, self.sum = {}, 0
    if self.used > 0 then
      through(self.key, 'e', first + 1, last, function(b, n)
        self.steps[b] = n
        self.sum = self.sum + n
      end)
    end
  end
  return self.sum
end

local function has(self, need) return self.free >= need or self.free + soon(self) >= need end

-- How long (ms) until `need` tokens are within the horizon.
local function wait_for(self, need)
  if has(self, need) then return 0 end
  local free, wait = self.free + soon(self), pause -- what is reserved: nobody knows yet until when
  through(self.key, 'e', last + 1, first + window / bucket + 1, function(b, n)
    free = free + n
    if free >= need then
      wait = (b - last) * bucket
      return true
    end
  end)
  return wait
end

-- How many tokens the spread allows in a bucket.
local function spread_allows(self, b)
  local moment = b * bucket
  local since = math.max(self.pace, moment - bucket)
  return since > moment and 0 or math.floor((moment - since) / self.gap) + 1
end

local function take(self, b, n, urgent)
  self.taken[b] = (self.taken[b] or 0) + n
  self.free = self.free - n
  self.reserved = self.reserved + n
  if urgent ~= '1' then
    self.pace = math.max(self.pace, (b - 1) * bucket) + math.min(n, self.rate) * self.gap
  end
  self.changed = true
end

-- Slots for one ask that is not refused.
local function grant(answer, throttles, wanted, least, urgent, long)
  local left, together, freed = long and least or wanted, least, {}
  for b = first, last do
    local share = left
    for i, one in ipairs(throttles) do
      freed[i] = (freed[i] or 0) + (b > first and one.steps and one.steps[b] or 0)
      local free = one.free + freed[i]
      if long then -- all of it or nothing; with an empty window where it is longer than the rate
        if free < math.min(least, one.rate) then share = 0 end
      elseif urgent == '1' then
        share = math.min(share, free)
      else -- the first text is not spread, once it has begun
        local open = spread_allows(one, b)
        if open > 0 or together < least then open = math.max(open, together) end
        share = math.min(share, free, open)
      end
    end
    if share > 0 then
      for _, one in ipairs(throttles) do take(one, b, share, urgent) end
      answer[#answer + 1], answer[#answer + 2] = b * bucket, share
      left, together = left - share, math.max(0, together - share)
      if left == 0 then break end
    end
  end
  if long or left > 0 then
    answer[1] = pause
    for _, one in ipairs(throttles) do answer[1] = math.max(answer[1], wait_for(one, 1)) end
  end
end

local function refuse(answer, throttles, least, urgent, who, behind)
  answer[1] = pause
  local short = {}
  for _, one in ipairs(throttles) do
    local need = math.min(least, one.rate)
    if not has(one, need) then
      short[#short + 1] = one
      answer[1] = math.max(answer[1], wait_for(one, need))
    end
  end
  if least > 1 and not behind then
    for _, one in ipairs(short) do
      one.line, one.till, one.changed = {urgent = urgent, who = who}, now + answer[1] + ahead + turn, true
    end
  end
end

local throttles = {}
for k = 2, #KEYS do throttles[k - 1] = load(KEYS[k], tonumber(ARGV[7 + k])) end
local at = 8 + #throttles
while at < #ARGV do
  local wanted, least = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local who, urgent, n = ARGV[at + 3], ARGV[at + 4], tonumber(ARGV[at + 5])
  local mine, behind, long, short, early = {}, false, false, false, false
  for i = 1, n do
    local one = throttles[tonumber(ARGV[at + 5 + i])]
    mine[i] = one
    if one.line and one.line.who == who then
      one.line, one.changed = nil, true
    elseif one.line and one.line.urgent >= urgent then
      behind = true
    end
    long = long or least > one.rate
    short = short or not has(one, math.min(least, one.rate))
    if one.free < wanted then soon(one) end
    early = early or (urgent ~= '1' and one.pace > last * bucket)
  end
  at = at + 5 + n
  local answer = {0}
  if now < starts then
    answer[1] = starts - now
  elseif short then
    refuse(answer, mine, least, urgent, who, behind)
  elseif behind or early then
    answer[1] = pause -- and no longer, whatever the spread says: the caller's urgent texts may go before
  else
    grant(answer, mine, wanted, least, urgent, long)
  end
  out[#out + 1] = answer
end

for _, one in ipairs(throttles) do
  if one.changed then
    redis.call('HSET', one.key, 'used', one.used, 'reserved', one.reserved, 'ended', one.ended, 'aged', one.aged,
      'pace', one.pace)
    for b, n in pairs(one.taken) do redis.call('HINCRBY', one.key, 'r' .. b, n) end
    if not one.line then
      redis.call('HDEL', one.key, 'line')
    elseif one.till then
      redis.call('HSET', one.key, 'line', one.line.urgent .. ' ' .. one.till .. ' ' .. one.line.who)
    end
    redis.call('PEXPIRE', one.key, window + hold + ahead + 1000)
  end
end
return out
