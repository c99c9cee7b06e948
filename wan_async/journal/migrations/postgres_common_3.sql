-- No worker sends a Run before this instant, in unix seconds: one of them met the service's rate limit.
ALTER TABLE wan_async.accounts ADD COLUMN no_run_before DOUBLE PRECISION NOT NULL DEFAULT 0;
