"""Claims: how an owner comes to execute runs."""

import os
from typing import Any, Final

import apsw

from durably._platform.host import host_name
from durably.store import defects
from durably.store.rows import Claim, RunKey, RunRow
from durably.store.sqlite.sql import queries, unsound

_CLAIM: Final = f"""
    UPDATE durably_runs
    SET {queries.CLAIMED}, origin = coalesce({queries.ORIGIN_OF.format(job="job_name")}, origin),
        code = {queries.CODE_OF.format(job="job_name")}"""

CLAIM: Final = f"""{_CLAIM}
    WHERE run = ({queries.FIRST_CLAIMABLE})
    RETURNING {queries.COLUMNS}"""

# A certain run, wherever it is in its queue, whatever code has begun it.
CLAIM_ONE: Final = f"""{_CLAIM}
    WHERE run = :run AND status = 'pending' AND run_at_us IS NULL AND owner IS NULL
      AND NOT EXISTS (SELECT 1 FROM json_each(:inside) WHERE value = :run)
    RETURNING {queries.COLUMNS}"""


# A child of a run that waits for it in a thread: in its turn among those with its key.
CLAIM_CHILD: Final = f"""{_CLAIM}
    WHERE run = :run AND status = 'pending' AND run_at_us IS NULL AND owner IS NULL
      AND queue_place = 0 AND NOT EXISTS (SELECT 1 FROM json_each(:inside) WHERE value = :run)
    RETURNING {queries.COLUMNS}"""


def bindings_of(wanted: Claim) -> dict[str, Any]:
    """Return what a statement that claims runs is given, as it is now."""
    return {
        "owner": wanted.owner,
        "jobs": wanted.jobs,
        "inside": wanted.inside(),
        "origins": wanted.origins,
        "codes": wanted.codes,
        "now_us": wanted.now_us(),
        "host": host_name(),
        "pid": os.getpid(),
    }


def claim_child(db: apsw.Connection, wanted: Claim, run_pk: RunKey) -> list[RunRow]:
    """Claim a certain run, if it is claimable now."""
    return queries.all_rows(db, CLAIM_CHILD, bindings_of(wanted) | {"run": run_pk})


def claim(db: apsw.Connection, wanted: Claim) -> list[RunRow]:
    """Claim up to ``limit`` runs for an owner, if they are still wanted, those triggered first.

    An owner that another engine has found dead claims none until it is registered again.
    """
    claimed: list[RunRow] = []
    bindings = bindings_of(wanted)
    while len(claimed) < wanted.limit and wanted.is_wanted():
        try:
            rows = queries.all_rows(db, CLAIM, bindings)
        except (UnicodeDecodeError, apsw.ConstraintError) as exc:
            if not queries.is_registered(db, wanted.owner):
                break
            unsound.fail_unclaimed(db, exc, bindings)
            continue
        if not rows:
            break
        defect = defects.of_claimed(rows[0]._asdict())
        if defect is None:
            claimed += rows
        else:
            unsound.fail(db, rows[0].run, defect, bindings)
    return claimed
