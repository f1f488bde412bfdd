"""Maps on processes and executors, whose parent, workers or disk fail at random instants."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import apsw
import pooled
from crash.driving import Finding, alone, fork, status_of, until
from databases import open_database
from invariants import check

import durably

ITEMS: Final = 240
LARGE: Final = 4000  # characters of a result, where the disk is to become full
# The promise is a second. A machine under load may need longer to say that they are gone.
GONE_S: Final = 1.0
PATIENCE_S: Final = 10.0
PR_SET_PDEATHSIG: Final = 1

INTERRUPTED: Final = 3
FAILED: Final = 4
BROKEN: Final = 5
# A map goes on until so many workers, or pools, in a row end before they have done anything.
MOST_IN_A_ROW: Final = 3


def dask() -> Any:
    """Return an executor of Dask, whose cluster lives as long as this process."""
    import distributed  # noqa: PLC0415 - slow

    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    )
    return distributed.Client(cluster).get_executor(pure=False)


def without_loky() -> str:
    """Make processes of the map's own start by spawn, as where loky is not installed."""
    for package in ("loky", "loky.backend.context"):
        sys.modules[package] = None  # type: ignore[assignment]  # as an import that has failed
    return "process"


# What makes the executor of each kind, in the process that executes the map.
EXECUTORS: Final[dict[str, Callable[[], Any]]] = {
    "processes of its own": lambda: "process",
    "processes of its own, spawned": without_loky,
    "loky": lambda: pooled.with_loky,
    "spawn": lambda: pooled.spawned,
    "forkserver": lambda: pooled.served,
    "fork": lambda: pooled.forked,
    "threads": lambda: pooled.threaded,
    "Dask": dask,
}
# Those that start worker processes for the map, and others when one dies.
RENEWED: Final = [name for name in EXECUTORS if name not in {"threads", "Dask"}]
# Dask's own processes end by a Ctrl-C, in whatever way they do.
INTERRUPTIBLE: Final = [name for name in EXECUTORS if name != "Dask"]


# -- a life ------------------------------------------------------------------------------------


def live(folder: Path, kind: str, launch: int, seed: int, **options: Any) -> None:
    """Execute a map to its end, in a session of its own, as a shell starts a program."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.get("is_quiet"):
        os.dup2(os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    rng = random.Random(seed)
    size = options.get("size", 1)
    fn = functools.partial(pooled.takes_part, str(folder), launch, size)

    @durably.job
    def job(step: durably.StepContext) -> int:
        executor = EXECUTORS[kind]()
        results = step.map(
            "m",
            fn,
            range(ITEMS),
            executor=executor,
            max_workers=2,
            key=lambda n: n,
            chunk=rng.choice([None, None, 1, 5]),
            max_uncommitted=rng.choice([1, 20, 256]),
        )
        return len(results)

    if size > 1:
        fill_the_disk(folder, launch, rng)
    app = durably.Durably(folder / "maps.db", synchronous="normal", max_deaths=100_000)
    status = 1
    try:
        status = 0 if app.run(job, key="one").output == ITEMS else 1
    except KeyboardInterrupt:
        status = INTERRUPTED
    except durably.RunFailedError as exc:
        if "WorkerDiedError" in str(exc):
            status = FAILED
        elif "ExecutorBrokenError" in str(exc):
            status = BROKEN
        else:
            traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(KeyboardInterrupt):  # the second of two
            app.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # not by way of what the parent of the lives has begun


def fill_the_disk(folder: Path, launch: int, rng: random.Random) -> None:
    """Let the files of the database grow no further, from a random item on, for a while."""
    full_at, room = rng.randrange(1, ITEMS), rng.randrange(60_000)
    dies = rng.random() < 0.3

    def limit() -> None:
        while len(parts(folder, launch)) < full_at:
            time.sleep(0.001)
        sizes = [path.stat().st_size for path in folder.glob("maps.db*")]
        resource.setrlimit(resource.RLIMIT_FSIZE, (room + max(sizes), resource.RLIM_INFINITY))
        time.sleep(rng.uniform(0.01, 0.6))
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    threading.Thread(target=limit, daemon=True).start()


# -- what is left of it --------------------------------------------------------------------------


def parts(folder: Path, launch: int | None = None) -> list[tuple[int, int, int]]:
    """The items that were begun, in their order: their launch, their number, and when."""
    path = folder / "effects"
    text = path.read_text() if path.exists() else ""
    found = []
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            number, item, at = map(int, line.split())
            found.append((number, item, at))
    return [each for each in found if launch is None or each[0] == launch]


def stored(folder: Path) -> dict[int, str | None]:
    """The result of each item that has a row; ``None`` for one that has failed."""
    database = folder / "maps.db"
    if not database.exists():
        return {}
    db = open_database(database)
    try:
        rows = db.execute("SELECT key, output FROM durably_items").fetchall()
        return {int(key): output for key, output in rows}
    except apsw.SQLError:
        return {}  # it was killed before its first transaction
    finally:
        db.close()


def members(session: int) -> dict[int, str]:
    """The processes of a session that have not ended, and what they are."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, of = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state not in "ZX":
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command:  # one whose memory is gone executes nothing any more
                    found[int(path.name)] = command
    return found


