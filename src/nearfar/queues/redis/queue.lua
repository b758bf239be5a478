-- A queue in Redis. Each call is one atomic step, called with the queue's key, the operation, the client, the
-- client's number of this call, and arguments (packed by msgpack where there are several values). What is called
-- most comes first: each function costs time even if it is not called.
--
--   NAME            settings and figures, packed
--   NAME:items      stream: an entry for each item, with the item's number as its id; group `g` holds what was lent
--   NAME:again      sorted set: numbers of items that were given back, which are lent first
--   NAME:history    hash: number -> strikes and the reason of each failed attempt, packed
--   NAME:clients    sorted set: client -> when it counts as dead
--   NAME:producers  hash: producer -> `on` or `lost`, and the number and result of its last put: a repeated put
--                   changes nothing
--   NAME:calls      hash: consumer -> the number of its last acks, likewise
--   NAME:dead       list: dead letters, packed
--   NAME:wake, NAME:room, NAME:idle    lists of one token each: who takes it looks again, and puts it back if
--                   there is more for others (waiting getters, putters, and joins)
--
-- An item is lent to one client: the consumer in whose list of pending entries it is. XACK does not compare owners.
-- So a client that is declared dead loses its name and all its items in one step, an item that is given back goes to
-- the consumer `-`, and every call of a name that is not in NAME:clients is refused.

local P, op, me, number = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local call = redis.call
local ITEMS, AGAIN, CLIENTS, PRODUCERS, G = P .. ':items', P .. ':again', P .. ':clients', P .. ':producers', 'g'

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local packed = call('GET', P)
if not packed and op ~= 'declare' then return {'none'} end
local q = packed and cmsgpack.unpack(packed) or {}

local function done(reply)
  local new = cmsgpack.pack(q)
  if new ~= packed then call('SET', P, new, 'KEEPTTL') end
  return reply
end

local function token(list)
  if call('EXISTS', P .. list) == 0 then call('RPUSH', P .. list, 1) end
end

local function has_room()
  return (q.maxsize == 0 or q.size < q.maxsize) and (q.maxbytes == 0 or q.bytes < q.maxbytes)
end

local dies = call('ZSCORE', CLIENTS, me)
if dies and dies - now < q.lease * 0.75 then call('ZADD', CLIENTS, now + q.lease, me) end

local function put()
  local last = call('HGET', PRODUCERS, me)
  if last then
    local repeated, result = last:match('(%d+) (%d+)$')
    if repeated == number then return {'ok', tonumber(result)} end
  end
  if q.shut > 0 then return {'shut'} end
  if not last then q.came, q.here = q.came + 1, q.here + 1 end
  -- Numbers go on with the time: a server that lost its latest items, with their numbers, uses none of them again.
  local count, last, size, bytes = 0, math.max(q.last, now * 1000), q.size, q.bytes
  for index = 4, #ARGV do
    local body = ARGV[index]
    local length = #body - q.head
    if q.maxsize > 0 and size >= q.maxsize then break end
    if q.maxbytes > 0 and bytes + length > q.maxbytes then break end
    last, size, bytes, count = last + 1, size + 1, bytes + length, count + 1
    call('XADD', ITEMS, last, 'b', body)
  end
  q.last, q.stored, q.size, q.bytes = last, q.stored + count, size, bytes
  call('HSET', PRODUCERS, me, 'on ' .. number .. ' ' .. count)
  if count > 0 then
    token(':wake')
    if (q.maxsize > 0 or q.maxbytes > 0) and has_room() then token(':room') end
  end
  return {'ok', count}
end

if op == 'put' then return done(dies and put() or {'stranger'}) end

local HISTORY, CALLS, DEAD = P .. ':history', P .. ':calls', P .. ':dead'
local LETTERS, LETTER_BYTES, BATCH_BYTES = 10000, 64 * 1024 * 1024, 16 * 1024 * 1024

local function unsettled() return q.stored - q.settled - q.dead - q.dropped end
local function over() return q.came >= q.expected and q.here == 0 end

local function remove(numbers)
  local count = call('XACK', ITEMS, G, unpack(numbers))
  call('XDEL', ITEMS, unpack(numbers))
  if call('EXISTS', HISTORY) == 1 then call('HDEL', HISTORY, unpack(numbers)) end
  return count
end

local function tell_of_end()
  if unsettled() == 0 then token(':idle') end
  if q.shut > 0 or over() then token(':wake') end
end

local function history_of(item)
  local packed = call('HGET', HISTORY, item)
  return packed and cmsgpack.unpack(packed) or {0}
end

local function body_of(item) return call('XRANGE', ITEMS, item, item)[1][2][2] end

