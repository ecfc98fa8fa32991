-- Times and lengths of time are integers in microseconds (`_us`), times since
-- the epoch; fingerprints and ids are texts; lists that are searched are tables.
-- The same text serves PostgreSQL, its types translated by that adapter.

create table schema_migrations (
    version integer not null primary key,
    name text not null
);

create table cluster_values (
    key text not null primary key,
    value blob not null
) without rowid;

-- `next` is the lowest number that no process has reserved yet.
create table counters (
    name text not null primary key,
    next integer not null
) without rowid;

insert into counters (name, next) values ('serial', 1);

create table authorities (
    id text not null primary key,
    kind text not null,
    state text not null,
    public blob not null,
    private_pem blob not null,
    created_at_us integer not null
);

create table roles (
    name text not null primary key,
    document text not null
) without rowid;

-- A removed bot stays as a tombstone; its name is free again.
create table bots (
    id text not null primary key,
    name text not null,
    created_at_us integer not null,
    ttl_us integer,
    renewable_for_us integer not null,
    max_lineage_age_us integer,
    source_address text not null,
    removed_at_us integer
) without rowid;

create unique index bots_by_name on bots (name) where removed_at_us is null;

-- No reference to roles: a role may go while bots still name it.
create table bot_roles (
    bot_id text not null references bots (id),
    position integer not null,
    role text not null,
    primary key (bot_id, position)
) without rowid;

create index bot_roles_by_role on bot_roles (role, bot_id);

create table tokens (
    id text not null primary key,
    bot_id text not null references bots (id),
    secret_hash blob not null,
    uses integer not null,
    used integer not null,
    created_at_us integer not null,
    expires_at_us integer not null,
    revoked_at_us integer,
    check (used between 0 and uses)
) without rowid;

create index tokens_by_bot on tokens (bot_id, id);

create table instances (
    id text not null primary key,
    bot_id text not null references bots (id),
    generation integer not null,
    lineage_key text not null,
    previous_key text not null,
    request_hash blob not null,
    token_id text not null,
    created_at_us integer not null,
    renewed_at_us integer not null,
    address text not null,
    host text not null,
    not_after_us integer,
    recoverable integer not null,
    removed_at_us integer,
    check (generation >= 1)
) without rowid;

-- A generation step touches no indexed column.
create index instances_live on instances (id) where removed_at_us is null;
create index instances_by_bot on instances (bot_id, id) where removed_at_us is null;

-- No reference to tokens: an admission outlives its token.
create table admissions (
    token_id text not null,
    lineage_key text not null,
    instance_id text not null,
    at_us integer not null,
    address text not null,
    primary key (token_id, lineage_key)
) without rowid;

create index admissions_by_time on admissions (token_id, at_us, lineage_key);

-- `target` is a kind and a name or id, as in bot/ci.
create table locks (
    id text not null primary key,
    target text not null,
    reason text not null,
    message text not null,
    created_by text not null,
    created_at_us integer not null,
    expires_at_us integer
) without rowid;

create index locks_by_target on locks (target);

create table events (
    id integer not null primary key,
    at_us integer not null,
    type text not null,
    code text not null,
    actor text not null,
    resource_type text not null,
    resource_name text not null,
    client_ip text not null,
    success integer not null,
    reason text not null,
    message text not null,
    fields text not null
);

create index events_by_type on events (type, id);
create index events_by_resource on events (resource_name, id);
