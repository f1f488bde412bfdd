"""What calls display while they wait, in this process, on a pseudo-terminal, without a delay."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from children import left_by_the_dead
from counted import Counted
from terminals import Terminal

import durably
from durably._platform.clock import Clock
from durably.client.live_runs import LiveRun
from durably.display import displays
from durably.display.terminal import TerminalFace
from durably.progress import tqdm_sink
from durably.store.rows import Brief

HANG_S = 20.0


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Terminal]]:
    """A function after whose call the standard streams are a terminal's.

    A display appears at once then. pytest sets the streams anew after its fixtures.
    """
    with Terminal() as terminal:

        def use() -> Terminal:
            monkeypatch.setattr(sys, "stdout", terminal.stdout)
            monkeypatch.setattr(sys, "stderr", terminal.stderr)
            return terminal

        monkeypatch.setattr(displays, "_DELAY_S", 0.0)
        monkeypatch.setattr(displays, "_POLL_S", 0.01)
        monkeypatch.setattr(TerminalFace, "interval_s", 0.01)
        monkeypatch.setenv("TERM", "xterm-256color")
        yield use


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads of displays that were started."""
    names: list[str] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        if thread.name == "durably-display":
            names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)
    return names


class Watched:
    """A job whose steps wait until the terminal shows what is expected meanwhile."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.seen: list[str] = []
        self.job = durably.Job("watched", self.run)

    def wait_for(self, text: str) -> str:
        self.seen.append(self.terminal.wait_for(text))
        return text

    def run(self, step: durably.StepContext) -> str:
        return step.run("look", self.wait_for, "now: look")


def displays_alive() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "durably-display"]


def run(app: durably.Durably, job: Any) -> object:
    return app.run(job)


def trigger_and_wait(app: durably.Durably, job: Any) -> object:
    with app:
        return app.trigger_and_wait(job)


def wait(app: durably.Durably, job: Any) -> object:
    with app:
        return app.wait(app.trigger(job))


def as_completed(app: durably.Durably, job: Any) -> object:
    with app:
        return list(app.as_completed([app.trigger(job)]))


def leave(app: durably.Durably, job: Any) -> object:
    with app:
        return app.trigger(job)


def run_until_idle(app: durably.Durably, job: Any) -> object:
    app.trigger(job)
    return app.run_until_idle()


WAYS = [run, trigger_and_wait, wait, as_completed, leave, run_until_idle]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_waits_shows_the_run_and_its_end(
    tmp_path: Path, on_terminal: Callable[[], Terminal], way: Callable[..., object]
) -> None:
    """While it is executed the step, at the end how it has ended; then nothing is left of it."""
    terminal = on_terminal()
    watched = Watched(terminal)
    writes = sys.stdout.write, sys.stderr.write
    way(durably.Durably(tmp_path / "a.db"), watched.job)

    (line,) = watched.seen
    assert line.strip().startswith("watched ▸running ")
    if way is as_completed:
        assert terminal.lines[0].startswith("▕██████████████████████████████▏ 1/1 runs · ")
    else:
        assert terminal.lines[0].startswith("watched ✓completed 1 step · ")
    assert displays_alive() == []
    assert (sys.stdout.write, sys.stderr.write) == writes
    assert "write" not in vars(sys.stdout) | vars(sys.stderr)


def test_a_run_without_a_thread_shows_what_it_waits_for(
    tmp_path: Path, on_terminal: Callable[[], Terminal]
) -> None:
    """A call that waits displays when the run begins, what it asks, and when it is tried again."""
    terminal = on_terminal()

    def run(step: durably.StepContext, name: str) -> object:
        return step.ask(name)

    def act() -> None:
        terminal.wait_for("begins at")
        app.cancel(later)
        terminal.wait_for("asks: approve")
        app.answer(asking, "approve", 1)
        terminal.wait_for("tried again at")
        terminal.wait_for("after OSError: no route")
        app.cancel(next(run for run in app.get_runs() if run.run_at is not None))

    def fail(step: durably.StepContext) -> None:
        raise OSError("no route")

    again = durably.Retry(wait=3600)
    tried = durably.Job("tried", fail, retry=again)
    job = durably.Job("asking", run)
    with durably.Durably(tmp_path / "a.db", jobs=[job]) as app:
        later = app.trigger(job, "later", delay=3600)
        asking = app.trigger(job, "approve")
        acting = threading.Thread(target=act)
        acting.start()
        with pytest.raises(durably.RunCancelledError):
            app.wait(later, timeout=HANG_S)
        assert app.wait(asking, timeout=HANG_S).output == 1
        with pytest.raises(durably.RunCancelledError):
            app.run(tried, timeout=HANG_S)
        acting.join(HANG_S)


@pytest.mark.parametrize(("status", "steps"), [("completed", 1), ("waiting", 0)])
def test_a_look_just_after_an_execution_does_not_forget_its_steps(
    tmp_path: Path, status: str, steps: int
) -> None:
    """The last line counts them, unless the run went on after that execution."""
    executing: list[Any] = []

    def run(step: durably.StepContext) -> None:
        step.run("one", int)
        executing.extend(app._supervisor.current_runs())

    with durably.Durably(tmp_path / "a.db", jobs=[durably.Job("counted", run)]) as app:
        app.wait(app.trigger("counted"), timeout=HANG_S)
    [current] = executing
    store: Any = SimpleNamespace(
        find_run=lambda _: current.row, brief=lambda run_id: Brief(run_id, status, None, None)
    )
    worker: Any = SimpleNamespace(executing=lambda: executing)
    live = LiveRun(store, worker, Clock(), run_id=current.id)
    assert live.view().runs[0].done == 1
    executing.clear()
    assert live.view().runs[0].status == status
    live.status = "completed"
    assert live.view().runs[0].done == steps


def test_sessions_and_maps_show_theirs(tmp_path: Path, on_terminal: Callable[[], Terminal]) -> None:
    """Between its steps a session may ask a person; the end of a map is its totals."""
    terminal = on_terminal()
    watched = Watched(terminal)
    with durably.session("import", tmp_path / "a.db") as step:
        step.run("first", watched.wait_for, "now: first")
        print("printed")
        step.run("second", watched.wait_for, "now: second")
    durably.map(watched.wait_for, ["0/2", "1/2"], db=tmp_path / "b.db", name="mapped")

    assert terminal.lines[0] == "printed"
    assert terminal.lines[1].startswith("import ✓completed 2 steps · ")
    assert terminal.lines[2] == "mapped: 2 items, 0 done before"
    assert re.fullmatch(r"mapped: 2 of 2 done \(0 before\), 0 failed, \d+ s", terminal.lines[3])


def test_the_thread_ends_however_a_call_does(
    tmp_path: Path, on_terminal: Callable[[], Terminal]
) -> None:
    """The call ends with an error, a Ctrl-C, a cancel, a timeout, or in the child of a fork."""
    terminal = on_terminal()
    app = durably.Durably(tmp_path / "a.db")
    look = Watched(terminal)

    def ended_by(name: str, end: Callable[[durably.StepContext], object]) -> list[str]:
        def run(step: durably.StepContext) -> None:
            step.run("look", look.wait_for, f"{name} ▸running")
            end(step)

        with pytest.raises(BaseException) as caught:
            app.run(durably.Job(name, run), timeout=HANG_S if name != "late" else 0.2)
        assert displays_alive() == []
        last = [line for line in terminal.lines if line.startswith(f"{name} ")]
        return [caught.type.__name__, last[-1].split()[1]]

    def fail(_: durably.StepContext) -> None:
        raise ValueError("no\x1b[2Jthing\nelse")

    def interrupt(_: durably.StepContext) -> None:
        signal.raise_signal(signal.SIGINT)

    def cancel(step: durably.StepContext) -> None:
        app.cancel(step.run_id)
        step.check()

    def outlast(step: durably.StepContext) -> None:
        step.sleep(HANG_S)

    assert ended_by("fails", fail) == ["RunFailedError", "✗failed"]
    assert ended_by("stops", interrupt) == ["KeyboardInterrupt", "■stopped"]
    assert ended_by("gone", cancel) == ["RunCancelledError", "■cancelled"]
    assert ended_by("late", outlast) == ["WaitTimeoutError", "■stopped"]
    app.close()


def test_a_forked_child_prints_and_is_shown_nothing(
    tmp_path: Path, on_terminal: Callable[[], Terminal]
) -> None:
    """It has no thread that draws, and a copy of a lock that the thread may have."""
    terminal = on_terminal()

    def fork() -> int:
        terminal.wait_for("forks ▸running")
        child = os.fork()
        if child == 0:
            print("of the child")
            os._exit(0)
        return os.waitpid(child, 0)[1]

    with durably.Durably(tmp_path / "a.db") as app:
        done = app.run(durably.Job("forks", lambda step: step.run("fork", fork)))
    assert done.output == 0
    assert any("of the child" in line for line in terminal.lines)


def test_one_call_is_displayed_at_a_time(
    tmp_path: Path, on_terminal: Callable[[], Terminal], started: list[str]
) -> None:
    """A map in a step of a run is a part of it; other threads display nothing by themselves."""
    terminal = on_terminal()
    watched = Watched(terminal)

    def inner() -> int:
        watched.wait_for("now: outer")
        mapped = durably.map(watched.wait_for, ["now: outer"], db=tmp_path / "b.db", name="inner")
        thread = threading.Thread(target=durably.run, args=(plain,), kwargs={"db": tmp_path / "c"})
        thread.start()
        thread.join()
        return len(mapped)

    plain = durably.Job("plain", lambda step: step.run("one", int))
    app = durably.Durably(tmp_path / "a.db")
    app.run(durably.Job("outer", lambda step: step.run("outer", inner)))
    thread = threading.Thread(target=app.run, args=(plain,))
    thread.start()
    thread.join()
    app.close()
    assert started == ["durably-display"]


@pytest.mark.parametrize("why", ["no terminal", "a dumb one", "show", "engine", "environment"])
def test_a_display_that_there_is_not_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[str], why: str
) -> None:
    """No thread is started, and nothing is asked of the runs."""
    monkeypatch.setattr(displays, "_DELAY_S", 0.0)
    monkeypatch.setattr(displays, "Live", None)
    monkeypatch.setenv("TERM", "dumb" if why == "a dumb one" else "xterm")
    monkeypatch.setenv("DURABLY_SHOW", "0" if why == "environment" else "")
    with Terminal() as terminal:
        if why != "no terminal":
            monkeypatch.setattr(sys, "stderr", terminal.stderr)
        show = False if why == "show" else None
        app = durably.Durably(tmp_path / "a.db", show=False if why == "engine" else None)
        job = durably.Job("job", lambda step: step.run("one", int))
        app.run(job, show=show)
        if why != "show":
            with app:
                app.trigger_and_wait(job)
                app.trigger(job)
        app.close()
        assert terminal.read() == b""
    assert started == []


def test_what_is_displayed_of_a_run_that_is_executed_here_is_asked_of_no_database(
    tmp_path: Path, on_terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call with a display executes the same statements as one without it."""
    terminal = on_terminal()
    views, view = threading.Semaphore(0), LiveRun.view

    def counted_view(live: LiveRun) -> object:
        views.release()
        return view(live)

    def wait_for_views(count: int) -> bool:
        return all(views.acquire(timeout=HANG_S) for _ in range(count))

    monkeypatch.setattr(LiveRun, "view", counted_view)
    waits = durably.Job("waits", lambda step, count: step.run("wait", wait_for_views, count))
    disk: Any = SimpleNamespace(syncs=0, pages=0)
    app = durably.Durably(tmp_path / "a.db", jobs=[waits])
    for service in (app._supervisor._heartbeat, app._flusher):
        monkeypatch.setattr(service, "start", lambda: None)  # a clock decides what they do

    def statements(count: int, *, show: bool) -> list[list[str]]:
        with Counted(app._store.database, disk) as counted:
            assert app.run(waits, count, show=show).output
        return [counted.writes, counted.reads]

    statements(0, show=False)  # what is done once
    hidden = statements(0, show=False)
    assert not views.acquire(blocking=False)
    assert statements(20, show=True) == hidden
    app.close()
    assert terminal.lines[0].startswith("waits ✓completed")