-- `why`: the reason of the failed attempt, or nil if the program has not seen the item.
local function give_back(item, why, strikes)
  local history = history_of(item)
  if why then
    history[1] = history[1] + strikes
    history[#history + 1] = why
  end
  if history[1] >= q.max_attempts then
    local body = body_of(item)
    local attempts = #history - 1
    while #history > 21 do table.remove(history, 2) end
    q.dead, q.letter_bytes = q.dead + 1, q.letter_bytes + #body
    call('RPUSH', DEAD, cmsgpack.pack({body, attempts, unpack(history, 2)}))
    while call('LLEN', DEAD) > LETTERS or (q.letter_bytes > LETTER_BYTES and call('LLEN', DEAD) > 1) do
      q.letter_bytes = q.letter_bytes - #cmsgpack.unpack(call('LPOP', DEAD))[1]
    end
    remove({item})
  elseif q.shut == 2 then
    q.dropped = q.dropped + 1
    remove({item})
  else
    if why then call('HSET', HISTORY, item, cmsgpack.pack(history)) end
    call('XCLAIM', ITEMS, G, '-', 0, item, 'JUSTID')
    call('ZADD', AGAIN, item, item)
    q.size, q.bytes = q.size + 1, q.bytes + #body_of(item) - q.head
    token(':wake')
  end
end

local function give_back_all(client, why, strikes, except)
  local after = '-'
  while true do
    local pending = call('XPENDING', ITEMS, G, after, '+', 1000, client)
    for _, entry in ipairs(pending) do
      local item = entry[1]:match('%d+')
      after = '(' .. entry[1]
      if not (except and except[tonumber(item)]) then give_back(item, why, strikes) end
    end
    if #pending < 1000 then break end
  end
end

local function settle(news)
  local acked, failed, unread, unused, late = unpack(cmsgpack.unpack(news))
  q.late = q.late + #late
  for start = 1, #acked, 1000 do
    local some = {unpack(acked, start, math.min(start + 999, #acked))}
    local count = remove(some)
    q.settled, q.late = q.settled + count, q.late + #some - count
  end
  for _, item in ipairs(failed) do give_back(item, me .. ' gave it back', 1) end
  for _, item in ipairs(unread) do give_back(item, 'it could not be read by ' .. me, q.max_attempts) end
  for _, item in ipairs(unused) do give_back(item) end
  tell_of_end()
end

local function take(most, to_the_end, held)
  if q.shut == 2 or (q.shut == 1 and q.size == 0) then
    token(':wake')
    return {'shut'}
  end
  if q.size == 0 then
    if to_the_end and over() and unsettled() == held then
      token(':wake')
      local lost = {}
      for _, name in ipairs(call('HKEYS', PRODUCERS)) do lost[#lost + 1] = name end
      return {#lost > 0 and 'lost' or 'shut', lost}
    end
    return {'empty'}
  end
  local count = math.min(most, 1000, math.max(1, math.floor(BATCH_BYTES * q.size / math.max(1, q.bytes))))
  local reply, entries = {}, {}
  if call('EXISTS', AGAIN) == 1 then
    local popped, numbers = call('ZPOPMIN', AGAIN, count), {}
    for index = 1, #popped, 2 do numbers[#numbers + 1] = popped[index] end
    entries = call('XCLAIM', ITEMS, G, me, 0, unpack(numbers))
  end
  local old = #entries
  if old < count then
    local read = call('XREADGROUP', 'GROUP', G, me, 'COUNT', count - old, 'STREAMS', ITEMS, '>')
    for _, entry in ipairs(read and read[1][2] or {}) do entries[#entries + 1] = entry end
  end
  for index, entry in ipairs(entries) do
    local item, body = entry[1]:match('%d+'), entry[2][2]
    q.size, q.bytes = q.size - 1, q.bytes - #body + q.head
    reply[#reply + 1] = tonumber(item)
    reply[#reply + 1] = index <= old and #history_of(item) or 1
    reply[#reply + 1] = body
  end
  if q.size > 0 then token(':wake') end
  if q.maxsize > 0 or q.maxbytes > 0 then token(':room') end
  return {'ok', cmsgpack.pack(reply)}
end

local function settle_and_take()
  if not dies then
    if number ~= '0' then q.late = q.late + #cmsgpack.unpack(ARGV[4])[1] end
    return {'stranger'}
  end
  if number ~= '0' and call('HGET', CALLS, me) ~= number then
    call('HSET', CALLS, me, number)
    settle(ARGV[4])
  end
  if ARGV[5] ~= '' then  -- a reply was lost: what the client does not know of goes back
    local known = {}
    for _, item in ipairs(cmsgpack.unpack(ARGV[5])) do known[item] = true end
    give_back_all(me, nil, 0, known)
  end
  if op == 'settle' then return {'ok'} end
  return take(tonumber(ARGV[6]), ARGV[7] == '1', tonumber(ARGV[8]))
end

if op == 'take' or op == 'settle' then return done(settle_and_take()) end

local KEPT = {P, ITEMS, AGAIN, HISTORY, CLIENTS, PRODUCERS, CALLS, DEAD, P .. ':wake', P .. ':room', P .. ':idle'}

local function leave(client, why, strikes)
  give_back_all(client, why, strikes)
  call('XGROUP', 'DELCONSUMER', ITEMS, G, client)
  call('ZREM', CLIENTS, client)
  call('HDEL', CALLS, client)
  local producer = call('HGET', PRODUCERS, client)
  if producer then
    q.here = q.here - 1
    if strikes == 1 then
      call('HSET', PRODUCERS, client, (producer:gsub('^on', 'lost')))
    else
      call('HDEL', PRODUCERS, client)
    end
  end
  tell_of_end()
end

-- Declare clients dead that were silent. Each client's heartbeat does this, so it needs no clock of its own.
local function reap()
  if now - q.tick > q.lease then  -- nobody was heard: the server was away, which is nobody's silence
    for _, client in ipairs(call('ZRANGE', CLIENTS, 0, -1)) do call('ZADD', CLIENTS, now + q.lease, client) end
  end
  q.tick = now
  for _, client in ipairs(call('ZRANGEBYSCORE', CLIENTS, '-inf', now)) do
    leave(client, client .. ' was silent for ' .. q.lease / 1000 .. ' s', 1)
  end
  if q.ttl > 0 then
    for _, key in ipairs(KEPT) do call('PEXPIRE', key, q.ttl) end
  end
end

local function enter(former)
  call('ZADD', CLIENTS, now + q.lease, me)
  local producer = former ~= '' and call('HGET', PRODUCERS, former)
  if not producer then return end
  call('HDEL', PRODUCERS, former)
  call('HSET', PRODUCERS, me, (producer:gsub('^lost', 'on')))
  if producer:find('^lost') then q.here = q.here + 1 end  -- it was silent, and is back
end

local function declare(settings)
  if not packed then
    q = {format = 1, shut = 0, came = 0, here = 0, size = 0, bytes = 0, last = 0, stored = 0, settled = 0,
      dead = 0, dropped = 0, late = 0, letter_bytes = 0, tick = now}
    call('XGROUP', 'CREATE', ITEMS, G, '0', 'MKSTREAM')
  end
  for name, value in pairs(settings) do q[name] = value end
  reap()
  if call('ZCARD', CLIENTS) == 0 then  -- nobody uses it: a new program begins, with the items that are left
    q.shut, q.came, q.here = 0, 0, 0
    call('DEL', PRODUCERS, CALLS)
  end
  if has_room() then token(':room') end
  enter('')
  for _, key in ipairs(KEPT) do call('PERSIST', key) end
  reap()
end

local function close(immediate)
  q.shut = math.max(q.shut, immediate and 2 or 1)
  if immediate then
    repeat
      local count = math.min(1000, q.size)
      local popped, numbers = call('ZPOPMIN', AGAIN, count), {}
      for index = 1, #popped, 2 do numbers[#numbers + 1] = popped[index] end
      if #numbers < count then
        local read = call('XREADGROUP', 'GROUP', G, '-', 'COUNT', count - #numbers, 'STREAMS', ITEMS, '>')
        for _, entry in ipairs(read and read[1][2] or {}) do numbers[#numbers + 1] = entry[1] end
      end
      if #numbers > 0 then
        remove(numbers)
        q.dropped, q.size = q.dropped + #numbers, q.size - #numbers
      end
    until #numbers == 0
    q.bytes = 0
  end
  token(':wake')
  token(':room')
  tell_of_end()
end

local function counts()
  local lost = 0
  for _, state in ipairs(call('HVALS', PRODUCERS)) do
    if state:find('^lost') then lost = lost + 1 end
  end
  return {maxsize = q.maxsize, maxbytes = q.maxbytes, size = q.size, bytes = q.bytes, stored = q.stored, settled = q.settled,
    unsettled = unsettled(), dead = q.dead, dropped = q.dropped, late = q.late, clients = call('ZCARD', CLIENTS),
    producers = q.here, ['lost producers'] = lost}
end

local function run()
  if packed and q.format ~= 1 then return {'format', q.format} end
  if op == 'declare' then
    declare(cmsgpack.unpack(ARGV[4]))
  elseif op == 'enter' then
    reap()
    enter(ARGV[4])
    return {'ok', q.maxbytes, q.lease, q.head}
  elseif not dies then
    return {'stranger'}
  elseif op == 'beat' then
    reap()
  elseif op == 'idle' then
    if unsettled() > 0 then return {'empty'} end
    token(':idle')
  elseif op == 'counts' then
    return {'ok', cmsgpack.pack(counts())}
  elseif op == 'letters' then
    return {'ok', cmsgpack.pack(call('LRANGE', DEAD, tonumber(ARGV[4]), tonumber(ARGV[4]) + 99))}
  elseif op == 'close' then
    close(ARGV[4] == '1')
  elseif op == 'leave' then
    leave(me, me .. ' left without an ack', 0)
  end
  return {'ok'}
end

if op == 'delete' then
  call('DEL', unpack(KEPT))
  return {'ok'}
end
return done(run())
