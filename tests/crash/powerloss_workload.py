"""The power goes while an engine works: a recorded workload, and the check of what the disk holds.

``run`` is the long form of ``test_power_loss.py``.
"""

from __future__ import annotations

import functools
import random
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

import apsw
import attrs
from crash.failing_disk_workload import quickly
from invariants import check
from powerloss import RULES, Disk, Entry, Mark, Recorder, put

import durably
import durably.engine
from durably.plugins import LogPersistence
from durably.store.database import Database
from durably.worker import liveness

NAME: Final = "runs.db"
TABLES: Final = (
    "durably_owners",
    "durably_runs",
    "durably_steps",
    "durably_labels",
    "durably_logs",
    "sqlite_sequence",
)

Told = Callable[..., None]


# -- the workload -----------------------------------------------------------------------------


def jobs_of(told: Told, cancel: Callable[[str], None]) -> list[durably.Job[Any, Any]]:
    """The jobs; *told* hears of each execution of a step and of each checkpoint."""

    def value(step: durably.StepContext, name: str, size: int, is_cancelled: bool) -> str:
        told("executing", (step.run_id, name))
        if is_cancelled:
            cancel(step.run_id)
        return f"{step.attempt}.{uuid.uuid4().hex}" + "x" * size

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
        self._triggered: list[str] = []
        self._pages = rng.choice([10, 40, 200])

    def _open(self) -> durably.Durably:
        database = functools.partial(Database, vfs=self._recorder.name)
        holder: list[durably.Durably] = []
        jobs = jobs_of(self._recorder.mark, lambda run_id: self._cancel(holder[0], run_id))
        with mock.patch.object(durably.engine, "Database", database):
            app = durably.Durably(self._path, jobs=jobs, **self._options)
        holder.append(app)
        # Small steps of SQLite's own checkpoints, so that there are many of them.
        app._database._writer._db.wal_autocheckpoint(self._pages)
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
            stack.callback(self._recorder.mend)
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
            app._database.checkpoint_wal(above_bytes=0)
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
        payload = {"steps": steps, "size": rng.choice([0, 0, 100, 3000, 20_000])}
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
            runs = [handle.trigger(self._payload(), idempotency_key=key, retry_failed=is_retry)]
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
) -> list[Entry]:
    """Execute a workload in *folder*; the log of it.

    Args:
        synchronous: the engine's option, or "off", which it would refuse.
        kind: ``sequential``, ``threaded`` or ``two engines``.
        failing_syncs: which part of the commits' syncs fails.
    """
    options: dict[str, Any] = {"synchronous": synchronous}
    if kind != "sequential":
        options |= {"max_workers": 3, "heartbeat_interval": 0.01, "stale_threshold": 30.0}
    configured = durably.store.database._configure
    with ExitStack() as stack:
        vfs = stack.enter_context(recorder())
        stack.enter_context(quickly())
        if synchronous == "off":
            options["synchronous"] = "normal"
            stack.enter_context(
                mock.patch.object(
                    durably.store.database, "_configure", lambda db, _: configured(db, "off")
                )
            )
        workload = Workload(folder, vfs, random.Random(seed), options, failing_syncs)
        if kind == "sequential":
            workload.sequential(actions)
        else:
            workload.threaded(actions, 2 if kind == "two engines" else 1)
        return vfs.log


# -- what was promised ------------------------------------------------------------------------


@attrs.define
class Promise:
    """What the caller may rely on of one run."""

    exists: bool | None = None
    statuses: set[str] | None = None
    steps: dict[str, str] = attrs.Factory(dict)
    # Other threads may tell how a run went on before this one tells that it was retried.
    is_retrying: bool = False


def promises(marks: list[Mark]) -> dict[str, Promise]:
    """What was acknowledged by these marks, less what has been begun to change since."""
    found: dict[str, Promise] = {}
    for verb, subject, value in marks:
        if verb == "purging":
            for promise in found.values():
                promise.exists, promise.statuses, promise.steps = None, None, {}
            continue
        run_id = subject[0] if isinstance(subject, tuple) else subject
        promise = found.setdefault(run_id, Promise())
        promise.is_retrying &= verb == "retried"
        if verb == "triggered":
            promise.exists = True
        elif verb == "stepped":
            promise.steps[subject[1]] = value
        elif verb in ("completed", "failed", "cancelled"):
            promise.statuses = {verb}
        elif verb == "retried" and promise.is_retrying:
            promise.statuses = {"pending", "running"}
        elif verb in ("started", "cancelling", "retrying"):
            promise.statuses = None
            promise.is_retrying = verb == "retrying"
        elif verb == "deleting":
            promise.exists, promise.statuses, promise.steps = None, None, {}
        elif verb == "deleted":
            promise.exists, promise.statuses, promise.steps = False, None, {}
    return found


