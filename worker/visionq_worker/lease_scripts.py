"""The Lua behind `leases`: how a message changes hands, each time in one atomic step.

All of them take the same keys, so that a script may touch whatever belongs to a message:

    1 unacked   2 unacked-index   3 leases   4 dead   5 dead-messages   6 dead-index   7 open
    8 suspects  9 draining   10... queues

and begin with the same arguments:

    1 prefix of records   2 TTL of records   3 TTL of what is dead   4 how much may be dead

A claim is the message's delivery tag and the time it was taken, so that every delivery of a message
has a name of its own: who lost its lease cannot settle the message for its successor. What a
claim holds is written before the message leaves its queue, since a Redis that is full refuses the
one and not the other.

Who takes a worker down takes others' tasks down with it, and each of them has a strike for it. With
two strikes a task is a suspect: it waits in a list of its own, and is run by a worker that has
nothing else in hand. So the innocent are soon cleared, and the guilty is alone.
"""

from __future__ import annotations

SUSPECT_STRIKES = 2
MAX_ELEMENT_BYTES = 16 * 1024 * 1024
"""Of what is read at all, by Redis and by a worker; the limit of a task is far below."""
UNREAD = "unread"
"""Begins the claim of a message that is no JSON object to Redis: its task's id is not known."""

_HEAD = (
    f"local SUSPECT = {SUSPECT_STRIKES}\n"
    + """
local UNACKED, INDEX, LEASES, DEAD, DEAD_MESSAGES, DEAD_INDEX, OPEN = unpack(KEYS, 1, 7)
local SUSPECTS, DRAINING = unpack(KEYS, 8, 9)
local PREFIX, TTL, DEAD_TTL, MOST_DEAD = unpack(ARGV, 1, 4)
local t = redis.call('TIME')
local now = t[1] .. '.' .. string.format('%06d', t[2])

-- The oldest go when there are too many. The message is kept apart, as it may be no UTF-8. Without
-- a task's id it gets one of its own: time stands still in a script, so they are counted besides.
local num_nameless = 0
local function put_aside(id, reason, queue, message)
  if not id then
    num_nameless = num_nameless + 1
    id = 'm' .. now .. '-' .. num_nameless
  end
  local entry = {id = id, at = tonumber(now), reason = reason, queue = queue}
  redis.call('HSET', DEAD, id, cjson.encode(entry))
  redis.call('HSET', DEAD_MESSAGES, id, message)
  redis.call('ZADD', DEAD_INDEX, now, id)
  -- After a clock was set back, new ones would be taken for older than those.
  for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', DEAD_INDEX, '(' .. now, '+inf')) do
    redis.call('ZADD', DEAD_INDEX, now, ahead)
  end
  local excess = redis.call('ZCARD', DEAD_INDEX) - tonumber(MOST_DEAD)
  if excess > 0 then
    for _, old in ipairs(redis.call('ZRANGE', DEAD_INDEX, 0, excess - 1)) do
      redis.call('HDEL', DEAD, old)
      redis.call('HDEL', DEAD_MESSAGES, old)
      redis.call('ZREM', DEAD_INDEX, old)
    end
  end
  for _, key in ipairs({DEAD, DEAD_MESSAGES, DEAD_INDEX}) do redis.call('EXPIRE', key, DEAD_TTL) end
end

-- Only such an id, a UUID in lower case, can have a record.
local function is_task_id(id)
  if #id ~= 36 or string.find(id, '[^0-9a-f-]') then return false end
  local a, b, c, d, e = string.match(id, '^(%x+)%-(%x+)%-(%x+)%-(%x+)%-(%x+)$')
  return a ~= nil and #a == 8 and #b == 4 and #c == 4 and #d == 4 and #e == 12
end

-- The message, its queue and its task; nothing when somebody else has settled the claim. Changes
-- nothing, and ends the script where a later write would be refused: any key may be of another
-- type, or not this user's to write; those that are not declared, queue and record, may be out of
-- reach in a cluster whose slot is half moved.
local function held(claim)
  local stored, lease = redis.call('HGET', UNACKED, claim), redis.call('HGET', LEASES, claim)
  redis.call('HDEL', UNACKED, '')
  redis.call('ZREM', INDEX, '')
  redis.call('HDEL', LEASES, '')
  if not stored or not lease then return nil end
  local _, queue, id, size = string.match(lease, '^(.-)\\n(.-)\\n(.-)\\n(%d+)$')
  local record = is_task_id(id) and PREFIX .. id or nil
  redis.call('EXISTS', queue, record or queue)
  if record then redis.call('HDEL', record, '') end
  return string.sub(stored, 2, 1 + tonumber(size)), queue, id
end

-- Only when the message stands somewhere else: what has been written stays, even if a later command
-- of the same script is refused.
local function let_go(claim)
  redis.call('HDEL', UNACKED, claim)
  redis.call('ZREM', INDEX, claim)
  redis.call('HDEL', LEASES, claim)
end

local function is_final(state)
  return state == 'SUCCESS' or state == 'FAILURE' or state == 'REVOKED' or state == 'EXPIRED'
end

-- A suspect's message stands behind the name of its queue. The message is the next one to be taken,
-- or stands in the suspects' line. Who reads the status shall not think that the task runs.
local function back_into(queue, message, id, strikes)
  local record, state = PREFIX .. id, false
  if is_task_id(id) then
    local found = redis.call('HMGET', record, 'state', 'strikes')
    state, strikes = found[1], strikes or tonumber(found[2])
  end
  if (strikes or 0) >= SUSPECT then
    redis.call('LPUSH', SUSPECTS, queue .. '\\n' .. message)
  else
    redis.call('RPUSH', queue, message)
  end
  if state == 'STARTED' or state == 'PROGRESS' then redis.call('HSET', record, 'state', 'RETRY') end
end

-- Ends a claim with which a worker was lost. True when that has happened too often: the message is
-- put aside then, and the reconciler ends the task. Else it goes back.
local function strike(claim, message, queue, id, most, reason)
  local record = is_task_id(id) and PREFIX .. id
  if not record or is_final(redis.call('HGET', record, 'state')) then
    back_into(queue, message, id)
    let_go(claim)
    return false
  end
  local strikes = (tonumber(redis.call('HGET', record, 'strikes')) or 0) + 1
  local is_last = strikes >= tonumber(most)
  if is_last then put_aside(id, reason, queue, message)
  else back_into(queue, message, id, strikes) end
  redis.call('HSET', record, 'strikes', strikes)
  redis.call('EXPIRE', record, TTL)
  if is_last then
    redis.call('HSET', record, 'dead', reason)
    redis.call('ZADD', OPEN, now, id)
    -- A delayed task's place in it may be kept for longer.
    if redis.call('TTL', OPEN) < tonumber(TTL) then redis.call('EXPIRE', OPEN, TTL) end
  end
  let_go(claim)
  return is_last
end
"""
)

