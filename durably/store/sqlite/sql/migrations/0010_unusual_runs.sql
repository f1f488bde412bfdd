-- The runs that a person looks for: those that failed, were cancelled, or wait. Among a million that
-- completed they are few. A run that just completes is never in this index.
CREATE INDEX durably_runs_unusual
    ON durably_runs (status) WHERE status IN ('failed', 'cancelled', 'waiting');

-- Sessions that are not open now: a pending one is in no index that a claim reads.
CREATE INDEX durably_runs_pending_sessions
    ON durably_runs (run) WHERE kind = 'session' AND status = 'pending';
