"""An engine at work on recorded files: what it does, what was acknowledged, and when."""

from __future__ import annotations

import functools
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

from crash.failing_disk_workload import quickly
from crash.powerloss_blobs import BlobCalls, small_files
from powerloss import Entry, Recorder

import durably
import durably.store.sqlite.database
from durably.codec.forms import Stream
from durably.codecs import ValueCodec
from durably.plugins import LogPersistence
from durably.store.sqlite import opening
from durably.store.sqlite.database import Database

NAME: Final = "runs.db"


class Part(str):
    """A text that is stored as binary data, which is written while it is hashed."""

    __slots__ = ()


CODEC: Final = ValueCodec(
    Part,
    "part",
    lambda part: Stream(lambda file: file.write(part.encode()), len(part)),
    lambda stored: Part(stored.decode()),
)

Told = Callable[..., None]


# Of this size are the results that are parts.
LARGEST: Final = 20_000


def jobs_of(told: Told, cancel: Callable[[str], None]) -> list[durably.Job[Any, Any]]:
    """The jobs; *told* hears of each execution of a step and of each checkpoint."""

    def value(step: durably.StepContext, name: str, size: int, is_cancelled: bool) -> Any:
        told("executing", (step.run_id, name))
        if is_cancelled:
            cancel(step.run_id)
        made = f"{step.attempt}.{uuid.uuid4().hex}" + "x" * size
        return Part(made) if size == LARGEST else made

    @durably.job("work")
    def work(step: durably.StepContext, payload: dict[str, Any]) -> list[str]:
        values = []
        for n in range(payload["steps"]):
            name = f"step-{n}"
            if n == payload.get("fails at") and step.attempt == 1:
                raise ValueError("the first attempt fails here")
            is_cancelled = n == payload.get("cancelled at") and step.attempt == 1
            values.append(step.run(name, value, step, name, payload["size"], is_cancelled))
            told("stepped", (step.run_id, name), values[-1])
            step.progress(n + 1, payload["steps"])
            if payload.get("logs"):
                step.log.info("done", n=n)
        return values

    return [work]


