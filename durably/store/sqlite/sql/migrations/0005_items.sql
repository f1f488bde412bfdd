-- Maps, and the items of each: a million of them are rows of their own and not steps.
--
-- A map is one step of its run, at a place among the steps that no row of durably_steps has; `step`
-- is that number. Its row is stored with its first items. `status` is how it ended last, NULL until
-- then; the four counts are those of its newest execution.
CREATE TABLE durably_maps (
    map INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL REFERENCES durably_runs (run) ON DELETE CASCADE,
    step INTEGER NOT NULL UNIQUE,
    name TEXT NOT NULL CHECK (name <> ''),
    is_keyed INTEGER NOT NULL CHECK (is_keyed IN (0, 1)),
    status TEXT CHECK (status IN ('completed', 'failed', 'cancelled')),
    error TEXT,
    attempt INTEGER NOT NULL CHECK (attempt BETWEEN 1 AND 2147483647),
    started_at_us INTEGER NOT NULL,
    completed_at_us INTEGER,
    done INTEGER NOT NULL CHECK (done BETWEEN 0 AND 1073741824),
    failed INTEGER NOT NULL CHECK (failed BETWEEN 0 AND 1073741824),
    reused INTEGER NOT NULL CHECK (reused BETWEEN 0 AND done),
    total INTEGER CHECK (total >= 0),
    UNIQUE (run, name),
    CHECK (map BETWEEN 1 AND 8589934591),
    CHECK (step >> 24 = run),
    CHECK (started_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (completed_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK ((status IS NULL) = (completed_at_us IS NULL)),
    CHECK ((status IS 'failed') = (error IS NOT NULL))
) STRICT;

-- `item` is map << 30 | index: the items of a map lie together, in order, and are found by their
-- index. `key` is NULL in a map without keys, whose items are told apart by their index, and
-- `hash` is of the item itself, if it is JSON-like. An item has an output or an error.
CREATE TABLE durably_items (
    item INTEGER PRIMARY KEY,
    key ANY CHECK (typeof(key) IN ('null', 'integer', 'text') AND key IS NOT ''),
    output TEXT,
    error TEXT,
    attempts INTEGER NOT NULL CHECK (attempts BETWEEN 1 AND 2147483647),
    hash INTEGER,
    started_at_us INTEGER NOT NULL,
    completed_at_us INTEGER NOT NULL,
    CHECK (item >> 30 BETWEEN 1 AND 8589934591),
    CHECK ((output IS NULL) <> (error IS NULL)),
    CHECK (started_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (completed_at_us BETWEEN -62135596800000000 AND 253402300799999999)
) STRICT;

CREATE UNIQUE INDEX durably_items_key ON durably_items (item >> 30, key) WHERE key IS NOT NULL;

CREATE INDEX durably_items_failed ON durably_items (item) WHERE error IS NOT NULL;

CREATE TRIGGER durably_completed_item_is_final BEFORE UPDATE ON durably_items
WHEN OLD.output IS NOT NULL BEGIN
    SELECT RAISE(ABORT, 'a completed item is final');
END;

CREATE TRIGGER durably_items_of_map AFTER DELETE ON durably_maps BEGIN
    DELETE FROM durably_items WHERE item >= (OLD.map << 30) AND item < ((OLD.map + 1) << 30);
END;

CREATE VIEW durably_items_readable AS
SELECT m.run, m.name AS map, i.item & 0x3FFFFFFF AS item_index,
       coalesce(i.key, i.item & 0x3FFFFFFF) AS key,
       CASE WHEN i.error IS NULL THEN 'completed' ELSE 'failed' END AS status, i.attempts,
       strftime('%Y-%m-%dT%H:%M:%fZ', i.started_at_us / 1e6, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', i.completed_at_us / 1e6, 'unixepoch') AS completed_at,
       i.output, i.error
FROM durably_maps m JOIN durably_items i ON i.item >= (m.map << 30) AND i.item < ((m.map + 1) << 30);
