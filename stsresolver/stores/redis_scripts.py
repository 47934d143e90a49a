"""The Lua scripts of the Redis store: each is one step that no other client sees half done.

KEYS[1] to KEYS[3] are the indexes, sorted sets of domains by the time when they are due, by the end
of their policy, and by the time of the fetch. KEYS[4] is the key of the one entry that is meant. A
script that finds another program's data under a name it needs changes nothing and returns that
name; else it returns a number, or a list.
"""

from __future__ import annotations

_COMMON = """
-- The name of an index that is no sorted set.
local function foreign_index()
  for i = 1, 3 do
    local kind = redis.call('TYPE', KEYS[i]).ok
    if kind ~= 'zset' and kind ~= 'none' then return KEYS[i] end
  end
end

-- When the entry was fetched; nil if there is none, false if the value is no entry of the domain.
local function fetched_of(key, domain)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return nil end
  if kind ~= 'string' then return false end
  local right, entry = pcall(cjson.decode, redis.call('GET', key))
  if right and type(entry) == 'table' and entry.domain == domain
      and type(entry.fetched) == 'number' and entry.fetched == entry.fetched then
    return entry.fetched
  end
  return false
end

local function index(domain, times)
  local left = redis.call('PTTL', KEYS[4])
  for i = 1, 3 do
    redis.call('ZADD', KEYS[i], times[i], domain)
    -- An index outlives its last entry, and no longer.
    if redis.call('PTTL', KEYS[i]) < left then redis.call('PEXPIRE', KEYS[i], left) end
  end
end

local function forget(domain)
  for i = 1, 3 do redis.call('ZREM', KEYS[i], domain) end
end

local foreign = foreign_index()
if foreign then return foreign end
"""

# ARGV: domain, text, due, end, fetched, until when a time is not in the future, lifetime in ms.
PUT = (
    _COMMON
    + """
local known = fetched_of(KEYS[4], ARGV[1])
if known == false then return KEYS[4] end
if known and known > tonumber(ARGV[5]) and known <= tonumber(ARGV[6]) then return 0 end
redis.call('SET', KEYS[4], ARGV[2], 'PX', ARGV[7])
index(ARGV[1], {ARGV[3], ARGV[4], ARGV[5]})
return 1
"""
)

# ARGV: domain, text, due, end, fetched.
TOUCH = (
    _COMMON
    + """
if fetched_of(KEYS[4], ARGV[1]) ~= tonumber(ARGV[5]) then return 0 end
redis.call('SET', KEYS[4], ARGV[2], 'KEEPTTL')
index(ARGV[1], {ARGV[3], ARGV[4], ARGV[5]})
return 1
"""
)

# ARGV: what the entries' keys begin with, now, until when a time is not in the future, limit.
# Returns how many domains without an entry were taken out of the indexes, and then domains, each
# followed by its text, which is empty where a value is none.
DUE = (
    _COMMON
    + """
local reply, seen = {0}, {}
local function add(domains)
  for _, domain in ipairs(domains) do
    if not seen[domain] then
      seen[domain] = true
      local text = redis.pcall('GET', ARGV[1] .. domain)
      if text then
        reply[#reply + 1] = domain
        reply[#reply + 1] = type(text) == 'string' and text or ''
      else
        forget(domain)
        reply[1] = reply[1] + 1
      end
    end
  end
end
add(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[4]))
add(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[3], '+inf', 'LIMIT', 0, ARGV[4]))
return reply
"""
)

# Returns the sizes of the indexes, which are equal unless Redis has lost one of them.
SIZES = (
    _COMMON
    + """
local sizes = {}
for i = 1, 3 do sizes[i] = redis.call('ZCARD', KEYS[i]) end
return sizes
"""
)

# Every score of the first index becomes 0; what has no entry any more is found out by DUE.
MAKE_DUE = (
    _COMMON
    + """
local left = redis.call('PTTL', KEYS[1])
if left > 0 then
  redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[1], 'WEIGHTS', 0)
  redis.call('PEXPIRE', KEYS[1], left)
end
return 1
"""
)

# ARGV: domain, text as it was read. Takes what cannot be read out of the indexes, and leaves it.
DROP = (
    _COMMON
    + """
local text = redis.pcall('GET', KEYS[4])
if type(text) == 'string' and text ~= ARGV[2] then return 0 end
forget(ARGV[1])
return 1
"""
)

# ARGV: what the entries' keys begin with, now, limit.
PURGE = (
    _COMMON
    + """
local domains = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
for _, domain in ipairs(domains) do
  if fetched_of(ARGV[1] .. domain, domain) then redis.call('DEL', ARGV[1] .. domain) end
  forget(domain)
end
return #domains
"""
)

# KEYS[5]: domains by the time until which what was learnt of them is out of date. ARGV: domain,
# that time, the time before which nothing is left, lifetime in ms.
REVOKE = (
    _COMMON
    + """
local kind = redis.call('TYPE', KEYS[5]).ok
if kind ~= 'zset' and kind ~= 'none' then return KEYS[5] end
local fetched = fetched_of(KEYS[4], ARGV[1])
if fetched and fetched <= tonumber(ARGV[2]) then
  redis.call('DEL', KEYS[4])
  forget(ARGV[1])
end
redis.call('ZADD', KEYS[5], 'GT', ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', '(' .. ARGV[3])
redis.call('PEXPIRE', KEYS[5], ARGV[4])
return 1
"""
)

# KEYS[1]: the lease. ARGV: holder, ms. A lease always has a lifetime: what has none is not ours.
LEASE = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' then
  if kind ~= 'string' or redis.call('PTTL', KEYS[1]) == -1 then return KEYS[1] end
  if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
