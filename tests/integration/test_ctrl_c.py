"""A Ctrl-C at any instruction of what starts, executes and stops: the engine can be used on."""

from __future__ import annotations

import dis
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from gates import names_of_threads
from invariants import check

import durably
from durably import Durably

# Where CPython looks for signals: after a call, on entering a function, on going back in a loop.
LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD")
PACKAGE = str(Path(durably.__file__).parent)
# Each costs an engine's life.
SAMPLE = 8


class CtrlC:
    """Presses Ctrl-C at the n-th look for signals, in the calling thread."""

    def __init__(self, point: int) -> None:
        self._point = point
        self._last: dict[int, str] = {}
        self.passed = 0
        self.where = "nowhere"

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) and code.co_filename != threading.__file__:
            return None
        frame.f_trace_opcodes = True
        if event != "opcode":
            self._last.pop(id(frame), None)
            return self
        last = self._last.get(id(frame), "")
        self._last[id(frame)] = dis.opname[code.co_code[frame.f_lasti]]
        if last.startswith(LOOKS):
            self.passed += 1
            if self.passed == self._point:
                self.where = f"{code.co_filename}:{frame.f_lineno} ({code.co_name})"
                signal.raise_signal(signal.SIGINT)
        return self

    def during(self, scene: Callable[[], object]) -> None:
        """Execute *scene* until it ends or is interrupted."""
        # Python 3.12 tells of opcodes only if somebody has asked for it before.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self)
        try:
            scene()
        except KeyboardInterrupt:
            assert self.where != "nowhere"
        finally:
            sys.settrace(None)


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

    def opened(n: int) -> Durably:
        # With one worker a slot that is lost is missed.
        return Durably(tmp_path / f"{n}.db", jobs=[work], max_workers=1, synchronous="normal")

    app = opened(0)
    counting = CtrlC(0)
    counting.during(lambda: scene(app))
    app.close()
    points = random.Random(f"{scene.__name__} {seed}").sample(range(1, counting.passed + 1), SAMPLE)
    for n, point in enumerate(points, 1):
        app = opened(n)
        ctrl_c = CtrlC(point)
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
        with opened(n):
            pass
        assert check(tmp_path / f"{n}.db", is_idle=True, is_finished=True) == [], ctrl_c.where