def broken_promises(db: apsw.Connection, marks: list[Mark]) -> list[str]:
    """What was acknowledged and is not in the database."""
    status_of = dict(db.execute("SELECT id, status FROM durably_runs").fetchall())
    steps = {
        (run_id, name): output
        for run_id, name, output in db.execute(
            """SELECT r.id, s.name, s.output ->> '$' FROM durably_steps s JOIN durably_runs r
               USING (run) WHERE s.status = 'completed'"""
        ).fetchall()
    }
    broken = []
    for run_id, promise in promises(marks).items():
        status = status_of.get(run_id)
        if promise.exists is not None and promise.exists != (status is not None):
            broken.append(f"run {run_id} was to exist: {promise.exists}, and is {status}")
        elif status is not None:
            if promise.statuses is not None and status not in promise.statuses:
                broken.append(f"run {run_id} was {promise.statuses}, and is {status}")
            broken += [
                f"step {name} of run {run_id} was acknowledged, and is not there"
                for name, value in promise.steps.items()
                if steps.get((run_id, name)) != value
            ]
    return broken


# -- what is found ----------------------------------------------------------------------------


def digest(db: apsw.Connection) -> str | None:
    """All that the tables hold, or ``None`` where there are none yet."""
    if not db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'durably_runs'").get:
        return None
    content = [db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES]
    return str(hash(repr(content)))


