-- What `coalesce="active"` joins beside the pending and the running run of a key: runs that wait, and
-- those that are not due yet. None of them is in the queue of its key.
CREATE INDEX durably_runs_away
    ON durably_runs (concurrency_key, job_name)
    WHERE concurrency_key IS NOT NULL AND (status = 'waiting' OR run_at_us IS NOT NULL);
