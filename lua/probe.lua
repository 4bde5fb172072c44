-- probe: use every command the scripts use on a key that is not there, so that nothing comes of it.
--
-- KEYS[1]  absent   a key nobody else writes
--
-- A permission that the server's access rules withhold is met here, when an engine or a worker starts,
-- and not between two writes of a charge.
--
-- replies:
--   ok

local absent = KEYS[1]

redis.call('TIME')
redis.call('EXISTS', absent)
redis.call('GET', absent)
redis.call('MGET', absent)
redis.call('HGET', absent, 'field')
redis.call('HMGET', absent, 'field')
redis.call('HSCAN', absent, '0')
redis.call('HDEL', absent, 'field')
redis.call('XLEN', absent)
redis.call('XRANGE', absent, '-', '+')
redis.call('PEXPIRE', absent, '1')
redis.call('UNLINK', absent)
redis.call('XDEL', absent, '0-1')
redis.call('XTRIM', absent, 'MINID', '=', '0-1')
redis.call('SET', absent, 'value', 'XX')
redis.call('XADD', absent, 'NOMKSTREAM', '*', 'field', 'value')
redis.call('MSET', absent, 'value')
redis.call('PEXPIRE', absent, '-1') -- it is gone again
redis.call('HSET', absent, 'field', 'value')
redis.call('PEXPIRE', absent, '-1')
return 'ok'
