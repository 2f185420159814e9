-- May these recipients of one tenant get this text now? Suppressions, do-not-call list, consent, then contact history.
-- KEYS: 1 suppressions of every sender  2 of this one  3 of its brand  4 do-not-call list of the country  5 consents
--   6 histories  7 how far back these reach
-- ARGV: 1 sentinel  2 brand's scope ('': none)  3 ask the list?  4 consent: 1 needed, 2 none withdrawn, 0 not asked
--   5-7 how old (s) an express, a soft and an inquiry consent may be (0: any, -1: does not do)  8 recipients, 8 bytes each
--   9 history needed (ms; 0: not asked)  10 only ask, count nothing?  11 the same text again after (ms; 0: whenever)
--   12 the record of each without its time  13... limits: letter, max, window (ms), of this campaign only?
-- A history is a string of records: time (6, ms), token (8), contact (1), campaign (4), content (5).
-- Returns false when the copy is not whole, else a string of one letter each: . pass, s suppressed, d do-not-call,
--   n no consent, x consent expired, r repeated text, h histories that do not reach back far enough, or the limit's
--   letter; then place and time (ms) at which a limit is free
-- Few strings are made for each recipient: each is paid for again when it is collected.
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then return false end
local EXPRESS, SOFT, INQUIRY, WITHDRAWN = 101, 115, 105, 119 -- e, s, i, w
local sub, byte, find, unpack_int = string.sub, string.byte, string.find, struct.unpack
local brand, people = ARGV[2], ARGV[8]
local n = #people / 8
local who, letters = { struct.unpack(string.rep('c8', n), people) }, {}
who[n + 1] = nil -- where the unpacking ended
for i = 1, n do letters[i] = '.' end

-- who of them is in that set gets this letter
local function mark(key, letter)
  if redis.call('EXISTS', key) == 0 then return end
  local found = redis.call('SMISMEMBER', key, unpack(who))
  for i = 1, n do
    if found[i] == 1 and letters[i] == '.' then letters[i] = letter end
  end
end

mark(KEYS[1], 's')
mark(KEYS[2], 's')
if brand ~= '' then mark(KEYS[3], 's') end
if ARGV[3] == '1' then mark(KEYS[4], 'd') end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if ARGV[4] ~= '0' then
  local needed = ARGV[4] == '1'
  local age = { [EXPRESS] = tonumber(ARGV[5]), [SOFT] = tonumber(ARGV[6]), [INQUIRY] = tonumber(ARGV[7]) }
  local fields = who
  if brand ~= '' then
    fields = {}
    for i = 1, n do fields[2 * i - 1], fields[2 * i] = who[i], who[i] .. brand end
  end
  local found = redis.call('HMGET', KEYS[5], unpack(fields))
  for i = 1, n do
    local word = found[i]
    if brand ~= '' then -- the newer word of the two holds; of two of one moment the withdrawal
      local all, own = found[2 * i - 1], found[2 * i]
      word = all
      if own and (not all or sub(own, 2, 5) > sub(all, 2, 5)
          or (sub(own, 2, 5) == sub(all, 2, 5) and byte(all) ~= WITHDRAWN)) then word = own end
    end
    if letters[i] ~= '.' then -- stopped already
    elseif not word then if needed then letters[i] = 'n' end
    elseif byte(word) == WITHDRAWN then letters[i] = 'n'
    elseif needed then
      local oldest, said = age[byte(word)], unpack_int('>I4', word, 2)
      local ends = unpack_int('>I4', word, 6)
      if oldest < 0 then letters[i] = 'n'
      elseif (oldest > 0 and (said + oldest) * 1000 <= now) or (ends > 0 and ends * 1000 <= now) then letters[i] = 'x' end
    end
  end
end
local needed_ms = tonumber(ARGV[9])
if needed_ms == 0 then return { table.concat(letters) } end
local only_ask, again, records = ARGV[10] == '1', tonumber(ARGV[11]), ARGV[12]
local reach = redis.call('HMGET', KEYS[7], 'kept', 'whole') -- what is newer than `kept` is not trimmed
local keep, whole = tonumber(reach[1] or 0), tonumber(reach[2] or 0)
if not only_ask and whole < needed_ms then
  for i = 1, n do
    if letters[i] == '.' then letters[i] = 'h' end
  end
  return { table.concat(letters) }
end
local limits = {}
for c = 13, #ARGV, 4 do
  limits[#limits + 1] = { ARGV[c], tonumber(ARGV[c + 1]), tonumber(ARGV[c + 2]), ARGV[c + 3] == '1' }
end
local stamp, campaign = struct.pack('>I6', now), sub(records, 10, 13)
local k, free = #limits, {}

-- whether a history has a record with these bytes at that place (1...), made after `since`
local function has(history, bytes, place, since)
  local p = find(history, bytes, place, true)
  while p do
    if (p - place) % 24 == 0 and unpack_int('>I6', history, p - place + 1) > since then return true end
    p = find(history, bytes, p + 1, true)
  end
  return false
end

-- how many contacts of a history count against a limit, from its first live record on; and when the one that frees it was
local function count(history, from, limit, wanted)
  local n, since = 0, now - limit[3]
  for p = #history - 23, from, -24 do
    local at = unpack_int('>I6', history, p)
    if at <= since then return n, nil end
    if byte(history, p + 14) == 1 and (not limit[4] or sub(history, p + 15, p + 18) == campaign) then
      n = n + 1
      if n == wanted then return n, at end
    end
  end
  return n, nil
end

local going, places = {}, {}
for i = 1, n do
  if letters[i] == '.' then going[#going + 1], places[#places + 1] = who[i], i end
end
if #going == 0 then return { table.concat(letters) } end
local histories = redis.call('HMGET', KEYS[6], unpack(going))
local counted, written = {}, {} -- who is asked about twice has been counted once
for g = 1, #going do
  local one, i = going[g], places[g]
  local history = counted[one] or histories[g] or ''
  local verdict, frees, from, known = '.', 0, 1, false
  while from <= #history and unpack_int('>I6', history, from) + keep <= now do from = from + 24 end
  if from <= #history then
    known = has(history, sub(records, 18 * i - 17, 18 * i - 10), 7, now - keep)
    if again > 0 and has(history, sub(records, 18 * i - 4, 18 * i), 20, now - again) then verdict = 'r' end
  end
  if not known then
    if verdict == '.' then
      for c = 1, k do
        local limit = limits[c]
        local most = limit[2]
        -- a history that is too short to fill the limit needs no counting
        if most <= 0 or #history - from + 1 >= 24 * most then
          local made, at = count(history, from, limit, most)
          if made >= most then
            if verdict == '.' then verdict = limit[1] end
            local when = (most <= 0 and now or at) + limit[3]
            if when > frees then frees = when end
          end
        end
      end
    end
    letters[i] = verdict
    if frees > 0 then free[#free + 1], free[#free + 2] = i - 1, frees end
    if verdict == '.' and not only_ask then
      if from > 1 then history = sub(history, from) end
      history = history .. stamp .. sub(records, 18 * i - 17, 18 * i)
      counted[one] = history
      written[#written + 1], written[#written + 2] = one, history
    end
  end
end
if #written > 0 then redis.call('HSET', KEYS[6], unpack(written)) end
return { table.concat(letters), unpack(free) }
