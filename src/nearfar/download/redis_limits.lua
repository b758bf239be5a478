-- Limits per host that the senders of an exchange share. It grants what `nearfar.queues.limits.SharedLimits` grants,
-- by the same rules: read those first. Each call is one atomic step, called with the exchange's key, the operation,
-- the client, 0, and: the member (`SENDER SESSION`), `1` in the first call of a session, the member of the session
-- before, seconds of the lease, and claims, packed.
--
--   NAME:limits          hash: host -> its limits and the shares of its members, packed
--   NAME:limits:due      sorted set: host -> when to look at it again
--   NAME:limits:members  sorted set: member -> when it counts as dead; and '', until when nothing is granted
--   NAME:limits:for:WHO  list: grants for a member, packed
--   NAME:wake:SENDER     as in redis_transport.lua
--
-- A member that dies, or begins a new session, is only removed from NAME:limits:members: its shares are dropped when
-- their hosts are looked at.

local P, op, member, first, former, lease = KEYS[1], ARGV[1], ARGV[4], ARGV[5] == '1', ARGV[6], tonumber(ARGV[7])
local claims = cmsgpack.unpack(ARGV[8])
local HOSTS, DUE, MEMBERS, FOR = P .. ':limits', P .. ':limits:due', P .. ':limits:members', P .. ':limits:for:'
local TURN, BATCH, REMEMBERED, ONE_EVENT, AGAIN, MOST_HOSTS, TOKEN_LASTS = 1, 0.1, 60, 1, 1, 10000, 60000
local call, pack, unpacked, min, max = redis.call, cmsgpack.pack, cmsgpack.unpack, math.min, math.max

local time = call('TIME')
local now = time[1] + time[2] / 1000000

-- Seconds with more digits than Lua's own text form of a number.
local function seconds(number) return string.format('%.6f', number) end

local dead = call('ZREMRANGEBYSCORE', MEMBERS, '-inf', seconds(now))
if op == 'depart' then
  dead = dead + call('ZREM', MEMBERS, member)
elseif first then
  if call('EXISTS', MEMBERS) == 0 then
    for _, each in ipairs(claims) do
      -- It has permits, and the server forgot who else has some: grant nothing before the others have said it.
      if each[6] > 0 then call('ZADD', MEMBERS, seconds(now + lease), '') end
    end
  end
  dead = dead + call('ZREM', MEMBERS, former)
elseif not call('ZSCORE', MEMBERS, member) then
  return {'unknown'}
end
if op ~= 'depart' then call('ZADD', MEMBERS, seconds(now + lease), member) end
local alive = {}
for _, each in ipairs(call('ZRANGE', MEMBERS, 0, -1)) do alive[each] = true end
local soonest = now + AGAIN

local function look_again(host, when)
  call('ZADD', DUE, seconds(when), host)
  soonest = min(soonest, when)
end

local function grant(host, to, permits, target, tokens, park)
  call('RPUSH', FOR .. to, pack({host, permits, target, tokens or 0, park or 0}))
  call('PEXPIRE', FOR .. to, lease * 1000)
  local wake = P .. ':wake:' .. to:match('^%S+')
  if to ~= member and call('EXISTS', wake) == 0 then
    call('RPUSH', wake, 1)
    call('PEXPIRE', wake, TOKEN_LASTS)
  end
end

local function used(h)
  local sum = 0
  for _, share in pairs(h.shares) do sum = sum + max(0, share.held) end
  return sum
end

local function limit_of(h)
  local limit
  for _, share in pairs(h.shares) do limit = min(limit or share.limit, share.limit) end
  if h.window then
    local window = h.window + limit * (now - h.slowed) / REMEMBERED
    if window < limit then return max(1, math.floor(window)) end
    h.window = nil
  end
  return limit
end