def test_a_run_whose_process_has_died_says_so(
    tmp_path: Path, on_terminal: Callable[[], Terminal], caplog: pytest.LogCaptureFixture
) -> None:
    """The line says where its checkpoints come from, as long as it is executed; no warning does."""
    caplog.set_level(logging.INFO, "durably")
    terminal = on_terminal()
    terminal.resize(120)  # there is room for why
    left_by_the_dead(str(tmp_path / "a.db"), "dies")
    died = "1 from checkpoints (the process before this one died)"

    def dies(step: durably.StepContext) -> str:
        step.run("first", os.getpid)
        return step.run("second", terminal.wait_for, died)

    app = durably.Durably(tmp_path / "a.db")
    app.run(durably.Job("dies", dies, origin="any"))
    app.close()
    levels = {each.levelname for each in caplog.records if "recovered" in each.getMessage()}
    assert levels == {"INFO"}
    assert "1 from checkpoints · " in terminal.lines[-1]
    assert "died" not in terminal.lines[-1]


def test_a_quick_call_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends in less than half a second; but the totals of a map are always there."""
    with Terminal() as terminal:
        monkeypatch.setattr(sys, "stderr", terminal.stderr)
        monkeypatch.setattr(displays, "_DELAY_S", HANG_S)
        monkeypatch.setenv("TERM", "xterm")
        durably.run(durably.Job("job", lambda step: step.run("one", int)), db=tmp_path / "a.db")
        assert terminal.read() == b""
        durably.map(str, range(3), db=tmp_path / "a.db", returns=str)
        [line] = terminal.lines
        assert re.fullmatch(r"str: 3 of 3 done \(0 before\), 0 failed, \d+ s", line)


def test_show_true_prints_plain_lines_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the standard error output, without bars; the standard output is the user's."""
    monkeypatch.setattr(displays, "_DELAY_S", 0.0)
    monkeypatch.setenv("DURABLY_SHOW", "yes")
    looked = threading.Event()
    frame = displays.Live._frame

    def noting(live: displays.Live) -> Any:
        seen = frame(live)
        if seen.runs:
            looked.set()
        return seen

    monkeypatch.setattr(displays.Live, "_frame", noting)

    def run(step: durably.StepContext) -> None:
        step.run("one", looked.wait, HANG_S)
        step.progress(3, 4, "half\x1b[2J way")

    durably.run(durably.Job("job", run), db=tmp_path / "a.db")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith("job ▸running 0.")
    assert err.splitlines()[-1].startswith("job ✓completed 3/4 · 0.")
    with pytest.raises(durably.ValidationError, match="DURABLY_SHOW must be 1, 0 or auto"):
        monkeypatch.setenv("DURABLY_SHOW", "perhaps")
        durably.Durably(tmp_path / "b.db")
    assert not (tmp_path / "b.db").exists()
    with pytest.raises(durably.ValidationError, match="show must be True, False, None or what"):
        durably.Durably(tmp_path / "b.db", show="yes")  # type: ignore[arg-type]


