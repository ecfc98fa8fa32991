-- Which bots were removed, and whether anything of them is left; no renewal changes these.
create index bots_removed on bots (removed_at_us) where removed_at_us is not null;
create index instances_of_bot on instances (bot_id);