# More ARGV: owner, how many messages it has in hand, seconds of a lease, prefix of newer tasks and
# the contract version that the worker reads.
# Returns queue, message and claim of the first message that looks like a JSON object with an id,
# and whether it is a suspect's; or false. Whether it can be run is for the worker to find out. Here
# it is read for an id that a record may have, and for a name for the claim: neither unchecked.
# A message whose task another claim holds is a copy, and goes: the holder's own message is the one
# that comes back should the holder die. What older workers have left (`DEFER`) comes before what
# waits in the same queue. A suspect of those is not run alone: claims of others go on beside it.
CLAIM = (
    _HEAD
    + f"local MOST_BYTES, UNREAD = {MAX_ELEMENT_BYTES}, '{UNREAD}'\n"
    + """
local function read(message)
  if #message > MOST_BYTES then return nil, 'it is larger than ' .. MOST_BYTES .. ' bytes' end
  local is_json, m = pcall(cjson.decode, message)
  is_json = is_json and type(m) == 'table'
  -- Half a surrogate pair is refused here, and not by Python, which may find an id to answer to.
  if not string.find(message, is_json and '^%s*{' or '^%s*{.*}%s*$') then
    return nil, 'it is not a JSON object'
  end
  if not is_json then return '', UNREAD, '', '' end
  local headers = type(m.headers) == 'table' and m.headers or {}
  local properties = type(m.properties) == 'table' and m.properties or {}
  local id, tag = headers.id, properties.delivery_tag
  -- Celery's older messages have it in their body.
  if type(id) ~= 'string' and type(m.body) ~= 'string' then return nil, 'it has no task id' end
  if type(id) ~= 'string' or not is_task_id(id) then id = '' end
  if type(tag) ~= 'string' then tag = 'untagged' end
  if #tag > 100 or string.find(tag, '[^%w._-]') then tag = redis.sha1hex(tag) end
  local info = type(properties.delivery_info) == 'table' and properties.delivery_info or {}
  local exchange = type(info.exchange) == 'string' and info.exchange or ''
  local routing_key = type(info.routing_key) == 'string' and info.routing_key or ''
  return id, tag, exchange, routing_key
end

-- Whether another claim holds the task, and why its message can be run by nobody: an error here
-- would come at each claim, and keep whatever stands behind the message from being taken.
local function held_already(id)
  if not is_task_id(id) then return false end
  local claim = redis.pcall('HGET', PREFIX .. id, 'claim')
  if type(claim) == 'table' and claim.err then
    if string.find(claim.err, '^WRONGTYPE') then
      return false, 'the key of its record holds something else'
    end
    claim = redis.call('HGET', PREFIX .. id, 'claim')
  end
  return claim and redis.call('ZSCORE', INDEX, claim)
end

local function lease(queue, message, id, tag, exchange, routing_key)
  local claim = tag .. '#' .. now
  local address = cjson.encode(exchange) .. ',' .. cjson.encode(routing_key)
  redis.call('HSET', UNACKED, claim, '[' .. message .. ',' .. address .. ']')
  redis.call('ZADD', INDEX, now, claim)
  redis.call('HSET', LEASES, claim, table.concat({ARGV[5], queue, id, #message}, '\\n'))
  if is_task_id(id) then
    local record = PREFIX .. id
    redis.call('HSET', record, 'claim', claim)
    if redis.call('HEXISTS', record, 'state') == 0 then redis.call('EXPIRE', record, TTL) end
  end
  return claim
end

-- One worker makes itself empty while there are suspects, and takes them one by one.
local num_suspects = redis.call('LLEN', SUSPECTS)
if num_suspects > 0 then
  redis.call('SET', DRAINING, ARGV[5], 'NX', 'EX', ARGV[7])
  if redis.call('GET', DRAINING) == ARGV[5] then
    redis.call('EXPIRE', DRAINING, ARGV[7])
    if tonumber(ARGV[6]) > 0 then return false end
    for _ = 1, num_suspects do
      local entry = redis.call('LINDEX', SUSPECTS, -1)
      local queue, message = string.match(entry, '^(.-)\\n(.*)$')
      local id, tag, exchange, routing_key = read(message)
      local is_held, reason = false, tag
      if id then is_held, reason = held_already(id) end
      if reason then put_aside(nil, reason, queue, message)
      elseif not is_held then
        local claim = lease(queue, message, id, tag, exchange, routing_key)
        redis.call('RPOP', SUSPECTS)
        return {queue, message, claim, 1}
      end
      redis.call('RPOP', SUSPECTS)
    end
  end
elseif redis.call('GET', DRAINING) == ARGV[5] then
  redis.call('DEL', DRAINING)
end

-- What older workers have left of a queue; nil where there is nothing.
local function left_by_older(queue)
  for version = 2, tonumber(ARGV[9]) do
    local newer = ARGV[8] .. version .. ':' .. queue
    for _ = 1, 100 do
      local id = redis.call('ZRANGE', newer, 0, 0)[1]
      if not id then break end
      local message = redis.call('HGET', newer .. ':messages', id)
      local claim
      local is_held, reason = held_already(id)
      if message and reason then put_aside(nil, reason, queue, message)
      elseif message and not is_held then claim = lease(queue, message, read(message)) end
      redis.call('ZREM', newer, id)
      redis.call('HDEL', newer .. ':messages', id)
      if claim then return {queue, message, claim, 0} end
    end
  end
end

for i = 10, #KEYS do
  local queue = KEYS[i]
  local found = left_by_older(queue)
  if found then return found end
  for _ = 1, 100 do
    local message = redis.call('LINDEX', queue, -1)
    if not message then break end
    local id, tag, exchange, routing_key = read(message)
    local is_held, reason = false, tag
    if id then is_held, reason = held_already(id) end
    if reason then
      put_aside(nil, reason, queue, message)
      redis.call('RPOP', queue)
    elseif is_held then
      redis.call('RPOP', queue)
    else
      local claim = lease(queue, message, id, tag, exchange, routing_key)
      redis.call('RPOP', queue)
      return {queue, message, claim, 0}
    end
  end
end
return false
"""
)

