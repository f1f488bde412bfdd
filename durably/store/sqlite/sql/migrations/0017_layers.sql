-- Results that are replaced because what has made them has changed (`on_change="redo"`).
--
-- `layer` says when a result was stored, in an order that no clock decides: the fence of the
-- execution, shifted by 24 bits, and a number that rises within it. It is NULL in rows that were not
-- stored under `on_change="redo"`, and `fence` says the same of these. A result is out of date if one
-- that comes before it in the run has a higher layer. `old_layer` of a map is that of its items
-- without one. `inputs` is a hash of what a result was made of beside the code: of a step its
-- arguments and its `depends_on`, of an item its map's `depends_on`. `items` is a hash of which items a
-- map had when it completed: with others what comes after it is out of date. NULL stands for unknown.
--
-- As in version 2 no table is copied: the columns hold their defaults in the rows that are there.

DROP TRIGGER durably_completed_step_is_final;
DROP TRIGGER durably_completed_item_is_final;

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(sql, '
    UNIQUE (run, name),', '
    layer INTEGER,
    inputs INTEGER,
    UNIQUE (run, name),
    CHECK (layer IS NULL OR (layer >= 0 AND status = ''completed'')),
    CHECK (inputs IS NULL OR status = ''completed''),')
WHERE type = 'table' AND name = 'durably_steps';

UPDATE sqlite_schema SET sql = replace(sql, '
    UNIQUE (run, name),', '
    layer INTEGER CHECK (layer >= 0),
    old_layer INTEGER CHECK (old_layer >= 0),
    items INTEGER,
    UNIQUE (run, name),')
WHERE type = 'table' AND name = 'durably_maps';

UPDATE sqlite_schema SET sql = replace(sql, '
    CHECK (is_manual = 0 OR output IS NOT NULL),', '
    layer INTEGER CHECK (layer >= 0),
    inputs INTEGER,
    CHECK (is_manual = 0 OR output IS NOT NULL),')
WHERE type = 'table' AND name = 'durably_items';

PRAGMA writable_schema = RESET;

-- A result is forgotten or set by hand only while nothing executes its run. The execution that is
-- current replaces one by the result of a later layer, and keeps those that were set by hand. The
-- hashes of what it was made of are no part of a result: they may be stored when first asked for.
CREATE TRIGGER durably_completed_step_is_final
BEFORE UPDATE OF step, run, name, status, output, error, attempt, started_at_us, completed_at_us,
                 attempts, fence, is_manual, code, outer, layer ON durably_steps
WHEN OLD.status = 'completed'
 AND (NEW.step <> OLD.step OR NEW.run <> OLD.run OR NEW.name <> OLD.name
      OR CASE WHEN NEW.status = 'forgotten' OR NEW.is_manual = 1 THEN
           EXISTS (SELECT 1 FROM durably_runs
                   WHERE run = OLD.run AND (status = 'running' OR owner IS NOT NULL))
         ELSE
           NEW.status <> 'completed' OR OLD.is_manual = 1
           OR coalesce(NEW.layer, 0) <= coalesce(OLD.layer, OLD.fence << 24, 0)
           OR NOT EXISTS (SELECT 1 FROM durably_runs
                          WHERE run = OLD.run AND status = 'running'
                            AND fence = NEW.fence AND fence = NEW.layer >> 24)
         END) BEGIN
    SELECT RAISE(ABORT, 'a completed step is final');
END;

CREATE TRIGGER durably_completed_item_is_final
BEFORE UPDATE OF item, key, output, error, attempts, started_at_us, completed_at_us, is_manual,
                 is_held, code, layer ON durably_items
WHEN OLD.output IS NOT NULL
 AND (NEW.item <> OLD.item OR NEW.key IS NOT OLD.key
      OR CASE WHEN NEW.is_manual = 1 THEN
           EXISTS (SELECT 1 FROM durably_maps m JOIN durably_runs r ON r.run = m.run
                   WHERE m.map = OLD.item >> 30 AND (r.status = 'running' OR r.owner IS NOT NULL))
         ELSE
           NEW.output IS NULL OR OLD.is_manual = 1
           OR coalesce(NEW.layer, 0) <= coalesce(OLD.layer, 0)
           OR NOT EXISTS (SELECT 1 FROM durably_maps m JOIN durably_runs r ON r.run = m.run
                          WHERE m.map = OLD.item >> 30 AND r.status = 'running'
                            AND r.fence = m.fence AND r.fence = NEW.layer >> 24)
         END) BEGIN
    SELECT RAISE(ABORT, 'a completed item is final');
END;
