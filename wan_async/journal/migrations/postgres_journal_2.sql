-- Which process works on a job: an id of wan_async.holders.
ALTER TABLE jobs ADD COLUMN holder BIGINT;
