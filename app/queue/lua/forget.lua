-- Drop the histories whose newest record no limit counts any more, a page at a time.
-- KEYS: histories   ARGV: cursor; how many to look at; kept (ms)   Returns the next cursor ('0': that was all)
local clock = redis.call('TIME')
local oldest = clock[1] * 1000 + math.floor(clock[2] / 1000) - ARGV[3]
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local gone = {}
for i = 1, #page[2], 2 do
  local history = page[2][i + 1]
  if struct.unpack('>I6', history, #history - 23) <= oldest then gone[#gone + 1] = page[2][i] end
end
for first = 1, #gone, 1000 do redis.call('HDEL', KEYS[1], unpack(gone, first, math.min(first + 999, #gone))) end
return page[1]