class Workload:
    """What a user might do, by the numbers of *rng*, with every acknowledgement marked."""

    def __init__(
        self,
        folder: Path,
        recorder: Recorder,
        rng: random.Random,
        options: Any,
        failing_syncs: float,
    ) -> None:
        self._path = folder / NAME
        self._recorder = recorder
        self._rng = rng
        self._options = options
        self._failing_syncs = failing_syncs
        self._ended: dict[str, str] = {}  # by run id, told by an event
        self._keys: dict[str, str] = {}
        self._payloads: dict[str, dict[str, Any]] = {}
        self._triggered: list[str] = []
        self._pages = rng.choice([10, 40, 200])

    def _open(self) -> durably.Durably:
        database = functools.partial(Database, vfs=self._recorder.name)
        holder: list[durably.Durably] = []
        jobs = jobs_of(self._recorder.mark, lambda run_id: self._cancel(holder[0], run_id))
        with mock.patch.object(opening, "Database", database):
            app = durably.Durably(self._path, jobs=jobs, codecs=[CODEC], **self._options)
        holder.append(app)
        # Small steps of SQLite's own checkpoints, so that there are many of them.
        app._store.database._writer._db.wal_autocheckpoint(self._pages)
        app.use(LogPersistence())
        app.on("run:start", lambda event: self._recorder.mark("started", event.run_id))
        app.on("run:complete", lambda event: self._end(event, "completed"))
        app.on("run:fail", lambda event: self._end(event, "failed"))
        app.on("run:delete", lambda event: self._recorder.mark("deleted", event.run_id))
        return app

    def _fail_syncs(self) -> None:
        luck = random.Random(self._rng.random())
        if self._failing_syncs:
            self._recorder.sync_fails = lambda: luck.random() < self._failing_syncs

    def _end(self, event: Any, status: str) -> None:
        self._recorder.mark(status, event.run_id, getattr(event, "output", None))
        self._ended[event.run_id] = status

    def sequential(self, actions: int) -> None:
        """One thread triggers and executes; engines are closed and opened in between."""
        app = self._open()
        self._fail_syncs()
        try:
            for _ in range(actions):
                action = self._rng.choices(
                    ["trigger", "execute", "cancel", "retry", "delete", "purge", "tidy", "reopen"],
                    [8, 12, 2, 3, 1, 0.4, 1, 0.4],
                )[0]
                if action == "reopen":
                    app.close()
                    app = self._open()
                else:
                    self._act(app, action)
        finally:
            app.close()

    def threaded(self, actions: int, engines: int) -> None:
        """Several engines execute on their pools while they are used."""
        with ExitStack() as stack:
            apps = [stack.enter_context(self._open()) for _ in range(engines)]
            self._fail_syncs()
            stack.callback(self._recorder.repair)
            for _ in range(actions):
                action = self._rng.choices(
                    ["trigger", "cancel", "retry", "delete", "purge", "tidy"],
                    [10, 2, 3, 1, 0.4, 1],
                )[0]
                self._act(self._rng.choice(apps), action)

    def _act(self, app: durably.Durably, action: str) -> None:
        try:
            self._do(app, action)
        except durably.DatabaseError:
            if not self._failing_syncs:
                raise

    def _do(self, app: durably.Durably, action: str) -> None:
        if action == "execute":
            app.process_one()
        elif action == "trigger":
            self._trigger(app)
        elif action == "tidy":
            app._store.database.care.wal_checkpoint(above_bytes=0)
        elif action == "purge":
            self._recorder.mark("purging", None)
            app.purge_runs(older_than=0.0, limit=self._rng.randrange(4))
        elif action == "cancel" and self._triggered:
            self._cancel(app, self._rng.choice(self._triggered))
        elif action in ("retry", "delete"):
            ended = [run_id for run_id, status in self._ended.items() if status != "deleted"]
            if action == "retry":
                ended = [run_id for run_id in ended if self._ended[run_id] != "completed"]
            if ended:
                self._retry_or_delete(app, action, self._rng.choice(ended))

    def _payload(self) -> dict[str, Any]:
        rng = self._rng
        steps = rng.randrange(1, 6)
        payload = {"steps": steps, "size": rng.choice([0, 0, 100, 3000, LARGEST])}
        luck = rng.random()
        if luck < 0.2:
            payload["fails at"] = rng.randrange(steps)
        elif luck < 0.3:
            payload["cancelled at"] = rng.randrange(steps)
        if rng.random() < 0.3:
            payload["logs"] = True
        return payload

    def _trigger(self, app: durably.Durably) -> None:
        rng = self._rng
        handle = app.jobs["work"]
        kind = rng.choice(["plain", "plain", "keyed", "coalesced", "idempotent", "batch"])
        if kind == "batch":
            keys = [rng.choice([None, "a", "b"]) for _ in range(rng.randrange(1, 5))]
            items = [
                durably.Trigger(self._payload(), concurrency_key=key, labels={"of": "batch"})
                for key in keys
            ]
            runs = handle.batch_trigger(items)
        elif kind == "idempotent":
            key = f"key-{rng.randrange(4)}"
            known = self._keys.get(key)
            is_retry = known is not None and self._ended.get(known) in ("failed", "cancelled")
            if is_retry:
                self._recorder.mark("retrying", known)
            payload = self._payloads.setdefault(key, self._payload())
            runs = [handle.trigger(payload, idempotency_key=key, retry_failed=is_retry)]
            self._keys[key] = runs[0].id
        else:
            options = {
                "plain": {},
                "keyed": {"concurrency_key": "a"},
                "coalesced": {"concurrency_key": "b", "coalesce": True},
            }[kind]
            runs = [handle.trigger(self._payload(), labels={"kind": kind}, **options)]
        for run in runs:
            self._recorder.mark("triggered", run.id)
            if run.id not in self._triggered:
                self._triggered.append(run.id)

    def _cancel(self, app: durably.Durably, run_id: str) -> None:
        self._recorder.mark("cancelling", run_id)
        try:
            app.cancel(run_id)
        except (durably.ConflictError, durably.NotFoundError):
            return
        self._recorder.mark("cancelled", run_id)
        self._ended[run_id] = "cancelled"

    def _retry_or_delete(self, app: durably.Durably, action: str, run_id: str) -> None:
        try:
            if action == "retry":
                self._recorder.mark("retrying", run_id)
                self._ended.pop(run_id)
                app.retry(run_id)
                self._recorder.mark("retried", run_id)
            else:
                self._recorder.mark("deleting", run_id)
                app.delete_run(run_id)
                self._ended[run_id] = "deleted"
        except (durably.ConflictError, durably.NotFoundError):
            # Inside a step still, or purged meanwhile.
            return


@contextmanager
def recorder() -> Iterator[Recorder]:
    """A registered recorder."""
    vfs = Recorder(f"durably-power-{uuid.uuid4().hex}")
    try:
        yield vfs
    finally:
        vfs.unregister()


def record(
    folder: Path,
    seed: int,
    *,
    synchronous: str,
    actions: int,
    kind: str,
    failing_syncs: float = 0.0,
    has_files: bool = False,
) -> list[Entry]:
    """Execute a workload in *folder*; the log of it.

    Args:
        synchronous: the engine's option, or "off", which it would reject.
        kind: ``sequential``, ``threaded`` or ``two engines``.
        failing_syncs: which part of the commits' syncs fails.
        has_files: whether most results are files, whose calls are recorded too.
    """
    options: dict[str, Any] = {"synchronous": synchronous}
    if kind != "sequential":
        options |= {"max_workers": 3, "heartbeat_interval": 0.01, "stale_threshold": 30.0}
    configured = durably.store.sqlite.database.configure
    with ExitStack() as stack:
        vfs = stack.enter_context(recorder())
        stack.enter_context(quickly())
        if has_files:
            stack.enter_context(small_files())
            stack.enter_context(BlobCalls(vfs, folder / NAME).recorded())
        if synchronous == "off":
            options["synchronous"] = "normal"
            stack.enter_context(
                mock.patch.object(
                    durably.store.sqlite.database, "configure", lambda db, _: configured(db, "off")
                )
            )
        workload = Workload(folder, vfs, random.Random(seed), options, failing_syncs)
        if kind == "sequential":
            workload.sequential(actions)
        else:
            workload.threaded(actions, 2 if kind == "two engines" else 1)
        return vfs.log
