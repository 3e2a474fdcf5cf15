"""The Lua behind `records`: each transition of a task in one atomic step.

`records` says what the fields of a record mean. Times are the server's. The arguments of each
script are named above it. A channel that may not be used keeps no transition from being made
(`pcall`): who waits looks again by itself.
"""

from __future__ import annotations

from visionq.newer_scripts import NEWEST_READER

CLOCK_OFF_SECONDS = 60
"""A deadline that is further off than that was made by a clock that was set since."""

_NOW = "local t = redis.call('TIME') local now = t[1] .. '.' .. string.format('%06d', t[2])\n"
_IS_FINAL = """
local function is_final(state)
  return state == 'SUCCESS' or state == 'FAILURE' or state == 'REVOKED' or state == 'EXPIRED'
end
"""

# A delayed task is kept for longer than its TTL, and so is what leads to it.
_KEEP = """
local function keep(key, seconds)
  if redis.call('TTL', key) < tonumber(seconds) then redis.call('EXPIRE', key, seconds) end
end
"""

_LOOK = (
    _KEEP
    + """
local function look(open, at, id, ttl)
  redis.call('ZADD', open, at, id)
  keep(open, ttl)
end
"""
)

# A lane's hash has `waiting` and `waiting:<tenant>`, and how fast tasks are started: `starts` since
# `window`, and the `rate` per second in the window before that. Beside it, the sorted set
# `<lane>:line` has the ids of those that wait, by since when.
_UNCOUNT = """
local function uncount(record, lane, id)
  redis.call('ZREM', lane .. ':line', id)
  local tenant = redis.call('HGET', record, 'counted')
  if not tenant then return end
  redis.call('HDEL', record, 'counted')
  redis.call('HINCRBY', lane, 'waiting', -1)
  local name = 'waiting:' .. tenant
  if redis.call('HINCRBY', lane, name, -1) <= 0 then redis.call('HDEL', lane, name) end
end
"""

# The tasks of one idempotency key are a chain. The first one's id follows from the key, and its
# record has the `print` of the content and, in `next`, the newest one's id; in the other records,
# `next` is the one made after it. Returns the newest one's record, id, state and `sent`; nil when
# the key is free. Its state is nil when its record has gone before the first one's.
_NEWEST = """
local function newest(first, first_id)
  local r = redis.call('HMGET', first, 'state', 'sent', 'next')
  if not r[3] then
    if not r[1] then return nil end
    return first, first_id, r[1], r[2]
  end
  local record = string.sub(first, 1, -1 - #first_id) .. r[3]
  local of_newest = redis.call('HMGET', record, 'state', 'sent')
  return record, r[3], of_newest[1], of_newest[2]
end
"""

