-- What was tried, and the views that are promised to those who read the file with SQL.
--
-- The newest execution of a run is part of its row: `claimed_at_us`, `host` and `pid` are written by
-- the claim, and its end is that of the run. So an execution costs no row and no page of its own.
-- Only when the run goes on, after a failure, an interruption or a death, its row is needed for the
-- next execution: a trigger moves the one before to `durably_attempts`, in the same transaction.
--
-- As in version 2 no table is copied: the new columns are NULL in the rows that are there.

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(sql, '
    CHECK (run BETWEEN 1 AND 549755813887),', '
    claimed_at_us INTEGER,
    host TEXT,
    pid INTEGER,
    CHECK (claimed_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (length(CAST(host AS BLOB)) <= 255),
    CHECK (pid BETWEEN 0 AND 4294967295),
    CHECK (run BETWEEN 1 AND 549755813887),')
WHERE type = 'table' AND name = 'durably_runs';

-- Read the schema again; also turns the pragma off.
PRAGMA writable_schema = RESET;

-- The executions of a run before the one that its row has. An execution is known by its fence;
-- `attempt` is what a user counts. An execution of an earlier version may have no start.
CREATE TABLE durably_attempts (
    run INTEGER NOT NULL REFERENCES durably_runs (run) ON DELETE CASCADE,
    fence INTEGER NOT NULL CHECK (fence BETWEEN 0 AND 2147483647),
    attempt INTEGER NOT NULL CHECK (attempt BETWEEN 1 AND 2147483647),
    outcome TEXT NOT NULL
        CHECK (outcome IN ('completed', 'failed', 'cancelled', 'interrupted', 'suspended', 'died',
                           'hung')),
    host TEXT CHECK (length(CAST(host AS BLOB)) <= 255),
    pid INTEGER CHECK (pid BETWEEN 0 AND 4294967295),
    started_at_us INTEGER,
    ended_at_us INTEGER NOT NULL,
    error TEXT,
    PRIMARY KEY (run, fence),
    CHECK (started_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (ended_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK ((outcome = 'failed') = (error IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- A run that was cancelled before it could go on has its execution there already.
CREATE TRIGGER durably_attempt_ends AFTER UPDATE OF status ON durably_runs
WHEN NEW.status IN ('pending', 'waiting') AND OLD.status NOT IN ('pending', 'waiting')
 AND OLD.attempt > 0 BEGIN
    INSERT OR IGNORE INTO durably_attempts
        (run, fence, attempt, outcome, host, pid, started_at_us, ended_at_us, error)
    VALUES (
        OLD.run, OLD.fence, OLD.attempt,
        CASE WHEN OLD.status <> 'running' THEN OLD.status
             WHEN NEW.status = 'waiting' THEN 'suspended' ELSE 'interrupted' END,
        OLD.host, OLD.pid,
        coalesce(OLD.claimed_at_us, CASE OLD.attempt WHEN 1 THEN OLD.started_at_us END),
        coalesce(OLD.completed_at_us, NEW.updated_at_us),
        OLD.error);
END;

-- -- For those who read the file -----------------------------------------------------------------
--
-- Times are ISO 8601, in UTC, and compare as text. Payloads, outputs, errors and labels are JSON.

CREATE VIEW durably_new_runs AS
SELECT id, job_name AS job, idempotency_key AS key, status, attempt,
       strftime('%Y-%m-%dT%H:%M:%fZ', created_at_us / 1e6, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', started_at_us / 1e6, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', completed_at_us / 1e6, 'unixepoch') AS completed_at,
       max(0, completed_at_us - started_at_us) / 1e6 AS duration,
       payload, output, error, labels
FROM durably_runs;

-- A map is a step too, whose results are its items.
CREATE VIEW durably_new_steps AS
SELECT r.id AS run_id, s.step & 0xFFFFFF AS idx, s.name, s.status, s.attempt,
       strftime('%Y-%m-%dT%H:%M:%fZ', s.started_at_us / 1e6, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', s.completed_at_us / 1e6, 'unixepoch') AS completed_at,
       s.output, s.error
FROM durably_runs r JOIN durably_steps s ON s.run = r.run
UNION ALL
SELECT r.id, m.step & 0xFFFFFF, m.name, m.status, m.attempt,
       strftime('%Y-%m-%dT%H:%M:%fZ', m.started_at_us / 1e6, 'unixepoch'),
       strftime('%Y-%m-%dT%H:%M:%fZ', m.completed_at_us / 1e6, 'unixepoch'),
       NULL, m.error
FROM durably_runs r JOIN durably_maps m ON m.run = r.run
WHERE m.status IS NOT NULL;

CREATE VIEW durably_new_items AS
SELECT r.id AS run_id, m.name AS step, coalesce(i.key, i.item & 0x3FFFFFFF) AS key,
       i.item & 0x3FFFFFFF AS idx,
       CASE WHEN i.error IS NULL THEN 'completed' ELSE 'failed' END AS status, i.attempts,
       strftime('%Y-%m-%dT%H:%M:%fZ', i.started_at_us / 1e6, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', i.completed_at_us / 1e6, 'unixepoch') AS completed_at,
       i.output, i.error
FROM durably_runs r JOIN durably_maps m ON m.run = r.run
JOIN durably_items i ON i.item >= (m.map << 30) AND i.item < ((m.map + 1) << 30);

CREATE VIEW durably_new_attempts AS
SELECT r.id AS run_id, a.attempt, a.outcome, a.host, a.pid,
       strftime('%Y-%m-%dT%H:%M:%fZ', a.started_at_us / 1e6, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', a.ended_at_us / 1e6, 'unixepoch') AS ended_at,
       a.error
FROM durably_runs r JOIN durably_attempts a ON a.run = r.run
UNION ALL
SELECT r.id, r.attempt, r.status, r.host, r.pid,
       strftime('%Y-%m-%dT%H:%M:%fZ',
                coalesce(r.claimed_at_us, CASE r.attempt WHEN 1 THEN r.started_at_us END) / 1e6,
                'unixepoch'),
       strftime('%Y-%m-%dT%H:%M:%fZ', r.completed_at_us / 1e6, 'unixepoch'),
       r.error
FROM durably_runs r
WHERE r.attempt > 0 AND r.status NOT IN ('pending', 'waiting')
  AND NOT EXISTS (SELECT 1 FROM durably_attempts a WHERE a.run = r.run AND a.fence = r.fence);

-- A file may have a table, a view or an index of the user's by the name of one of them: it stays, and
-- there is no such view.
PRAGMA writable_schema = ON;

UPDATE sqlite_schema
SET name = substr(name, 13), tbl_name = substr(name, 13), sql = replace(sql, 'durably_new_', '')
WHERE type = 'view' AND name GLOB 'durably_new_*' AND NOT EXISTS (
    SELECT 1 FROM sqlite_schema o
    WHERE lower(o.name) = substr(sqlite_schema.name, 13) AND o.type <> 'trigger');

DELETE FROM sqlite_schema WHERE type = 'view' AND name GLOB 'durably_new_*';

PRAGMA writable_schema = RESET;
