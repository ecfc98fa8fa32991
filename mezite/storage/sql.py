"""The statements, as SQLite and PostgreSQL both understand them.

Values go in by position, for ``?``; no text holds a question mark or a per
cent sign besides.  No RETURNING: SQLite before 3.35, which enterprise
distributions still ship, does not know it.
"""

from __future__ import annotations

from functools import cache

# --- cluster values, serial numbers, authorities --------------------------------------------

VALUE = "select value from cluster_values where key = ?"
SET_VALUE = """
insert into cluster_values (key, value) values (?, ?)
on conflict (key) do update set value = excluded.value"""

NEXT_SERIAL = "select next from counters where name = 'serial'"
RESERVE_SERIALS = """
update counters set next = ? + case when next < ? then ? else next end where name = 'serial'"""

RAISE_SERIALS = "update counters set next = ? where name = 'serial' and next < ?"

ADD_AUTHORITY = """
insert into authorities (id, kind, state, public, private_pem, created_at_us)
values (?, ?, ?, ?, ?, ?) on conflict do nothing"""
AUTHORITIES = """select id, kind, state, public, private_pem, created_at_us
from authorities order by created_at_us, id"""
SET_AUTHORITY_STATE = "update authorities set state = ? where id = ?"

POLICY_VERSION = "select next from counters where name = 'policy'"
POLICY_CHANGED = "update counters set next = next + 1 where name = 'policy'"

# --- roles ----------------------------------------------------------------------------------

ADD_ROLE = "insert into roles (name, document) values (?, ?) on conflict do nothing"
SET_ROLE = "update roles set document = ? where name = ?"
ROLE = "select name, document from roles where name = ?"
LIST_ROLES = "select name, document from roles where name > ? order by name limit ?"
DELETE_ROLE = "delete from roles where name = ?"


@cache
def roles(count: int) -> str:
    """Roles by *count* names."""
    return f"select name, document from roles where name in ({', '.join('?' * count)})"


# --- bots: a row for each of a bot's roles, in their order ----------------------------------

_BOT = """b.id, b.name, b.created_at_us, b.ttl_us, b.renewable_for_us, b.max_lineage_age_us,
b.source_address, r.role"""

ADD_BOT = """
insert into bots (id, name, created_at_us, ttl_us, renewable_for_us, max_lineage_age_us,
source_address) values (?, ?, ?, ?, ?, ?, ?) on conflict do nothing"""
ADD_BOT_ROLE = "insert into bot_roles (bot_id, position, role) values (?, ?, ?)"
BOT = f"""select {_BOT} from bots b join bot_roles r on r.bot_id = b.id
where b.name = ? and b.removed_at_us is null order by r.position"""
BOT_BY_ID = f"""select {_BOT} from bots b join bot_roles r on r.bot_id = b.id
where b.id = ? and b.removed_at_us is null order by r.position"""
LIST_BOTS = f"""select {_BOT} from
(select * from bots where name > ? and removed_at_us is null order by name limit ?) b
join bot_roles r on r.bot_id = b.id order by b.name, r.position"""
BOTS_WITH_ROLE = """select distinct b.name from bot_roles r join bots b on b.id = r.bot_id
where r.role = ? and b.removed_at_us is null order by b.name"""
REMOVE_BOT = "update bots set removed_at_us = ? where id = ? and removed_at_us is null"
REMOVE_INSTANCES_OF_BOT = """
update instances set removed_at_us = ? where bot_id = ? and removed_at_us is null"""

# --- join tokens and admissions -------------------------------------------------------------

_TOKEN = "id, bot_id, secret_hash, uses, created_at_us, expires_at_us, used, revoked_at_us"

ADD_TOKEN = f"""
insert into tokens ({_TOKEN}) values (?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing"""
TOKEN = f"select {_TOKEN} from tokens where id = ?"
LIST_TOKENS = f"select {_TOKEN} from tokens where id > ? order by id limit ?"
LIST_TOKENS_OF_BOT = f"select {_TOKEN} from tokens where bot_id = ? and id > ? order by id limit ?"
USE_TOKEN = """
update tokens set used = used + 1
where id = ? and used < uses and revoked_at_us is null and expires_at_us > ?"""
COUNT_USABLE_TOKENS = """select count(*) from tokens
where bot_id = ? and revoked_at_us is null and used < uses"""
REVOKE_TOKENS = "update tokens set revoked_at_us = ? where bot_id = ? and revoked_at_us is null"
VOID_TOKEN = "update tokens set revoked_at_us = ? where id = ? and revoked_at_us is null"
DELETE_TOKEN = "delete from tokens where id = ?"

_ADMISSION = "token_id, lineage_key, instance_id, at_us, address"

ADD_ADMISSION = f"insert into admissions ({_ADMISSION}) values (?, ?, ?, ?, ?) on conflict do nothing"
ADMISSION = f"select {_ADMISSION} from admissions where token_id = ? and lineage_key = ?"
ADMISSIONS = f"""select {_ADMISSION} from admissions where token_id = ?
order by at_us, lineage_key limit 100"""

# --- instances ------------------------------------------------------------------------------

_INSTANCE = """id, bot_id, generation, lineage_key, previous_key, request_hash, token_id,
created_at_us, renewed_at_us, address, host, boot_id, not_after_us, recoverable, removed_at_us,
certificate_hash"""