def await_end(session: int, what: str, counts: Counter[str]) -> None:
    """Wait until nothing of a session is alive."""
    begun = time.monotonic()
    late: dict[int, str] = {}
    while left := members(session):
        if time.monotonic() - begun > GONE_S:
            late |= left
        if time.monotonic() - begun > PATIENCE_S:
            raise Finding(f"{what}: alive {PATIENCE_S} s later: {left}")
        time.sleep(0.005)
    if late:
        print(f"{what}: gone after {time.monotonic() - begun:.1f} s: {late}", flush=True)
        counts[f"{what}: gone after more than {GONE_S} s"] += 1


class Map:
    """A map that is launched again and again, in a folder of its own."""

    def __init__(self, folder: Path, kind: str, rng: random.Random, **options: Any) -> None:
        folder.mkdir()
        self.folder = folder
        self.kind = kind
        self._random = rng
        self.options = options
        self._launches = 0
        self._kept: dict[int, str | None] = {}

    @contextmanager
    def launched(self) -> Iterator[int]:
        """Start a life; whatever of it is alive when the block is left is killed."""
        self._kept = stored(self.folder)
        self._launches += 1
        arguments = self.folder, self.kind, self._launches, self._random.randrange(2**32)
        pid = fork(functools.partial(live, **self.options), *arguments)
        try:
            yield pid
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def await_instant(self, pid: int) -> None:
        """Wait for a random instant of a life: while it starts, or while it executes items."""
        rng = self._random
        way = rng.random()
        if way < 0.15:
            time.sleep(rng.uniform(0.0, 0.5))
        elif way < 0.3:
            while len(members(pid)) < 2 and is_alive(pid):
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.1))
        else:
            wanted = rng.randint(1, 60)
            while len(self.begun()) < wanted and is_alive(pid):
                time.sleep(0.002)
            time.sleep(rng.choice([0.0, rng.uniform(0.0, 0.05)]))

    def begun(self) -> list[tuple[int, int, int]]:
        """What the newest launch has begun."""
        return parts(self.folder, self._launches)

    def check(self) -> dict[int, str | None]:
        """Check what the newest launch has done; what is stored now."""
        after = stored(self.folder)
        done = {item for item, output in self._kept.items() if output is not None}
        if changed := {item for item in done if after.get(item) != self._kept[item]}:
            raise Finding(f"{self.kind}: results have changed: {sorted(changed)}")
        if again := done & {item for _, item, _ in self.begun()}:
            raise Finding(f"{self.kind}: executed again although they are stored: {sorted(again)}")
        first = min((at for _, _, at in self.begun()), default=None)
        late = [
            each
            for each in parts(self.folder)
            if each[0] < self._launches and first is not None and each[2] > first
        ]
        if late:
            raise Finding(f"{self.kind}: items of an earlier launch have begun beside it: {late}")
        return after

    def finish(self, counts: Counter[str]) -> None:
        """Launch it a last time, to its end."""
        with self.launched() as pid:
            status = status_of(pid)
            if status != 0:
                raise Finding(f"{self.kind}: the last launch has ended with {status}")
            await_end(pid, f"workers of {self.kind} after its end", counts)
        results = self.check()
        if set(results) != set(range(ITEMS)) or None in results.values():
            raise Finding(f"{self.kind}: {len(results)} of {ITEMS} items are stored")
        if problems := check(self.folder / "maps.db", is_finished=True):
            raise Finding(f"{self.kind}: {problems}")
        counts["checks passed"] += 1