# KEYS record, lane, open and, with an idempotency key, the record of the key's first task; ARGV
# ttl, task, id, tenant, most that may wait in the lane, most of the tenant (0: as many as it
# likes), seconds until it may be started (0: now), deadline ('': none), in how many seconds that is
# meant to be ('': not known) and, with a key, the first one's id and the print of the content.
#
# Returns false when the record is new. Else a list that begins with a word: FOUND (state, whether
# its message is out, id, and the task if that is uncertain), CONFLICT (id), FULL (what is full, how
# many wait, the rate), CLOCK: it was set since the client has asked for the time. Where a key's
# newest task has ended without an answer, or is gone, it is FOUND as long as the new task has the
# first one's id; with an id of its own, that one follows it.
CREATE = (
    _NOW
    + _LOOK
    + _NEWEST
    + f"local MOST_OFF = {CLOCK_OFF_SECONDS}\n"
    + """
local record, lane, open, first = unpack(KEYS)
local ttl, task, id, tenant, most_in_lane, most_own, delay, deadline, expiry, first_id, print =
  unpack(ARGV)
local before
if not first then
  local found = redis.call('HMGET', record, 'state', 'sent')
  if found[1] then return {'FOUND', found[1], found[2] or '0', id} end
else
  local of_newest, newest_id, state, sent = newest(first, first_id)
  if state then
    -- A record of an older client has no print: its content is believed to be the same.
    local known = redis.call('HGET', first, 'print')
    if known and known ~= print then return {'CONFLICT', newest_id} end
    if state ~= 'FAILURE' and state ~= 'REVOKED' and state ~= 'EXPIRED' then
      local is_sent = state ~= 'PENDING' or sent
      local waiting = not is_sent and redis.call('HGET', of_newest, 'task') or nil
      return {'FOUND', state, is_sent and '1' or '0', newest_id, waiting}
    end
  end
  if of_newest and id == first_id then return {'FOUND', state or 'UNKNOWN', '1', newest_id} end
  before = of_newest and {record = of_newest, id = newest_id, is_there = state}
end
if expiry ~= '' and math.abs(deadline - now - expiry) > MOST_OFF then return {'CLOCK'} end
local of_tenant = 'waiting:' .. tenant
local w = redis.call('HMGET', lane, 'waiting', of_tenant, 'rate')
local in_lane, own = tonumber(w[1] or '0'), tonumber(w[2] or '0')
if in_lane >= tonumber(most_in_lane) then return {'FULL', 'lane', in_lane, w[3] or '0'} end
most_own = tonumber(most_own)
if most_own > 0 and own >= most_own then return {'FULL', 'tenant', own, w[3] or '0'} end
redis.call('HINCRBY', lane, 'waiting', 1)
redis.call('HINCRBY', lane, of_tenant, 1)
local seq = redis.call('HINCRBY', lane, 'submitted', 1)
redis.call('HSET', record, 'state', 'PENDING', 'task', task, 'at', now, 'seq', seq,
  'counted', tenant)
if before then
  redis.call('HSET', record, 'retry_of', before.id)
  if before.is_there then redis.call('HSET', before.record, 'next', id) end
end
if first then redis.call('HSET', first, 'print', print) end
if first and id ~= first_id then
  redis.call('HSET', first, 'next', id)
  -- It has to outlast the newest one, whose time begins anew with each of its changes.
  redis.call('EXPIRE', first, 2 * ttl)
end
redis.call('EXPIRE', record, ttl)
redis.call('EXPIRE', lane, ttl)
if tonumber(delay) > 0 then
  -- Nobody sends its message before it is due; then the reconciler does. It has its whole TTL from
  -- then on, and a look before `open` can have ended.
  local life = ttl + math.ceil(delay)
  redis.call('HSET', record, 'due', now + delay, 'sent', '1')
  keep(record, life)
  if first then keep(first, life + ttl) end
  look(open, now + math.min(delay, ttl / 2), id, life)
else
  -- Half the life of the record; `DUE` looks sooner when the task has been overtaken.
  local at = now + ttl / 2
  if deadline ~= '' then at = math.min(at, deadline + 0.01) end
  look(open, at, id, ttl)
  look(lane .. ':line', now, id, ttl)
end
return false
"""
)

