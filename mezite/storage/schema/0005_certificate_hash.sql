-- SHA-256 in hex of the certificate given out with the last generation step; empty
-- where none is known.
alter table instances add column certificate_hash text not null default '';
