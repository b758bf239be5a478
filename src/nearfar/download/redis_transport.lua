-- Requests of producers of a download, and the answers of its consumers, in Redis. Each call is one atomic step, called
-- with the exchange's key, the operation, the client, the client's number of this call, and arguments.
--
--   NAME            settings and figures, packed
--   NAME:requests   hash: number -> what is known of a request, packed
--   NAME:bodies     hash: number -> its message, later its answer
--   NAME:places     sorted set: `PLACE NUMBER`, where each request is
--   NAME:open       sorted set: numbers of the requests that are not answered
--   NAME:clients    sorted set: client -> when it counts as dead
--   NAME:members    hash: client -> what it is, packed
--   NAME:senders    hash: sender -> how far it is, packed. A sender outlives its client, which may count as dead
--   NAME:stores     hash: store -> its receivers
--   NAME:calls      hash: receiver -> the number of its last answers: repeated ones change nothing
--   NAME:wake, NAME:wake:WHO   lists of one token each: who takes it looks again
--
-- A request is in one place at a time:
--
--   any, or to:WHO  -->  held:RECEIVER  -->  done:SENDER  --> nowhere, once the sender has its answer
--        ^                     |                  ^
--        +---- its receiver died or left ---------+ (nobody is WHO any more, or it killed too many)
--
-- A sender that died is started again, and asks what is saved. So its requests are dropped, unless a receiver has them;
-- and nothing that a sender sends is handed out before all is answered that was there when it came: it may be the same
-- files, of a sender that is dead.

local P, op, me, number = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local call, pack, unpacked = redis.call, cmsgpack.pack, cmsgpack.unpack
local REQUESTS, BODIES, PLACES, CLIENTS = P .. ':requests', P .. ':bodies', P .. ':places', P .. ':clients'
local MEMBERS, SENDERS, STORES, CALLS = P .. ':members', P .. ':senders', P .. ':stores', P .. ':calls'
local OPEN = P .. ':open'
local KEPT = {P, REQUESTS, BODIES, PLACES, OPEN, CLIENTS, MEMBERS, SENDERS, STORES, CALLS, P .. ':wake'}
local FORMAT, MAX_ATTEMPTS, TOKEN_LASTS, ANSWERS, ANSWER_BYTES = 'exchange 1', 5, 60000, 1000, 4194304

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local packed = call('GET', P)
local q = packed and unpacked(packed) or {}
if packed and q.format ~= FORMAT then return {'format'} end

local function found(hash, name)
  local row = call('HGET', hash, name)
  return row and unpacked(row) or nil
end

local function token(list)
  if call('EXISTS', P .. list) == 0 then
    call('RPUSH', P .. list, 1)
    call('PEXPIRE', P .. list, TOKEN_LASTS)
  end
end

local function wake_senders()
  for _, id in ipairs(call('HKEYS', SENDERS)) do token(':wake:' .. id) end
end

