-- What the workers of an account share: its slots and its limit, the state of `engine.concurrency.Window` in JSON.
ALTER TABLE wan_async.accounts ADD COLUMN admission TEXT;

-- The worker of Procrastinate that the process is, if it is one, and its connection, which is ended when it is taken
-- over. A `number` is taken by one process of an account.
ALTER TABLE wan_async.holders
    ADD COLUMN worker BIGINT,
    ADD COLUMN number INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN pid INTEGER,
    ADD COLUMN connected_at TIMESTAMPTZ;

-- Attempts that count as active.
CREATE TABLE wan_async.slots (
    journal INTEGER NOT NULL,
    attempt BIGINT NOT NULL,
    account INTEGER NOT NULL,
    holder BIGINT NOT NULL,
    running BOOLEAN NOT NULL,
    epoch BIGINT NOT NULL,
    PRIMARY KEY (journal, attempt)
);
CREATE INDEX slots_account ON wan_async.slots (account);
