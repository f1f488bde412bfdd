-- Bounds for what is stored, the turn of a run whose process died, and where its job lies.
--
-- `place` is the turn of a run that was being executed when its process died: a number of the same
-- sequence as `run`, drawn at its recovery, so that runs that were not tried since come before it.
-- Runs are claimed in the order of coalesce(place, run). `origin` says which code began the run;
-- a pending run has one only if there are checkpoints of that code.
--
-- A table may be large, so none is copied. As SQLite's documentation has it for constraints, the
-- new text of a table takes the place of the old one; what the columns hold keeps its form, and
-- the two new ones are NULL in the rows that are there. The rows that break the new bounds, which
-- durably never makes, are repaired. Foreign keys are not enforced meanwhile.

DROP TRIGGER durably_queue_join_new;
DROP TRIGGER durably_queue_starts_behind;
DROP TRIGGER durably_queue_rejoin;
DROP TRIGGER durably_queue_leave;
DROP TRIGGER durably_queue_key_taken;
DROP TRIGGER durably_queue_key_freed;
DROP TRIGGER durably_claim_raises_attempt;
DROP TRIGGER durably_end_is_final;
DROP TRIGGER durably_delete_only_ended;
DROP TRIGGER durably_completed_step_is_final;
DROP TRIGGER durably_labels_of_run;
DROP INDEX durably_runs_claimable;
DROP INDEX durably_runs_queue;
DROP INDEX durably_runs_queue_first;
DROP VIEW durably_runs_readable;

PRAGMA writable_schema = ON;

-- A token becomes part of a file's name: it is what durably makes, and nothing else. SQLite's
-- text functions end at a NUL, hence the counts of bytes.
UPDATE sqlite_schema SET sql = 'CREATE TABLE durably_owners (
    owner INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    boot_id TEXT NOT NULL,
    pid INTEGER NOT NULL,
    heartbeat_interval_us INTEGER NOT NULL,
    is_started INTEGER NOT NULL DEFAULT 0 CHECK (is_started IN (0, 1)),
    beat INTEGER NOT NULL DEFAULT 0,
    beat_at_us INTEGER NOT NULL,
    opened_at_us INTEGER NOT NULL,
    CHECK (owner BETWEEN 1 AND 549755813887),
    CHECK (length(CAST(token AS BLOB)) = 26 AND length(token) = 26
           AND token NOT GLOB ''*[^0-9A-HJKMNP-TV-Z]*''),
    CHECK (length(CAST(boot_id AS BLOB)) <= 64 AND length(CAST(boot_id AS BLOB)) = length(boot_id)
           AND boot_id NOT GLOB ''*[^ -~]*''),
    CHECK (pid BETWEEN 0 AND 4294967295),
    CHECK (heartbeat_interval_us BETWEEN 1 AND 3153600000000000),
    CHECK (beat BETWEEN 0 AND 9007199254740991),
    CHECK (beat_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (opened_at_us BETWEEN -62135596800000000 AND 253402300799999999)
) STRICT'
WHERE type = 'table' AND name = 'durably_owners';

