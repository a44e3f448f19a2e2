-- Settle what ended, then reserve for one request, if one is given: in all of its scopes, or in none.
-- KEYS: of each scope its counters (a hash), what it holds (a sorted set: "request tokens" by the end of its lease, ms),
--       and its late ends (a hash): while what it has used is unknown each request that ends ("ms tokens"), and after the
--       ledger was counted each that the count has (""), so that each counts once, whichever came first
-- ARGV: lease, number of scopes, this month, when it ends (ms),
--       of each scope rpm, tpm, parallel, daily, monthly, total (-1: no limit),
--       n, n x (member, reserved, used), then of the reservation: request, least, most,
--       and where the ledger was counted, of each scope its today, month and total (-1: not counted), the number of
--       the count, and the requests that ended lately and are in it
-- Returns the verdict, the scope that gave it, tokens reserved, ms to wait, and of each scope requests and tokens left;
-- with `unknown`, instead of tokens, the number of the count that is wanted
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local day = math.floor(time[1] / 86400)
local lease, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local month, month_ends = tonumber(ARGV[3]), tonumber(ARGV[4])
local at = 5
local LATE = 8000  -- ms; what was told longer ago is in any count, whether it names it or not

-- a minute's bucket, as full as it is now
local function level(stored, limit, passed)
  if limit < 0 then return 0 end
  stored = tonumber(stored)
  if not stored then return limit end
  return math.min(limit, stored + passed * limit / 60000)
end

local scopes = {}
for number = 1, count do
  local one = {
    counters = KEYS[3 * number - 2], held = KEYS[3 * number - 1], late = KEYS[3 * number],
    rpm = tonumber(ARGV[at]), tpm = tonumber(ARGV[at + 1]), parallel = tonumber(ARGV[at + 2]),
    daily = tonumber(ARGV[at + 3]), monthly = tonumber(ARGV[at + 4]), total = tonumber(ARGV[at + 5]),
  }
  at = at + 6
  one.budgeted = one.daily >= 0 or one.monthly >= 0 or one.total >= 0
  local found = redis.call('HMGET', one.counters,
    'requests', 'tokens', 'at', 'day', 'today', 'month', 'so_far', 'total', 'holds', 'count')
  local passed = now - (tonumber(found[3]) or 0)
  one.requests, one.tokens = level(found[1], one.rpm, passed), level(found[2], one.tpm, passed)
  one.today, one.so_far, one.ever = tonumber(found[5]), tonumber(found[7]) or 0, tonumber(found[8])
  if one.monthly >= 0 and passed > 300000 then one.ever = nil end  -- it may not have counted all the time
  if tonumber(found[4]) ~= day then one.today = 0 end
  if tonumber(found[6]) ~= month then one.so_far = 0 end
  one.was = {requests = found[1], tokens = found[2], holds = found[9], total = found[8], count = found[10]}
  one.count = found[10]
  -- tokens that running requests hold; what is left of a gateway that died goes with its lease
  one.holds = tonumber(found[9]) or 0
  if one.budgeted or one.parallel >= 0 then
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', one.held, '-inf', now)) do
      redis.call('ZREM', one.held, member)
      one.holds = one.holds - tonumber(string.match(member, ' (%d+)$'))
    end
  end
  scopes[number] = one
end

local function add(one, used)
  one.today, one.so_far, one.ever = one.today + used, one.so_far + used, one.ever + used
end

-- the count of the ledger holds, and with it what ended too late for it
local function begin(one, today, month_so_far, total, requests)
  one.today, one.so_far, one.ever = tonumber(today), tonumber(month_so_far), tonumber(total)
  local has = {}
  for request in string.gmatch(requests, '%S+') do has[request] = true end
  local told = redis.call('HGETALL', one.late)
  for place = 1, #told, 2 do
    local when, used = string.match(told[place + 1], '^(%d+) (%d+)$')
    if when and not has[told[place]] and now - tonumber(when) < LATE then add(one, tonumber(used)) end
  end
  redis.call('DEL', one.late)
  for request in pairs(has) do redis.call('HSET', one.late, request, '') end
  redis.call('PEXPIRE', one.late, LATE)
end

