"""Uses databases as other users, each in a process of its own, having prepared as root.

What is read of Python and of the package is read by root: others may have no way to them.
Each line of its standard input is a JSON list: the name of a function below, the database, and the
arguments of the function. What the function prints follows, and then the process's exit status.
"""

import contextlib
import json
import os
import pwd  # noqa: F401 - read by root
import signal
import socket  # noqa: F401 - read by root
import sys
import tempfile
from pathlib import Path

import durably
import durably.entry.read_only
import durably.store.sqlite.sql.check
import durably.testing
from durably.store.sqlite.connection.connections import Connections
from durably.store.sqlite.sql import schema

scripts = schema.migrations()
schema.migrations = lambda: scripts
with tempfile.TemporaryDirectory() as folder:
    with durably.Durably(folder + "/x.db", jobs=[durably.Job("none", lambda step: None)]) as app:
        app.jobs["none"].trigger_and_wait(timeout=20)
    with durably.entry.read_only.open_read_only(folder + "/x.db") as reads:
        reads.find_runs()
    durably.testing.check(folder + "/x.db")
    with contextlib.suppress(durably.DatabaseError):
        durably.Durably(folder + "/missing/x.db")


def execute(path, key, uid, then):
    """Execute a run as that user, and wait in its job at first, if asked to."""
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)

    @durably.job
    def work(step):
        step.run("one", int, "1")
        if then == "wait" and step.attempt == 1:
            print("inside", os.getpid(), flush=True)
            signal.pause()
        return "SECRET-RESULT"

    try:
        with durably.Durably(path, jobs=[work]) as app:
            run = app.jobs["work"].trigger_and_wait(idempotency_key=key, timeout=20)
            print(run.status.value, run.attempt)
    except durably.DatabaseError as exc:
        print(exc)


def look(path, uid):
    """List the runs as that user, and check the file."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    try:
        with durably.entry.read_only.open_read_only(path) as look:
            print(*[run.status for run in look.find_runs()])
    except durably.DatabaseError as exc:
        print(exc)
    try:
        print(list(durably.testing.check(path)))
    except durably.DatabaseError as exc:
        print(exc)


def plant(path, suffix, uid, stranger, content=os.devnull):
    """Open the database as that user, while a file of a stranger appears beside it."""
    prepare = Connections.prepare

    def planting(connections):
        os.seteuid(0)
        fd = os.open(path + suffix, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        os.write(fd, Path(content).read_bytes())
        os.fchmod(fd, 0o666)
        os.fchown(fd, stranger, stranger)
        os.close(fd)
        os.seteuid(uid)
        prepare(connections)

    Connections.prepare = planting
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, 0)
    try:
        durably.Durably(path)
    except durably.DatabaseError as exc:
        print(exc)


for line in sys.stdin:
    name, *arguments = json.loads(line)
    pid = os.fork()
    if not pid:
        globals()[name](*arguments)
        sys.exit()
    print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
