-- What shows that the server lacks commits; see `wan_async.journal.server_history`. A holder's commits are counted from
-- a random number, so that none is taken for another that got the same id after the server had fallen back.
ALTER TABLE wan_async.journals ADD COLUMN server TEXT;
ALTER TABLE wan_async.holders ADD COLUMN commits BIGINT NOT NULL DEFAULT (random() * 1e12)::BIGINT;
