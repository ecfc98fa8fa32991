-- Counts the changes of bots, roles and locks: whoever holds some of them in memory
-- compares it in the transaction that uses them.
insert into counters (name, next) values ('policy', 1);
