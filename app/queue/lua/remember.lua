-- Put contacts into the histories while an epoch is built, oldest first; a text that was tried twice counts once.
-- KEYS: history prefix   ARGV: kept (ms); recipients, 8 bytes each; records, 24 bytes each
for i = 1, #ARGV[2] / 8 do
  local key = KEYS[1] .. string.sub(ARGV[2], 8 * i - 7, 8 * i)
  local record = string.sub(ARGV[3], 24 * i - 23, 24 * i)
  local history, known = redis.call('GET', key) or '', false
  for p = 7, #history, 24 do
    if string.sub(history, p, p + 7) == string.sub(record, 7, 14) then known = true end
  end
  if not known then redis.call('SET', key, history .. record, 'PX', ARGV[1]) end
end
