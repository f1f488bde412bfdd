"""What must hold in a database file, as queries that find no row."""

from __future__ import annotations

from typing import Final

from durably.store import bounds

# The queries for unique values read the table and not its index, which may be damaged.
RULES: Final[dict[str, str]] = {
    # -- values that no query and no engine could read ---------------------------------------
    "a run contains text that is not UTF-8": """
        SELECT run, bad AS in_column FROM (SELECT run, undecodable(
            'id', CAST(id AS BLOB), 'job_name', CAST(job_name AS BLOB),
            'payload', CAST(payload AS BLOB), 'output', CAST(output AS BLOB),
            'error', CAST(error AS BLOB), 'progress', CAST(progress AS BLOB),
            'labels', CAST(labels AS BLOB), 'idempotency_key', CAST(idempotency_key AS BLOB),
            'concurrency_key', CAST(concurrency_key AS BLOB), 'status', CAST(status AS BLOB),
            'origin', CAST(origin AS BLOB), 'kind', CAST(kind AS BLOB),
            'waits_for', CAST(waits_for AS BLOB),
            'wait_name', CAST(wait_name AS BLOB), 'host', CAST(host AS BLOB),
            'forked_from', CAST(forked_from AS BLOB),
            'retry', CAST(retry AS BLOB),
            'unused_steps', CAST(unused_steps AS BLOB)) AS bad
            FROM durably_runs)
        WHERE bad IS NOT NULL""",
    "a step contains text that is not UTF-8": """
        SELECT run, step & 0xFFFFFF AS step_index, bad AS in_column FROM (
            SELECT run, step, undecodable(
                'name', CAST(name AS BLOB), 'output', CAST(output AS BLOB),
                'status', CAST(status AS BLOB),
                'error', CAST(error AS BLOB)) AS bad FROM durably_steps)
        WHERE bad IS NOT NULL""",
    "a map contains text that is not UTF-8": """
        SELECT run, map, bad AS in_column FROM (SELECT run, map, undecodable(
            'name', CAST(name AS BLOB), 'status', CAST(status AS BLOB),
            'error', CAST(error AS BLOB)) AS bad FROM durably_maps)
        WHERE bad IS NOT NULL""",
    "an item contains text that is not UTF-8": """
        SELECT item >> 30 AS map, item & 0x3FFFFFFF AS item_index, bad AS in_column FROM (
            SELECT item, undecodable(
                'key', CASE typeof(key) WHEN 'text' THEN CAST(key AS BLOB) END,
                'output', CAST(output AS BLOB), 'error', CAST(error AS BLOB)) AS bad
            FROM durably_items)
        WHERE bad IS NOT NULL""",
    "an attempt contains text that is not UTF-8": """
        SELECT run, fence, bad AS in_column FROM (SELECT run, fence, undecodable(
            'outcome', CAST(outcome AS BLOB), 'host', CAST(host AS BLOB),
            'error', CAST(error AS BLOB), 'last_step', CAST(last_step AS BLOB),
            'unused_steps', CAST(unused_steps AS BLOB)) AS bad
            FROM durably_attempts)
        WHERE bad IS NOT NULL""",
    "the name of a function contains text that is not UTF-8": """
        SELECT code, bad AS in_column FROM (SELECT code, undecodable(
            'name', CAST(name AS BLOB)) AS bad FROM durably_codes)
        WHERE bad IS NOT NULL""",
    "a call of a step contains text that is not UTF-8": """
        SELECT run, bad AS in_column FROM (SELECT run, undecodable(
            'name', CAST(name AS BLOB), 'notes', CAST(notes AS BLOB)) AS bad FROM durably_calls)
        WHERE bad IS NOT NULL""",
    "a wait contains text that is not UTF-8": """
        SELECT run, bad AS in_column FROM (SELECT run, undecodable(
            'name', CAST(name AS BLOB), 'kind', CAST(kind AS BLOB),
            'ticket', CAST(ticket AS BLOB), 'question', CAST(question AS BLOB),
            'returns', CAST(returns AS BLOB), 'answer', CAST(answer AS BLOB),
            'answer_id', CAST(answer_id AS BLOB)) AS bad FROM durably_waits)
        WHERE bad IS NOT NULL""",
    "a log line contains text that is not UTF-8": """
        SELECT run, log, bad AS in_column FROM (SELECT run, log, undecodable(
            'message', CAST(message AS BLOB), 'data', CAST(data AS BLOB),
            'level', CAST(level AS BLOB),
            'step_name', CAST(step_name AS BLOB)) AS bad FROM durably_logs)
        WHERE bad IS NOT NULL""",
    "a label contains text that is not UTF-8": """
        SELECT run, bad AS in_column FROM (SELECT run, undecodable(
            'key', CAST(key AS BLOB), 'value', CAST(value AS BLOB)) AS bad FROM durably_labels)
        WHERE bad IS NOT NULL""",
    "an owner contains text that is not UTF-8": """
        SELECT owner, bad AS in_column FROM (SELECT owner, undecodable(
            'token', CAST(token AS BLOB), 'boot_id', CAST(boot_id AS BLOB)) AS bad
            FROM durably_owners)
        WHERE bad IS NOT NULL""",
    "a number of a run is not within its bounds": f"""
        SELECT run FROM durably_runs
        WHERE {bounds.outside(bounds.RUN)} OR place <= run OR place > {bounds.MOST_RUNS}
           OR queue_place NOT IN (0, 1, 2, 3)""",
    "a number of a step is not within its bounds": f"""
        SELECT run, step & 0xFFFFFF AS step_index FROM durably_steps
        WHERE {bounds.outside(bounds.STEP)}""",
    "a number of a map is not within its bounds": f"""
        SELECT map, run FROM durably_maps
        WHERE {bounds.outside(bounds.MAP)} OR reused > done OR is_keyed NOT IN (0, 1)""",
    "a number of an item is not within its bounds": f"""
        SELECT item >> 30 AS map, item & 0x3FFFFFFF AS item_index FROM durably_items
        WHERE {bounds.outside(bounds.ITEM)}""",
    "a number of an attempt is not within its bounds": f"""
        SELECT run, fence FROM durably_attempts
        WHERE {bounds.outside(bounds.ATTEMPT)} OR fence NOT BETWEEN 0 AND {bounds.TRIES.most}""",
    "a number of a log line is not within its bounds": f"""
        SELECT log, run FROM durably_logs WHERE {bounds.outside(bounds.LOG)}""",
    "a number of an owner is not within its bounds": f"""
        SELECT owner FROM durably_owners
        WHERE {bounds.outside(bounds.OWNER)} OR is_started NOT IN (0, 1)""",
    "the numbers of a table are used up": f"""
        SELECT name AS table_name, seq FROM sqlite_sequence
        WHERE name IN ('durably_runs', 'durably_owners', 'durably_logs')
          AND (typeof(seq) <> 'integer' OR seq < 0 OR seq >= {bounds.MOST_RUNS})
        UNION ALL SELECT name, seq FROM sqlite_sequence
        WHERE name = 'durably_maps'
          AND (typeof(seq) <> 'integer' OR seq < 0 OR seq >= {bounds.MOST_MAPS})""",
    "the id of a run is not valid": """
        SELECT run FROM durably_runs
        WHERE length(CAST(id AS BLOB)) NOT BETWEEN 1 AND 64
           OR length(CAST(id AS BLOB)) <> length(id)
           OR id GLOB '*[^ -~]*'""",
    "a name or a key is empty": """
        SELECT run, 'run' AS of_a FROM durably_runs
        WHERE job_name = '' OR idempotency_key = '' OR concurrency_key = '' OR origin = ''
           OR wait_name = ''
        UNION ALL SELECT run, 'step' FROM durably_steps WHERE name = ''
        UNION ALL SELECT run, 'map' FROM durably_maps WHERE name = ''
        UNION ALL SELECT item >> 30, 'item' FROM durably_items WHERE key = ''
        UNION ALL SELECT run, 'label' FROM durably_labels WHERE key = ''""",
    "a run's progress does not say how far it is": """
        SELECT id FROM durably_runs WHERE progress IS NOT NULL AND NOT CASE
            WHEN json_valid(progress, 2) THEN coalesce(
                json_type(progress, '$.current') IN ('integer', 'real')
                AND json_type(progress, '$.total') IN ('integer', 'real', 'null')
                AND json_type(progress, '$.message') IN ('text', 'null')
                AND (SELECT count(*) FROM json_each(progress)) = 3, 0)
            ELSE 0 END""",
    "a label of a run is not text": """
        SELECT id FROM durably_runs WHERE labels <> '{}' AND CASE
            WHEN json_valid(labels) THEN EXISTS (
                SELECT 1 FROM json_each(labels) WHERE type <> 'text')
            ELSE 1 END""",
    "a log line is unlike any that durably writes": """
        SELECT log, run FROM durably_logs
        WHERE level NOT IN ('debug', 'info', 'warning', 'error')
           OR CASE WHEN json_valid(message, 2) THEN json_type(message) END IS NOT 'text'""",
    "a run contains a value that is not JSON": """
        SELECT id, job_name FROM durably_runs
        WHERE NOT json_valid(payload, 2) OR NOT json_valid(coalesce(output, 'null'), 2)
           OR NOT json_valid(coalesce(progress, 'null'), 2)
           OR NOT json_valid(coalesce(retry, 'null'))""",
    "a step's result is not JSON": """
        SELECT r.id, s.name FROM durably_steps s LEFT JOIN durably_runs r USING (run)
        WHERE NOT json_valid(coalesce(s.output, 'null'), 2)""",
    "an item's result is not JSON": """
        SELECT item >> 30 AS map, item & 0x3FFFFFFF AS item_index FROM durably_items
        WHERE NOT json_valid(coalesce(output, 'null'), 2)""",
    "an error of a map or an item does not say what it was": """
        SELECT map, item_index FROM (
            SELECT map, NULL AS item_index, error FROM durably_maps WHERE error IS NOT NULL
            UNION ALL SELECT item >> 30, item & 0x3FFFFFFF, error FROM durably_items
            WHERE error IS NOT NULL)
        WHERE NOT CASE
            WHEN json_valid(error) THEN coalesce(json_type(error, '$.type') = 'text'
                AND json_type(error, '$.message') = 'text'
                AND json_type(error, '$.traceback') = 'text', 0)
            ELSE 0 END""",
    "an error of a run does not say what it was": """
        SELECT id FROM durably_runs WHERE error IS NOT NULL AND NOT CASE
            WHEN json_valid(error) THEN coalesce(json_type(error, '$.type') = 'text'
                AND json_type(error, '$.message') = 'text'
                AND json_type(error, '$.traceback') = 'text', 0)
            ELSE 0 END""",
    "an error of an attempt does not say what it was": """
        SELECT run, fence FROM durably_attempts WHERE error IS NOT NULL AND NOT CASE
            WHEN json_valid(error) THEN coalesce(json_type(error, '$.type') = 'text'
                AND json_type(error, '$.message') = 'text'
                AND json_type(error, '$.traceback') = 'text', 0)
            ELSE 0 END""",
    "the unused steps of a run are not a list": """
        SELECT run, 'run' AS where_ FROM durably_runs
        WHERE CASE WHEN json_valid(unused_steps) THEN json_type(unused_steps) <> 'array'
                   ELSE unused_steps IS NOT NULL END
        UNION ALL SELECT run, 'attempt' FROM durably_attempts
        WHERE CASE WHEN json_valid(unused_steps) THEN json_type(unused_steps) <> 'array'
                   ELSE unused_steps IS NOT NULL END""",
    "an error of a step does not say what it was": """
        SELECT r.id, s.name FROM durably_steps s LEFT JOIN durably_runs r USING (run)
        WHERE s.error IS NOT NULL AND NOT CASE
            WHEN json_valid(s.error) THEN coalesce(json_type(s.error, '$.type') = 'text'
                AND json_type(s.error, '$.message') = 'text'
                AND json_type(s.error, '$.traceback') = 'text', 0)
            ELSE 0 END""",
    "the data of a log line are not a JSON object": """
        SELECT log, run FROM durably_logs
        WHERE CASE WHEN json_valid(data, 2) THEN json_type(data) END IS NOT 'object'""",
    "the token of an owner is not valid": """
        SELECT owner, token FROM durably_owners
        WHERE length(CAST(token AS BLOB)) <> 26 OR length(token) <> 26
           OR token GLOB '*[^0-9A-HJKMNP-TV-Z]*'""",
    # -- the state machine ---------------------------------------------------------------------
    "a run's status is unknown": """
        SELECT id, status FROM durably_runs
        WHERE status NOT IN
            ('pending', 'running', 'waiting', 'completed', 'failed', 'cancelled')""",
    "a running run has no owner": """
        SELECT id FROM durably_runs WHERE status = 'running' AND owner IS NULL""",
    "a running run has no heartbeat or was never claimed": """
        SELECT id, attempt FROM durably_runs
        WHERE status = 'running' AND (attempt < 1 OR heartbeat_at_us IS NULL)""",
    "a waiting or completed run has an owner": """
        SELECT id, owner FROM durably_runs
        WHERE status IN ('waiting', 'completed') AND owner IS NOT NULL""",
    "an owner of runs is not registered": """
        SELECT id, owner FROM durably_runs
        WHERE owner IS NOT NULL AND owner NOT IN (SELECT owner FROM durably_owners)""",
    "a run that has not ended has an end, or the other way round": """
        SELECT id, status FROM durably_runs
        WHERE (status IN ('completed', 'failed', 'cancelled')) <> (completed_at_us IS NOT NULL)""",
    "an output without completion, or the other way round": """
        SELECT id, status FROM durably_runs WHERE (status = 'completed') <> (output IS NOT NULL)""",
    "an error without failure, or the other way round": """
        SELECT id, status FROM durably_runs WHERE (status = 'failed') <> (error IS NOT NULL)""",
    "a start without an attempt, or the other way round": """
        SELECT id, attempt FROM durably_runs
        WHERE attempt < 0 OR (attempt = 0) <> (started_at_us IS NULL)
           OR (attempt = 0) <> (heartbeat_at_us IS NULL)
           OR (attempt = 0 AND (owner IS NOT NULL
                                OR status IN ('waiting', 'completed', 'failed')))""",
    "a run with an owner has no fence": """
        SELECT id, fence, attempt FROM durably_runs
        WHERE owner IS NOT NULL AND (fence < 1 OR fence < attempt)""",
    "a run waits and does not say for what, or the other way round": """
        SELECT id, status, waits_for FROM durably_runs
        WHERE (status = 'waiting') <> (waits_for IS NOT NULL) OR CASE waits_for
            WHEN 'time' THEN wait_name IS NULL OR run_at_us IS NULL OR waits_for_run IS NOT NULL
            WHEN 'answer' THEN wait_name IS NULL OR waits_for_run IS NOT NULL
            WHEN 'run' THEN waits_for_run IS NULL OR waits_for_run = run
            ELSE coalesce(waits_for, wait_name, waits_for_run) IS NOT NULL END""",
    "a run that is executed or has ended has a due time": """
        SELECT id, status FROM durably_runs
        WHERE run_at_us IS NOT NULL AND status NOT IN ('pending', 'waiting')""",
    "a run waits for one that has ended": """
        SELECT r.id, e.id AS waits_for FROM durably_runs r JOIN durably_runs e
          ON e.run = r.waits_for_run WHERE e.completed_at_us IS NOT NULL""",
    "a run keeps an attempt that it does not have, or that has gone on": """
        SELECT id, status, attempt FROM durably_runs
        WHERE keeps_attempt NOT IN (0, 1) OR (status = 'waiting' AND keeps_attempt <> 1)
           OR (keeps_attempt <> 0 AND (attempt < 1 OR status NOT IN ('pending', 'waiting')))""",
    "a run was triggered before its parent": """
        SELECT id, parent FROM durably_runs WHERE parent >= run""",
    # -- what may be there once ----------------------------------------------------------------
    "two owners share a lock": """
        SELECT token FROM durably_owners NOT INDEXED GROUP BY token HAVING count(*) > 1""",
    "two runs share an id": """
        SELECT id FROM durably_runs NOT INDEXED GROUP BY id HAVING count(*) > 1""",
    "an idempotency key leads to more than one run": """
        SELECT job_name, idempotency_key FROM durably_runs NOT INDEXED
        WHERE idempotency_key IS NOT NULL
        GROUP BY job_name, idempotency_key HAVING count(*) > 1""",
    "a concurrency key is held by more than one run": """
        SELECT concurrency_key, count(*) AS holders FROM durably_runs NOT INDEXED
        WHERE owner IS NOT NULL AND concurrency_key IS NOT NULL
        GROUP BY concurrency_key HAVING count(*) > 1""",
    "two steps of a run share a name": """
        SELECT run, name FROM durably_steps NOT INDEXED GROUP BY run, name HAVING count(*) > 1""",
    "a map and a step of a run share a name or a place": """
        SELECT m.run, m.name, s.name AS step FROM durably_maps m JOIN durably_steps s
          ON s.step = m.step OR (s.run = m.run AND s.name = m.name)""",
    "two maps of a run share a name or a place": """
        SELECT run, name FROM durably_maps NOT INDEXED GROUP BY run, name HAVING count(*) > 1
        UNION ALL SELECT run, min(name) FROM durably_maps NOT INDEXED
        GROUP BY step HAVING count(*) > 1""",
    "two items of a map share a key": """
        SELECT item >> 30 AS map, key FROM durably_items NOT INDEXED WHERE key IS NOT NULL
        GROUP BY item >> 30, key HAVING count(*) > 1""",
    # -- who executes it ----------------------------------------------------------------------
    "a run is of no known kind": """
        SELECT id, kind FROM durably_runs WHERE kind NOT IN ('job', 'session')""",
    "a session is in a line for workers, or another run is in none": """
        SELECT id, kind, queue_place, concurrency_key FROM durably_runs
        WHERE (kind = 'job') <> (queue_place <> 3)
           OR (kind <> 'job' AND concurrency_key IS NOT NULL)""",
    # -- the queues of concurrency keys --------------------------------------------------------
    # A run without a key is always claimable; one that is not pending, or not due, is in no queue.
    "a run without a key has a place in a queue": """
        SELECT id, queue_place FROM durably_runs
        WHERE concurrency_key IS NULL AND queue_place NOT IN (0, 3)""",
    "a queue has no first run, or more than one": """
        SELECT concurrency_key, job_name, origin, sum(queue_place <> 1) AS firsts FROM durably_runs
        WHERE status = 'pending' AND run_at_us IS NULL AND concurrency_key IS NOT NULL
        GROUP BY concurrency_key, job_name, origin HAVING sum(queue_place <> 1) <> 1""",
    "the first run of a queue is not the one whose turn it is": """
        SELECT r.id, r.concurrency_key FROM durably_runs r
        WHERE r.status = 'pending' AND r.run_at_us IS NULL AND r.concurrency_key IS NOT NULL
          AND r.queue_place <> 1
          AND EXISTS (SELECT 1 FROM durably_runs e
                      WHERE e.status = 'pending' AND e.run_at_us IS NULL
                        AND e.concurrency_key = r.concurrency_key
                        AND e.job_name = r.job_name AND e.origin IS r.origin
                        AND coalesce(e.place, e.run) < coalesce(r.place, r.run))""",
    "the first run of a queue does not know whether its key is held": """
        SELECT r.id, r.concurrency_key, r.queue_place FROM durably_runs r
        WHERE r.status = 'pending' AND r.run_at_us IS NULL AND r.concurrency_key IS NOT NULL
          AND r.queue_place <> 1
          AND (r.queue_place = 2) <> EXISTS (
              SELECT 1 FROM durably_runs h
              WHERE h.concurrency_key = r.concurrency_key AND h.owner IS NOT NULL)""",
    # A program does not claim runs that other code has begun, that is those with checkpoints.
    "a pending run without checkpoints belongs to some code": """
        SELECT id, origin FROM durably_runs r
        WHERE status = 'pending' AND origin IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM durably_steps s WHERE s.run = r.run AND s.status = 'completed')
          AND NOT EXISTS (SELECT 1 FROM durably_maps m WHERE m.run = r.run)""",
    # -- steps, labels and log lines -----------------------------------------------------------
    "a step has no run": """
        SELECT run, name FROM durably_steps WHERE run NOT IN (SELECT run FROM durably_runs)""",
    "a step is at another run's place": """
        SELECT run, name, step >> 24 AS at_the_place_of FROM durably_steps
        WHERE step >> 24 <> run""",
    "a step's result, error and status do not fit": """
        SELECT r.id, s.name, s.status FROM durably_steps s LEFT JOIN durably_runs r USING (run)
        WHERE s.status NOT IN ('completed', 'failed', 'cancelled', 'forgotten')
           OR s.is_manual NOT IN (0, 1) OR (s.is_manual AND s.status <> 'completed')
           OR (s.status = 'completed') <> (s.output IS NOT NULL)
           OR (s.status = 'failed') <> (s.error IS NOT NULL)""",
    "a step was stored by an attempt that its run never had": """
        SELECT r.id, s.name, s.attempt, r.attempt AS attempt_of_the_run
        FROM durably_steps s JOIN durably_runs r USING (run)
        WHERE s.attempt < 1 OR (s.attempt > r.attempt AND r.forked_from IS NULL)""",
    "a result is of an execution that its run never had": """
        SELECT s.run, s.step & 0xFFFFFF AS step_index
        FROM durably_steps s JOIN durably_runs r USING (run)
        WHERE s.layer >> 24 > max(r.fence, r.attempt) + 1
           OR (s.layer >> 24 <> s.fence AND s.is_manual = 0)
        UNION ALL
        SELECT m.run, m.step & 0xFFFFFF FROM durably_maps m JOIN durably_runs r USING (run)
        WHERE m.layer >> 24 > max(r.fence, r.attempt) + 1 OR m.old_layer > m.layer
        UNION ALL
        SELECT m.run, m.step & 0xFFFFFF
        FROM durably_items i JOIN durably_maps m ON m.map = i.item >> 30
        WHERE i.layer > coalesce(m.layer, -1)""",
    "a call of a step has no run, or notes that are no array": """
        SELECT run, name FROM durably_calls
        WHERE run NOT IN (SELECT run FROM durably_runs) OR calls < 0
           OR NOT CASE WHEN json_valid(notes) THEN json_type(notes) = 'array' ELSE 0 END""",
    "a wait has no run": """
        SELECT run, name FROM durably_waits WHERE run NOT IN (SELECT run FROM durably_runs)""",
    "a run waits for an answer that it has": """
        SELECT r.id, w.name FROM durably_runs r JOIN durably_waits w
          ON w.run = r.run AND w.name = r.wait_name
        WHERE r.waits_for = 'answer' AND w.answer IS NOT NULL""",
    "a map has no run": """
        SELECT run, name FROM durably_maps WHERE run NOT IN (SELECT run FROM durably_runs)""",
    "a map is at another run's place": """
        SELECT run, name, step >> 24 AS at_the_place_of FROM durably_maps
        WHERE step >> 24 <> run""",
    "a map's error, end and status do not fit": """
        SELECT run, name, status FROM durably_maps
        WHERE (status IS NULL) <> (completed_at_us IS NULL)
           OR (status IS 'failed') <> (error IS NOT NULL)
           OR coalesce(status, 'completed') NOT IN ('completed', 'failed', 'cancelled')""",
    "a map was stored by an attempt that its run never had": """
        SELECT r.id, m.name, m.attempt, r.attempt AS attempt_of_the_run
        FROM durably_maps m JOIN durably_runs r USING (run)
        WHERE m.attempt < 1 OR (m.attempt > r.attempt AND r.forked_from IS NULL)""",
    "the outcome of an attempt is unknown, or its error does not fit": """
        SELECT run, fence, outcome FROM durably_attempts
        WHERE outcome NOT IN ('completed', 'failed', 'cancelled', 'interrupted', 'suspended',
                              'died', 'hung')
           OR (outcome = 'failed') <> (error IS NOT NULL)""",
    "an attempt is of no run, or its run never had it": """
        SELECT a.run, a.fence, a.attempt, r.attempt AS attempt_of_the_run
        FROM durably_attempts a LEFT JOIN durably_runs r ON r.run = a.run
        WHERE r.run IS NULL OR a.attempt > r.attempt OR a.fence > r.fence""",
    "an item has no map": """
        SELECT item >> 30 AS map, item & 0x3FFFFFFF AS item_index FROM durably_items
        WHERE item >> 30 NOT IN (SELECT map FROM durably_maps)""",
    "an item has a result and an error, or neither": """
        SELECT item >> 30 AS map, item & 0x3FFFFFFF AS item_index FROM durably_items
        WHERE (output IS NULL) = (error IS NULL) OR is_manual NOT IN (0, output IS NOT NULL)
           OR is_held NOT IN (0, error IS NOT NULL)""",
    "a key is not text or a number, or is missing": """
        SELECT item >> 30 AS map, item & 0x3FFFFFFF AS item_index FROM durably_items
        WHERE typeof(key) NOT IN ('null', 'integer', 'text')
        UNION ALL
        SELECT m.map, i.item & 0x3FFFFFFF FROM durably_maps m JOIN durably_items i
          ON i.item >= (m.map << 30) AND i.item < ((m.map + 1) << 30)
        WHERE m.is_keyed = 0 AND i.key IS NOT NULL""",
    "labels and label rows do not agree": """
        SELECT id FROM (
            SELECT run, id, CASE WHEN json_valid(labels) THEN labels ELSE '[]' END AS labels
            FROM durably_runs) r
        WHERE json_type(r.labels) <> 'object'
           OR (SELECT count(*) FROM json_each(r.labels))
              <> (SELECT count(*) FROM durably_labels l WHERE l.run = r.run)
           OR EXISTS (SELECT 1 FROM json_each(r.labels) e WHERE NOT EXISTS (
                  SELECT 1 FROM durably_labels l
                  WHERE l.run = r.run AND l.key = e.key AND l.value = e.value))""",
    "a label has no run": """
        SELECT run, key FROM durably_labels WHERE run NOT IN (SELECT run FROM durably_runs)""",
    "a log line has no run": """
        SELECT log, run FROM durably_logs WHERE run NOT IN (SELECT run FROM durably_runs)""",
}