# KEYS record, lane, open, cancelled, workers; ARGV ttl, task, owner, max, id, seconds until a look,
# for how long a cancel of an unknown id holds, channel, '1' to make a record where there is none,
# the contract version that is read here.
# Returns state, attempt, fence, now, submitted and, if any, what was decided: in one string; false
# without a record that may be made.
# A sender that is no visionq client has written no record: it is made here. If its task has been
# cancelled before, it ends here, too, and a reconciler stores its result object. A state that is
# unknown here is left as it is while a worker of a newer version is alive, which may have set it.
START = (
    _NOW
    + NEWEST_READER
    + _IS_FINAL
    + _LOOK
    + _UNCOUNT
    + """
local state = redis.call('HGET', KEYS[1], 'state')
if state and is_final(state) then return table.concat({state, '0', '0', now, now}, ' ') end
if not state and ARGV[9] ~= '1' then return false end
if state and not KNOWN[state] and newest_reader(KEYS[5]) > tonumber(ARGV[10]) then
  return table.concat({'UNKNOWN', '0', '0', now, now}, ' ')
end
if not state then
  redis.call('HSET', KEYS[1], 'task', ARGV[2], 'at', now)
  local cancelled = redis.call('ZSCORE', KEYS[4], ARGV[5])
  if cancelled and tonumber(cancelled) >= now - ARGV[7] then
    redis.call('HSET', KEYS[1], 'state', 'REVOKED', 't1', now, 'owes', '1')
    redis.call('EXPIRE', KEYS[1], ARGV[1])
    redis.call('ZREM', KEYS[4], ARGV[5])
    look(KEYS[3], now, ARGV[5], ARGV[1])
    redis.pcall('PUBLISH', ARGV[8], 'REVOKED')
    return table.concat({'REVOKED', '0', '0', now, now}, ' ')
  end
end
local seq = tonumber(redis.call('HGET', KEYS[1], 'seq') or '0')
if seq > tonumber(redis.call('HGET', KEYS[2], 'started') or '0') then
  redis.call('HSET', KEYS[2], 'started', seq)
end
uncount(KEYS[1], KEYS[2], ARGV[5])
local window = tonumber(redis.call('HGET', KEYS[2], 'window') or '0')
local starts = redis.call('HINCRBY', KEYS[2], 'starts', 1)
if now - window < 0 then -- the clock was set back
  redis.call('HSET', KEYS[2], 'window', now, 'starts', 1)
elseif now - window > 10 then
  redis.call('HSET', KEYS[2], 'rate', starts / (now - window), 'window', now, 'starts', 0)
end
redis.call('EXPIRE', KEYS[2], ARGV[1])
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
if fence == 1 then -- no fence of a record before this one, which was lost: milliseconds
  fence = redis.call('HINCRBY', KEYS[1], 'fence', t[1] * 1000 + math.floor(t[2] / 1000))
end
redis.call('HSET', KEYS[1], 'state', 'STARTED', 't0', now, 'owner', ARGV[3], 'max', ARGV[4])
redis.call('HDEL', KEYS[1], 'tokens', 'code', 'message', 'retryable', 'due')
redis.call('EXPIRE', KEYS[1], ARGV[1])
look(KEYS[3], now + ARGV[6], ARGV[5], ARGV[1])
local submitted, result = unpack(redis.call('HMGET', KEYS[1], 'at', 'result'))
return table.concat({'STARTED', attempt, fence, now, submitted, result or nil}, ' ')
"""
)

# KEYS record, open; ARGV ttl, channel, id, '1' where the caller holds the message, state, then
# field, value... The record of a task that has ended, made anew. Returns 1, or 0 when there is one.
# A claim makes the hash, too: then it is for its worker to find the result.
RESTORE = """
local is_there = redis.call('EXISTS', KEYS[1])
if ARGV[4] == '1' then is_there = redis.call('HEXISTS', KEYS[1], 'state') end
if is_there == 1 then return 0 end
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'state', ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[3])
redis.pcall('PUBLISH', ARGV[2], ARGV[5])
return 1
"""

# KEYS record. A record that has gone meanwhile must not come back without a TTL.
MARK_SENT = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'sent', '1') end
"""

# KEYS record; ARGV fence, tokens, channel, ttl. Returns 'run', 'cancel' or 'lost'.
PROGRESS = (
    _IS_FINAL
    + """
