-- What each execution of a run did, and how often the functions of steps were called.
--
-- `steps_completed` and `steps_reused` count the steps that an execution has executed, and those
-- that returned from their checkpoints; NULL where nobody knows. `last_step` is the last step that an
-- execution has begun whose process has died or hung.
--
-- `attempts` of a step counts the calls of its function that have ended, and `fence` is that of the
-- execution that has stored it; both are NULL in rows of an earlier version. Most steps are called
-- once and need no more. `durably_calls` has the others: `calls` that were begun in an execution and
-- have no end, because the process died or the run stopped, and `notes`, a JSON array with what the
-- calls have noted of themselves, in order.
--
-- As in version 2 no table is copied: the new columns are NULL in the rows that are there.

DROP TRIGGER durably_attempt_ends;

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(sql, '
    CHECK (redos BETWEEN', '
    steps_completed INTEGER CHECK (steps_completed BETWEEN 0 AND 16777216),
    steps_reused INTEGER CHECK (steps_reused BETWEEN 0 AND 16777216),
    CHECK (redos BETWEEN')
WHERE type = 'table' AND name = 'durably_runs';

UPDATE sqlite_schema SET sql = replace(sql, '
    PRIMARY KEY (run, fence),', '
    steps_completed INTEGER CHECK (steps_completed BETWEEN 0 AND 16777216),
    steps_reused INTEGER CHECK (steps_reused BETWEEN 0 AND 16777216),
    last_step TEXT CHECK (last_step <> ''''),
    PRIMARY KEY (run, fence),')
WHERE type = 'table' AND name = 'durably_attempts';

UPDATE sqlite_schema SET sql = replace(sql, '
    UNIQUE (run, name),', '
    attempts INTEGER CHECK (attempts BETWEEN 0 AND 2147483647),
    fence INTEGER CHECK (fence BETWEEN 0 AND 2147483647),
    UNIQUE (run, name),')
WHERE type = 'table' AND name IN ('durably_steps', 'durably_maps');

-- The views of those names may be the user's.
UPDATE sqlite_schema SET sql = replace(replace(sql, '
       s.output, s.error
FROM', '
       s.output, s.error,
       coalesce(s.attempts, 1) + coalesce((
           SELECT sum(c.calls) FROM durably_calls c WHERE c.run = s.run AND c.name = s.name), 0)
           AS attempts,
       (SELECT json_group_array(json(n.value)) FROM durably_calls c, json_each(c.notes) n
        WHERE c.run = s.run AND c.name = s.name) AS notes
FROM'), '
       NULL, m.error
FROM', '
       NULL, m.error,
       coalesce(m.attempts, 1) + coalesce((
           SELECT sum(c.calls) FROM durably_calls c WHERE c.run = m.run AND c.name = m.name), 0),
       ''[]''
FROM')
WHERE type = 'view' AND name = 'steps';

UPDATE sqlite_schema SET sql = replace(replace(sql, '
       a.error
FROM', '
       a.error, a.steps_completed, a.steps_reused
FROM'), '
       r.error
FROM', '
       r.error, r.steps_completed, r.steps_reused
FROM')
WHERE type = 'view' AND name = 'attempts';

PRAGMA writable_schema = RESET;

CREATE TABLE durably_calls (
    run INTEGER NOT NULL REFERENCES durably_runs (run) ON DELETE CASCADE,
    name TEXT NOT NULL CHECK (name <> ''),
    fence INTEGER NOT NULL CHECK (fence BETWEEN 0 AND 2147483647),
    place INTEGER NOT NULL CHECK (place BETWEEN 0 AND 2147483647),
    calls INTEGER NOT NULL CHECK (calls BETWEEN 0 AND 2147483647),
    notes TEXT NOT NULL DEFAULT '[]'
        CHECK (CASE WHEN json_valid(notes) THEN json_type(notes) = 'array' ELSE 0 END),
    PRIMARY KEY (run, name, fence, place)
) STRICT, WITHOUT ROWID;

-- A run that was cancelled before it could go on has its execution there already.
CREATE TRIGGER durably_attempt_ends AFTER UPDATE OF status ON durably_runs
WHEN NEW.status IN ('pending', 'waiting') AND OLD.status NOT IN ('pending', 'waiting')
 AND OLD.attempt > 0 BEGIN
    INSERT OR IGNORE INTO durably_attempts
        (run, fence, attempt, outcome, host, pid, started_at_us, ended_at_us, error,
         steps_completed, steps_reused)
    VALUES (
        OLD.run, OLD.fence, OLD.attempt,
        CASE WHEN OLD.status <> 'running' THEN OLD.status
             WHEN NEW.status = 'waiting' THEN 'suspended' ELSE 'interrupted' END,
        OLD.host, OLD.pid,
        coalesce(OLD.claimed_at_us, CASE OLD.attempt WHEN 1 THEN OLD.started_at_us END),
        coalesce(OLD.completed_at_us, NEW.updated_at_us),
        OLD.error, NEW.steps_completed, NEW.steps_reused);
END;
