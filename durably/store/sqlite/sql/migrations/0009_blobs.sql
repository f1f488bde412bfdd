-- What is too large for a row is a file beside the database, named by the hash of its content.
--
-- A row for each run that refers to a file, stored in the transaction that stores the reference;
-- `part` is 'step' for what goes with the steps of the run. The file is written and synced before.
CREATE TABLE durably_blobs (
    run INTEGER NOT NULL REFERENCES durably_runs (run) ON DELETE CASCADE,
    hash TEXT NOT NULL CHECK (length(hash) = 64),
    part TEXT NOT NULL CHECK (part IN ('run', 'step')),
    size INTEGER NOT NULL CHECK (size >= 0),
    PRIMARY KEY (run, hash, part)
) STRICT, WITHOUT ROWID;

CREATE INDEX durably_blobs_hash ON durably_blobs (hash);

-- The files to which the last reference was deleted, until they are removed.
CREATE TABLE durably_dropped_blobs (
    hash TEXT PRIMARY KEY NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TRIGGER durably_blob_is_dropped AFTER DELETE ON durably_blobs
WHEN NOT EXISTS (SELECT 1 FROM durably_blobs WHERE hash = OLD.hash) BEGIN
    INSERT INTO durably_dropped_blobs (hash) VALUES (OLD.hash) ON CONFLICT DO NOTHING;
END;