local held = redis.call('HMGET', KEYS[1], 'state', 'fence', 'cancel')
if not held[1] or is_final(held[1]) or held[2] ~= ARGV[1] then return 'lost' end
redis.call('HSET', KEYS[1], 'state', 'PROGRESS', 'tokens', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.pcall('PUBLISH', ARGV[3], 'PROGRESS')
if held[3] then return 'cancel' end
return 'run'
"""
)

# KEYS record; ARGV fence, ttl, result. Returns 1, or 0 when refused.
DECIDE = (
    _IS_FINAL
    + """
local held = redis.call('HMGET', KEYS[1], 'state', 'fence')
if not held[1] or is_final(held[1]) or held[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'result', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""
)

# KEYS record; ARGV result. Returns the one that was decided first; false when none is owed.
DECIDE_OWED = """
if not redis.call('HGET', KEYS[1], 'owes') then return false end
redis.call('HSETNX', KEYS[1], 'result', ARGV[1])
return redis.call('HGET', KEYS[1], 'result')
"""

# KEYS record; ARGV field, key. Returns the key that counts: the first one.
PIN = """
if redis.call('EXISTS', KEYS[1]) == 0 then return ARGV[2] end
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[1], ARGV[1])
"""

# KEYS record; ARGV options, ttl. The record may be no more than its claim yet.
KEEP_OPTIONS = """
redis.call('HSET', KEYS[1], 'celery', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""

# KEYS record, open, the work's key if later tasks may reuse the answer; ARGV fence, state, ttl,
# channel, id, then field, value... Returns 1, or 0 when refused.
MOVE = (
    _NOW
    + _IS_FINAL
    + """
local held = redis.call('HMGET', KEYS[1], 'state', 'fence')
if not held[1] or is_final(held[1]) or held[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[2])
if is_final(ARGV[2]) then
  redis.call('HSET', KEYS[1], 't1', now)
  redis.call('HDEL', KEYS[1], 'result')
  redis.call('ZREM', KEYS[2], ARGV[5])
end
if KEYS[3] then redis.call('SET', KEYS[3], ARGV[5], 'EX', ARGV[3]) end
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.pcall('PUBLISH', ARGV[4], ARGV[2])
return 1
"""
)

# KEYS record, open; ARGV fence, ttl, channel, id, code, message, first pause, longest pause.
# Returns 1, or 0 when refused.
POSTPONE = (
    _NOW
    + _IS_FINAL
    + _LOOK
    + """
local held = redis.call('HMGET', KEYS[1], 'state', 'fence')
if not held[1] or is_final(held[1]) or held[2] ~= ARGV[1] then return 0 end
local retries = redis.call('HINCRBY', KEYS[1], 'retries', 1)
local due = now + math.min(ARGV[7] * 2 ^ (retries - 1), ARGV[8])
redis.call('HSET', KEYS[1], 'state', 'RETRY', 'due', due,
  'code', ARGV[5], 'message', ARGV[6], 'retryable', '1')
redis.call('EXPIRE', KEYS[1], ARGV[2])
look(KEYS[2], due, ARGV[4], ARGV[2])
redis.pcall('PUBLISH', ARGV[3], 'RETRY')
return 1
"""
)

# KEYS record, open, cancelled, lane hashes; ARGV channel, id, ttl, for how long a cancel of an
# unknown id holds, how many are remembered, 'remembered' for a request that counts only if it was
# made before, names of the lanes.
# Returns the state after the request. An unknown id may be a foreign sender's, whose message no
# worker has taken yet: `START` finds the cancel. The oldest go when there are too many, and a clock
# that was set back leaves none that would hold for longer.
CANCEL = (
    _NOW
    + _LOOK
    + _UNCOUNT
    + """
local function remember(cancelled, id, seconds, most)
  for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', cancelled, '(' .. now, '+inf')) do
    redis.call('ZADD', cancelled, now, ahead)
  end
  redis.call('ZADD', cancelled, now, id)
  redis.call('ZREMRANGEBYSCORE', cancelled, '-inf', '(' .. string.format('%.6f', now - seconds))
  redis.call('ZREMRANGEBYRANK', cancelled, 0, -1 - most)
  redis.call('EXPIRE', cancelled, seconds)
end

local held = redis.call('HMGET', KEYS[1], 'state', 'task', 'result')
local state, task = held[1], held[2]
if ARGV[6] == 'remembered' then
  local at = redis.call('ZSCORE', KEYS[3], ARGV[2])
  if not state or not at or tonumber(at) < now - ARGV[4] then return state or 'UNKNOWN' end
  redis.call('ZREM', KEYS[3], ARGV[2])
elseif not state then
  remember(KEYS[3], ARGV[2], ARGV[4], ARGV[5])
  return 'UNKNOWN'
end
if held[3] then return state end -- an attempt has decided the result: too late
if state == 'PENDING' or state == 'RETRY' then
  local is_json, parsed = pcall(cjson.decode, task) -- somebody may have spoilt it
  local lane = is_json and type(parsed) == 'table' and parsed.lane or ARGV[7]
  for i = 7, #ARGV do if ARGV[i] == lane then uncount(KEYS[1], KEYS[i - 3], ARGV[2]) end end
  redis.call('HSET', KEYS[1], 'state', 'REVOKED', 't1', now, 'owes', '1')
  look(KEYS[2], now, ARGV[2], ARGV[3])
  redis.pcall('PUBLISH', ARGV[1], 'REVOKED')
  return 'REVOKED'
end
if state == 'STARTED' or state == 'PROGRESS' then redis.call('HSET', KEYS[1], 'cancel', '1') end
return state
"""
)

# KEYS record, lane, open and, with an idempotency key, the record of the key's first task; ARGV id,
# first id. The task was not accepted after all.
WITHDRAW = (
    _UNCOUNT
    + """
local held = redis.call('HMGET', KEYS[1], 'state', 'retry_of')
if held[1] ~= 'PENDING' then return end
uncount(KEYS[1], KEYS[2], ARGV[1])
if held[2] and redis.call('HGET', KEYS[4], 'next') == ARGV[1] then
  local before = string.sub(KEYS[4], 1, -1 - #ARGV[2]) .. held[2]
  redis.call('HDEL', before, 'next')
  if held[2] ~= ARGV[2] then redis.call('HSET', KEYS[4], 'next', held[2]) end
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
"""
)

# KEYS record, open; ARGV id. The object that the task owed is there.
PAID = """
redis.call('HDEL', KEYS[1], 'owes', 'result')
redis.call('ZREM', KEYS[2], ARGV[1])
"""

# KEYS open, unacked-index, suspects, then lane hash and queue of each lane, workers, clock; ARGV
# prefix of records, most, seconds of grace and until the next look, ttl, then each lane's name, and
# at the end the prefix of newer tasks and the contract version that is read here. Returns
# [id, verdict, task, options]... in JSON, and whether there may be more. The options are a foreign
# message's; of a task that is to end, they are '' where its message is still in the queue, and
# else '{}' at least: it has to be sent again, for those who wait by Celery's result.
#
# Each due task is given to one caller only, since it is due again later. A message is lost when its
# queue is empty, or begins with one that was sent later: queues are first in, first out. So only
# those who have been overtaken are looked at, and not a long queue. The record of a task that waits
# does not end before its turn.
#
# A task of a newer version is only sent again here, as its record has it. Its end is left to a
# worker that reads it; where none has reported for a while, it ends as unsupported.
DUE = (
    _NOW
    + NEWEST_READER
    + _IS_FINAL
    + _KEEP
    + """
local now_text = now
now = tonumber(now)
local lanes = {}
local NEWER, MINE, newest = ARGV[#ARGV - 1], tonumber(ARGV[#ARGV]), nil

-- Where the clock was set back since the last look, later looks come sooner by as much.
local seen, step = string.match(redis.call('GET', KEYS[#KEYS]) or '0 0', '^(%S+) (%S+)$')
seen, step = tonumber(seen or '0') or 0, tonumber(step or '0') or 0
local is_set_back = seen > now + 1
if is_set_back then step = seen - now end
redis.call('SET', KEYS[#KEYS], now_text .. ' ' .. step, 'EX', ARGV[4])
if is_set_back then
  local later = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now_text, '+inf', 'WITHSCORES')
  for i = 1, #later, 2 do
    redis.call('ZADD', KEYS[1], math.max(now, later[i + 1] - step), later[i])
  end
end

-- A record from before that: its stamps are taken for now, and its pause ends sooner by as much.
local function set_back(record, due, at, since, started)
  local stamps = {at = tonumber(at or '0'), since = tonumber(since or '0')}
  stamps.t0 = tonumber(started or '0')
  local ahead = math.max(stamps.at, stamps.since, stamps.t0) - now
  if ahead <= 0 then return due, at, since end
  for name, stamp in pairs(stamps) do
    if stamp > now then redis.call('HSET', record, name, now_text) end
  end
  if due then
    due = due - step
    redis.call('HSET', record, 'due', string.format('%.6f', due))
  end
  return due, math.min(stamps.at, now), since and math.min(stamps.since, now)
end

-- Since when the oldest message of a queue stands in line; nil when that cannot be told.
local function front_of(queue)
  local is_json, m = pcall(cjson.decode, redis.call('LINDEX', queue, -1))
  local id = is_json and type(m) == 'table' and type(m.headers) == 'table' and m.headers.id
  if type(id) ~= 'string' then return nil end
  local stamps = redis.call('HMGET', ARGV[1] .. id, 'since', 'at')
  local since = tonumber(stamps[1] or stamps[2] or nil)
  if since and since > now then return nil end -- the clock was set back
  return since
end

-- Tasks in line before this time have lost their message. A message may be sent a while after its
-- record was made.
local function lost_before(lane)
  if lane.length == 0 then return now end
  return (lane.front or 0) - ARGV[3]
end

-- Whoever is overtaken is looked at, once it has had the time to be started. The others cannot be
-- found lost, and are left alone, however many they are.
local most = 0
for i = 5, #ARGV - 2 do
  local hash, queue = KEYS[2 + 2 * (i - 4)], KEYS[3 + 2 * (i - 4)]
  local lane = {hash = hash, line = hash .. ':line', length = redis.call('LLEN', queue)}
  lane.queue = queue
  if lane.length > 0 then lane.front = front_of(queue) end
  lanes[ARGV[i]] = lane
  local last = '(' .. string.format('%.6f', lost_before(lane))
  local overtaken = redis.call('ZRANGEBYSCORE', lane.line, '-inf', last, 'LIMIT', 0, ARGV[2])
  for _, id in ipairs(overtaken) do
    redis.call('ZREM', lane.line, id)
    redis.call('ZADD', KEYS[1], 'LT', now + ARGV[3], id)
  end
  most = math.max(most, #overtaken)
end
local rest = ARGV[4] / 2

local function published(record, lane, id, task)
  local seq = redis.call('HINCRBY', lane.hash, 'submitted', 1)
  redis.call('HSET', record, 'seq', seq, 'since', now)
  redis.call('HDEL', record, 'due')
  return {id, 'publish', task, redis.call('HGET', record, 'celery') or ''}
end

local function of_gone_message(record, is_gone)
  return is_gone and (redis.call('HGET', record, 'celery') or '{}') or ''
end

-- The contract version that a task needs: more than ours, too, where its state is unknown here.
local function needed_by(state, task)
  local is_json, parsed = pcall(cjson.decode, task or '')
  local version = is_json and type(parsed) == 'table' and tonumber(parsed.version) or 1
  if state and not KNOWN[state] then version = math.max(version, MINE + 1) end
  return version, is_json and type(parsed) == 'table' and lanes[parsed.lane or 'interactive']
end

local function has_reader(version)
  newest = newest or newest_reader(KEYS[#KEYS - 1])
  return newest >= version
end

-- Whether older workers have left its message to newer ones. Then, if `goes`, it is gone.
local function is_deferred(id, lane, version, goes)
  if version == 1 or not lane then return false end
  local key = NEWER .. version .. ':' .. lane.queue
  if not redis.call('ZSCORE', key, id) then return false end
  if goes then
    redis.call('ZREM', key, id)
    redis.call('HDEL', key .. ':messages', id)
  end
  return true
end

-- For how long no worker has been seen that reads this version.
local function seconds_without(version)
  local key = NEWER .. version .. ':absent'
  local since = tonumber(redis.call('GET', key) or nil)
  if not since or since > now then
    since = now
    redis.call('SET', key, now_text)
  end
  redis.call('EXPIRE', key, 2 * NEWER_GRACE)
  return now - since
end

-- What is to be done, and when to look again (nil: never).
local function judge(id)
  local record = ARGV[1] .. id
  local names = {'state', 'task', 'claim', 'due', 'dead', 'owes', 'at', 'since', 'strikes', 't0'}
  local r = redis.call('HMGET', record, unpack(names))
  local state, task, claim, due, dead, owes, at, since, strikes, started = unpack(r)
  local later = now + ARGV[3]
  if not state and not dead then return nil, nil end
  if is_final(state) and not owes then return nil, nil end
  local version, its_lane = needed_by(state, task)
  local is_for_others = version > MINE and has_reader(version)
  local ends = is_final(state) or dead
  if ends and is_for_others then return nil, now + 1 end
  if is_final(state) then
    local is_gone = due or is_deferred(id, its_lane, version, true)
    return {id, 'write', task, of_gone_message(record, is_gone)}, later
  end
  if dead then return {id, 'bury', task or '{}', of_gone_message(record, task)}, later end
  if claim and redis.call('ZSCORE', KEYS[2], claim) then return nil, later end
  keep(record, ARGV[4])
  if is_for_others and not (KNOWN[state] and its_lane) then return nil, later end
  due, at, since = set_back(record, due, at, since, started)
  local parsed = cjson.decode(task)
  local lane = lanes[parsed.lane or 'interactive']
  local deadline = type(parsed.deadline) == 'number' and parsed.deadline or nil
  if deadline and now > deadline then
    if is_for_others then return nil, now + 1 end
    local is_gone = due or is_deferred(id, lane, version, true)
    return {id, 'expire', task, of_gone_message(record, is_gone)}, later
  end
  local ending = deadline and deadline + 0.01 or math.huge
  if due and now < tonumber(due) then return nil, math.min(now + rest, tonumber(due), ending) end
  later = math.min(later, ending)
  if is_deferred(id, lane, version) then
    if is_for_others then redis.call('DEL', NEWER .. version .. ':absent') end
    if is_for_others or version <= MINE then return nil, later end
    local left = NEWER_GRACE - seconds_without(version)
    if left > 0 then return nil, math.min(later, now + left + 0.01) end
    is_deferred(id, lane, version, true)
    if not KNOWN[state] then return published(record, lane, id, task), later end
    return {id, 'unsupported', task, of_gone_message(record, true)}, later
  end
  if due then return published(record, lane, id, task), later end
  if state == 'STARTED' or state == 'PROGRESS' then
    redis.call('HSET', record, 'state', 'RETRY')
    return published(record, lane, id, task), later
  end
  -- It may stand in the suspects' line, which is gone through sooner or later.
  if strikes and redis.call('LLEN', KEYS[3]) > 0 then return nil, later end
  since = tonumber(since or at)
  if since < lost_before(lane) then return published(record, lane, id, task), later end
  redis.call('ZADD', lane.line, since, id)
  redis.call('EXPIRE', lane.line, ARGV[4])
  return nil, math.min(now + rest, ending)
end

local found, ids = {}, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
if #ids > 0 then
  keep(KEYS[1], ARGV[4])
  for _, lane in pairs(lanes) do redis.call('EXPIRE', lane.hash, ARGV[4]) end
end
for _, id in ipairs(ids) do
  -- A record that somebody has spoilt must not keep the others from being looked at.
  local is_well, verdict, later = pcall(judge, id)
  if not is_well then verdict, later = nil, now + 60 * ARGV[3] end
  if verdict then found[#found + 1] = verdict end
  if later then redis.call('ZADD', KEYS[1], later, id) else redis.call('ZREM', KEYS[1], id) end
end
local has_more = math.max(#ids, most) >= tonumber(ARGV[2])
return {#found == 0 and '[]' or cjson.encode(found), has_more and 1 or 0}
"""
)

# KEYS record, workers, lane... Returns JSON: the record, how far each lane has started, and whether
# any worker has reported (the hash expires with the last report). One string, because redis-py
# spends most of a reply's time on taking its elements apart.
STATUS = """
local found, record, started = redis.pcall('HGETALL', KEYS[1]), {}, {}
if found.err then record = 'unreadable' end
for i = 1, #found, 2 do record[found[i]] = found[i + 1] end
for i = 3, #KEYS do started[i - 2] = redis.call('HGET', KEYS[i], 'started') or '0' end
return cjson.encode({record, started, redis.call('EXISTS', KEYS[2])})
"""
