-- Settle what ended, then reserve for one request, if one is given.
-- KEYS: the key's counters (a hash), what it holds (a sorted set: "request tokens" by the end of its lease, ms)
-- ARGV: lease, rpm, tpm, parallel, daily, total (0: no limit), n, n x (member, reserved, used),
--       then of the reservation: request, least, most, and the ledger's today and total, or -1
local counters, held = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local day = math.floor(time[1] / 86400)
local lease, rpm, tpm, parallel = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local daily, total = tonumber(ARGV[5]), tonumber(ARGV[6])
local ends = tonumber(ARGV[7])
local found = redis.call('HMGET', counters, 'requests', 'tokens', 'at', 'day', 'today', 'total', 'holds')

-- the minute's buckets, as full as they are now
local passed = now - (tonumber(found[3]) or 0)
local function level(stored, limit)
  stored = tonumber(stored)
  if not stored then return limit end
  return math.min(limit, stored + passed * limit / 60000)
end
local requests, tokens = level(found[1], rpm), level(found[2], tpm)
local today, ever = tonumber(found[5]), tonumber(found[6])
if tonumber(found[4]) ~= day then today = 0 end

-- tokens that running requests hold; what is left of a gateway that died goes with its lease
local holds = tonumber(found[7]) or 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', now)) do
  redis.call('ZREM', held, member)
  holds = holds - tonumber(string.match(member, ' (%d+)$'))
end

local at = 8
for _ = 1, ends do
  if redis.call('ZREM', held, ARGV[at]) == 1 then holds = holds - tonumber(ARGV[at + 1]) end
  tokens = math.min(tpm, tokens + tonumber(ARGV[at + 1]) - tonumber(ARGV[at + 2]))
  if ever then
    today, ever = today + tonumber(ARGV[at + 2]), ever + tonumber(ARGV[at + 2])
  end
  at = at + 3
end

local verdict, wait, reserved = 'ok', 0, 0
if ARGV[at] then
  local least, most = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if tonumber(ARGV[at + 4]) >= 0 then
    today, ever = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  end
  local running = redis.call('ZCARD', held)
  if running == 0 then holds = 0 end
  local room = most
  if daily > 0 or total > 0 then
    if not ever then
      verdict = 'unknown'
    else
      if total > 0 then
        room = math.min(room, total - ever - holds)
        if room < least then verdict, wait = 'total_tokens', 3600000 end
      end
      if verdict == 'ok' and daily > 0 then
        room = math.min(room, daily - today - holds)
        if room < least then verdict, wait = 'daily_tokens', (day + 1) * 86400000 - now end
      end
    end
  end
  if verdict == 'ok' and parallel > 0 and running >= parallel then
    verdict, wait = 'parallel', 1000
  end
  if verdict == 'ok' and rpm > 0 and requests < 1 then
    verdict, wait = 'rpm', (1 - requests) * 60000 / rpm
  end
  if verdict == 'ok' and tpm > 0 then
    local needed = math.min(least, tpm)  -- what is more than a minute's waits for a full bucket
    if tokens < needed then verdict, wait = 'tpm', (needed - tokens) * 60000 / tpm end
    room = math.max(least, math.min(room, math.floor(tokens)))
  end
  if verdict == 'ok' then
    reserved = math.max(least, math.min(most, room))
    requests, tokens = requests - 1, tokens - reserved
    if parallel > 0 or daily > 0 or total > 0 then
      redis.call('ZADD', held, now + lease, ARGV[at] .. ' ' .. string.format('%.0f', reserved))
      redis.call('PEXPIRE', held, 10 * lease)
      holds = holds + reserved
    end
  end
end

redis.call('HSET', counters, 'at', string.format('%.0f', now))
local function put(name, value, places, is_kept)
  if is_kept then
    redis.call('HSET', counters, name, string.format(places, value))
  else
    redis.call('HDEL', counters, name)
  end
end
put('requests', requests, '%.6f', rpm > 0)
put('tokens', tokens, '%.3f', tpm > 0)
put('holds', holds, '%.0f', holds > 0)
put('day', day, '%.0f', ever)
put('today', today, '%.0f', ever)
put('total', ever, '%.0f', ever)
redis.call('PEXPIRE', counters, 172800000)
return {verdict, math.floor(requests), math.floor(tokens), reserved, math.ceil(wait)}
