"""Uses a database as another user, having prepared as root.

What is read of Python and of the package is read by root: others may have no way to them.
Arguments: the name of a function below, the database, and those of the function.
"""

import contextlib
import os
import pwd  # noqa: F401 - read by root
import socket  # noqa: F401 - read by root
import sys
import tempfile
from pathlib import Path

import durably
import durably.store.sqlite.sql.check
import durably.testing
from durably.store.sqlite.connection.connections import Connections
from durably.store.sqlite.sql import schema

path = sys.argv[2]
scripts = schema.migrations()
schema.migrations = lambda: scripts
with tempfile.TemporaryDirectory() as folder:
    with durably.Durably(folder + "/x.db", jobs=[durably.Job("none", lambda step: None)]) as app:
        app.jobs["none"].trigger_and_wait(timeout=20)
    with contextlib.suppress(durably.DatabaseError):
        durably.Durably(folder + "/missing/x.db")


def execute(key, uid, then):
    """Execute a run as that user, and wait in its job at first, if asked to."""
    if int(uid):
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))

    @durably.job
    def work(step):
        step.run("one", int, "1")
        if then == "wait" and step.attempt == 1:
            print("inside", flush=True)
            sys.stdin.read()
        return "SECRET-RESULT"

    try:
        with durably.Durably(path, jobs=[work]) as app:
            run = app.jobs["work"].trigger_and_wait(idempotency_key=key, timeout=20)
            print(run.status.value, run.attempt)
    except durably.DatabaseError as exc:
        print(exc)


def plant(suffix, uid, stranger, content=os.devnull):
    """Open the database as that user, while a file of a stranger appears beside it."""
    prepare = Connections.prepare

    def planting(connections):
        os.seteuid(0)
        fd = os.open(path + suffix, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        os.write(fd, Path(content).read_bytes())
        os.fchmod(fd, 0o666)
        os.fchown(fd, int(stranger), int(stranger))
        os.close(fd)
        os.seteuid(int(uid))
        prepare(connections)

    Connections.prepare = planting
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), 0)
    try:
        durably.Durably(path)
    except durably.DatabaseError as exc:
        print(exc)


globals()[sys.argv[1]](*sys.argv[3:])
