-- What shows that the server lacks commits; see `wan_async.journal.server_history`. A holder's commits are counted from
-- a random number, so that none is taken for another that got the same id after the server had fallen back.
ALTER TABLE wan_async.journals ADD COLUMN server TEXT;
ALTER TABLE wan_async.holders
    ADD COLUMN commits BIGINT NOT NULL DEFAULT (random() * 1e12)::BIGINT,
    ADD COLUMN fenced BOOLEAN NOT NULL DEFAULT FALSE;

-- Those that were holders: whoever finds itself in neither table became one in a commit that the server lacks.
CREATE TABLE wan_async.former_holders (
    id BIGINT PRIMARY KEY,
    commits BIGINT NOT NULL,
    fenced BOOLEAN NOT NULL,
    until TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE FUNCTION wan_async.keep_holder() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM wan_async.former_holders WHERE until < now() - interval '30 days' OR id = OLD.id;
    INSERT INTO wan_async.former_holders VALUES (OLD.id, OLD.commits, OLD.fenced);
    RETURN NULL;
END $$;
CREATE TRIGGER keep_holder AFTER DELETE ON wan_async.holders FOR EACH ROW EXECUTE FUNCTION wan_async.keep_holder();
