-- The runs that a person looks for: those that failed, were cancelled, or wait. Among a million that
-- completed they are few. A run that just completes is never in this index.
CREATE INDEX durably_runs_unusual
    ON durably_runs (status) WHERE status IN ('failed', 'cancelled', 'waiting');
