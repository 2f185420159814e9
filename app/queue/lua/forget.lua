-- Drop the histories whose newest record no limit counts any more, a page at a time.
-- KEYS: histories; how far back they reach   ARGV: cursor; how many to look at
-- Returns the next cursor ('0': that was all)
local kept = redis.call('HGET', KEYS[2], 'kept')
if not kept then return '0' end
local clock = redis.call('TIME')
local oldest = clock[1] * 1000 + math.floor(clock[2] / 1000) - kept
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local gone = {}
for i = 1, #page[2], 2 do
  local history = page[2][i + 1]
  if struct.unpack('>I6', history, #history - 23) <= oldest then gone[#gone + 1] = page[2][i] end
end
for first = 1, #gone, 1000 do redis.call('HDEL', KEYS[1], unpack(gone, first, math.min(first + 999, #gone))) end
return page[1]
