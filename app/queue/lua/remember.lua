-- Put contacts into the histories, oldest first; or, newest first, before them. A text that was tried twice counts once.
-- KEYS: histories   ARGV: recipients, 8 bytes each; records, 24 bytes each; '1': before them
for i = 1, #ARGV[1] / 8 do
  local one, record = string.sub(ARGV[1], 8 * i - 7, 8 * i), string.sub(ARGV[2], 24 * i - 23, 24 * i)
  local history, known = redis.call('HGET', KEYS[1], one) or '', false
  for p = 7, #history, 24 do
    if string.sub(history, p, p + 7) == string.sub(record, 7, 14) then known = true end
  end
  if not known then redis.call('HSET', KEYS[1], one, ARGV[3] == '1' and record .. history or history .. record) end
end