# More ARGV: claim... Returns those that are no longer held.
RENEW = (
    _HEAD
    + """
local lost = {}
for i = 5, #ARGV do
  if redis.call('ZSCORE', INDEX, ARGV[i]) then redis.call('ZADD', INDEX, now, ARGV[i])
  else lost[#lost + 1] = ARGV[i] end
end
return lost
"""
)

_SETTLE = """
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
"""

# KEYS unacked, unacked-index, leases; ARGV claim. Without the head of the others: every task ends
# with this or the next one.
ACK = _SETTLE

# One KEYS more: Celery's result, which is its channel, too; more ARGV: value, TTL. Where a full
# Redis refuses the value, it settles nothing either.
ACK_WITH_RESULT = (
    """
redis.call('SET', KEYS[4], ARGV[2], 'EX', ARGV[3])
redis.pcall('PUBLISH', KEYS[4], ARGV[2])
"""
    + _SETTLE
)

# More ARGV: claim... The messages are the next ones to be taken.
GIVE_BACK = (
    _HEAD
    + """
for i = #ARGV, 5, -1 do
  local message, queue, id = held(ARGV[i])
  if message then back_into(queue, message, id) end
  let_go(ARGV[i])
end
"""
)

# More ARGV: claim, prefix of newer tasks, the contract version that is needed, the task and what
# its message says besides, in JSON. The worker cannot read the task: its message is left for one
# that can, no attempt and no strike is counted, and what stands behind it in the queue goes on. Of
# a foreign sender's task the record is made here, so that it ends if no such worker comes.
DEFER = (
    _HEAD
    + """
local message, queue, id = held(ARGV[5])
if not message then return let_go(ARGV[5]) end
-- Celery's older messages have it in their body, which is not read at the claim.
if not is_task_id(id) then id = cjson.decode(ARGV[8]).id end
local record, newer = PREFIX .. id, ARGV[6] .. ARGV[7] .. ':' .. queue
if redis.call('HEXISTS', record, 'state') == 0 then
  redis.call('HSET', record, 'state', 'PENDING', 'task', ARGV[8], 'at', now, 'celery', ARGV[9])
end
redis.call('ZADD', newer, 'NX', now, id)
redis.call('HSET', newer .. ':messages', id, message)
redis.call('ZADD', OPEN, 'LT', now + 1, id)
for _, key in ipairs({record, newer, newer .. ':messages', OPEN}) do
  if redis.call('TTL', key) < tonumber(TTL) then redis.call('EXPIRE', key, TTL) end
end
let_go(ARGV[5])
"""
)