-- The numbers of the oldest requests in a place.
local function there(place, most)
  local numbers = {}
  local members = call('ZRANGEBYLEX', PLACES, '[' .. place .. ' ', '(' .. place .. '!', 'LIMIT', 0, most)
  for index, member in ipairs(members) do numbers[index] = tonumber(member:sub(#place + 2)) end
  return numbers
end

local function move(n, request, place)
  if request.place then call('ZREM', PLACES, string.format('%s %016d', request.place, tonumber(n))) end
  request.place = place
  if place then
    call('ZADD', PLACES, 0, string.format('%s %016d', place, tonumber(n)))
    call('HSET', REQUESTS, n, pack(request))
  else
    call('HDEL', REQUESTS, n)
    call('HDEL', BODIES, n)
  end
end

local function oldest_open() return tonumber(call('ZRANGE', OPEN, 0, 0)[1]) or q.last + 1 end

local function close(n, request)
  q.open, q.bytes = q.open - 1, q.bytes - request.size
  call('ZREM', OPEN, n)
  if q.full then
    q.full = false
    wake_senders()
  end
  if q.here == 0 then token(':wake') end  -- that may have been the last one
  if q.barrier and oldest_open() >= q.barrier then
    q.barrier = nil
    token(':wake')
    for _, store in ipairs(call('HKEYS', STORES)) do token(':wake:' .. store) end
  end
end

local function drop(n, request)
  move(n, request, nil)
  close(n, request)
end

local function here(id)
  local sender = found(SENDERS, id)
  return sender and not sender.gone
end

local function finish(n, request, outcome, answer)
  if not here(request.sender) then return drop(n, request) end
  request.outcome = outcome
  call('HSET', BODIES, n, answer or '')
  move(n, request, 'done:' .. request.sender)
  token(':wake:' .. request.sender)
  close(n, request)
end

local function shelve(n, request)
  local to = request.to
  if to == '' then
    move(n, request, 'any')
    token(':wake')
  elseif call('HEXISTS', STORES, to) == 1 or call('HEXISTS', MEMBERS, to) == 1 then
    move(n, request, 'to:' .. to)
    token(':wake:' .. to)
  else
    finish(n, request, 'undeliverable')
  end
end

-- A receiver has not answered; `lost` if it died.
local function give_back(n, lost)
  local request = found(REQUESTS, n)
  if not here(request.sender) then return drop(n, request) end
  request.attempt, request.strikes = request.attempt + 1, request.strikes + (lost and 1 or 0)
  if request.strikes >= MAX_ATTEMPTS then finish(n, request, 'undeliverable') else shelve(n, request) end
end

-- Producers that died and were not replaced. A producer that came after one was last heard may replace it.
local function unreplaced()
  local arrivals, absent = {}, {}
  local rows = call('HGETALL', SENDERS)
  for index = 1, #rows, 2 do
    local sender = unpacked(rows[index + 1])
    if sender.arrived then arrivals[#arrivals + 1] = sender.arrived end
    if sender.lost then absent[#absent + 1] = {sender.lost, rows[index]} end
  end
  for _, arrived in ipairs(q.left) do arrivals[#arrivals + 1] = arrived end
  table.sort(arrivals)
  table.sort(absent, function(one, other) return one[1] < other[1] end)
  local replaced = 0
  for _, arrived in ipairs(arrivals) do
    if replaced < #absent and absent[replaced + 1][1] <= arrived then replaced = replaced + 1 end
  end
  local names = {}
  for index = replaced + 1, #absent do names[#names + 1] = absent[index][2] end
  return names, #absent
end

-- Every expected producer came, and none is here: true, and who died of them.
local function over()
  if q.here > 0 then return false, {} end
  local names, absent = unreplaced()
  return q.came - absent + #names >= q.expected, names
end

local function sender_leaves(id, client, lost)
  local sender = found(SENDERS, id)
  if not sender or sender.client ~= client then return end
  if sender.arrived then q.here = q.here - 1 end
  if lost then  -- it may come back, and sends again what was not answered
    if sender.arrived then sender.lost = math.max(lost, sender.arrived + 1) end
    sender.gone, sender.last = true, 0
    call('HSET', SENDERS, id, pack(sender))
    local rows = call('HGETALL', REQUESTS)
    for index = 1, #rows, 2 do
      local request = unpacked(rows[index + 1])
      if request.sender == id then
        if request.outcome then
          move(rows[index], request, nil)
        elseif request.place:sub(1, 5) ~= 'held:' then
          drop(rows[index], request)
        end
      end
    end
  else
    if sender.arrived and #q.left < 1000 then q.left[#q.left + 1] = sender.arrived end
    call('HDEL', SENDERS, id)
    repeat
      local numbers = there('done:' .. id, 1000)
      for _, n in ipairs(numbers) do move(n, found(REQUESTS, n), nil) end
    until #numbers == 0
  end
  token(':wake')
end

local function receiver_leaves(client, store, lost)
  call('HDEL', CALLS, client)
  if call('HINCRBY', STORES, store, -1) == 0 then call('HDEL', STORES, store) end
  for _, n in ipairs(there('held:' .. client, -1)) do give_back(n, lost) end
  for _, n in ipairs(there('to:' .. client, -1)) do finish(n, found(REQUESTS, n), 'undeliverable') end
  if call('HEXISTS', STORES, store) == 0 then
    for _, n in ipairs(there('to:' .. store, -1)) do finish(n, found(REQUESTS, n), 'undeliverable') end
  end
  call('DEL', P .. ':wake:' .. client)
  wake_senders()
end

-- `lost`: when a client that died was last heard; nil for one that says goodbye.
local function leave(client, lost)
  local member = found(MEMBERS, client)
  call('HDEL', MEMBERS, client)
  call('ZREM', CLIENTS, client)
  if member.store then
    receiver_leaves(client, member.store, lost)
  else
    sender_leaves(member.id, client, lost)
    token(':wake:' .. member.id)
  end
end

-- Declare clients dead that were silent. Each client's heartbeat does this, so it needs no clock of its own.
local function reap()
  if now - q.tick > q.lease then  -- nobody was heard: the server was away, which is nobody's silence
    for _, client in ipairs(call('ZRANGE', CLIENTS, 0, -1)) do call('ZADD', CLIENTS, now + q.lease, client) end
  end
  q.tick = now
  local dead = call('ZRANGEBYSCORE', CLIENTS, '-inf', now, 'WITHSCORES')
  for index = 1, #dead, 2 do leave(dead[index], tonumber(dead[index + 1]) - q.lease) end
  for _, key in ipairs(KEPT) do call('PEXPIRE', key, q.ttl) end
end

-- Whether the last run has nothing for the next one: all that counts is that a producer came, before any consumer, and
-- left again, because it had nothing to fetch.
local function spent() return call('ZCARD', CLIENTS) == 0 and (q.joined or q.open > 0) end

local function enter(given)
  if packed then reap() end
  if not packed or spent() then
    call('DEL', unpack(KEPT))
    q = {format = FORMAT, epoch = me, lease = given.lease, ttl = given.ttl, head = given.head,
      maxbytes = given.maxbytes, expected = 1, came = 0, here = 0, left = {}, last = 0, open = 0, bytes = 0, round = 1,
      tick = now}
  end
  if given.store then
    local ended, lost = over()
    if q.joined and q.open == 0 and ended then  -- the others are about to leave: this one waits for new producers
      q.round, q.came, q.left, q.expected, q.ended = q.round + 1, 0, {}, 1, lost
      for _, id in ipairs(call('HKEYS', SENDERS)) do
        if found(SENDERS, id).lost then call('HDEL', SENDERS, id) end
      end
    end
    q.joined, q.expected = true, math.max(q.expected, given.expected)
    call('HINCRBY', STORES, given.store, 1)
    wake_senders()
  end
  given.round = q.round
  call('HSET', MEMBERS, me, pack(given))
  call('ZADD', CLIENTS, now + q.lease, me)
  return {'ok', 0, q.lease, q.head, q.epoch}
end

-- What a sender has to say: answers that it has, and new requests. What is there for it: answers, and the stores.
local function trade(id, counted, heard)
  local sender = found(SENDERS, id) or {last = 0, gone = true}
  sender.client = me
  if sender.gone then
    sender.gone, sender.since = nil, q.last + 1
    if q.open > 0 then q.barrier = sender.since end
  end
  if counted == '1' and not sender.arrived then
    sender.arrived, q.came, q.here = now, q.came + 1, q.here + 1
  elseif sender.lost then  -- it was silent, and is back
    sender.lost, q.here = nil, q.here + 1
  end
  call('HSET', SENDERS, id, pack(sender))
  for _, n in ipairs(heard) do
    local request = found(REQUESTS, n)
    if request and request.place == 'done:' .. id then move(n, request, nil) end
  end
  for index = 7, #ARGV, 4 do
    local ticket, size = tonumber(ARGV[index]), #ARGV[index + 3]
    if ticket > sender.last then
      if q.bytes > 0 and q.bytes + size > q.maxbytes then
        q.full = true
        break
      end
      -- Numbers go on with the time: a server that lost its latest requests uses none of their numbers again.
      q.last = math.max(q.last, now * 1000) + 1
      sender.last, q.open, q.bytes = ticket, q.open + 1, q.bytes + size
      call('HSET', BODIES, q.last, ARGV[index + 3])
      call('ZADD', OPEN, q.last, q.last)
      shelve(q.last, {sender = id, ticket = ticket, to = ARGV[index + 1], attempt = tonumber(ARGV[index + 2]), strikes = 0,
        size = size})
    end
  end
  call('HSET', SENDERS, id, pack(sender))
  local answers, size = {}, 0
  for _, n in ipairs(there('done:' .. id, ANSWERS)) do
    local request, body = found(REQUESTS, n), call('HGET', BODIES, n)
    if size > 0 and size + #body > ANSWER_BYTES then break end
    size = size + #body
    answers[#answers + 1] = {n, request.ticket, request.outcome, body}
  end
  return {'ok', sender.last, pack(answers), pack(call('HKEYS', STORES))}
end

local function settle(news)
  local answered, failed, unread, unused, _ = unpack(unpacked(news))
  local function mine(n)
    local request = found(REQUESTS, n)
    return request and request.place == 'held:' .. me and request or nil
  end
  for _, row in ipairs(answered) do
    local request = mine(row[1])
    if request then finish(row[1], request, 'answered', row[2]) end
  end
  for _, n in ipairs(unread) do
    local request = mine(n)
    if request then finish(n, request, 'refused') end
  end
  for _, list in ipairs({failed, unused}) do
    for _, n in ipairs(list) do
      if mine(n) then give_back(n) end
    end
  end
end

local function take(member, held)
  local oldest, open = nil, oldest_open()
  for _, place in ipairs({'any', 'to:' .. me, 'to:' .. member.store}) do
    local n = there(place, 1)[1]
    if n and (not oldest or n < oldest) then
      local sender = found(SENDERS, found(REQUESTS, n).sender)
      if not sender or sender.since <= open then oldest = n end
    end
  end
  if oldest then
    local request = found(REQUESTS, oldest)
    move(oldest, request, 'held:' .. me)
    if #there('any', 1) > 0 then token(':wake') end
    if #there('to:' .. member.store, 1) > 0 then token(':wake:' .. member.store) end
    return {'ok', pack({oldest, request.attempt, call('HGET', BODIES, oldest)})}
  end
  local ended, lost = over()
  if member.round < q.round then ended, lost = true, q.ended end
  if ended and q.open == held then
    token(':wake')
    return {#lost > 0 and 'lost' or 'shut', lost}
  end
  return {'empty'}
end

local function settle_and_take(member)
  if number ~= '0' and call('HGET', CALLS, me) ~= number then
    call('HSET', CALLS, me, number)
    settle(ARGV[4])
  end
  if ARGV[5] ~= '' then  -- a reply was lost: what the client does not know of goes back
    local known = {}
    for _, n in ipairs(unpacked(ARGV[5])) do known[n] = true end
    for _, n in ipairs(there('held:' .. me, -1)) do
      if not known[n] then give_back(n) end
    end
  end
  if op == 'settle' then return {'ok'} end
  return take(member, tonumber(ARGV[8]))
end

local function run()
  if op == 'enter' then return enter(unpacked(ARGV[5])) end
  local dies = packed and call('ZSCORE', CLIENTS, me)
  if not dies then return {'stranger'} end
  if dies - now < q.lease * 0.75 then call('ZADD', CLIENTS, now + q.lease, me) end
  if op == 'trade' then
    return trade(ARGV[4], ARGV[5], unpacked(ARGV[6]))
  elseif op == 'take' or op == 'settle' then
    return settle_and_take(found(MEMBERS, me))
  elseif op == 'beat' then
    reap()
  elseif op == 'leave' then
    leave(me, nil)
    if spent() then
      call('DEL', unpack(KEPT))
      packed, q = nil, nil
    end
  end
  return {'ok'}
end

local reply = run()
if q and q.format then
  local new = pack(q)
  if new ~= packed then call('SET', P, new, 'PX', q.ttl) end
end
return reply
