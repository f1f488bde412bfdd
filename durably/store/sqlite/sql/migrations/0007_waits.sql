-- What runs wait for in their steps: instants, polls, and answers of people or other programs.
--
-- The first call of a wait stores its row, and with it the instant at which it ends at the latest.
-- The result is the checkpoint of the step. `next_us` is when a poll checks again, `tries` how often
-- it has. An answer may come before its question: `asked_at_us` is NULL until then. A wait that is
-- over without an answer has `closed_at_us`, so that a late answer cannot take effect; who waits and
-- who answers see the same in the order of their transactions.
CREATE TABLE durably_waits (
    run INTEGER NOT NULL REFERENCES durably_runs (run) ON DELETE CASCADE,
    name TEXT NOT NULL CHECK (name <> ''),
    kind TEXT NOT NULL CHECK (kind IN ('time', 'poll', 'answer')),
    until_us INTEGER,
    created_at_us INTEGER NOT NULL,
    asked_at_us INTEGER,
    tries INTEGER NOT NULL DEFAULT 0,
    next_us INTEGER,
    ticket TEXT CHECK (length(CAST(ticket AS BLOB)) BETWEEN 1 AND 64),
    question TEXT,
    returns TEXT,
    answer TEXT,
    answer_id TEXT,
    answered_at_us INTEGER,
    closed_at_us INTEGER,
    PRIMARY KEY (run, name),
    CHECK (until_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (created_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (asked_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (next_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (answered_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (closed_at_us BETWEEN -62135596800000000 AND 253402300799999999),
    CHECK (tries BETWEEN 0 AND 2147483647),
    CHECK (kind = 'answer' OR (answer IS NULL AND ticket IS NULL AND asked_at_us IS NOT NULL)),
    CHECK ((answer IS NULL) = (answered_at_us IS NULL)),
    CHECK (answer_id IS NULL OR answer IS NOT NULL),
    CHECK (asked_at_us IS NOT NULL OR answer IS NOT NULL),
    CHECK (answer IS NULL OR closed_at_us IS NULL)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX durably_waits_ticket ON durably_waits (ticket) WHERE ticket IS NOT NULL;

-- The open questions.
CREATE INDEX durably_waits_open ON durably_waits (created_at_us)
    WHERE kind = 'answer' AND answer IS NULL AND closed_at_us IS NULL;

-- An answer wakes the run that waits for it.
CREATE TRIGGER durably_answer_comes AFTER UPDATE OF answer ON durably_waits
WHEN NEW.answer IS NOT NULL BEGIN
    UPDATE durably_runs
    SET status = 'pending', waits_for = NULL, wait_name = NULL, waits_for_run = NULL,
        run_at_us = NULL, updated_at_us = NEW.answered_at_us
    WHERE run = NEW.run AND status = 'waiting' AND waits_for = 'answer' AND wait_name = NEW.name;
END;

-- An answer that has come while the run was being suspended, or before.
CREATE TRIGGER durably_waits_for_an_answer AFTER UPDATE OF waits_for ON durably_runs
WHEN NEW.waits_for = 'answer'
 AND EXISTS (SELECT 1 FROM durably_waits
             WHERE run = NEW.run AND name = NEW.wait_name AND answer IS NOT NULL) BEGIN
    UPDATE durably_runs
    SET status = 'pending', waits_for = NULL, wait_name = NULL, waits_for_run = NULL,
        run_at_us = NULL
    WHERE run = NEW.run;
END;