local ends = tonumber(ARGV[at])
at = at + 1
for _ = 1, ends do
  local request, reserved, used = string.match(ARGV[at], '^%S+'), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  for _, one in ipairs(scopes) do
    if (one.budgeted or one.parallel >= 0) and redis.call('ZREM', one.held, ARGV[at]) == 1 then
      one.holds = one.holds - reserved
    end
    one.tokens = math.min(one.tpm, one.tokens + reserved - used)
    if one.budgeted and not one.ever then
      redis.call('HSET', one.late, request, string.format('%.0f %.0f', now, used))
      redis.call('PEXPIRE', one.late, LATE)
    elseif one.ever and redis.call('HEXISTS', one.late, request) == 0 then
      add(one, used)
    end
  end
  at = at + 3
end

local verdict, refuses, wait, reserved = 'ok', 0, 0, 0
if ARGV[at] then
  local least, most = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local room = most  -- of tokens
  for number, one in ipairs(scopes) do
    local counted = at + 3 + 5 * (number - 1)
    if not one.ever and one.count and ARGV[counted + 3] == one.count then
      begin(one, ARGV[counted], ARGV[counted + 1], ARGV[counted + 2], ARGV[counted + 4])
    end
    local running = 0
    if one.budgeted or one.parallel >= 0 then running = redis.call('ZCARD', one.held) end
    if running == 0 then one.holds = 0 end
    if one.budgeted and not one.ever then
      verdict, one.count = 'unknown', one.count or string.format('%.0f', time[1] * 1000000 + time[2])
      reserved = tonumber(one.count)
    end
    local function spend(name, limit, used, until_then)
      if verdict == 'ok' and limit >= 0 then
        local left = limit - used - one.holds
        room = math.min(room, left)
        if left < math.max(least, 1) then verdict, wait = name, until_then end
      end
    end
    if one.ever then
      spend('total_tokens', one.total, one.ever, 3600000)
      spend('monthly_tokens', one.monthly, one.so_far, month_ends - now)
      spend('daily_tokens', one.daily, one.today, (day + 1) * 86400000 - now)
    end
    if verdict == 'ok' and one.parallel >= 0 and running >= one.parallel then
      verdict, wait = 'parallel', 1000
    end
    if verdict == 'ok' and one.rpm >= 0 and one.requests < 1 then
      verdict, wait = 'rpm', (1 - one.requests) * 60000 / math.max(one.rpm, 1)
    end
    if verdict == 'ok' and one.tpm >= 0 then
      local needed = math.max(1, math.min(least, one.tpm))  -- what is more than a minute's waits for a full bucket
      if one.tokens < needed then verdict, wait = 'tpm', (needed - one.tokens) * 60000 / math.max(one.tpm, 1) end
      room = math.min(room, math.floor(one.tokens))
    end
    if verdict ~= 'ok' then
      refuses = number
      break
    end
  end
  if verdict == 'ok' then
    reserved = math.max(least, room)
    for _, one in ipairs(scopes) do
      one.requests, one.tokens = one.requests - 1, one.tokens - reserved
      if one.budgeted or one.parallel >= 0 then
        redis.call('ZADD', one.held, now + lease, ARGV[at] .. ' ' .. string.format('%.0f', reserved))
        redis.call('PEXPIRE', one.held, 10 * lease)
        one.holds = one.holds + reserved
      end
    end
  end
end

local answer = {verdict, refuses, reserved, math.ceil(math.min(wait, 3e9))}
for _, one in ipairs(scopes) do
  local kept, gone = {'at', string.format('%.0f', now)}, {}
  local function put(name, value, places, is_kept)
    if is_kept then
      kept[#kept + 1] = name
      kept[#kept + 1] = string.format(places, value)
    elseif one.was[name] then
      gone[#gone + 1] = name
    end
  end
  put('requests', one.requests, '%.6f', one.rpm >= 0)
  put('tokens', one.tokens, '%.3f', one.tpm >= 0)
  put('holds', one.holds, '%.0f', one.holds > 0)
  put('total', one.ever or 0, '%.0f', one.ever)
  put('count', tonumber(one.count) or 0, '%.0f', one.count and not one.ever)
  if one.ever then
    put('day', day, '%.0f', true)
    put('today', one.today, '%.0f', true)
    put('month', month, '%.0f', true)
    put('so_far', one.so_far, '%.0f', true)
  end
  redis.call('HSET', one.counters, unpack(kept))
  if #gone > 0 then redis.call('HDEL', one.counters, unpack(gone)) end
  redis.call('PEXPIRE', one.counters, 172800000)
  answer[#answer + 1] = math.floor(one.requests)
  answer[#answer + 1] = math.floor(one.tokens)
end
return answer
