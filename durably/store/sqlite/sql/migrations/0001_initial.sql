-- Engines that have the file open, or died with it open. `token` names the
-- kernel-held lock file; `beat` counts committed heartbeats and is what other
-- engines watch, since no clock decides.
CREATE TABLE durably_owners (
    owner INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    boot_id TEXT NOT NULL,
    pid INTEGER NOT NULL,
    heartbeat_interval_us INTEGER NOT NULL CHECK (heartbeat_interval_us > 0),
    is_started INTEGER NOT NULL DEFAULT 0 CHECK (is_started IN (0, 1)),
    beat INTEGER NOT NULL DEFAULT 0 CHECK (beat >= 0),
    beat_at_us INTEGER NOT NULL,
    opened_at_us INTEGER NOT NULL
) STRICT;

-- `run` is the order in which runs were triggered, across processes; `id` is the
-- public ULID. `queue_place` serves runs with a concurrency key, see below.
CREATE TABLE durably_runs (
    run INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    job_name TEXT NOT NULL CHECK (job_name <> ''),
    status TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    payload TEXT NOT NULL,
    output TEXT,
    error TEXT,
    progress TEXT,
    labels TEXT NOT NULL DEFAULT '{}',
    idempotency_key TEXT CHECK (idempotency_key <> ''),
    concurrency_key TEXT CHECK (concurrency_key <> ''),
    queue_place INTEGER NOT NULL DEFAULT 0 CHECK (queue_place IN (0, 1, 2)),
    owner INTEGER REFERENCES durably_owners (owner),
    attempt INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    created_at_us INTEGER NOT NULL,
    started_at_us INTEGER,
    completed_at_us INTEGER,
    updated_at_us INTEGER NOT NULL,
    heartbeat_at_us INTEGER,
    CHECK (status <> 'running' OR owner IS NOT NULL),
    CHECK (status NOT IN ('completed', 'failed') OR owner IS NULL),
    CHECK (status NOT IN ('running', 'completed', 'failed') OR attempt >= 1),
    CHECK ((attempt = 0) = (started_at_us IS NULL)),
    CHECK ((attempt = 0) = (heartbeat_at_us IS NULL)),
    CHECK (owner IS NULL OR attempt >= 1),
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (completed_at_us IS NOT NULL)),
    CHECK ((status = 'completed') = (output IS NOT NULL)),
    CHECK ((status = 'failed') = (error IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX durably_runs_idempotency
    ON durably_runs (job_name, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- At most one run of a key is inside a job, in the whole database.
CREATE UNIQUE INDEX durably_runs_key_holder
    ON durably_runs (concurrency_key) WHERE owner IS NOT NULL AND concurrency_key IS NOT NULL;

CREATE INDEX durably_runs_claimable
    ON durably_runs (job_name, run) WHERE status = 'pending' AND owner IS NULL AND queue_place = 0;

CREATE INDEX durably_runs_owner ON durably_runs (owner) WHERE owner IS NOT NULL;

CREATE INDEX durably_runs_ended ON durably_runs (completed_at_us) WHERE completed_at_us IS NOT NULL;

-- Queues of concurrency keys. The pending runs of one key and job form a queue in
-- the order of `run`, and only its first one may be claimable, so that a claim never
-- walks over the thousands that wait behind a busy key:
--   0  first of its queue (or without a key), nobody holds the key: claimable
--   1  behind another run of its queue
--   2  first of its queue, but the key is held
-- A queue is per job because a process skips the runs of jobs it does not know.
CREATE UNIQUE INDEX durably_runs_queue_first
    ON durably_runs (concurrency_key, job_name)
    WHERE status = 'pending' AND concurrency_key IS NOT NULL AND queue_place <> 1;

-- Job first: a look for the firsts of a key in all jobs must find the index above, and
-- never walk along the thousands in this one.
CREATE INDEX durably_runs_queue
    ON durably_runs (job_name, concurrency_key, run)
    WHERE status = 'pending' AND concurrency_key IS NOT NULL;

CREATE TRIGGER durably_queue_join_new AFTER INSERT ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND NEW.queue_place = 1 BEGIN
    UPDATE durably_runs SET queue_place = CASE
        WHEN EXISTS (SELECT 1 FROM durably_runs
                     WHERE concurrency_key = NEW.concurrency_key AND owner IS NOT NULL) THEN 2
        ELSE 0 END
    WHERE run = NEW.run AND NOT EXISTS (
        SELECT 1 FROM durably_runs
        WHERE status = 'pending' AND concurrency_key = NEW.concurrency_key
          AND job_name = NEW.job_name AND run < NEW.run);
END;

CREATE TRIGGER durably_queue_starts_behind BEFORE INSERT ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND NEW.queue_place <> 1 BEGIN
    SELECT RAISE(ABORT, 'a run with a concurrency key joins its queue at the end');
END;

CREATE TRIGGER durably_queue_rejoin AFTER UPDATE OF status ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND NEW.status = 'pending' AND OLD.status <> 'pending' BEGIN
    UPDATE durably_runs SET queue_place = 1
    WHERE status = 'pending' AND concurrency_key = NEW.concurrency_key
      AND job_name = NEW.job_name AND queue_place <> 1 AND run > NEW.run;
    UPDATE durably_runs SET queue_place = CASE
        WHEN EXISTS (SELECT 1 FROM durably_runs
                     WHERE concurrency_key = NEW.concurrency_key AND owner IS NOT NULL) THEN 2
        ELSE 0 END
    WHERE run = NEW.run AND NOT EXISTS (
        SELECT 1 FROM durably_runs
        WHERE status = 'pending' AND concurrency_key = NEW.concurrency_key
          AND job_name = NEW.job_name AND run < NEW.run);
END;

-- A run that leaves its queue hands its place on, and comes back at the end of it.
CREATE TRIGGER durably_queue_leave AFTER UPDATE OF status ON durably_runs
WHEN NEW.concurrency_key IS NOT NULL AND OLD.status = 'pending' AND NEW.status <> 'pending' BEGIN
    UPDATE durably_runs SET queue_place = 1 WHERE run = NEW.run;
    UPDATE durably_runs SET queue_place = CASE
        WHEN EXISTS (SELECT 1 FROM durably_runs
                     WHERE concurrency_key = NEW.concurrency_key AND owner IS NOT NULL) THEN 2
        ELSE 0 END
    WHERE run = (SELECT run FROM durably_runs
                 WHERE status = 'pending' AND concurrency_key = NEW.concurrency_key
                   AND job_name = NEW.job_name ORDER BY run LIMIT 1)
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

-- The state machine: a claim is pending -> running with the next attempt, and
-- nothing else raises the attempt; an end changes only by retry, never a completed one.
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

-- `step` is run << 24 | index: the steps of a run lie together, in order, without
-- another index, and an index cannot be given twice.
CREATE TABLE durably_steps (
    step INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES durably_runs (run) ON DELETE CASCADE,
    name TEXT NOT NULL CHECK (name <> ''),
    status TEXT NOT NULL CHECK (status IN ('completed', 'failed', 'cancelled')),
    output TEXT,
    error TEXT,
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    started_at_us INTEGER NOT NULL,
    completed_at_us INTEGER NOT NULL,
    UNIQUE (run, name),
    CHECK (step >> 24 = run),
    CHECK ((status = 'completed') = (output IS NOT NULL)),
    CHECK ((status = 'failed') = (error IS NOT NULL))
) STRICT;

CREATE TRIGGER durably_completed_step_is_final BEFORE UPDATE ON durably_steps
WHEN OLD.status = 'completed' BEGIN
    SELECT RAISE(ABORT, 'a completed step is final');
END;

-- Labels once more, as rows to filter by; written with the run, gone with it.
CREATE TABLE durably_labels (
    run INTEGER NOT NULL REFERENCES durably_runs (run) ON DELETE CASCADE,
    key TEXT NOT NULL CHECK (key <> ''),
    value TEXT NOT NULL,
    PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX durably_labels_value ON durably_labels (key, value, run);

CREATE TRIGGER durably_labels_of_run AFTER INSERT ON durably_runs
WHEN NEW.labels <> '{}' BEGIN
    INSERT INTO durably_labels (run, key, value)
    SELECT NEW.run, key, value FROM json_each(NEW.labels);
END;

-- `owner` is the number of the engine that wrote the line, which may be gone.
CREATE TABLE durably_logs (
    log INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL REFERENCES durably_runs (run) ON DELETE CASCADE,
    owner INTEGER NOT NULL,
    level TEXT NOT NULL CHECK (level IN ('debug', 'info', 'warning', 'error')),
    message TEXT NOT NULL,
    data TEXT NOT NULL,
    step_name TEXT,
    created_at_us INTEGER NOT NULL
) STRICT;

CREATE INDEX durably_logs_run ON durably_logs (run, log);

-- For people who look into the file with another tool.
CREATE VIEW durably_runs_readable AS
SELECT run, id, job_name, status, attempt, owner, idempotency_key, concurrency_key,
       strftime('%Y-%m-%dT%H:%M:%fZ', created_at_us / 1e6, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', started_at_us / 1e6, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', completed_at_us / 1e6, 'unixepoch') AS completed_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', updated_at_us / 1e6, 'unixepoch') AS updated_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', heartbeat_at_us / 1e6, 'unixepoch') AS heartbeat_at,
       labels, progress, payload, output, error
FROM durably_runs;

CREATE VIEW durably_steps_readable AS
SELECT run, step & 0xFFFFFF AS step_index, name, status, attempt,
       strftime('%Y-%m-%dT%H:%M:%fZ', started_at_us / 1e6, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', completed_at_us / 1e6, 'unixepoch') AS completed_at,
       output, error
FROM durably_steps;
