-- May these recipients of one tenant get this text now? Suppressions, do-not-call list, consent, then contact history.
-- KEYS: suppressions, do-not-call list of the country, consents, history prefix
-- ARGV: 1 sentinel  2 sender  3 brand's scope ('': none)  4 ask the list?  5 consent needed?
--   6-8 how old (s) an express, a soft and an inquiry consent may be (0: any, -1: does not do)  9 recipients, 8 bytes each
--   10 history kept (ms; 0: not asked)  11 only ask, count nothing?  12 the same text again after (ms; 0: whenever)
--   13 counts as a contact?  14 campaign (4 bytes)  15 tokens, 8 bytes each  16 contents, 5 bytes each ('': none)
--   17... limits: letter, max, window (ms), of this campaign only?
-- A history is a string of records: time (6, ms), token (8), contact (1), campaign (4), content (5).
-- Returns false when the copy is not whole, else a string of one letter each: . pass, s suppressed, d do-not-call,
--   n no consent, x consent expired, r repeated text, or the limit's letter; then place and time (ms) at which a limit is free
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then return false end
local sub, byte, unpack_int, pack_int = string.sub, string.byte, struct.unpack, struct.pack
local sender, brand, people = ARGV[2], ARGV[3], ARGV[9]
local n = #people / 8
local who, asked, letters = {}, {}, {}
local per = brand == '' and 2 or 3
for i = 1, n do
  local one, at = sub(people, 8 * i - 7, 8 * i), per * (i - 1)
  who[i], letters[i] = one, '.'
  asked[at + 1], asked[at + 2] = one, one .. sender
  if per == 3 then asked[at + 3] = one .. brand end
end
local found = redis.call('SMISMEMBER', KEYS[1], unpack(asked))
for i = 1, #found do
  if found[i] == 1 then letters[math.floor((i - 1) / per) + 1] = 's' end
end
if ARGV[4] == '1' then
  found = redis.call('SMISMEMBER', KEYS[2], unpack(who))
  for i = 1, n do
    if found[i] == 1 and letters[i] == '.' then letters[i] = 'd' end
  end
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if ARGV[5] == '1' then
  local age = { e = tonumber(ARGV[6]), s = tonumber(ARGV[7]), i = tonumber(ARGV[8]) }
  local fields = who
  if brand ~= '' then
    fields = {}
    for i = 1, n do fields[2 * i - 1], fields[2 * i] = who[i], who[i] .. brand end
  end
  found = redis.call('HMGET', KEYS[3], unpack(fields))
  for i = 1, n do
    local word = found[i]
    if brand ~= '' then -- the newer word of the two holds; of two of one moment the withdrawal
      local all, own = found[2 * i - 1], found[2 * i]
      word = all
      if own and (not all or sub(own, 2, 5) > sub(all, 2, 5)
          or (sub(own, 2, 5) == sub(all, 2, 5) and sub(all, 1, 1) ~= 'w')) then word = own end
    end
    if letters[i] ~= '.' then -- stopped already
    elseif not word or sub(word, 1, 1) == 'w' then letters[i] = 'n'
    else
      local oldest, said = age[sub(word, 1, 1)], unpack_int('>I4', word, 2)
      local ends = unpack_int('>I4', word, 6)
      if oldest < 0 then letters[i] = 'n'
      elseif (oldest > 0 and (said + oldest) * 1000 <= now) or (ends > 0 and ends * 1000 <= now) then letters[i] = 'x' end
    end
  end
end
local keep = tonumber(ARGV[10])
if keep == 0 then return { table.concat(letters) } end
local only_ask, again, contact, campaign = ARGV[11] == '1', tonumber(ARGV[12]), ARGV[13] == '1', ARGV[14]
local limits = {}
for c = 17, #ARGV, 4 do
  limits[#limits + 1] = { ARGV[c], tonumber(ARGV[c + 1]), tonumber(ARGV[c + 2]), ARGV[c + 3] == '1' }
end
local stamp, mark = pack_int('>I6', now), contact and '\1' or '\0'
local free = {}
for i = 1, n do
  if letters[i] == '.' then
    local key = KEYS[4] .. who[i]
    local token, content = sub(ARGV[15], 8 * i - 7, 8 * i), sub(ARGV[16], 5 * i - 4, 5 * i)
    local history = redis.call('GET', key) or ''
    local known, verdict, frees = false, '.', 0
    if history ~= '' then
      local times = {}
      for c = 1, #limits do times[c] = {} end
      local live = {}
      for p = 1, #history, 24 do
        local at = unpack_int('>I6', history, p)
        if at + keep > now then
          live[#live + 1] = sub(history, p, p + 23)
          if sub(history, p + 6, p + 13) == token then known = true
          else
            if again > 0 and at + again > now and sub(history, p + 19, p + 23) == content then verdict = 'r' end
            if byte(history, p + 14) == 1 then
              for c = 1, #limits do
                local limit = limits[c]
                if at + limit[3] > now and (not limit[4] or sub(history, p + 15, p + 18) == campaign) then
                  local seen = times[c]
                  seen[#seen + 1] = at
                end
              end
            end
          end
        end
      end
      history = table.concat(live)
      if not known and verdict == '.' then
        for c = 1, #limits do
          local limit, seen = limits[c], times[c]
          if #seen >= limit[2] then
            if verdict == '.' then verdict = limit[1] end
            local when = now + limit[3]
            if limit[2] > 0 then
              table.sort(seen)
              when = seen[#seen - limit[2] + 1] + limit[3]
            end
            if when > frees then frees = when end
          end
        end
      end
    else
      for c = 1, #limits do
        if limits[c][2] <= 0 and verdict == '.' then verdict, frees = limits[c][1], now + limits[c][3] end
      end
    end
    if not known then
      letters[i] = verdict
      if frees > 0 then free[#free + 1], free[#free + 2] = i - 1, frees end
      if verdict == '.' and not only_ask then
        if content == '' then content = '\0\0\0\0\0' end
        redis.call('SET', key, history .. stamp .. token .. mark .. campaign .. content, 'PX', keep)
      end
    end
  end
end
return { table.concat(letters), unpack(free) }
