-- Which code has made what is stored.
--
-- `code` is the fingerprint of a function: of the job's at the newest claim of a run, of the one that
-- has made the result of a step. Of a map it is that of the function whose items were stored first,
-- and an item has one of its own only if another function has made it. It is NULL where nothing is
-- known, as of all that an earlier version has stored. An item that a person has set has 0.
--
-- `outer` is the index of the step or the map inside of which a step was executed. `unused_steps` is
-- a JSON array of the names of stored steps that an execution did not use which has completed the run;
-- in the row of a run it means something only while the run is completed.
-- `code_changed` says that an execution has used a result of other code.
--
-- As in version 2 no table is copied: the columns hold their defaults in the rows that are there.

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(sql, '
    CHECK (redos BETWEEN', '
    code INTEGER,
    code_changed INTEGER NOT NULL DEFAULT 0 CHECK (code_changed IN (0, 1)),
    unused_steps TEXT,
    CHECK (redos BETWEEN')
WHERE type = 'table' AND name = 'durably_runs';

UPDATE sqlite_schema SET sql = replace(sql, '
    PRIMARY KEY (run, fence),', '
    code INTEGER,
    unused_steps TEXT,
    PRIMARY KEY (run, fence),
    CHECK (unused_steps IS NULL OR outcome = ''completed''),')
WHERE type = 'table' AND name = 'durably_attempts';

UPDATE sqlite_schema SET sql = replace(sql, '
    UNIQUE (run, name),', '
    code INTEGER,
    outer INTEGER CHECK (outer BETWEEN 0 AND 16777215),
    UNIQUE (run, name),')
WHERE type = 'table' AND name IN ('durably_steps', 'durably_maps');

UPDATE sqlite_schema SET sql = replace(sql, '
    is_held INTEGER NOT NULL DEFAULT 0 CHECK (is_held IN (0, 1)),', '
    is_held INTEGER NOT NULL DEFAULT 0 CHECK (is_held IN (0, 1)),
    code INTEGER,')
WHERE type = 'table' AND name = 'durably_items';

UPDATE sqlite_schema SET sql = replace(replace(sql, '
         steps_completed, steps_reused)', '
         steps_completed, steps_reused, code, unused_steps)'), '
        OLD.error, NEW.steps_completed, NEW.steps_reused);', '
        OLD.error, NEW.steps_completed, NEW.steps_reused, OLD.code,
        CASE OLD.status WHEN ''completed'' THEN OLD.unused_steps END);')
WHERE type = 'trigger' AND name = 'durably_attempt_ends';

PRAGMA writable_schema = RESET;

CREATE INDEX durably_items_of_other_code ON durably_items (item) WHERE code IS NOT NULL;

-- The names of the functions with a fingerprint, to find a function whose results are stored. It has
-- a row for each version of a function that anything was stored of, and none is ever removed.
CREATE TABLE durably_codes (
    code INTEGER NOT NULL,
    name TEXT NOT NULL CHECK (name <> ''),
    PRIMARY KEY (code, name)
) STRICT, WITHOUT ROWID;
