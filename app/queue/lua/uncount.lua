-- Take contacts that were not made after all out of the histories.
-- KEYS: histories   ARGV: recipients, 8 bytes each; tokens, 8 bytes each
for i = 1, #ARGV[1] / 8 do
  local one, token = string.sub(ARGV[1], 8 * i - 7, 8 * i), string.sub(ARGV[2], 8 * i - 7, 8 * i)
  local history = redis.call('HGET', KEYS[1], one) or ''
  for p = 1, #history, 24 do
    if string.sub(history, p + 6, p + 13) == token then
      local rest = string.sub(history, 1, p - 1) .. string.sub(history, p + 24)
      if rest == '' then redis.call('HDEL', KEYS[1], one) else redis.call('HSET', KEYS[1], one, rest) end
      break
    end
  end
end
