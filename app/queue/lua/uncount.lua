-- Take contacts that were not made after all out of the histories.
-- KEYS: history prefix   ARGV: recipients, 8 bytes each; tokens, 8 bytes each
for i = 1, #ARGV[1] / 8 do
  local key = KEYS[1] .. string.sub(ARGV[1], 8 * i - 7, 8 * i)
  local token = string.sub(ARGV[2], 8 * i - 7, 8 * i)
  local history = redis.call('GET', key) or ''
  for p = 1, #history, 24 do
    if string.sub(history, p + 6, p + 13) == token then
      local rest = string.sub(history, 1, p - 1) .. string.sub(history, p + 24)
      if rest == '' then redis.call('DEL', key) else redis.call('SET', key, rest, 'KEEPTTL') end
      break
    end
  end
end
