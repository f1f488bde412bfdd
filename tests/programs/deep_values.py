"""Logs, raises and returns what is nested too deeply, under a raised recursion limit.

What is that deep cannot be freed either, without as much of the stack, so it ends by ``os._exit``.
"""

import logging
import os
import sys

import durably
from durably.plugins import LogPersistence

logging.basicConfig(filename=os.devnull, level=logging.DEBUG)
sys.setrecursionlimit(10**6)
deep = []
for _ in range(200_000):
    deep = [deep]
groups = chain = ValueError("inner")
for _ in range(100_000):
    groups = ExceptionGroup("groups", [groups])
    outer = KeyError("outer")
    outer.__cause__ = chain
    chain = outer


class OwnError(Exception):
    def __init__(self):
        self.rows = deep

    def __str__(self):
        return f"rows {self.rows}"


def chained():
    try:
        raise KeyError(deep)
    except KeyError as exc:
        raise ValueError("no") from exc


def raised(exc):
    raise exc


def logs(log):
    log.info("data", rows=deep, more={"a": (deep,)}, few=[1])
    log.info("argument %s", deep)
    log.info(deep)
    try:
        chained()
    except ValueError:
        log.exception("chained")
    log.warning("extra", extra={"rows": deep})


kinds = {
    "log": lambda step: logs(step.log),
    "log in a step": lambda step: step.run("a", logs, step.log),
    "raise": lambda step: raised(ValueError(deep)),
    "raise in a step": lambda step: step.run("a", raised, ValueError(deep)),
    "raise own": lambda step: raised(OwnError()),
    "raise chained": lambda step: chained(),
    "raise a group": lambda step: raised(ExceptionGroup("x", [ValueError(deep)])),
    "raise groups": lambda step: raised(groups),
    "raise a chain": lambda step: raised(chain),
    "exit": lambda step: raised(SystemExit(deep)),
    "return": lambda step: deep,
    "return of a step": lambda step: step.run("a", lambda: deep),
    "progress": lambda step: step.progress(1, 2, deep),
    "name": lambda step: step.run(deep, int),
    "function": lambda step: step.run("a", deep),
    "retry": lambda step: step.options(retry=deep),
    "type": lambda step: step.options(returns=deep),
}


@durably.job
def job(step, kind):
    return kinds[kind](step)


def shown(event):
    repr(event), str(event)


with durably.Durably(sys.argv[1], jobs=[job], synchronous="normal") as app:
    app.use(LogPersistence())
    app.on("*", shown)
    app.on("run:start", lambda event: raised(ValueError(deep)))
    for kind in kinds:
        try:
            run = app.jobs["job"].trigger_and_wait(kind, timeout=20)
        except durably.RunFailedError as exc:
            run = exc.run
            repr(exc), str(exc)
        error = "" if run.error is None else run.error.type.rpartition(".")[2]
        print(kind, run.status, error, sep="; ", flush=True)
        if kind.startswith("log"):
            print(*(line.message[:24] for line in app.get_logs(run)), sep="|", flush=True)
            print(app.get_logs(run)[0].data, flush=True)
os._exit(0)