def is_alive(pid: int) -> bool:
    """Return whether a child has not ended; it stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


# -- the kinds -----------------------------------------------------------------------------------


def killed(deadline: float, seed: int) -> Counter[str]:
    """The parent is killed: no worker outlives it, no stored item is executed again."""
    return alone(drive_killed, deadline, seed)


def of_turn(kinds: Iterable[str], turn: int) -> str:
    """The kind whose turn it is; of those whose package is here."""
    names = list(kinds)
    if importlib.util.find_spec("distributed") is None and "Dask" in names:
        names.remove("Dask")
    if importlib.util.find_spec("loky") is None and "loky" in names:
        names.remove("loky")
    return names[turn % len(names)]


def warm_up() -> None:
    """Import what the lives need, once."""
    for package in ("loky", "distributed"):
        with suppress(ImportError):
            importlib.import_module(package)


def drive_killed(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """One map after the other, on any kind of executor; the next launch may begin at once."""
    counts: Counter[str] = Counter()
    warm_up()
    for number, rng in enumerate(until(deadline, seed)):
        kind = of_turn(EXECUTORS, seed + number)
        each = Map(folder / str(number), kind, rng)
        sessions = []
        for _ in range(rng.randrange(2, 8)):
            with each.launched() as pid:
                each.await_instant(pid)
                os.kill(pid, signal.SIGKILL)
                status = status_of(pid)
            sessions.append(pid)
            if rng.random() < 0.5:
                await_end(pid, f"workers of {kind}", counts)
            each.check()
            counts[f"SIGKILL of the parent of {kind}"] += status == -signal.SIGKILL
            if status not in {0, -signal.SIGKILL}:
                raise Finding(f"{kind}: a launch has ended with {status}")
        each.finish(counts)
        for session in sessions:
            await_end(session, f"workers of {kind}", counts)
    return counts


def workers_killed(deadline: float, seed: int) -> Counter[str]:
    """Workers are killed: others execute what was in flight, and the map ends."""
    return alone(drive_workers_killed, deadline, seed)


def drive_workers_killed(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """One map after the other, on the kinds whose workers are the map's own."""
    counts: Counter[str] = Counter()
    warm_up()
    for number, rng in enumerate(until(deadline, seed)):
        kind = of_turn(RENEWED, seed + number)
        each = Map(folder / str(number), kind, rng)
        hits = 0
        with each.launched() as pid:
            for _ in range(rng.randrange(1, 6)):
                each.await_instant(pid)
                while not (workers := workers_of(pid, kind)) and is_alive(pid):
                    time.sleep(0.002)
                if workers:
                    with suppress(ProcessLookupError):
                        os.kill(rng.choice(workers), signal.SIGKILL)
                        hits += 1
            status = status_of(pid)
            await_end(pid, f"workers of {kind} after its end", counts)
        if status not in ({0, FAILED} if hits < MOST_IN_A_ROW else {0, FAILED, BROKEN}):
            raise Finding(f"{kind}: a launch whose workers were killed has ended with {status}")
        failed = [item for item, output in each.check().items() if output is None]
        is_told = status == BROKEN or bool(failed) == (status == FAILED)
        if len(failed) > hits or not is_told:
            raise Finding(f"{kind}: {hits} workers were killed, and {failed} have failed: {status}")
        counts[f"SIGKILL of a worker of {kind}"] += hits
        counts["items that were found at fault"] += len(failed)
        counts["launches that gave up after several"] += status == BROKEN
        each.finish(counts)
    return counts