def test_a_sink_gets_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar of tqdm counts what is new for its rate, and what there is for its length."""
    monkeypatch.setattr(displays, "_DELAY_S", 0.0)
    bars: list[Bar] = []

    class Bar:
        n: float = 0
        has_closed = False

        def __init__(self, **options: Any) -> None:
            self.options, self.total, self.initial = options, options["total"], options["initial"]
            bars.append(self)

        def refresh(self) -> None:
            drawn.set()

        def close(self) -> None:
            self.has_closed = True

    drawn = threading.Event()

    def run(step: durably.StepContext) -> None:
        drawn.clear()
        for number in range(5):
            step.run(f"step-{number}", int)
            step.progress(number + 1, 10)
        step.run(f"look-{step.attempt}", drawn.wait, HANG_S)
        if step.attempt == 1:
            raise ValueError

    job = durably.Job("bars", run)
    with durably.Durably(tmp_path / "a.db") as app:
        with pytest.raises(durably.RunFailedError):
            app.run(job, key="a", show=tqdm_sink(Bar, unit="pages"))
        app.run(job, key="a", show=tqdm_sink(Bar, unit="pages"))
    first, second = bars
    assert first.options == {"desc": "bars", "total": 10, "initial": 0, "unit": "pages"}
    assert (first.n, first.initial, first.has_closed) == (5, 0, True)
    assert (second.n, second.initial, second.has_closed) == (5, 5, True)
    assert type(tqdm_sink()).__name__ == "_TqdmSink"


def test_a_sink_or_a_terminal_that_fails_harms_no_run(
    tmp_path: Path, on_terminal: Callable[[], Terminal], caplog: pytest.LogCaptureFixture
) -> None:
    """The display ends, and the run goes on."""
    on_terminal()

    class Broken:
        def update(self, *_: object, **__: object) -> None:
            failed.set()
            raise ZeroDivisionError("of a sink")

        def close(self) -> None:
            """Do nothing."""

    failed = threading.Event()
    job = durably.Job("job", lambda step: step.run("one", failed.wait, HANG_S))
    assert durably.run(job, db=tmp_path / "a.db", show=Broken()) is True
    assert caplog.messages[0] == "progress is not displayed any more: of a sink"
    assert displays_alive() == []


def test_hostile_names_are_harmless(tmp_path: Path, on_terminal: Callable[[], Terminal]) -> None:
    """They are one line without anything that a terminal acts on, and leave room for the rest."""
    terminal = on_terminal()
    watched = Watched(terminal)
    name = "job\u202e<b>" + "x" * 150
    key = "\u2066key\n"

    def run(step: durably.StepContext) -> None:
        step.progress(1, 2, "\x1b]0;title\x07\x1b[2J" + "m" * 10_000_000)
        step.run("step\u200f<script>" + "y" * 400, watched.wait_for, r"job\u202e<b>x")

    durably.run(durably.Job(name, run), db=tmp_path / "a.db", key=key)
    assert b"\x1b]" not in terminal.raw
    assert b"\x1b[2J" not in terminal.raw
    assert "\u202e".encode() not in terminal.raw
    assert all(len(line) < 100 for line in terminal.lines)
    assert terminal.lines[-1].startswith(r"job\u202e<b>xxxx")