ADD_INSTANCE = f"""
insert into instances ({_INSTANCE})
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing"""
INSTANCE = f"select {_INSTANCE} from instances where id = ?"
LIST_INSTANCES = f"""select {_INSTANCE} from instances
where id > ? and removed_at_us is null order by id limit ?"""
LIST_INSTANCES_OF_BOT = f"""select {_INSTANCE} from instances
where bot_id = ? and id > ? and removed_at_us is null order by id limit ?"""
_UNLOCKED = """and not exists (
    select 1 from locks
    where locks.target = 'instance/' || instances.id
    and (locks.expires_at_us is null or locks.expires_at_us > ?))
and not exists (
    select 1 from bots join locks on locks.target = 'bot/' || bots.name
    where bots.id = instances.bot_id
    and (locks.expires_at_us is null or locks.expires_at_us > ?))"""
"""For STEP and its like: an operator may have set it since the locks were read."""
STEP = f"""
update instances set generation = ?, lineage_key = ?, previous_key = ?, request_hash = ?,
renewed_at_us = ?, not_after_us = ?, address = ?, host = ?, boot_id = ?, recoverable = 0,
certificate_hash = ?
where id = ? and generation = ? and lineage_key = ? and removed_at_us is null
{_UNLOCKED}"""
NOTE_REISSUE = f"""
update instances set not_after_us = case when not_after_us > ? then not_after_us else ? end
where id = ? and generation = ? and lineage_key = ? and removed_at_us is null
{_UNLOCKED}"""
NOTE_RECOVERY = f"""
update instances set not_after_us = case when not_after_us > ? then not_after_us else ? end,
renewed_at_us = ?, recoverable = 0
where id = ? and generation = ? and lineage_key = ? and removed_at_us is null
{_UNLOCKED}"""
KEEP_KEY = """
update instances set generation = ?, previous_key = lineage_key, lineage_key = ?, request_hash = ?,
certificate_hash = ''
where id = ? and removed_at_us is null"""
SET_RECOVERABLE = "update instances set recoverable = ? where id = ? and removed_at_us is null"
REMOVE_INSTANCE = "update instances set removed_at_us = ? where id = ? and removed_at_us is null"

# --- locks ----------------------------------------------------------------------------------

_LOCK = "id, target, reason, message, created_by, created_at_us, expires_at_us, fork"

ADD_LOCK = f"insert into locks ({_LOCK}) values (?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing"
LOCK = f"select {_LOCK} from locks where id = ?"
LIST_LOCKS = f"select {_LOCK} from locks where id > ? order by id limit ?"
ALL_LOCKS = f"select {_LOCK} from locks order by created_at_us, id"
SHARED_LOCKS = f"""select {_LOCK} from locks where target < 'instance/'
union all select {_LOCK} from locks where target >= 'instance0'"""
"""All but those on instances: 0 is what follows / in ASCII."""
INSTANCE_LOCKS = f"select {_LOCK} from locks where target >= 'instance/' and target < 'instance0' limit ?"
DELETE_LOCK = "delete from locks where id = ?"


@cache
def locks_on(count: int) -> str:
    """Locks on *count* targets, in no order."""
    return f"select {_LOCK} from locks where target in ({', '.join('?' * count)})"


# --- audit and figures ----------------------------------------------------------------------

_EVENT = """at_us, type, code, actor, resource_type, resource_name, client_ip, success, reason,
message, fields"""

ADD_EVENT = f"insert into events ({_EVENT}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
NEWEST_EVENT = "select coalesce(max(id), 0) from events"
ADD_NUMBERED_EVENT = f"insert into events (id, {_EVENT}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
LIST_EVENTS = f"select id, {_EVENT} from events where id < ? order by id desc limit ?"
LIST_EVENTS_OF_TYPE = f"""select id, {_EVENT} from events
where type = ? and id < ? order by id desc limit ?"""
LIST_EVENTS_ON = f"""select id, {_EVENT} from events
where resource_name = ? and id < ? order by id desc limit ?"""
LIST_EVENTS_OF_TYPE_ON = f"""select id, {_EVENT} from events
where type = ? and resource_name = ? and id < ? order by id desc limit ?"""

COUNTS = """select
(select count(*) from roles),
(select count(*) from bots where removed_at_us is null),
(select count(*) from instances where removed_at_us is null),
(select count(*) from tokens),
(select count(*) from locks),
(select coalesce(max(id), 0) from events) - (select coalesce(min(id), 1) from events) + 1"""

# --- pruning --------------------------------------------------------------------------------

STALE_INSTANCES = """
select id from (
    select id from instances where removed_at_us < ?
    union all
    select id from instances where removed_at_us is null and renewed_at_us < ?
) stale limit ?"""
PRUNE_INSTANCE = """
delete from instances
where id = ? and (removed_at_us < ? or (removed_at_us is null and renewed_at_us < ?))"""
_LEFTLESS = """removed_at_us < ?
and not exists (select 1 from instances where instances.bot_id = bots.id)
and not exists (select 1 from tokens where tokens.bot_id = bots.id)"""
STALE_BOTS = f"select id from bots where {_LEFTLESS} limit ?"
PRUNE_BOT_ROLES = f"delete from bot_roles where bot_id in (select id from bots where id = ? and {_LEFTLESS})"
PRUNE_BOT = f"delete from bots where id = ? and {_LEFTLESS}"
PRUNE_ADMISSIONS = "delete from admissions where instance_id = ?"
PRUNE_LOCKS_ON = "delete from locks where target = ?"
PRUNE_TOKENS = """delete from tokens where id in
(select id from tokens where expires_at_us < ? order by expires_at_us limit ?)"""
PRUNE_LOCKS = "delete from locks where id in (select id from locks where expires_at_us < ? limit ?)"
PRUNE_EVENTS = """delete from events where at_us < ?
and id in (select id from events order by id limit ?) and id < (select max(id) from events)"""

# --- the schema's own version ---------------------------------------------------------------

SCHEMA_VERSION = "select coalesce(max(version), 0) from schema_migrations"
NOTE_MIGRATION = "insert into schema_migrations (version, name) values (?, ?)"
