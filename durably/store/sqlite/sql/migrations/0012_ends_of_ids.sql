-- The last characters of the ids, as lists show them and people name runs. One process counts its
-- ids up, so that its new entries lie side by side. An id never changes, so only a new run and a
-- deleted one cost an entry.
CREATE INDEX durably_runs_end ON durably_runs (substr(id, -8));
