-- A queue in Redis. Each call is one atomic step, called with the name of the queue's hash, the operation, the
-- client, the client's number of this call, and arguments (packed by msgpack where there are several values).
--
--   NAME            hash: settings and figures
--   NAME:items      stream: an entry for each item, with the item's number as its id; group `g` holds what was lent
--   NAME:again      sorted set: numbers of items that were given back, which are lent first
--   NAME:history    hash: number -> strikes and the reason of each failed attempt, packed
--   NAME:clients    sorted set: client -> when it counts as dead
--   NAME:producers  hash: producer -> `on`, or `lost`
--   NAME:calls      hash: client -> number and result of its last put, and `client:news` -> the number of its last
--                   acks, so that a repeated call changes nothing
--   NAME:dead       list: dead letters, packed
--   NAME:wake, NAME:room, NAME:idle    lists of one token each: who takes it looks again, and puts it back if
--                   there is more for others (waiting getters, putters, and joins)
--
-- An item is lent to one client: the consumer in whose list of pending entries it is. XACK does not compare owners.
-- So a client that is declared dead loses its name and all its items in one step, an item that is given back goes to
-- the consumer `-`, and every call of a name that is not in NAME:clients is refused.

local P, op, me, number = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local ITEMS, AGAIN, HISTORY, CLIENTS = P .. ':items', P .. ':again', P .. ':history', P .. ':clients'
local PRODUCERS, CALLS, DEAD, G = P .. ':producers', P .. ':calls', P .. ':dead', 'g'
local LETTERS, LETTER_BYTES, BATCH_BYTES = 10000, 64 * 1024 * 1024, 16 * 1024 * 1024
local KEPT = {P, ITEMS, AGAIN, HISTORY, CLIENTS, PRODUCERS, CALLS, DEAD, P .. ':wake', P .. ':room', P .. ':idle'}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local FIELDS = {'format', 'maxsize', 'maxbytes', 'lease', 'max_attempts', 'expected', 'head', 'ttl', 'shut', 'came', 'here',
  'size', 'bytes', 'stored', 'settled', 'dead', 'dropped', 'late', 'letter_bytes', 'tick'}
local q, was = {}, {}
for index, value in ipairs(redis.call('HMGET', P, unpack(FIELDS))) do
  q[FIELDS[index]], was[FIELDS[index]] = tonumber(value or 0), tonumber(value or 0)
end

