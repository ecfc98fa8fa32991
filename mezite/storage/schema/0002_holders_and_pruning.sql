-- What machines say of themselves, for the operator who looks at a fork.
alter table instances add column boot_id text not null default '';

-- A JSON object: what was seen when a fork was proven; empty for other locks.
alter table locks add column fork text not null default '';

-- What pruning looks for; none of these columns changes in a renewal.
create index instances_removed on instances (removed_at_us) where removed_at_us is not null;
create index tokens_by_expiry on tokens (expires_at_us);
create index admissions_by_instance on admissions (instance_id);
create index locks_by_end on locks (expires_at_us) where expires_at_us is not null;
