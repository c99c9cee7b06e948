-- What the journals of a database share. Each file of this name is run once, in the order of its number.

CREATE TABLE wan_async.accounts (
    id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    since TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Which API keys are of which account: keyed hashes, with one salt for the database.
CREATE TABLE wan_async.account_keys (
    hash TEXT PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES wan_async.accounts
);

CREATE TABLE wan_async.settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO wan_async.settings VALUES ('salt', replace(gen_random_uuid()::TEXT, '-', ''));

-- A journal is that of one output; its tables are in the schema wan_async_<id>.
CREATE TABLE wan_async.journals (
    id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    output TEXT NOT NULL UNIQUE,
    account INTEGER NOT NULL REFERENCES wan_async.accounts,
    starts BIGINT NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0
);

-- Who may write to a journal: a process that has it open. Whoever takes over deletes the row, and each transaction of
-- the former holder then finds that it is gone, and changes nothing.
CREATE TABLE wan_async.holders (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    journal INTEGER NOT NULL REFERENCES wan_async.journals,
    name TEXT NOT NULL,
    since TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- At most one attempt of a content is unanswered, over all journals of an account. Triggers of the journals keep it.
CREATE TABLE wan_async.unanswered (
    account INTEGER NOT NULL,
    content TEXT NOT NULL,
    journal INTEGER NOT NULL,
    attempt BIGINT NOT NULL,
    PRIMARY KEY (account, content)
);

-- Two functions of SQLite, for statements that both databases run. The values of our JSON are read as text; a NUL in
-- them, which PostgreSQL can't hold, becomes U+FFFD.
CREATE FUNCTION wan_async.json_extract(document TEXT, path TEXT) RETURNS TEXT
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN replace(document, '\u0000', '\ufffd')::JSON #>> string_to_array(substr(path, 3), '.');

CREATE FUNCTION wan_async.texts_to_json(texts TEXT[]) RETURNS TEXT
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN to_json(texts)::TEXT;

CREATE AGGREGATE wan_async.json_group_array(TEXT) (
    SFUNC = array_append, STYPE = TEXT[], INITCOND = '{}', FINALFUNC = wan_async.texts_to_json
);
