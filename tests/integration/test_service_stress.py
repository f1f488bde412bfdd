"""Services and engines that several threads start, stop and close at once."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import durably
from durably import Durably, EngineClosedError
from durably._platform.clock import Clock
from durably.worker.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HANG_S = 60  # only guards against hanging
SERVICES = ("_dispatcher", "_reaper", "_heartbeat", "flusher")


@pytest.fixture(autouse=True)
def many_switches() -> Iterator[None]:
    """Switch threads so often that they meet in more places than by themselves."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def seeds(seed: int) -> Iterator[int]:
    """Return a seed for each thread."""
    return itertools.count(seed)


def at_once(functions: list[Callable[[], Any]]) -> list[BaseException]:
    """Call all in threads of their own, begun together; what they raised."""
    barrier = threading.Barrier(len(functions), timeout=HANG_S)
    raised: list[BaseException] = []

    def call(function: Callable[[], Any]) -> None:
        try:
            barrier.wait()
            function()
        except BaseException as exc:
            raised.append(exc)

    threads = [threading.Thread(target=call, args=(each,)) for each in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
        assert not thread.is_alive(), "hangs"
    return raised


def alive(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith(name)]


class Counting(Service):
    """A service that knows how many of its threads are in their tick."""

    def __init__(self, **options: Any) -> None:
        self.errors: list[BaseException] = []
        super().__init__(
            "counting",
            clock=Clock(),
            on_error=lambda exc, _: self.errors.append(exc),
            **options,
        )
        self.inside = 0
        self.most = 0
        self.ticked = threading.Event()

    def tick(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.ticked.set()
        self.inside -= 1


class TestService:
    @pytest.mark.parametrize("interval_s", [None, 0.0, 1000.0])
    def test_any_order_of_starts_and_stops_ends_stopped(
        self, seeds: Iterator[int], interval_s: float | None
    ) -> None:
        """However many threads start and stop it, at most one thread runs, and a stop ends it."""
        service = Counting(interval_s=interval_s)

        def churn() -> None:
            choose = random.Random(next(seeds))
            for _ in range(30):
                choose.choice([service.start, service.stop, service.wake])()
                assert len(alive("durably-counting")) <= 1

        assert at_once([churn] * 6) == []
        service.stop()
        assert alive("durably-counting") == []
        assert service.most <= 1
        assert service.errors == []

    def test_it_works_after_all_that(self) -> None:
        """A service that was stopped ticks again when it is started again."""
        service = Counting(interval_s=None)
        service.stop()
        for _ in range(3):
            service.ticked.clear()
            service.start()
            service.start()
            assert service.ticked.wait(HANG_S)
            service.stop()
            service.stop()
        assert alive("durably-counting") == []

    def test_a_wake_causes_one_more_tick(self) -> None:
        """Also one that comes during a tick, and with no interval."""
        service = Counting(interval_s=None)
        service.start()
        for _ in range(20):
            assert service.ticked.wait(HANG_S)
            service.ticked.clear()
            service.wake()
        service.stop()

    def test_a_tick_that_raises_is_reported_and_the_thread_goes_on(self) -> None:
        """Whatever leaves tick() reaches on_error with the name of the service."""
        told = []
        enough = threading.Event()

        class Failing(Service):
            def tick(self) -> None:
                raise ValueError("each time")

        def on_error(exc: BaseException, name: str) -> None:
            told.append((str(exc), name))
            if len(told) == 3:
                enough.set()

        service = Failing("failing", clock=Clock(), interval_s=0.0, on_error=on_error)
        service.start()
        assert enough.wait(HANG_S)
        service.stop()
        assert set(told) == {("each time", "failing")}

    @pytest.mark.parametrize("name", SERVICES)
    def test_each_service_of_an_engine(
        self, tmp_path: Path, seeds: Iterator[int], name: str
    ) -> None:
        """Dispatcher, reaper, heartbeat and flusher alone survive any starts and stops."""
        app = Durably(tmp_path / "x.db", jobs=[durably.job("x")(lambda step: None)])
        app.process_one()  # registers the engine
        service: Service = getattr(app._supervisor, name)
        thread_name = f"durably-{service._name}"

        def churn() -> None:
            choose = random.Random(next(seeds))
            for _ in range(10):
                choose.choice([service.start, service.stop, service.wake])()
                assert len(alive(thread_name)) <= 1

        try:
            assert at_once([churn] * 4) == []
        finally:
            service.stop()
            app.close()
        assert alive(thread_name) == []


class TestEngine:
    @pytest.fixture
    def done(self) -> list[int]:
        return []

    @pytest.fixture
    def app(self, tmp_path: Path, done: list[int]) -> Iterator[Durably]:
        @durably.job("counted")
        def counted(step, payload):
            step.run("count", done.append, payload)

        app = Durably(tmp_path / "x.db", jobs=[counted], max_workers=3, synchronous="normal")
        yield app
        app.close()

    def test_starts_and_stops_while_runs_are_triggered(
        self, app: Durably, seeds: Iterator[int], done: list[int]
    ) -> None:
        """No call raises, none hangs, and in the end every run was executed once."""
        handle = app.jobs["counted"]

        def churn() -> None:
            choose = random.Random(next(seeds))
            for _ in range(8):
                choose.choice([app.start, app.stop, lambda: app.stop(interrupt=True), app.init])()

        def trigger(first: int) -> None:
            for number in range(first, first + 25):
                handle.trigger(number)

        assert at_once([churn, churn, churn, lambda: trigger(0), lambda: trigger(100)]) == []
        app.start()
        app.run_until_idle()
        app.stop()
        assert alive("durably-") == []
        assert sorted(done) == [*range(25), *range(100, 125)]
        assert app.count_runs(status="completed") == 50

    def test_run_until_idle_and_process_one_from_several_threads(
        self, app: Durably, done: list[int]
    ) -> None:
        """They share the pending runs: each is executed once, by one of them."""
        app.jobs["counted"].batch_trigger(list(range(40)))

        def one_by_one() -> None:
            while app.process_one():
                pass

        assert at_once([app.run_until_idle, app.run_until_idle, one_by_one, one_by_one]) == []
        assert alive("durably-") == []
        assert sorted(done) == list(range(40))

    @pytest.mark.parametrize("attempt", range(6))
    def test_close_among_everything(self, tmp_path: Path, done: list[int], attempt: int) -> None:
        """A call that comes too late raises EngineClosedError; nothing is lost or left."""

        @durably.job("counted")
        def counted(step, payload):
            step.run("count", done.append, payload)

        path = tmp_path / "closing.db"
        app = Durably(path, jobs=[counted], max_workers=2, synchronous="normal")
        handle = app.jobs["counted"]
        triggered: list[int] = []
        errors: list[Any] = []
        app.on("worker:error", errors.append)
        app.on_error(lambda exc, event: errors.append((exc, event)))

        def trigger() -> None:
            for number in range(100):
                handle.trigger(number)
                triggered.append(number)

        def close() -> None:
            while len(triggered) < 3 + 5 * attempt:
                threading.Event().wait(0.001)
            app.close()
            assert alive("durably-heartbeat") == []

        def again_and_again(function: Callable[[], Any]) -> Callable[[], None]:
            def call() -> None:
                for _ in range(1000):
                    function()

            return call

        several = [app.start, app.stop, app.run_until_idle, app.process_one]
        raised = at_once([trigger, close, close, *map(again_and_again, several)])

        assert [exc for exc in raised if not isinstance(exc, EngineClosedError)] == []
        assert errors == []
        assert alive("durably-") == []
        assert [each.name for each in tmp_path.iterdir() if ".owner-" in each.name] == []
        with Durably(path, jobs=[counted]) as after:
            assert after.count_runs() in (len(triggered), len(triggered) + 1)
        assert sorted(set(done)) == sorted(done)
        assert set(done) >= set(triggered)
