-- Sessions: runs that are executed by the program that opens them, and by no worker.
--
-- `kind` says what a run is. A session is in no line: its `queue_place` is 3, which no index has
-- that a claim reads, and no statement of an earlier version. It begins again after it was completed;
-- another run does so only with another payload.
--
-- As in version 2 no table is copied: `kind` holds its default in the rows that are there.

DROP TRIGGER durably_end_is_final;
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
    queue_place INTEGER NOT NULL DEFAULT 0 CHECK (queue_place IN (0, 1, 2, 3)),
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
    kind TEXT NOT NULL DEFAULT ''job'' CHECK (kind IN (''job'', ''session'')),
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
    CHECK (status <> ''waiting'' OR keeps_attempt = 1),
    CHECK ((kind = ''job'') = (queue_place <> 3)),
    CHECK (kind = ''job'' OR concurrency_key IS NULL)
) STRICT'
WHERE type = 'table' AND name = 'durably_runs';

-- Read the schema again; also turns the pragma off.
PRAGMA writable_schema = RESET;

-- The newest session of a name that has no key is the one to continue.
CREATE INDEX durably_runs_sessions
    ON durably_runs (job_name, run) WHERE kind = 'session' AND idempotency_key IS NULL;

-- The newest run of a job that has no key and a certain payload is the one to continue. A payload may
-- be large, so the index has its length and its ends.
CREATE INDEX durably_runs_payload
    ON durably_runs (job_name, length(payload), substr(payload, 1, 40), substr(payload, -40), run)
    WHERE kind = 'job' AND idempotency_key IS NULL;

CREATE TRIGGER durably_kind_is_final BEFORE UPDATE OF kind ON durably_runs
WHEN NEW.kind <> OLD.kind BEGIN
    SELECT RAISE(ABORT, 'a run remains of its kind');
END;

-- An end changes only by retry. What has completed goes on if it is a session, or if it gets another
-- payload with that.
CREATE TRIGGER durably_end_is_final BEFORE UPDATE OF status ON durably_runs
WHEN (OLD.status = 'completed' AND NEW.status <> 'completed'
      AND (NEW.status <> 'pending' OR (OLD.kind <> 'session' AND NEW.payload = OLD.payload)))
  OR (OLD.status IN ('failed', 'cancelled') AND NEW.status NOT IN (OLD.status, 'pending')) BEGIN
    SELECT RAISE(ABORT, 'a run that has ended changes only by retry');
END;

CREATE VIEW durably_runs_readable AS
SELECT run, id, job_name, status, attempt, owner, idempotency_key, concurrency_key,
       strftime('%Y-%m-%dT%H:%M:%fZ', created_at_us / 1e6, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', started_at_us / 1e6, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', completed_at_us / 1e6, 'unixepoch') AS completed_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', updated_at_us / 1e6, 'unixepoch') AS updated_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', heartbeat_at_us / 1e6, 'unixepoch') AS heartbeat_at,
       labels, progress, payload, output, error, origin, place, fence, failures, waits_for,
       wait_name, waits_for_run, parent, kind,
       strftime('%Y-%m-%dT%H:%M:%fZ', run_at_us / 1e6, 'unixepoch') AS run_at
FROM durably_runs;
