-- Tries: the options that a trigger gives its run, how often its process has died, and runs that
-- have failed at their deadline while their job is still inside a step.
--
-- `retry` says how the run is tried again after a failure, as JSON, and `timeout_us` how long one
-- execution may take; both are NULL where the job decides. `deaths` counts the deaths of the run's
-- process since its last new checkpoint, and `died_after` is how many it had at the last one. A
-- failed run keeps its owner, and with it its concurrency key, until its job has left the step it was
-- in, as a cancelled one does.
--
-- As in version 2 no table is copied: the columns hold their defaults in the rows that are there.

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(replace(replace(sql, '
    CHECK (claimed_at_us BETWEEN', '
    retry TEXT,
    timeout_us INTEGER,
    deaths INTEGER NOT NULL DEFAULT 0,
    died_after INTEGER NOT NULL DEFAULT 0 CHECK (died_after >= 0),
    CHECK (claimed_at_us BETWEEN'), '
    CHECK (run BETWEEN 1 AND 549755813887),', '
    CHECK (CASE WHEN json_valid(retry) THEN json_type(retry) = ''object'' ELSE retry IS NULL END),
    CHECK (timeout_us BETWEEN 1 AND 10000000000000000),
    CHECK (deaths BETWEEN 0 AND 2147483647),
    CHECK (run BETWEEN 1 AND 549755813887),'),
    '(status NOT IN (''completed'', ''failed'', ''waiting'') OR owner IS NULL)',
    '(status NOT IN (''completed'', ''waiting'') OR owner IS NULL)')
WHERE type = 'table' AND name = 'durably_runs';

-- Read the schema again; also turns the pragma off.
PRAGMA writable_schema = RESET;