local function save()
  local changed = {}
  for name, value in pairs(q) do
    if value ~= was[name] then
      changed[#changed + 1] = name
      changed[#changed + 1] = value
    end
  end
  if #changed > 0 then redis.call('HSET', P, unpack(changed)) end
end

local function token(list)
  if redis.call('EXISTS', P .. list) == 0 then redis.call('RPUSH', P .. list, 1) end
end

local function unsettled() return q.stored - q.settled - q.dead - q.dropped end
local function over() return q.came >= q.expected and q.here == 0 end
local function has_room()
  return (q.maxsize == 0 or q.size < q.maxsize) and (q.maxbytes == 0 or q.bytes < q.maxbytes)
end

local function remove(numbers)
  local count = redis.call('XACK', ITEMS, G, unpack(numbers))
  redis.call('XDEL', ITEMS, unpack(numbers))
  if redis.call('EXISTS', HISTORY) == 1 then redis.call('HDEL', HISTORY, unpack(numbers)) end
  return count
end

local function tell_of_end()
  if unsettled() == 0 then token(':idle') end
  if q.shut > 0 or over() then token(':wake') end
end

local function history_of(item)
  local packed = redis.call('HGET', HISTORY, item)
  return packed and cmsgpack.unpack(packed) or {0}
end

local function body_of(item) return redis.call('XRANGE', ITEMS, item, item)[1][2][2] end

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
    redis.call('RPUSH', DEAD, cmsgpack.pack({body, attempts, unpack(history, 2)}))
    while redis.call('LLEN', DEAD) > LETTERS or (q.letter_bytes > LETTER_BYTES and redis.call('LLEN', DEAD) > 1) do
      q.letter_bytes = q.letter_bytes - #cmsgpack.unpack(redis.call('LPOP', DEAD))[1]
    end
    remove({item})
  elseif q.shut == 2 then
    q.dropped = q.dropped + 1
    remove({item})
  else
    if why then redis.call('HSET', HISTORY, item, cmsgpack.pack(history)) end
    redis.call('XCLAIM', ITEMS, G, '-', 0, item, 'JUSTID')
    redis.call('ZADD', AGAIN, item, item)
    q.size, q.bytes = q.size + 1, q.bytes + #body_of(item) - q.head
    token(':wake')
  end
end

local function give_back_all(client, why, strikes, except)
  local after = '-'
  while true do
    local pending = redis.call('XPENDING', ITEMS, G, after, '+', 1000, client)
    for _, entry in ipairs(pending) do
      local item = entry[1]:match('%d+')
      after = '(' .. entry[1]
      if not (except and except[tonumber(item)]) then give_back(item, why, strikes) end
    end
    if #pending < 1000 then break end
  end
end

local function leave(client, why, strikes)
  give_back_all(client, why, strikes)
  redis.call('XGROUP', 'DELCONSUMER', ITEMS, G, client)
  redis.call('ZREM', CLIENTS, client)
  if redis.call('HGET', PRODUCERS, client) == 'on' then
    q.here = q.here - 1
    if strikes == 1 then
      redis.call('HSET', PRODUCERS, client, 'lost')
    else
      redis.call('HDEL', PRODUCERS, client)
    end
  end
  if strikes == 0 then redis.call('HDEL', CALLS, client, client .. ':news') end
  tell_of_end()
end

local function listen()
  if redis.call('ZSCORE', CLIENTS, me) then redis.call('ZADD', CLIENTS, now + q.lease, me) end
  if now - q.tick > q.lease then  -- nobody was heard: the server was away, which is nobody's silence
    for _, client in ipairs(redis.call('ZRANGE', CLIENTS, 0, -1)) do
      redis.call('ZADD', CLIENTS, now + q.lease, client)
    end
  end
  if now - q.tick > q.lease / 8 then
    q.tick = now
    for _, client in ipairs(redis.call('ZRANGEBYSCORE', CLIENTS, '-inf', now)) do
      leave(client, client .. ' was silent for ' .. q.lease / 1000 .. ' s', 1)
    end
    if q.ttl > 0 then
      for _, key in ipairs(KEPT) do redis.call('PEXPIRE', key, q.ttl) end
    end
  end
end

local function enter(former)
  redis.call('ZADD', CLIENTS, now + q.lease, me)
  if former == '' then return end
  if redis.call('HGET', PRODUCERS, former) == 'lost' then  -- it was silent, and is back
    redis.call('HDEL', PRODUCERS, former)
    redis.call('HSET', PRODUCERS, me, 'on')
    q.here = q.here + 1
  end
  local last = redis.call('HGET', CALLS, former)
  if last then redis.call('HSET', CALLS, me, last) end
  redis.call('HDEL', CALLS, former, former .. ':news')
end

local function declare(settings)
  local fresh = q.format == 0
  for name, value in pairs(settings) do q[name] = value end
  if fresh then
    q.format, q.tick = 1, now
    redis.call('XGROUP', 'CREATE', ITEMS, G, '0', 'MKSTREAM')
  else
    listen()
  end
  if redis.call('ZCARD', CLIENTS) == 0 then  -- nobody uses it: a new program begins, with the items that are left
    q.shut, q.came, q.here = 0, 0, 0
    redis.call('DEL', PRODUCERS, CALLS)
  end
  if has_room() then token(':room') end
  q.tick = 0  -- so that the next call sets the keys' time to live
end

local function settle(packed)
  local acked, failed, unread, unused, late = unpack(cmsgpack.unpack(packed))
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

local function put(bodies)
  if q.shut > 0 then return {'shut'} end
  if redis.call('HSETNX', PRODUCERS, me, 'on') == 1 then q.came, q.here = q.came + 1, q.here + 1 end
  local count = 0
  for index = 4, #bodies do
    local body = bodies[index]
    local size = #body - q.head
    if q.maxsize > 0 and q.size >= q.maxsize then break end
    if q.maxbytes > 0 and q.bytes + size > q.maxbytes then break end
    q.stored, q.size, q.bytes, count = q.stored + 1, q.size + 1, q.bytes + size, count + 1
    redis.call('XADD', ITEMS, q.stored, 'b', body)
  end
  if count > 0 then token(':wake') end
  if count > 0 and has_room() and (q.maxsize > 0 or q.maxbytes > 0) then token(':room') end
  return {'ok', count}
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
      for _, name in ipairs(redis.call('HKEYS', PRODUCERS)) do lost[#lost + 1] = name end
      return {#lost > 0 and 'lost' or 'shut', lost}
    end
    return {'empty'}
  end
  local count = math.min(most, 1000, math.max(1, math.floor(BATCH_BYTES * q.size / math.max(1, q.bytes))))
  local reply, entries = {}, {}
  if redis.call('EXISTS', AGAIN) == 1 then
    local popped, numbers = redis.call('ZPOPMIN', AGAIN, count), {}
    for index = 1, #popped, 2 do numbers[#numbers + 1] = popped[index] end
    entries = redis.call('XCLAIM', ITEMS, G, me, 0, unpack(numbers))
  end
  local old = #entries
  if old < count then
    local read = redis.call('XREADGROUP', 'GROUP', G, me, 'COUNT', count - old, 'STREAMS', ITEMS, '>')
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

local function close(immediate)
  q.shut = math.max(q.shut, immediate and 2 or 1)
  if immediate then
    repeat
      local count = math.min(1000, q.size)
      local popped, numbers = redis.call('ZPOPMIN', AGAIN, count), {}
      for index = 1, #popped, 2 do numbers[#numbers + 1] = popped[index] end
      if #numbers < count then
        local read = redis.call('XREADGROUP', 'GROUP', G, '-', 'COUNT', count - #numbers, 'STREAMS', ITEMS, '>')
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
  for _, state in ipairs(redis.call('HVALS', PRODUCERS)) do
    if state == 'lost' then lost = lost + 1 end
  end
  local clients = redis.call('ZCARD', CLIENTS)
  return {'ok', cmsgpack.pack({maxsize = q.maxsize, maxbytes = q.maxbytes, size = q.size, bytes = q.bytes, stored = q.stored,
    settled = q.settled, unsettled = unsettled(), dead = q.dead, dropped = q.dropped, late = q.late, clients = clients,
    producers = q.here, ['lost producers'] = lost})}
end

local function run()
  if op == 'declare' then
    declare(cmsgpack.unpack(ARGV[5]))
    enter(ARGV[4])
    return {'ok'}
  end
  if q.format == 0 then return {'none'} end
  if q.format ~= 1 then return {'format', q.format} end
  listen()
  if op == 'enter' then
    enter(ARGV[4])
    return {'ok', q.maxbytes, q.lease, q.head}
  end
  if not redis.call('ZSCORE', CLIENTS, me) then
    if (op == 'settle' or op == 'take') and number ~= '0' then q.late = q.late + #cmsgpack.unpack(ARGV[4])[1] end
    return {'stranger'}
  end
  if op == 'put' then
    local last = redis.call('HGET', CALLS, me) or ''
    if last:match('^%d+') == number then return {'ok', tonumber(last:match('%d+$'))} end
    local reply = put(ARGV)
    redis.call('HSET', CALLS, me, number .. ' ' .. (reply[2] or 0))
    return reply
  end
  if op == 'settle' or op == 'take' then
    if number ~= '0' and redis.call('HGET', CALLS, me .. ':news') ~= number then
      redis.call('HSET', CALLS, me .. ':news', number)
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
  if op == 'idle' then
    if unsettled() > 0 then return {'empty'} end
    token(':idle')
    return {'ok'}
  end
  if op == 'counts' then return counts() end
  if op == 'letters' then return {'ok', cmsgpack.pack(redis.call('LRANGE', DEAD, tonumber(ARGV[4]), tonumber(ARGV[4]) + 99))} end
  if op == 'close' then
    close(ARGV[4] == '1')
    return {'ok'}
  end
  if op == 'delete' then
    redis.call('DEL', unpack(KEPT))
    q.format = 0
    return {'ok'}
  end
  if op == 'leave' then
    leave(me, me .. ' left without an ack', 0)
    return {'ok'}
  end
  return {'ok'}  -- beat
end

local reply = run()
if q.format == 1 then save() end
return reply