UPDATE sqlite_schema SET sql = 'CREATE TABLE durably_runs (
    run INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    job_name TEXT NOT NULL CHECK (job_name <> ''''),
    status TEXT NOT NULL DEFAULT ''pending''
        CHECK (status IN (''pending'', ''running'', ''completed'', ''failed'', ''cancelled'')),
    payload TEXT NOT NULL,
    output TEXT,
    error TEXT,
    progress TEXT,
    labels TEXT NOT NULL DEFAULT ''{}'',
    idempotency_key TEXT CHECK (idempotency_key <> ''''),
    concurrency_key TEXT CHECK (concurrency_key <> ''''),
    queue_place INTEGER NOT NULL DEFAULT 0 CHECK (queue_place IN (0, 1, 2)),
    owner INTEGER REFERENCES durably_owners (owner),
    attempt INTEGER NOT NULL DEFAULT 0,
    created_at_us INTEGER NOT NULL,
    started_at_us INTEGER,
    completed_at_us INTEGER,
    updated_at_us INTEGER NOT NULL,
    heartbeat_at_us INTEGER,
    place INTEGER,
    origin TEXT,
    CHECK (run BETWEEN 1 AND 549755813887),
    CHECK (length(CAST(id AS BLOB)) BETWEEN 1 AND 64 AND length(CAST(id AS BLOB)) = length(id)
           AND id NOT GLOB ''*[^ -~]*''),
    CHECK (CASE WHEN labels = ''{}'' THEN 1
                WHEN json_valid(labels) THEN json_type(labels) = ''object'' ELSE 0 END),
    CHECK (attempt BETWEEN 0 AND 2147483647),
    CHECK (created_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (started_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (completed_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (updated_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (heartbeat_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (place > run AND place <= 549755813887),
    CHECK (length(CAST(origin AS BLOB)) BETWEEN 1 AND 4096 AND instr(origin, char(0)) = 0),
    CHECK (status <> ''running'' OR owner IS NOT NULL),
    CHECK (status NOT IN (''completed'', ''failed'') OR owner IS NULL),
    CHECK (status NOT IN (''running'', ''completed'', ''failed'') OR attempt >= 1),
    CHECK ((attempt = 0) = (started_at_us IS NULL)),
    CHECK ((attempt = 0) = (heartbeat_at_us IS NULL)),
    CHECK (owner IS NULL OR attempt >= 1),
    CHECK ((status IN (''completed'', ''failed'', ''cancelled'')) = (completed_at_us IS NOT NULL)),
    CHECK ((status = ''completed'') = (output IS NOT NULL)),
    CHECK ((status = ''failed'') = (error IS NOT NULL))
) STRICT'
WHERE type = 'table' AND name = 'durably_runs';

UPDATE sqlite_schema SET sql = 'CREATE TABLE durably_steps (
    step INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES durably_runs (run) ON DELETE CASCADE,
    name TEXT NOT NULL CHECK (name <> ''''),
    status TEXT NOT NULL CHECK (status IN (''completed'', ''failed'', ''cancelled'')),
    output TEXT,
    error TEXT,
    attempt INTEGER NOT NULL,
    started_at_us INTEGER NOT NULL,
    completed_at_us INTEGER NOT NULL,
    UNIQUE (run, name),
    CHECK (step >> 24 = run),
    CHECK (attempt BETWEEN 1 AND 2147483647),
    CHECK (started_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (completed_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK ((status = ''completed'') = (output IS NOT NULL)),
    CHECK ((status = ''failed'') = (error IS NOT NULL))
) STRICT'
WHERE type = 'table' AND name = 'durably_steps';

UPDATE sqlite_schema SET sql = 'CREATE TABLE durably_logs (
    log INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL REFERENCES durably_runs (run) ON DELETE CASCADE,
    owner INTEGER NOT NULL,
    level TEXT NOT NULL CHECK (level IN (''debug'', ''info'', ''warning'', ''error'')),
    message TEXT NOT NULL,
    data TEXT NOT NULL,
    step_name TEXT,
    created_at_us INTEGER NOT NULL,
    CHECK (log BETWEEN 1 AND 549755813887),
    CHECK (owner BETWEEN 0 AND 549755813887),
    CHECK (created_at_us BETWEEN -62135596800000000 AND 253402300799999999)
) STRICT'
WHERE type = 'table' AND name = 'durably_logs';

-- Read the schema again; also turns the pragma off.
PRAGMA writable_schema = RESET;

-- -- Rows that break the bounds --------------------------------------------------------------

PRAGMA ignore_check_constraints = ON;

-- The keys whose queues are made anew below.
CREATE TEMP TABLE changed_keys (key TEXT PRIMARY KEY) STRICT;

-- An owner that durably did not make is none: nobody can tell whether it lives.
CREATE TEMP TABLE no_owners (owner INTEGER PRIMARY KEY) STRICT;
INSERT INTO no_owners SELECT owner FROM durably_owners
WHERE NOT (owner BETWEEN 1 AND 549755813887 AND length(CAST(token AS BLOB)) = 26 AND length(token) = 26
           AND token NOT GLOB '*[^0-9A-HJKMNP-TV-Z]*');
INSERT OR IGNORE INTO changed_keys SELECT concurrency_key FROM durably_runs
WHERE owner IN (SELECT owner FROM no_owners) AND concurrency_key IS NOT NULL;
UPDATE durably_runs
SET owner = NULL, status = CASE status WHEN 'running' THEN 'pending' ELSE status END
WHERE owner IN (SELECT owner FROM no_owners);
DELETE FROM durably_owners WHERE owner IN (SELECT owner FROM no_owners);
DROP TABLE no_owners;

UPDATE durably_owners SET boot_id = ''
WHERE NOT (length(CAST(boot_id AS BLOB)) <= 64 AND length(CAST(boot_id AS BLOB)) = length(boot_id)
           AND boot_id NOT GLOB '*[^ -~]*');
UPDATE durably_owners
SET pid = max(0, min(pid, 4294967295)),
    heartbeat_interval_us = max(1, min(heartbeat_interval_us, 3153600000000000)),
    beat = max(0, min(beat, 9007199254740991)),
    beat_at_us = max(-62135596800000000, min(beat_at_us, 253402300799999999)),
    opened_at_us = max(-62135596800000000, min(opened_at_us, 253402300799999999))
WHERE pid NOT BETWEEN 0 AND 4294967295
   OR heartbeat_interval_us NOT BETWEEN 1 AND 3153600000000000
   OR beat NOT BETWEEN 0 AND 9007199254740991
   OR beat_at_us NOT BETWEEN -62135596800000000 AND 253402300799999999
   OR opened_at_us NOT BETWEEN -62135596800000000 AND 253402300799999999;

UPDATE durably_runs
SET attempt = max(0, min(attempt, 2147483647)),
    created_at_us = max(-62135596800000000, min(created_at_us, 253402300799999999)),
    started_at_us = max(-62135596800000000, min(started_at_us, 253402300799999999)),
    completed_at_us = max(-62135596800000000, min(completed_at_us, 253402300799999999)),
    updated_at_us = max(-62135596800000000, min(updated_at_us, 253402300799999999)),
    heartbeat_at_us = max(-62135596800000000, min(heartbeat_at_us, 253402300799999999))
WHERE attempt NOT BETWEEN 0 AND 2147483647
   OR created_at_us NOT BETWEEN -62135596800000000 AND 253402300799999999
   OR started_at_us NOT BETWEEN -62135596800000000 AND 253402300799999999
   OR completed_at_us NOT BETWEEN -62135596800000000 AND 253402300799999999
   OR updated_at_us NOT BETWEEN -62135596800000000 AND 253402300799999999
   OR heartbeat_at_us NOT BETWEEN -62135596800000000 AND 253402300799999999;

UPDATE durably_steps
SET attempt = max(1, min(attempt, 2147483647)),
    started_at_us = max(-62135596800000000, min(started_at_us, 253402300799999999)),
    completed_at_us = max(-62135596800000000, min(completed_at_us, 253402300799999999))
WHERE attempt NOT BETWEEN 1 AND 2147483647
   OR started_at_us NOT BETWEEN -62135596800000000 AND 253402300799999999
   OR completed_at_us NOT BETWEEN -62135596800000000 AND 253402300799999999;

UPDATE durably_logs
SET owner = max(0, min(owner, 549755813887)),
    created_at_us = max(-62135596800000000, min(created_at_us, 253402300799999999))
WHERE owner NOT BETWEEN 0 AND 549755813887
   OR created_at_us NOT BETWEEN -62135596800000000 AND 253402300799999999;

-- A number that durably never gives is replaced by the next ones that it would.
CREATE TEMP TABLE new_numbers (old INTEGER PRIMARY KEY, new INTEGER) STRICT;
INSERT INTO new_numbers
SELECT run, row_number() OVER (ORDER BY run)
            + max((SELECT coalesce(max(run), 0) FROM durably_runs WHERE run BETWEEN 1 AND 549755813887),
                  (SELECT coalesce(max(seq), 0) FROM sqlite_sequence
                   WHERE name = 'durably_runs' AND seq BETWEEN 1 AND 549755813887))
FROM durably_runs WHERE run NOT BETWEEN 1 AND 549755813887;
INSERT OR IGNORE INTO changed_keys SELECT concurrency_key FROM durably_runs
WHERE run IN (SELECT old FROM new_numbers) AND concurrency_key IS NOT NULL;
UPDATE durably_steps
SET (run, step) = (SELECT new, (new << 24) + (step & 0xFFFFFF) FROM new_numbers WHERE old = run)
WHERE run IN (SELECT old FROM new_numbers);
UPDATE durably_labels SET run = (SELECT new FROM new_numbers WHERE old = run)
WHERE run IN (SELECT old FROM new_numbers);
UPDATE durably_logs SET run = (SELECT new FROM new_numbers WHERE old = run)
WHERE run IN (SELECT old FROM new_numbers);
UPDATE durably_runs SET run = (SELECT new FROM new_numbers WHERE old = run)
WHERE run IN (SELECT old FROM new_numbers);
DELETE FROM new_numbers;
INSERT INTO new_numbers
SELECT log, row_number() OVER (ORDER BY log)
            + (SELECT coalesce(max(log), 0) FROM durably_logs WHERE log BETWEEN 1 AND 549755813887)
FROM durably_logs WHERE log NOT BETWEEN 1 AND 549755813887;
UPDATE durably_logs SET log = (SELECT new FROM new_numbers WHERE old = log)
WHERE log IN (SELECT old FROM new_numbers);
DROP TABLE new_numbers;
UPDATE sqlite_sequence
SET seq = CASE name
    WHEN 'durably_runs' THEN (SELECT coalesce(max(run), 0) FROM durably_runs)
    WHEN 'durably_logs' THEN (SELECT coalesce(max(log), 0) FROM durably_logs)
    ELSE (SELECT coalesce(max(owner), 0) FROM durably_owners) END
WHERE name IN ('durably_runs', 'durably_logs', 'durably_owners')
  AND (typeof(seq) <> 'integer' OR seq NOT BETWEEN 0 AND 549755813886
       OR seq < CASE name
           WHEN 'durably_runs' THEN (SELECT coalesce(max(run), 0) FROM durably_runs)
           WHEN 'durably_logs' THEN (SELECT coalesce(max(log), 0) FROM durably_logs)
           ELSE (SELECT coalesce(max(owner), 0) FROM durably_owners) END);

-- 26 digits, as long as the ids that durably makes, and before all of them.
UPDATE OR IGNORE durably_runs SET id = printf('%026d', run)
WHERE NOT (length(CAST(id AS BLOB)) BETWEEN 1 AND 64 AND length(CAST(id AS BLOB)) = length(id)
           AND id NOT GLOB '*[^ -~]*');

DELETE FROM durably_labels WHERE run IN (
    SELECT run FROM durably_runs WHERE labels <> '{}' AND CASE
        WHEN NOT json_valid(labels) THEN 1
        WHEN json_type(labels) <> 'object' THEN 1
        ELSE EXISTS (SELECT 1 FROM json_each(labels) WHERE type <> 'text') END);
UPDATE durably_runs SET labels = '{}' WHERE labels <> '{}' AND CASE
    WHEN NOT json_valid(labels) THEN 1
    WHEN json_type(labels) <> 'object' THEN 1
    ELSE EXISTS (SELECT 1 FROM json_each(labels) WHERE type <> 'text') END;

-- -- Indexes and triggers, with the turn of a run in the place of its number ------------------

CREATE INDEX durably_runs_claimable
    ON durably_runs (job_name, coalesce(place, run))
    WHERE status = 'pending' AND owner IS NULL AND queue_place = 0 AND origin IS NULL;

-- The few that have checkpoints, for a job of that origin, and for one that takes any. A new run is
-- in neither.
CREATE INDEX durably_runs_claimable_of_origin
    ON durably_runs (job_name, origin, coalesce(place, run))
    WHERE status = 'pending' AND owner IS NULL AND queue_place = 0 AND origin IS NOT NULL;

CREATE INDEX durably_runs_claimable_begun
    ON durably_runs (job_name, coalesce(place, run))
    WHERE status = 'pending' AND owner IS NULL AND queue_place = 0 AND origin IS NOT NULL;

-- Job first: a look for the firsts of a key in all jobs must find the index below, and
-- never walk along the thousands in this one.
CREATE INDEX durably_runs_queue
    ON durably_runs (job_name, concurrency_key, origin, coalesce(place, run))
    WHERE status = 'pending' AND concurrency_key IS NOT NULL;

UPDATE durably_runs SET queue_place = 1
WHERE concurrency_key IN (SELECT key FROM changed_keys);
UPDATE durably_runs SET queue_place = CASE
    WHEN EXISTS (SELECT 1 FROM durably_runs h
                 WHERE h.concurrency_key = durably_runs.concurrency_key AND h.owner IS NOT NULL)
    THEN 2 ELSE 0 END
WHERE status = 'pending' AND concurrency_key IN (SELECT key FROM changed_keys)
  AND NOT EXISTS (
    SELECT 1 FROM durably_runs e
    WHERE e.status = 'pending' AND e.concurrency_key = durably_runs.concurrency_key
      AND e.job_name = durably_runs.job_name AND e.run < durably_runs.run);
DROP TABLE changed_keys;

-- A queue is per origin as well: a process skips the runs of another one.
CREATE UNIQUE INDEX durably_runs_queue_first
    ON durably_runs (concurrency_key, job_name, coalesce(origin, ''))
    WHERE status = 'pending' AND concurrency_key IS NOT NULL AND queue_place <> 1;

PRAGMA ignore_check_constraints = OFF;

CREATE TRIGGER durably_queue_join_new AFTER INSERT ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND NEW.queue_place = 1 BEGIN
    UPDATE durably_runs SET queue_place = CASE
        WHEN EXISTS (SELECT 1 FROM durably_runs
                     WHERE concurrency_key = NEW.concurrency_key AND owner IS NOT NULL) THEN 2
        ELSE 0 END
    WHERE run = NEW.run AND NOT EXISTS (
        SELECT 1 FROM durably_runs
        WHERE status = 'pending' AND concurrency_key = NEW.concurrency_key
          AND job_name = NEW.job_name AND origin IS NEW.origin
          AND coalesce(place, run) <= coalesce(NEW.place, NEW.run)
          AND (coalesce(place, run) <> coalesce(NEW.place, NEW.run) OR run < NEW.run));
END;

CREATE TRIGGER durably_queue_starts_behind BEFORE INSERT ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND NEW.queue_place <> 1 BEGIN
    SELECT RAISE(ABORT, 'a run with a concurrency key joins its queue at the end');
END;

CREATE TRIGGER durably_queue_rejoin AFTER UPDATE OF status ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND NEW.status = 'pending' AND OLD.status <> 'pending' BEGIN
    UPDATE durably_runs SET queue_place = 1
    WHERE status = 'pending' AND concurrency_key = NEW.concurrency_key
      AND job_name = NEW.job_name AND +origin IS NEW.origin AND queue_place <> 1
      AND +coalesce(place, run) >= coalesce(NEW.place, NEW.run)
      AND (+coalesce(place, run) <> coalesce(NEW.place, NEW.run) OR run > NEW.run);
    UPDATE durably_runs SET queue_place = CASE
        WHEN EXISTS (SELECT 1 FROM durably_runs
                     WHERE concurrency_key = NEW.concurrency_key AND owner IS NOT NULL) THEN 2
        ELSE 0 END
    WHERE run = NEW.run AND NOT EXISTS (
        SELECT 1 FROM durably_runs
        WHERE status = 'pending' AND concurrency_key = NEW.concurrency_key
          AND job_name = NEW.job_name AND origin IS NEW.origin
          AND coalesce(place, run) <= coalesce(NEW.place, NEW.run)
          AND (coalesce(place, run) <> coalesce(NEW.place, NEW.run) OR run < NEW.run));
END;

-- A run that leaves its queue hands its place on, and comes back at the end of it. A claim has set
-- its origin by then.
CREATE TRIGGER durably_queue_leave AFTER UPDATE OF status ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND OLD.status = 'pending' AND NEW.status <> 'pending' BEGIN
    UPDATE durably_runs SET queue_place = 1 WHERE run = NEW.run;
    UPDATE durably_runs SET queue_place = CASE
        WHEN EXISTS (SELECT 1 FROM durably_runs
                     WHERE concurrency_key = NEW.concurrency_key AND owner IS NOT NULL) THEN 2
        ELSE 0 END
    WHERE run = (SELECT run FROM durably_runs
                 WHERE status = 'pending' AND concurrency_key = NEW.concurrency_key
                   AND job_name = NEW.job_name AND origin IS OLD.origin
                 ORDER BY coalesce(place, run), run LIMIT 1)
      AND queue_place = 1;
END;

-- `queue_place <> 1` says to SQLite that the index of the firsts will do.
CREATE TRIGGER durably_queue_key_taken AFTER UPDATE OF owner ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND OLD.owner IS NULL AND NEW.owner IS NOT NULL BEGIN
    UPDATE durably_runs SET queue_place = 2
    WHERE status = 'pending' AND concurrency_key = NEW.concurrency_key
      AND queue_place <> 1 AND queue_place = 0;
END;

CREATE TRIGGER durably_queue_key_freed AFTER UPDATE OF owner ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND OLD.owner IS NOT NULL AND NEW.owner IS NULL BEGIN
    UPDATE durably_runs SET queue_place = 0
    WHERE status = 'pending' AND concurrency_key = NEW.concurrency_key
      AND queue_place <> 1 AND queue_place = 2;
END;

-- The state machine, as before.
CREATE TRIGGER durably_claim_raises_attempt BEFORE UPDATE OF status, attempt ON durably_runs
WHEN (NEW.status = 'running' AND OLD.status <> 'running'
      AND (OLD.status <> 'pending' OR OLD.owner IS NOT NULL OR NEW.attempt <> OLD.attempt + 1))
  OR (NEW.attempt <> OLD.attempt AND NOT (OLD.status = 'pending' AND NEW.status = 'running')) BEGIN
    SELECT RAISE(ABORT, 'a claim takes a pending run without an owner to its next attempt');
END;

CREATE TRIGGER durably_end_is_final BEFORE UPDATE OF status ON durably_runs
WHEN (OLD.status = 'completed' AND NEW.status <> 'completed')
  OR (OLD.status IN ('failed', 'cancelled') AND NEW.status NOT IN (OLD.status, 'pending')) BEGIN
    SELECT RAISE(ABORT, 'a run that has ended changes only by retry');
END;

CREATE TRIGGER durably_delete_only_ended BEFORE DELETE ON durably_runs
WHEN OLD.status NOT IN ('completed', 'failed', 'cancelled') OR OLD.owner IS NOT NULL BEGIN
    SELECT RAISE(ABORT, 'only a run that has ended can be deleted');
END;

CREATE TRIGGER durably_completed_step_is_final BEFORE UPDATE ON durably_steps
WHEN OLD.status = 'completed' BEGIN
    SELECT RAISE(ABORT, 'a completed step is final');
END;

-- A label that is no text has no value, which its row must have.
CREATE TRIGGER durably_labels_of_run AFTER INSERT ON durably_runs
WHEN NEW.labels <> '{}' BEGIN
    INSERT INTO durably_labels (run, key, value)
    SELECT NEW.run, key, CASE type WHEN 'text' THEN value END FROM json_each(NEW.labels);
END;

CREATE VIEW durably_runs_readable AS
SELECT run, id, job_name, status, attempt, owner, idempotency_key, concurrency_key,
       strftime('%Y-%m-%dT%H:%M:%fZ', created_at_us / 1e6, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', started_at_us / 1e6, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', completed_at_us / 1e6, 'unixepoch') AS completed_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', updated_at_us / 1e6, 'unixepoch') AS updated_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', heartbeat_at_us / 1e6, 'unixepoch') AS heartbeat_at,
       labels, progress, payload, output, error, origin, place
FROM durably_runs;