-- Max-min fair parts of the limit, by member, for what each wants.
local function divided(limit, order, shares)
  local parts, open, left = {}, {}, limit
  for _, who in ipairs(order) do
    parts[who] = 0
    if shares[who].want > 0 then open[#open + 1] = who end
  end
  while left > 0 and #open > 0 do
    local each, still = max(1, math.floor(left / #open)), {}
    for _, who in ipairs(open) do
      local more = min(each, shares[who].want - parts[who], left)
      parts[who], left = parts[who] + more, left - more
      if parts[who] < shares[who].want then still[#still + 1] = who end
    end
    open = still
  end
  return parts
end

local function to_the_end(order, some)
  local before, after = {}, {}
  for _, who in ipairs(order) do table.insert(some[who] and after or before, who) end
  for _, who in ipairs(after) do before[#before + 1] = who end
  return before
end

-- If there are more members than permits, those that had their turn go behind the others.
local function take_turns(host, h, limit)
  local wanting, had = 0, {}
  for _, who in ipairs(h.order) do
    if h.shares[who].want > 0 then
      wanting = wanting + 1
      if wanting <= limit then had[who] = true end
    end
  end
  if wanting <= limit then
    h.turn_ends = nil
    return
  end
  if h.turn_ends and now >= h.turn_ends then
    h.order = to_the_end(h.order, had)
    h.turn_ends = nil
  end
  h.turn_ends = h.turn_ends or now + TURN
  look_again(host, h.turn_ends)
end

local function grant_permits(host, h)
  local limit = limit_of(h)
  take_turns(host, h, limit)
  local targets, free = divided(limit, h.order, h.shares), limit - used(h)
  local lacking, granted = free < 0, {}
  for _, who in ipairs(h.order) do
    local share = h.shares[who]
    local debt = max(0, -share.held)
    local more = max(0, min(free, targets[who] - share.held - debt))
    free, share.held, granted[who] = free - more, share.held + more + debt, more + debt
    lacking = lacking or share.held < targets[who]
    if share.held < share.want then look_again(host, now + AGAIN) end  -- a member may die
  end
  for _, who in ipairs(h.order) do
    local share = h.shares[who]
    local kept = lacking and targets[who] or max(targets[who], share.held)
    if granted[who] > 0 or (kept ~= share.target and min(kept, share.target) < share.held) then
      share.target = kept
      grant(host, who, granted[who], kept)
    end
  end
end

local function grant_tokens(host, h)
  local rate, asking, served = nil, 0, {}
  for _, share in pairs(h.shares) do
    if share.rate > 0 then rate = min(rate or share.rate, share.rate) end
    if share.tokens > 0 and share.held > 0 then asking = asking + 1 end
  end
  if not rate then return end
  h.tokens, h.filled, h.rate = min(max(1, rate * BATCH), h.tokens + (now - h.filled) * rate), now, rate
  local each, short = math.ceil(math.floor(h.tokens) / max(1, asking)), false
  for _, who in ipairs(h.order) do
    local share = h.shares[who]
    if share.tokens > 0 and share.held > 0 then
      local more = min(share.tokens, each, math.floor(h.tokens))
      if more > 0 then
        share.tokens, h.tokens, served[who] = share.tokens - more, h.tokens - more, true
        grant(host, who, 0, share.target, more)
      end
      short = short or share.tokens > 0
    end
  end
  h.order = to_the_end(h.order, served)
  if short then look_again(host, now + max(BATCH / 5, (1 - h.tokens) / rate)) end
end

local function remembered(h)
  local until_ = max(h.parked, h.window and h.slowed + REMEMBERED or 0)
  if h.rate and h.tokens < 1 then until_ = max(until_, h.filled + (1 - h.tokens) / h.rate) end
  return until_
end

local function distribute(host, h)
  local order = {}
  for _, who in ipairs(h.order) do
    local share = h.shares[who]
    if alive[who] and (share.want > 0 or share.held ~= 0) then order[#order + 1] = who else h.shares[who] = nil end
  end
  h.order = order
  if #order == 0 then
    if now >= remembered(h) or call('HLEN', HOSTS) > MOST_HOSTS then
      call('HDEL', HOSTS, host)
      return
    end
    look_again(host, remembered(h))
  elseif h.parked > now then
    for _, who in ipairs(order) do
      local share = h.shares[who]
      if share.parked < h.parked then
        share.parked = h.parked
        grant(host, who, 0, share.target, 0, h.parked - now)
      end
    end
    look_again(host, h.parked)
  else
    if alive[''] then look_again(host, now + AGAIN) else grant_permits(host, h) end
    if h.window then look_again(host, now + AGAIN) end  -- it grows
    grant_tokens(host, h)
  end
  call('HSET', HOSTS, host, pack(h))
end

local function found(host)
  local row = call('HGET', HOSTS, host)
  return row and unpacked(row) or {order = {}, shares = {}, parked = 0, slowed = 0, tokens = 1, filled = now}
end

local function claim(host, limit, rate, want, returned, held, tokens, park, slow)
  local h = found(host)
  for _, who in ipairs(h.order) do
    if not alive[who] then h.shares[who] = nil end
  end
  local share = h.shares[member]
  if not share then
    share = {held = 0, target = 0, parked = 0}
    h.shares[member], h.order[#h.order + 1] = share, member
  end
  share.held, share.limit, share.rate = share.held + held - returned, max(1, limit), rate
  share.want, share.tokens = want, tokens
  if slow and now >= max(h.slowed + ONE_EVENT, h.parked) then h.window, h.slowed = max(1, limit_of(h) / 2), now end
  if park > 0 and now + park > h.parked then h.parked, share.parked = now + park, now + park end
  if held > 0 then  -- others may have been granted what it has
    local excess = max(0, min(share.held, used(h) - limit_of(h)))
    share.held = share.held - excess
    share.target = share.held
    if excess > 0 then grant(host, member, -excess, share.held) end
  end
  distribute(host, h)
end

-- First what this member has: its shares of an earlier session are dropped where a host is looked at.
for _, each in ipairs(claims) do claim(unpack(each)) end
-- Where members wait for permits, they may have those of one that died.
local horizon = dead > 0 and now + AGAIN or now
for _, host in ipairs(call('ZRANGEBYSCORE', DUE, '-inf', seconds(horizon), 'LIMIT', 0, 1000)) do
  call('ZREM', DUE, host)
  distribute(host, found(host))
end
for _, key in ipairs({HOSTS, DUE, MEMBERS}) do call('PEXPIRE', key, (lease + REMEMBERED) * 1000) end
local grants = call('LRANGE', FOR .. member, 0, -1)
call('DEL', FOR .. member)
return {'ok', seconds(soonest - now), grants}