@contextmanager
def opened(folder: Path) -> Iterator[apsw.Connection]:
    """A connection to the files of a disk, which are read as they are."""
    db = apsw.Connection(str(folder / NAME), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        yield db
    finally:
        db.close()


@contextmanager
def laid_out(disk: Disk, lost: str, rng: random.Random, folder: Path) -> Iterator[Path]:
    """The files of *disk* after a loss of power, in a new folder that goes again."""
    image = Path(tempfile.mkdtemp(dir=folder))
    try:
        put(disk.after_power_loss(lost, rng), image)
        yield image
    finally:
        shutil.rmtree(image)


def states(log: list[Entry], folder: Path) -> list[str | None]:
    """What the tables held after each commit, the first being none."""
    disk = Disk(log)
    rng = random.Random(0)
    found: list[str | None] = [None]
    for at in range(1, len(log) + 1):
        disk.advance(at)
        if disk.commits == len(found):
            with laid_out(disk, "nothing", rng, folder) as image, opened(image) as db:
                found.append(digest(db))
    return found


@attrs.define
class Examiner:
    """Looks at what is left of one recorded workload after a loss of power.

    Args:
        is_full: whether nothing that was acknowledged may be lost.
    """

    log: list[Entry]
    known: list[str | None]
    folder: Path
    is_full: bool
    counts: Counter[str] = attrs.Factory(Counter)

    def examine(self, disk: Disk, lost: str, rng: random.Random, *, resumes: bool) -> list[str]:
        """Everything that is wrong; empty if nothing is."""
        with laid_out(disk, lost, rng, self.folder) as image:
            self.counts["images"] += 1
            marks = [entry for entry in self.log[: disk.at] if isinstance(entry, Mark)]
            if not (image / NAME).is_file():
                # Its name was never safe; then nothing may have been promised.
                return ["the file is gone"] if promises(marks) or disk.safe_commits else []
            try:
                found = self.content(image, disk, marks)
            except apsw.Error as exc:
                return [f"unreadable: {type(exc).__name__}: {exc}"]
            if not found and resumes:
                self.counts["resumed"] += 1
                found = resume(image)
            return found

    def content(self, image: Path, disk: Disk, marks: list[Mark]) -> list[str]:
        """What is wrong with the files of *image*, found after *marks*."""
        with opened(image) as db:
            now = digest(db)
            broken = broken_promises(db, marks) if now is not None else [str(promises(marks))]
        if now is None:
            if disk.safe_commits or (self.is_full and promises(marks)):
                return ["everything is gone"]
            return []
        found = check(image / NAME, is_sequential=True)
        # The one in progress may be found done: where its last page is what lay in that place
        # before, its frame is whole as soon as its header is.
        newest = disk.commits + disk.is_inside_commit
        places = [n for n, state in enumerate(self.known) if state == now]
        if not places:
            found.append("it is not what the database was after any commit")
        elif min(places) > newest:
            found.append(f"it is commit {places}, and only {newest} were made")
        elif max(places) < disk.safe_commits:
            found.append(f"commit {disk.safe_commits} was synced; this is commit {places}")
        if self.is_full:
            found += broken
        elif broken:
            self.counts["images without the newest acknowledged"] += 1
        return found


def resume(image: Path) -> list[str]:
    """Go on with what the disk held, after another start of the machine; what was wrong."""
    with opened(image) as db:
        kept = _completed(db)
    executed: set[tuple[str, str]] = set()

    def told(verb: str, subject: Any, value: Any = None) -> None:
        if verb == "executing":
            executed.add(subject)

    app: durably.Durably

    def cancel(run_id: str) -> None:
        app.cancel(run_id)

    with mock.patch.object(liveness, "current_boot_id", return_value="another start"):
        app = durably.Durably(
            image / NAME,
            jobs=jobs_of(told, cancel),
            synchronous="normal",
        )
        try:
            app.run_until_idle()
            runs = app.get_runs()
        finally:
            app.close()
    found = check(image / NAME, is_sequential=True, is_idle=True, is_finished=True)
    found += [f"executed again: {place}" for place in executed & kept.keys()]
    with opened(image) as db:
        now = _completed(db)
    found += [f"another result: {place}" for place in kept if now.get(place) != kept[place]]
    for run in runs:
        steps = [now.get((run.id, f"step-{n}")) for n in range(run.payload["steps"])]
        if run.status == "completed" and run.output != steps:
            found.append(f"run {run.id} returned something else than its steps")
    return found


def _completed(db: apsw.Connection) -> dict[tuple[str, str], str]:
    if digest(db) is None:
        return {}
    rows = db.execute(
        """SELECT r.id, s.name, s.output ->> '$' FROM durably_steps s JOIN durably_runs r
           USING (run) WHERE s.status = 'completed'"""
    ).fetchall()
    return {(run_id, name): output for run_id, name, output in rows}


def cut_power(
    folder: Path,
    seed: int,
    *,
    synchronous: str,
    kind: str = "sequential",
    actions: int = 25,
    images: int = 100,
    believes_syncs: bool = True,
    failing_syncs: float = 0.0,
) -> tuple[list[str], Counter[str]]:
    """Record a workload, cut the power at places of it, and look; what was wrong, and counts.

    Args:
        images: how many to look at, or 0 for one of each rule at every place.
        believes_syncs: false for a disk that says that it has synced and has not.
    """
    rng = random.Random(seed)
    live = Path(tempfile.mkdtemp(dir=folder))
    log = record(
        live,
        seed,
        synchronous=synchronous,
        actions=actions,
        kind=kind,
        failing_syncs=failing_syncs,
    )
    shutil.rmtree(live)
    examiner = Examiner(log, states(log, folder), folder, is_full=synchronous != "normal")
    examiner.counts["writes and syncs recorded"] = sum(not isinstance(e, Mark) for e in log)
    rules = [*RULES, "nothing"]
    places = [(at, rule) for at in range(1, len(log) + 1) for rule in rules]
    if images:
        places = sorted(rng.sample(places, min(images, len(places))))
    disk = Disk(log, believes_syncs=believes_syncs)
    found = []
    for number, (at, rule) in enumerate(places):
        disk.advance(at)
        what = examiner.examine(disk, rule, rng, resumes=number % 5 == 0)
        found += [f"{rule} lost at {at} of {len(log)}: {each}" for each in what]
    return found, examiner.counts


def run(deadline: float, seed: int) -> Counter[str]:
    """Cut the power in one workload after the other until *deadline* (monotonic seconds).

    Raises:
        AssertionError: with the seed that shows it again, in its first workload.
    """
    totals: Counter[str] = Counter()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < deadline:
            synchronous = rng.choice(["full", "full", "normal"])
            kind = rng.choice(["sequential", "sequential", "threaded", "two engines"])
            # After a sync that failed "normal" promises nothing any more.
            failing_syncs = rng.choice([0.0, 0.0, 0.1]) if synchronous == "full" else 0.0
            found, counts = cut_power(
                Path(folder),
                seed,
                synchronous=synchronous,
                kind=kind,
                images=600,
                failing_syncs=failing_syncs,
            )
            what = f"{synchronous}, {kind}" + ", failing syncs" * bool(failing_syncs)
            assert not found, f"seed {seed}, {what}: {found[:5]}"
            totals += counts
            totals["checks passed"] += counts["images"]
            totals[f"workloads, {what}"] += 1
            seed = rng.randrange(2**32)
            rng = random.Random(seed)
    return totals