# More ARGV: claim, reason, the task's id or ''. The message cannot be run. A letter that is there
# already under this id is another message's, and stays.
PUT_ASIDE = (
    _HEAD
    + """
local message, queue = held(ARGV[5])
local id = is_task_id(ARGV[7]) and redis.call('HEXISTS', DEAD, ARGV[7]) == 0 and ARGV[7] or nil
if message then put_aside(id, ARGV[6], queue, message) end
let_go(ARGV[5])
"""
)

# More ARGV: claim, strikes at which a task is put aside, reason. As GIVE_BACK, but a worker broke
# down while it had the task. Returns 1 when it was put aside.
STRIKE = (
    _HEAD
    + """
local message, queue, id = held(ARGV[5])
if message then return strike(ARGV[5], message, queue, id, ARGV[6], ARGV[7]) and 1 or 0 end
let_go(ARGV[5])
return 0
"""
)

# More ARGV: seconds of a lease, strikes at which a task is put aside, claims looked at, the latest
# that the clock can show if nobody has set it ('': not known).
# Returns how many went back, the time, and the tasks put aside.
# A clock that was set back leaves stamps in the future, and a TTL that is too long. They count from
# now on: who lives renews its leases in time, and nobody else's hold longer than one lease. So do
# all of them where it was set forward, or everybody would be taken for dead.
SWEEP = (
    _HEAD
    + """
local ahead = redis.call('ZRANGEBYSCORE', INDEX, '(' .. now, '+inf', 'LIMIT', 0, ARGV[7])
for _, claim in ipairs(ahead) do redis.call('ZADD', INDEX, now, claim) end
if ARGV[8] ~= '' and now - ARGV[8] > ARGV[5] / 2 then
  for _, claim in ipairs(redis.call('ZRANGE', INDEX, 0, -1)) do
    redis.call('ZADD', INDEX, now, claim)
  end
end
local longest = math.max(2, math.ceil(tonumber(ARGV[5])))
if redis.call('TTL', DRAINING) > longest then redis.call('EXPIRE', DRAINING, longest) end

local num_back, aside = 0, {}
local function end_lost(claim)
  local message, queue, id = held(claim)
  if not message then return let_go(claim) end
  local reason = ARGV[6] .. ' workers were lost while they had it'
  if strike(claim, message, queue, id, ARGV[6], reason) then aside[#aside + 1] = id
  else num_back = num_back + 1 end
end
-- A claim that cannot be ended, since its queue is no list, say, must not keep the others from it:
-- it is looked at again a lease later. In a cluster whose slot is half moved all of them have to
-- wait.
local latest = tostring(tonumber(now) - tonumber(ARGV[5]))
for _, claim in ipairs(redis.call('ZRANGEBYSCORE', INDEX, '-inf', latest, 'LIMIT', 0, ARGV[7])) do
  local is_well, said = pcall(end_lost, claim)
  if not is_well then
    said = type(said) == 'table' and said.err or said
    if string.find(said, 'non local key', 1, true) then return redis.error_reply(said) end
    redis.call('ZADD', INDEX, now, claim)
  end
end
return {num_back, now, unpack(aside)}
"""
)
