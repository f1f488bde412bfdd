"""Execute a job that fails, in one of several ways to call it and to configure logging.

``logs_a_failure.py CALL [log] [completes] [uncaught] [SILENCED]``
"""

import logging
import sys
from contextlib import nullcontext, suppress

import durably

CALLS = {
    "run": lambda app: app.run(nightly),
    "trigger_and_wait": lambda app: app.trigger_and_wait(nightly),
    "trigger": lambda app: app.trigger(nightly),
    "trigger three": lambda app: [app.trigger(nightly) for _ in range(3)],
    "process_one": lambda app: (app.stop(), app.trigger(nightly), app.process_one()),
    "as_completed": lambda app: list(app.as_completed([app.trigger(nightly)])),
    "session": lambda _: in_a_session(),
}
SILENCED = {
    "by disable": logging.disable,
    "without lastResort": lambda: setattr(logging, "lastResort", None),
    "disabled": lambda: setattr(logging.getLogger("durably"), "disabled", True),
    "by its level": lambda: logging.getLogger("durably").setLevel(logging.CRITICAL),
    "by a filter": lambda: logging.getLogger("durably").addFilter(lambda record: False),
    "by a handler": lambda: logging.getLogger("durably").addHandler(logging.NullHandler()),
}

call, *how = sys.argv[1:]


@durably.job
def nightly(step: durably.StepContext) -> None:
    step.run("read", int)
    step.run("insert", insert)


def insert() -> None:
    if "completes" not in how:
        raise ValueError("bad row")


def in_a_session() -> None:
    with suppress(ValueError), durably.session("import", "y.db") as step:
        step.run("one", int, "no number")


if "log" in how:
    logging.basicConfig(level=logging.INFO, filename="log.txt", encoding="utf-8")
for each in SILENCED.keys() & set(how):
    SILENCED[each]()
with (
    nullcontext() if "uncaught" in how else suppress(durably.DurablyError),
    durably.Durably("x.db", jobs=[nightly]) as app,
):
    CALLS[call](app)