def workers_of(pid: int, kind: str) -> list[int]:
    """The workers of a launch: neither a helper of multiprocessing nor its fork server."""
    found = []
    commands = members(pid)
    for member, command in commands.items():
        is_server = "forkserver import" in command and parent_of(member) == pid
        # It is not known yet what a process becomes that has not begun its program.
        is_begun = kind == "fork" or command != commands.get(pid)
        if (
            is_begun
            and member != pid
            and "resource_tracker import" not in command
            and not is_server
        ):
            found.append(member)
    return found


def parent_of(pid: int) -> int | None:
    """The parent of a process, ``None`` if it is gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def interrupted(deadline: float, seed: int) -> Counter[str]:
    """Ctrl-C to all processes of a terminal: no item fails, and no worker is left."""
    return alone(drive_interrupted, deadline, seed)


def drive_interrupted(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """One map after the other, on any kind of executor; some are interrupted twice."""
    counts: Counter[str] = Counter()
    warm_up()
    for number, rng in enumerate(until(deadline, seed)):
        kind = of_turn(INTERRUPTIBLE, seed + number)
        each = Map(folder / str(number), kind, rng, is_quiet=True)
        for _ in range(rng.randrange(1, 5)):
            with each.launched() as pid:
                while not is_ready(each, pid) and is_alive(pid):
                    time.sleep(0.002)
                each.await_instant(pid)
                presses = rng.choice([1, 1, 2])
                for _ in range(presses):
                    with suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGINT)
                    time.sleep(rng.uniform(0.0, 0.05))
                status = status_of(pid)
                await_end(pid, f"workers of {kind} after a Ctrl-C", counts)
            if status not in {0, INTERRUPTED}:
                raise Finding(f"{kind}: after a Ctrl-C it has ended with {status}")
            if failed := [item for item, output in each.check().items() if output is None]:
                raise Finding(f"{kind}: a Ctrl-C has failed {failed}")
            counts[f"SIGINT of {kind}"] += status == INTERRUPTED
        if "Traceback" in (said := (each.folder / "said").read_text(errors="replace")):
            raise Finding(f"{kind}: a Ctrl-C has printed this:\n{said[-4000:]}")
        each.finish(counts)
    return counts


def is_ready(each: Map, pid: int) -> bool:
    """Return whether a launch has begun its map: a Ctrl-C before that is the program's affair."""
    return bool(each.begun()) or (each.kind != "threads" and len(members(pid)) > 1)


def full_disk(deadline: float, seed: int) -> Counter[str]:
    """The disk becomes full in the middle: no result is lost, and none made twice."""
    return alone(drive_full_disk, deadline, seed)


def drive_full_disk(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """One map after the other; some are killed while their disk is full."""
    counts: Counter[str] = Counter()
    warm_up()
    for number, rng in enumerate(until(deadline, seed)):
        kind = of_turn(EXECUTORS, seed + number)
        each = Map(folder / str(number), kind, rng, size=LARGE)
        with each.launched() as pid:
            status = status_of(pid)
            await_end(pid, f"workers of {kind} after its end", counts)
        if status not in {0, -signal.SIGKILL}:
            raise Finding(f"{kind}: on a full disk it has ended with {status}")
        each.check()
        calls = Counter(item for _, item, _ in parts(each.folder))
        if twice := [item for item, times in calls.items() if times > 1]:
            raise Finding(f"{kind}: executed twice: {twice}")
        end = "that was killed" if status else "where there was room again"
        counts[f"full disk under {kind}, {end}"] += 1
        each.options.clear()
        each.finish(counts)
    return counts
