-- What a person does to a run that is not being executed: forget results, set them, or go on from
-- them in another run.
--
-- `redos` counts how often a run was put back by hand to execute something again. `forked_from` is the
-- id of the run whose results a run began with; that one may be deleted since.
--
-- A step that is forgotten keeps its row, and with it its index, until it is executed again. Nothing
-- else is known of it. `is_manual` says that a person has set a result. An item with `is_held` has
-- failed, and is not tried again before the next retry.
--
-- As in version 2 no table is copied: the new columns hold their defaults in the rows that are there.

DROP TRIGGER durably_end_is_final;
DROP TRIGGER durably_completed_step_is_final;
DROP TRIGGER durably_completed_item_is_final;
DROP VIEW durably_steps_readable;

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(sql, '
    CHECK (claimed_at_us BETWEEN', '
    redos INTEGER NOT NULL DEFAULT 0,
    forked_from TEXT,
    CHECK (redos BETWEEN 0 AND 2147483647),
    CHECK (length(CAST(forked_from AS BLOB)) BETWEEN 1 AND 64
           AND length(CAST(forked_from AS BLOB)) = length(forked_from)
           AND forked_from NOT GLOB ''*[^ -~]*''),
    CHECK (claimed_at_us BETWEEN')
WHERE type = 'table' AND name = 'durably_runs';

UPDATE sqlite_schema SET sql = replace(replace(sql, '
    status TEXT NOT NULL CHECK (status IN (''completed'', ''failed'', ''cancelled'')),', '
    status TEXT NOT NULL
        CHECK (status IN (''completed'', ''failed'', ''cancelled'', ''forgotten'')),'), '
    UNIQUE (run, name),', '
    is_manual INTEGER NOT NULL DEFAULT 0 CHECK (is_manual IN (0, 1)),
    UNIQUE (run, name),
    CHECK (is_manual = 0 OR status = ''completed''),')
WHERE type = 'table' AND name = 'durably_steps';

UPDATE sqlite_schema SET sql = replace(sql, '
    CHECK (item >> 30 BETWEEN', '
    is_manual INTEGER NOT NULL DEFAULT 0 CHECK (is_manual IN (0, 1)),
    is_held INTEGER NOT NULL DEFAULT 0 CHECK (is_held IN (0, 1)),
    CHECK (is_manual = 0 OR output IS NOT NULL),
    CHECK (is_held = 0 OR error IS NOT NULL),
    CHECK (item >> 30 BETWEEN')
WHERE type = 'table' AND name = 'durably_items';

-- The view of that name may be the user's.
UPDATE sqlite_schema SET sql = replace(sql, '
FROM durably_runs r JOIN durably_steps s ON s.run = r.run
UNION ALL', '
FROM durably_runs r JOIN durably_steps s ON s.run = r.run
WHERE s.status <> ''forgotten''
UNION ALL')
WHERE type = 'view' AND name = 'steps';

PRAGMA writable_schema = RESET;

CREATE VIEW durably_steps_readable AS
SELECT run, step & 0xFFFFFF AS step_index, name, status, attempt,
       strftime('%Y-%m-%dT%H:%M:%fZ', started_at_us / 1e6, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', completed_at_us / 1e6, 'unixepoch') AS completed_at,
       output, error
FROM durably_steps WHERE status <> 'forgotten';

-- A run that has completed goes on only if it gets more to do, or a person wants something executed
-- again; a session is opened again.
CREATE TRIGGER durably_end_is_final BEFORE UPDATE OF status ON durably_runs
WHEN (OLD.status = 'completed' AND NEW.status <> 'completed'
      AND (NEW.status <> 'pending' OR (OLD.kind <> 'session' AND NEW.payload = OLD.payload
                                       AND NEW.redos = OLD.redos)))
  OR (OLD.status IN ('failed', 'cancelled') AND NEW.status NOT IN (OLD.status, 'pending')) BEGIN
    SELECT RAISE(ABORT, 'a run that has ended changes only by retry');
END;

CREATE TRIGGER durably_redo_is_of_an_idle_run BEFORE UPDATE OF redos ON durably_runs
WHEN NEW.redos <> OLD.redos
 AND (NEW.redos <> OLD.redos + 1 OR NEW.status <> 'pending' OR OLD.owner IS NOT NULL) BEGIN
    SELECT RAISE(ABORT, 'only a run that is not executed is put back by hand');
END;

-- A result is forgotten or set by hand only while nothing executes its run.
CREATE TRIGGER durably_completed_step_is_final BEFORE UPDATE ON durably_steps
WHEN OLD.status = 'completed'
 AND (NEW.step <> OLD.step OR NEW.run <> OLD.run OR NEW.name <> OLD.name
      OR (NEW.status <> 'forgotten' AND NEW.is_manual = 0)
      OR EXISTS (SELECT 1 FROM durably_runs
                 WHERE run = OLD.run AND (status = 'running' OR owner IS NOT NULL))) BEGIN
    SELECT RAISE(ABORT, 'a completed step is final');
END;

CREATE TRIGGER durably_completed_item_is_final BEFORE UPDATE ON durably_items
WHEN OLD.output IS NOT NULL
 AND (NEW.item <> OLD.item OR NEW.key IS NOT OLD.key OR NEW.is_manual = 0
      OR EXISTS (SELECT 1 FROM durably_maps m JOIN durably_runs r ON r.run = m.run
                 WHERE m.map = OLD.item >> 30 AND (r.status = 'running' OR r.owner IS NOT NULL)))
BEGIN
    SELECT RAISE(ABORT, 'a completed item is final');
END;

-- A map may take the place of a step without a result.
CREATE TRIGGER durably_map_takes_its_place AFTER INSERT ON durably_maps BEGIN
    DELETE FROM durably_steps WHERE run = NEW.run AND name = NEW.name AND status <> 'completed';
END;
