"""A Ctrl-C at any instruction of what starts, executes and stops: the engine can be used on."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from calls import names_of_threads
from interrupting import SignalAt
from invariants import check

import durably
from durably import Durably
from durably.entry.open_sessions import open_here

# Each costs an engine's life.
SAMPLE = 4


def ctrl_c_at(point: int) -> SignalAt:
    return SignalAt(signal.SIGINT, (KeyboardInterrupt,), point)


@durably.job
def work(step: durably.StepContext) -> int:
    return step.run("one", int)


def with_block(app: Durably) -> None:
    with app:
        app.jobs["work"].trigger()


def start_and_stop(app: Durably) -> None:
    app.start()
    app.wait(app.jobs["work"].trigger(), timeout=20)
    app.stop()


def stop_interrupting(app: Durably) -> None:
    app.start()
    app.jobs["work"].trigger()
    app.stop(interrupt=True)


def run_until_idle(app: Durably) -> None:
    app.jobs["work"].batch_trigger([None, None])
    app.run_until_idle()


def process_one(app: Durably) -> None:
    app.jobs["work"].trigger()
    app.process_one()


def run_here(app: Durably) -> None:
    app.run(work, key=f"key {app.count_runs()}")
    app.run(work)


def trigger_into_a_free_slot(app: Durably) -> None:
    app.start()
    for _ in range(2):
        app.wait(app.jobs["work"].trigger(), timeout=20)


def close(app: Durably) -> None:
    app.start()
    app.close()


SCENES = [
    with_block,
    start_and_stop,
    stop_interrupting,
    run_until_idle,
    process_one,
    run_here,
    trigger_into_a_free_slot,
    close,
]


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    tracing = sys.gettrace()
    yield
    sys.settrace(tracing)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_engine_can_be_used_on(tmp_path: Path, seed: int, scene: Callable[[Durably], None]) -> None:
    """After a Ctrl-C anywhere the engine executes runs, or says that it is closed, and closes;
    nothing of it is left.
    """

    path = tmp_path / "x.db"

    def opened() -> Durably:
        # With one worker a slot that is lost is missed.
        return Durably(path, jobs=[work], max_workers=1, synchronous="normal")

    app = opened()
    counting = ctrl_c_at(0)
    counting.during(lambda: scene(app))
    app.close()
    points = random.Random(f"{scene.__name__} {seed}").sample(range(1, counting.passed + 1), SAMPLE)
    pressed = [ctrl_c_at(point) for point in points]
    for ctrl_c in pressed:
        app = opened()
        ctrl_c.during(lambda app=app: scene(app))
        try:
            app.start()
            run = app.jobs["work"].trigger_and_wait(timeout=20)
        except durably.EngineClosedError:
            assert scene in (with_block, close), ctrl_c.where
        else:
            assert run.output == 0, ctrl_c.where
        app.close()
        assert names_of_threads() == [], ctrl_c.where
    with opened():
        pass
    found = check(path, is_idle=True, is_finished=True)
    assert found == [], [ctrl_c.where for ctrl_c in pressed]


def session(path: Path) -> None:
    with durably.session("work", path, synchronous="normal") as step:
        step.run("one", int)
        step.run("two", int)


def map_in_one_line(path: Path) -> None:
    assert list(durably.map(abs, range(3), db=path, max_workers=2, synchronous="normal")) == [
        0,
        1,
        2,
    ]


def iterator_in_one_line(path: Path) -> None:
    found = durably.imap(abs, range(3), db=path, ordered=True, synchronous="normal")
    assert [each.output for each in found] == [0, 1, 2]


def run_in_one_line(path: Path) -> None:
    assert durably.run(work, db=path, key="k", synchronous="normal") == 0


@pytest.mark.parametrize(
    "scene",
    [session, map_in_one_line, iterator_in_one_line, run_in_one_line],
    ids=lambda scene: scene.__name__,
)
def test_what_opens_a_file_by_itself_can_be_called_again(
    tmp_path: Path, seed: int, scene: Callable[[Path], None]
) -> None:
    """After a Ctrl-C anywhere it is pending or has completed, and nothing of it is left."""
    counting = ctrl_c_at(0)
    counting.during(lambda: scene(tmp_path / "0.db"))
    points = random.Random(f"{scene.__name__} {seed}").sample(range(1, counting.passed + 1), SAMPLE)
    for n, point in enumerate(points, 1):
        path = tmp_path / f"{n}.db"
        ctrl_c = ctrl_c_at(point)
        ctrl_c.during(lambda path=path: scene(path))
        # Between its opening and the block nobody has it, until the interpreter ends.
        for lost in tuple(open_here.values()):
            lost.hand_over()
        assert names_of_threads() == [], ctrl_c.where
        scene(path)
        with durably.Durably(path) as app:
            assert {run.status for run in app.get_runs()} == {"completed"}, ctrl_c.where
        assert check(path, is_idle=True, is_finished=True) == [], ctrl_c.where
