-- A fence apart from the attempt, and runs that wait.
--
-- `fence` rises with each claim and guards each write; `attempt` is what users count, and a claim
-- leaves it as it is where `keeps_attempt` says so. In a run that was last claimed by version 2 it
-- may be less than its attempt: the next claim takes it beyond both.
--
-- A waiting run has no owner and holds no key. `waits_for` says for what: `wait_name` is the name
-- of the step, `run_at_us` when it goes on at the latest, `waits_for_run` the run whose end it
-- needs. A pending run with `run_at_us` is not due yet. Neither is in a queue or in an index that a
-- claim reads until it is woken, which clears all of these; a run that waits for another is woken
-- by that one's end. `failures` counts failed executions since the last retry.
--
-- As in version 2 no table is copied: the columns hold their defaults in the rows that are there.

DROP TRIGGER durably_queue_join_new;
DROP TRIGGER durably_queue_rejoin;
DROP TRIGGER durably_queue_leave;
DROP TRIGGER durably_queue_key_taken;
DROP TRIGGER durably_queue_key_freed;
DROP TRIGGER durably_claim_raises_attempt;
DROP INDEX durably_runs_claimable;
DROP INDEX durably_runs_claimable_of_origin;
DROP INDEX durably_runs_claimable_begun;
DROP INDEX durably_runs_queue;
DROP INDEX durably_runs_queue_first;
DROP VIEW durably_runs_readable;

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = 'CREATE TABLE durably_runs (
    run INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    job_name TEXT NOT NULL CHECK (job_name <> ''''),
    status TEXT NOT NULL DEFAULT ''pending''
        CHECK (status IN (''pending'', ''running'', ''waiting'', ''completed'', ''failed'',
                          ''cancelled'')),
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
    fence INTEGER NOT NULL DEFAULT 0,
    keeps_attempt INTEGER NOT NULL DEFAULT 0 CHECK (keeps_attempt IN (0, 1)),
    failures INTEGER NOT NULL DEFAULT 0,
    run_at_us INTEGER,
    waits_for TEXT CHECK (waits_for IN (''time'', ''answer'', ''run'')),
    wait_name TEXT CHECK (wait_name <> ''''),
    waits_for_run INTEGER REFERENCES durably_runs (run),
    parent INTEGER REFERENCES durably_runs (run) ON DELETE SET NULL,
    CHECK (run BETWEEN 1 AND 549755813887),
    CHECK (length(CAST(id AS BLOB)) BETWEEN 1 AND 64 AND length(CAST(id AS BLOB)) = length(id)
           AND id NOT GLOB ''*[^ -~]*''),
    CHECK (CASE WHEN labels = ''{}'' THEN 1
                WHEN json_valid(labels) THEN json_type(labels) = ''object'' ELSE 0 END),
    CHECK (attempt BETWEEN 0 AND 2147483647),
    CHECK (fence BETWEEN 0 AND 2147483647),
    CHECK (failures BETWEEN 0 AND 2147483647),
    CHECK (created_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (started_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (completed_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (updated_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (heartbeat_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (run_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (place > run AND place <= 549755813887),
    CHECK (length(CAST(origin AS BLOB)) BETWEEN 1 AND 4096 AND instr(origin, char(0)) = 0),
    CHECK (parent < run),
    CHECK (status <> ''running'' OR owner IS NOT NULL),
    CHECK (status NOT IN (''completed'', ''failed'', ''waiting'') OR owner IS NULL),
    CHECK (status NOT IN (''running'', ''completed'', ''failed'', ''waiting'') OR attempt >= 1),
    CHECK ((attempt = 0) = (started_at_us IS NULL)),
    CHECK ((attempt = 0) = (heartbeat_at_us IS NULL)),
    CHECK (owner IS NULL OR (attempt >= 1 AND fence >= attempt)),
    CHECK ((status IN (''completed'', ''failed'', ''cancelled'')) = (completed_at_us IS NOT NULL)),
    CHECK ((status = ''completed'') = (output IS NOT NULL)),
    CHECK ((status = ''failed'') = (error IS NOT NULL)),
    CHECK ((status = ''waiting'') = (waits_for IS NOT NULL)),
    CHECK (CASE waits_for WHEN ''time'' THEN wait_name IS NOT NULL AND run_at_us IS NOT NULL
                          WHEN ''answer'' THEN wait_name IS NOT NULL
                          WHEN ''run'' THEN waits_for_run <> run
                          ELSE wait_name IS NULL END),
    CHECK ((waits_for IS ''run'') = (waits_for_run IS NOT NULL)),
    CHECK (run_at_us IS NULL OR status IN (''pending'', ''waiting'')),
    CHECK (keeps_attempt = 0 OR (status IN (''pending'', ''waiting'') AND attempt >= 1)),
    CHECK (status <> ''waiting'' OR keeps_attempt = 1)
) STRICT'
WHERE type = 'table' AND name = 'durably_runs';

-- Read the schema again; also turns the pragma off.
PRAGMA writable_schema = RESET;

-- Those that an engine of version 2 is inside of. What breaks a constraint stays as it is.
UPDATE OR IGNORE durably_runs SET fence = attempt WHERE owner IS NOT NULL;

CREATE INDEX durably_runs_claimable
    ON durably_runs (job_name, coalesce(place, run))
    WHERE status = 'pending' AND run_at_us IS NULL AND owner IS NULL AND queue_place = 0
      AND origin IS NULL;

-- The few that have checkpoints, for a job of that origin, and for one that takes any. A new run is
-- in neither.
CREATE INDEX durably_runs_claimable_of_origin
    ON durably_runs (job_name, origin, coalesce(place, run))
    WHERE status = 'pending' AND run_at_us IS NULL AND owner IS NULL AND queue_place = 0
      AND origin IS NOT NULL;

CREATE INDEX durably_runs_claimable_begun
    ON durably_runs (job_name, coalesce(place, run))
    WHERE status = 'pending' AND run_at_us IS NULL AND owner IS NULL AND queue_place = 0
      AND origin IS NOT NULL;

-- Of those that are not due yet, whatever they wait for beside.
CREATE INDEX durably_runs_due ON durably_runs (run_at_us) WHERE run_at_us IS NOT NULL;

CREATE INDEX durably_runs_awaited ON durably_runs (waits_for_run) WHERE waits_for_run IS NOT NULL;

CREATE INDEX durably_runs_children ON durably_runs (parent) WHERE parent IS NOT NULL;

-- -- Queues of concurrency keys, as before, of the runs that are due ---------------------------

CREATE INDEX durably_runs_queue
    ON durably_runs (job_name, concurrency_key, origin, coalesce(place, run))
    WHERE status = 'pending' AND run_at_us IS NULL AND concurrency_key IS NOT NULL;

CREATE UNIQUE INDEX durably_runs_queue_first
    ON durably_runs (concurrency_key, job_name, coalesce(origin, ''))
    WHERE status = 'pending' AND run_at_us IS NULL AND concurrency_key IS NOT NULL
      AND queue_place <> 1;

CREATE TRIGGER durably_queue_join_new AFTER INSERT ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND NEW.status = 'pending' AND NEW.run_at_us IS NULL
 AND NEW.queue_place = 1 BEGIN
    UPDATE durably_runs SET queue_place = CASE
        WHEN EXISTS (SELECT 1 FROM durably_runs
                     WHERE concurrency_key = NEW.concurrency_key AND owner IS NOT NULL) THEN 2
        ELSE 0 END
    WHERE run = NEW.run AND NOT EXISTS (
        SELECT 1 FROM durably_runs
        WHERE status = 'pending' AND run_at_us IS NULL AND concurrency_key = NEW.concurrency_key
          AND job_name = NEW.job_name AND origin IS NEW.origin
          AND coalesce(place, run) <= coalesce(NEW.place, NEW.run)
          AND (coalesce(place, run) <> coalesce(NEW.place, NEW.run) OR run < NEW.run));
END;

-- A run that goes on is in front of those that are younger.
CREATE TRIGGER durably_queue_rejoin AFTER UPDATE OF status, run_at_us ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND NEW.status = 'pending' AND NEW.run_at_us IS NULL
 AND (OLD.status <> 'pending' OR OLD.run_at_us IS NOT NULL) BEGIN
    UPDATE durably_runs SET queue_place = 1
    WHERE status = 'pending' AND run_at_us IS NULL AND concurrency_key = NEW.concurrency_key
      AND job_name = NEW.job_name AND +origin IS NEW.origin AND queue_place <> 1
      AND +coalesce(place, run) >= coalesce(NEW.place, NEW.run)
      AND (+coalesce(place, run) <> coalesce(NEW.place, NEW.run) OR run > NEW.run);
    UPDATE durably_runs SET queue_place = CASE
        WHEN EXISTS (SELECT 1 FROM durably_runs
                     WHERE concurrency_key = NEW.concurrency_key AND owner IS NOT NULL) THEN 2
        ELSE 0 END
    WHERE run = NEW.run AND NOT EXISTS (
        SELECT 1 FROM durably_runs
        WHERE status = 'pending' AND run_at_us IS NULL AND concurrency_key = NEW.concurrency_key
          AND job_name = NEW.job_name AND origin IS NEW.origin
          AND coalesce(place, run) <= coalesce(NEW.place, NEW.run)
          AND (coalesce(place, run) <> coalesce(NEW.place, NEW.run) OR run < NEW.run));
END;

-- A run that leaves its queue hands its place on, and comes back at the end of it. A claim has set
-- its origin by then.
CREATE TRIGGER durably_queue_leave AFTER UPDATE OF status, run_at_us ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND OLD.status = 'pending' AND OLD.run_at_us IS NULL
 AND (NEW.status <> 'pending' OR NEW.run_at_us IS NOT NULL) BEGIN
    UPDATE durably_runs SET queue_place = 1 WHERE run = NEW.run;
    UPDATE durably_runs SET queue_place = CASE
        WHEN EXISTS (SELECT 1 FROM durably_runs
                     WHERE concurrency_key = NEW.concurrency_key AND owner IS NOT NULL) THEN 2
        ELSE 0 END
    WHERE run = (SELECT run FROM durably_runs
                 WHERE status = 'pending' AND run_at_us IS NULL
                   AND concurrency_key = NEW.concurrency_key
                   AND job_name = NEW.job_name AND origin IS OLD.origin
                 ORDER BY coalesce(place, run), run LIMIT 1)
      AND queue_place = 1;
END;

-- `queue_place <> 1` says to SQLite that the index of the firsts will do.
CREATE TRIGGER durably_queue_key_taken AFTER UPDATE OF owner ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND OLD.owner IS NULL AND NEW.owner IS NOT NULL BEGIN
    UPDATE durably_runs SET queue_place = 2
    WHERE status = 'pending' AND run_at_us IS NULL AND concurrency_key = NEW.concurrency_key
      AND queue_place <> 1 AND queue_place = 0;
END;

CREATE TRIGGER durably_queue_key_freed AFTER UPDATE OF owner ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND OLD.owner IS NOT NULL AND NEW.owner IS NULL BEGIN
    UPDATE durably_runs SET queue_place = 0
    WHERE status = 'pending' AND run_at_us IS NULL AND concurrency_key = NEW.concurrency_key
      AND queue_place <> 1 AND queue_place = 2;
END;

-- -- The state machine --------------------------------------------------------------------------

-- A claim is pending -> running with the next fence, and nothing else raises fence or attempt. An
-- engine of version 2, which knows no fence, meets an error that it does not take for a defect of
-- the run: it would fail the run for one.
CREATE TRIGGER durably_claim_raises_fence BEFORE UPDATE OF status, attempt, fence ON durably_runs
WHEN (NEW.status = 'running' AND OLD.status <> 'running'
      AND (OLD.status <> 'pending' OR OLD.run_at_us IS NOT NULL OR OLD.owner IS NOT NULL
           OR NEW.fence <> max(OLD.fence, OLD.attempt) + 1
           OR NEW.attempt <> OLD.attempt + 1 - OLD.keeps_attempt))
  OR ((NEW.attempt <> OLD.attempt OR NEW.fence <> OLD.fence)
      AND NOT (OLD.status = 'pending' AND NEW.status = 'running')) BEGIN
    SELECT json('a claim without a fence of run ' || NEW.run)
    WHERE OLD.status = 'pending' AND NEW.status = 'running' AND NEW.fence = OLD.fence;
    SELECT RAISE(ABORT, 'a claim takes a pending run without an owner to its next fence');
END;

CREATE TRIGGER durably_waits_after_running BEFORE UPDATE OF status ON durably_runs
WHEN (NEW.status = 'waiting' AND OLD.status NOT IN ('running', 'waiting'))
  OR (OLD.status = 'waiting' AND NEW.status NOT IN ('waiting', 'pending', 'cancelled')) BEGIN
    SELECT RAISE(ABORT, 'only a running run begins to wait, and then goes on or is cancelled');
END;

-- Nobody waits for a run that has ended: neither when it ends nor when somebody begins to wait.
CREATE TRIGGER durably_end_wakes AFTER UPDATE OF completed_at_us ON durably_runs
WHEN OLD.completed_at_us IS NULL AND NEW.completed_at_us IS NOT NULL
 AND EXISTS (SELECT 1 FROM durably_runs WHERE waits_for_run = NEW.run) BEGIN
    UPDATE durably_runs
    SET status = 'pending', waits_for = NULL, wait_name = NULL, waits_for_run = NULL,
        run_at_us = NULL, updated_at_us = NEW.updated_at_us
    WHERE waits_for_run = NEW.run;
END;

CREATE TRIGGER durably_waits_for_no_end AFTER UPDATE OF waits_for_run ON durably_runs
WHEN EXISTS (SELECT 1 FROM durably_runs
             WHERE run = NEW.waits_for_run AND completed_at_us IS NOT NULL) BEGIN
    UPDATE durably_runs
    SET status = 'pending', waits_for = NULL, wait_name = NULL, waits_for_run = NULL,
        run_at_us = NULL
    WHERE run = NEW.run;
END;

CREATE VIEW durably_runs_readable AS
SELECT run, id, job_name, status, attempt, owner, idempotency_key, concurrency_key,
       strftime('%Y-%m-%dT%H:%M:%fZ', created_at_us / 1e6, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', started_at_us / 1e6, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', completed_at_us / 1e6, 'unixepoch') AS completed_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', updated_at_us / 1e6, 'unixepoch') AS updated_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', heartbeat_at_us / 1e6, 'unixepoch') AS heartbeat_at,
       labels, progress, payload, output, error, origin, place, fence, failures, waits_for,
       wait_name, waits_for_run, parent,
       strftime('%Y-%m-%dT%H:%M:%fZ', run_at_us / 1e6, 'unixepoch') AS run_at
FROM durably_runs;
