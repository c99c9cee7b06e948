-- The tables of one journal; `wan_async.journal.tables` describes them. They are in the first schema of the search
-- path, and JOURNAL_ID stands for the journal's id. The database's own checksums take the place of those of SQLite.

CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE jobs (
    key TEXT PRIMARY KEY, position INTEGER, content TEXT NOT NULL, name TEXT NOT NULL, spec TEXT NOT NULL,
    failure TEXT, sticky INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_position ON jobs (position) WHERE position IS NOT NULL;

CREATE TABLE attempts (
    id BIGINT PRIMARY KEY, job TEXT NOT NULL, number INTEGER NOT NULL, content TEXT NOT NULL, state TEXT NOT NULL,
    form TEXT NOT NULL, image TEXT NOT NULL, name TEXT NOT NULL,
    reserved BIGINT NOT NULL DEFAULT 0, cost BIGINT, high_id BIGINT NOT NULL DEFAULT 0,
    intent_at DOUBLE PRECISION NOT NULL, closed_at DOUBLE PRECISION, accepted_at DOUBLE PRECISION,
    ended_at DOUBLE PRECISION, stored_at DOUBLE PRECISION,
    task_id TEXT UNIQUE, token TEXT UNIQUE, answer BYTEA, adopted BOOLEAN NOT NULL DEFAULT FALSE,
    status TEXT, pexit TEXT, outputs TEXT, reason TEXT, recheck BOOLEAN NOT NULL DEFAULT FALSE
);
CREATE INDEX attempts_job ON attempts (job, content);
CREATE INDEX attempts_content ON attempts (content);
CREATE INDEX attempts_open ON attempts (id)
    WHERE state IN ('intent', 'unknown', 'quarantined', 'accepted', 'ended', 'missing');
CREATE UNIQUE INDEX attempts_unanswered ON attempts (content) WHERE state IN ('intent', 'unknown', 'quarantined');
CREATE INDEX attempts_recheck ON attempts (id) WHERE recheck;

CREATE TABLE clips (
    attempt BIGINT NOT NULL, number INTEGER NOT NULL, file TEXT NOT NULL, etag TEXT NOT NULL DEFAULT '',
    sha256 TEXT, bytes BIGINT, content_type TEXT, PRIMARY KEY (attempt, number)
);
CREATE INDEX clips_file ON clips (file);

CREATE TABLE names (folded TEXT PRIMARY KEY, name TEXT NOT NULL, job TEXT NOT NULL);
CREATE TABLE images (path TEXT PRIMARY KEY, size BIGINT NOT NULL, mtime_ns BIGINT NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE uploads (sha256 TEXT PRIMARY KEY, url TEXT NOT NULL, at DOUBLE PRECISION NOT NULL);
CREATE TABLE echoes (field TEXT PRIMARY KEY, faithful INTEGER NOT NULL);
CREATE TABLE projects (id TEXT PRIMARY KEY);

CREATE TABLE unassigned (
    task_id TEXT PRIMARY KEY, token TEXT, state TEXT NOT NULL, task TEXT NOT NULL, seen_at DOUBLE PRECISION NOT NULL,
    ended_at DOUBLE PRECISION, clips TEXT NOT NULL, reason TEXT, rowid BIGINT GENERATED ALWAYS AS IDENTITY
);
CREATE TABLE candidates (task_id TEXT NOT NULL, attempt BIGINT NOT NULL, PRIMARY KEY (task_id, attempt));

CREATE TABLE money (id INTEGER PRIMARY KEY CHECK (id = 1), settled BIGINT NOT NULL, reserved BIGINT NOT NULL);
INSERT INTO money VALUES (1, 0, 0);

CREATE FUNCTION count_money() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE money SET settled = settled + coalesce(new.cost, 0), reserved = reserved + new.reserved;
    ELSE
        UPDATE money SET settled = settled + coalesce(new.cost, 0) - coalesce(old.cost, 0),
                         reserved = reserved + new.reserved - old.reserved;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER money_made AFTER INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION count_money();
CREATE TRIGGER money_moved AFTER UPDATE OF cost, reserved ON attempts FOR EACH ROW
    WHEN ((new.cost, new.reserved) IS DISTINCT FROM (old.cost, old.reserved)) EXECUTE FUNCTION count_money();

CREATE FUNCTION note_unanswered() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    was BOOLEAN := TG_OP = 'UPDATE' AND old.state IN ('intent', 'unknown', 'quarantined');
    is_now BOOLEAN := new.state IN ('intent', 'unknown', 'quarantined');
BEGIN
    IF was AND NOT is_now THEN
        DELETE FROM wan_async.unanswered WHERE journal = JOURNAL_ID AND attempt = new.id;
    ELSIF is_now AND NOT was THEN
        INSERT INTO wan_async.unanswered
            SELECT account, new.content, JOURNAL_ID, new.id FROM wan_async.journals WHERE id = JOURNAL_ID;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER attempts_noted AFTER INSERT OR UPDATE OF state ON attempts FOR EACH ROW
    EXECUTE FUNCTION note_unanswered();
