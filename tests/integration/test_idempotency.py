"""Idempotency keys, retry_failed and coalescing, and how they combine."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import whole
from held import HeldJob, finish, other

import durably
from durably import Trigger

THREADS = 8

# Most tests tell the triggers with one key apart by their payloads; those of the warning say so.
pytestmark = pytest.mark.filterwarnings("ignore::durably.PayloadChangedWarning")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[durably.Durably]:
    """An engine that was not started."""
    opened = durably.Durably(tmp_path / "durably.db", jobs=[finish, other])
    yield opened
    opened.close()


def at_once(call: Callable[[int], durably.Run]) -> list[durably.Run]:
    """What *call* returns to eight threads that call it at the same moment."""
    barrier = threading.Barrier(THREADS)
    results: list[durably.Run] = []

    def in_thread(number: int) -> None:
        barrier.wait()
        results.append(call(number))

    threads = [threading.Thread(target=in_thread, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == THREADS
    return results


def dispositions(runs: list[durably.Run]) -> list[str]:
    """How the triggers were resolved, sorted."""
    return sorted(str(run.disposition) for run in runs)


# -- the same key ------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["pending", "completed", "failed", "cancelled"])
def test_the_same_key_gives_the_run_that_exists(app: durably.Durably, status: str) -> None:
    """Whatever state it is in; nothing is changed, and its payload is the first one's."""
    payload = "fail" if status == "failed" else "first"
    first = app.jobs["finish"].trigger(payload, idempotency_key="i", labels={"a": "1"})
    if status == "cancelled":
        app.cancel(first)
    elif status != "pending":
        assert app.process_one()
    before = app.get_run(first)
    heard: list[Any] = []
    app.on("*", heard.append)

    again = app.jobs["finish"].trigger("second", idempotency_key="i", labels={"b": "2"})

    assert (again.id, again.status, again.payload) == (first.id, status, payload)
    assert (again.disposition, again.labels) == ("idempotent", {"a": "1"})
    assert whole(app.get_run(first)) == whole(before)
    assert app.count_runs() == 1
    assert heard == []


def test_the_same_key_gives_a_running_run(tmp_path: Path) -> None:
    """With and without retry_failed, which concerns only what has failed."""
    with durably.Durably(tmp_path / "durably.db") as app, HeldJob() as held:
        handle = app.register(held.job)
        first = handle.trigger(1, idempotency_key="i")
        held.inside()
        for retry_failed in (False, True):
            again = handle.trigger(1, idempotency_key="i", retry_failed=retry_failed)
            assert (again.id, again.status) == (first.id, "running")
            assert again.disposition == "idempotent"
        held.let_go()
        assert app.wait(first).attempt == 1


def test_a_key_is_unique_per_job(app: durably.Durably) -> None:
    """The same key with another job is another run."""
    one = app.jobs["finish"].trigger(1, idempotency_key="i")
    two = app.jobs["other"].trigger(1, idempotency_key="i")
    assert (one.disposition, two.disposition) == ("created", "created")
    assert one.id != two.id


def test_a_key_is_free_again_once_its_run_is_deleted(app: durably.Durably) -> None:
    """It is unique as long as the run exists, no longer."""
    first = app.jobs["other"].trigger(1, idempotency_key="i")
    assert app.process_one()
    app.delete_run(first)

    second = app.jobs["other"].trigger(2, idempotency_key="i")

    assert (second.disposition, second.payload) == ("created", 2)
    assert second.id != first.id


def test_the_payload_is_validated_though_the_run_exists(app: durably.Durably) -> None:
    """A payload that does not fit is rejected before any key is read."""
    app.jobs["other"].trigger(1, idempotency_key="i")
    with pytest.raises(durably.ValidationError):
        app.jobs["other"].trigger(object(), idempotency_key="i")


def test_eight_threads_with_one_key_make_one_run(app: durably.Durably) -> None:
    """One of them creates it, the others get it."""
    runs = at_once(lambda number: app.jobs["other"].trigger(number, idempotency_key="i"))
    assert len({run.id for run in runs}) == 1
    assert len({run.payload for run in runs}) == 1
    assert dispositions(runs) == ["created"] + ["idempotent"] * (THREADS - 1)
    assert app.count_runs() == 1


def test_two_engines_with_one_key_make_one_run(app: durably.Durably, tmp_path: Path) -> None:
    """The key is unique in the database, not in one engine."""
    second = durably.Durably(tmp_path / "durably.db", jobs=[other])
    try:
        engines = [app, second]
        runs = at_once(
            lambda number: engines[number % 2].jobs["other"].trigger(number, idempotency_key="i")
        )
    finally:
        second.close()
    assert len({run.id for run in runs}) == 1
    assert dispositions(runs) == ["created"] + ["idempotent"] * (THREADS - 1)


# -- retry_failed ------------------------------------------------------------------------


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_retry_failed_puts_back_what_failed_or_was_cancelled(
    app: durably.Durably, ended: str
) -> None:
    """The run is pending again with its checkpoints, and ``run:retry`` reports it."""
    first = app.jobs["finish"].trigger("fail", idempotency_key="i")
    if ended == "failed":
        assert app.process_one()
    else:
        app.cancel(first)
    heard: list[tuple[str, str]] = []
    app.on("*", lambda event: heard.append((event.type, event.run_id)))

    again = app.jobs["finish"].trigger("fail", idempotency_key="i", retry_failed=True)

    assert (again.id, again.status, again.disposition) == (first.id, "pending", "retried")
    assert (again.error, again.completed_at) == (None, None)
    assert again.completed_steps == (1 if ended == "failed" else 0)
    assert heard == [("run:retry", first.id)]


def test_retry_failed_creates_what_is_not_there(app: durably.Durably) -> None:
    """The first start of a script and the next one call it in the same way."""
    run = app.jobs["finish"].trigger(1, idempotency_key="i", retry_failed=True)
    assert run.disposition == "created"


@pytest.mark.parametrize("is_done", [False, True])
def test_retry_failed_leaves_pending_and_completed_runs(
    app: durably.Durably, is_done: bool
) -> None:
    """They are given back as they are."""
    first = app.jobs["finish"].trigger(1, idempotency_key="i")
    assert not is_done or app.process_one()
    before = app.get_run(first)

    again = app.jobs["finish"].trigger(1, idempotency_key="i", retry_failed=True)

    assert (again.id, again.disposition) == (first.id, "idempotent")
    assert whole(app.get_run(first)) == whole(before)


def test_eight_threads_that_retry_do_it_once(app: durably.Durably) -> None:
    """One of them puts the run back, the others find it pending."""
    app.jobs["finish"].trigger("fail", idempotency_key="i")
    assert app.process_one()
    runs = at_once(
        lambda _: app.jobs["finish"].trigger("fail", idempotency_key="i", retry_failed=True)
    )
    assert dispositions(runs) == ["idempotent"] * (THREADS - 1) + ["retried"]


def test_a_script_that_starts_again_goes_on_from_the_failed_step(tmp_path: Path) -> None:
    """trigger_and_wait with retry_failed executes only what has no checkpoint."""
    calls: list[str] = []

    @durably.job
    def script(step: durably.StepContext) -> str:
        step.run("one", calls.append, "one")
        step.run("two", flaky)
        return "done"

    def flaky() -> None:
        calls.append("two")
        if calls.count("two") == 1:
            raise OSError("not yet")

    for attempt in (1, 2, 3):
        with durably.Durably(tmp_path / "durably.db", jobs=[script]) as app:
            handle = app.jobs["script"]
            if attempt == 1:
                with pytest.raises(durably.RunFailedError) as caught:
                    handle.trigger_and_wait(idempotency_key="i", retry_failed=True)
                assert caught.value.run.disposition == "created"
            else:
                run = handle.trigger_and_wait(idempotency_key="i", retry_failed=True)
                assert (run.output, run.attempt) == ("done", 2)
                assert run.disposition == ("retried" if attempt == 2 else "idempotent")
    assert calls == ["one", "two", "two"]


def test_without_retry_failed_a_failed_run_fails_the_wait_again(app: durably.Durably) -> None:
    """The error is the stored one, and nothing is executed."""
    app.jobs["finish"].trigger("fail", idempotency_key="i")
    assert app.process_one()
    with pytest.raises(durably.RunFailedError) as caught:
        app.jobs["finish"].trigger_and_wait("fail", idempotency_key="i")
    assert caught.value.run.disposition == "idempotent"
    assert caught.value.run.attempt == 1


# -- coalesce ----------------------------------------------------------------------------


def test_a_coalescing_trigger_joins_the_pending_run(app: durably.Durably) -> None:
    """Nothing is created, and ``run:coalesced`` has the payload that was skipped."""
    first = app.jobs["other"].trigger(1, concurrency_key="c")
    heard: list[tuple[str, str, Any]] = []
    app.on("*", lambda event: heard.append((event.type, event.run_id, event.skipped_payload)))

    again = app.jobs["other"].trigger(2, concurrency_key="c", coalesce=True, labels={"a": "b"})

    assert (again.id, again.payload, again.labels) == (first.id, 1, {})
    assert again.disposition == "coalesced"
    assert heard == [("run:coalesced", first.id, 2)]
    assert app.count_runs() == 1


def test_of_several_pending_runs_the_first_is_joined(app: durably.Durably) -> None:
    """It is the one that starts first."""
    first = app.jobs["other"].trigger(1, concurrency_key="c")
    app.jobs["other"].trigger(2, concurrency_key="c")
    assert app.jobs["other"].trigger(3, concurrency_key="c", coalesce=True).id == first.id


def test_without_a_pending_run_of_job_and_key_a_run_is_created(app: durably.Durably) -> None:
    """Another job's run, another key's, and one that has ended do not count."""
    app.jobs["finish"].trigger(1, concurrency_key="c")
    app.jobs["other"].trigger(1, concurrency_key="d")
    app.jobs["other"].trigger(1)
    app.cancel(app.jobs["other"].trigger(1, concurrency_key="c"))

    run = app.jobs["other"].trigger(2, concurrency_key="c", coalesce=True)

    assert (run.disposition, run.payload) == ("created", 2)


def test_a_running_run_is_not_joined(tmp_path: Path) -> None:
    """It may have read its input already: the next one is created, and joined by others."""
    with durably.Durably(tmp_path / "durably.db") as app, HeldJob() as held:
        handle = app.register(held.job)
        first = handle.trigger(1, concurrency_key="c", coalesce=True)
        held.inside()
        second = handle.trigger(2, concurrency_key="c", coalesce=True)
        third = handle.trigger(3, concurrency_key="c", coalesce=True)
        assert (second.disposition, third.disposition) == ("created", "coalesced")
        assert first.id != second.id == third.id
        held.let_go(2)
        assert app.wait(second).output == 2
    assert held.most_inside == 1


def test_eight_threads_that_coalesce_make_one_run(app: durably.Durably) -> None:
    """One of them creates it, the others join."""
    runs = at_once(
        lambda number: app.jobs["other"].trigger(number, concurrency_key="c", coalesce=True)
    )
    assert len({run.id for run in runs}) == 1
    assert dispositions(runs) == ["coalesced"] * (THREADS - 1) + ["created"]


def test_a_matching_idempotency_key_wins_over_coalescing(app: durably.Durably) -> None:
    """The run of the key is given, though another one could be joined."""
    keyed = app.jobs["other"].trigger(1, idempotency_key="i")
    assert app.process_one()
    app.jobs["other"].trigger(2, concurrency_key="c")

    run = app.jobs["other"].trigger(3, idempotency_key="i", concurrency_key="c", coalesce=True)

    assert (run.id, run.disposition, run.status) == (keyed.id, "idempotent", "completed")


def test_a_matching_key_with_retry_failed_wins_over_coalescing(app: durably.Durably) -> None:
    """The failed run is put back, though another one could be joined."""
    keyed = app.jobs["finish"].trigger("fail", idempotency_key="i")
    assert app.process_one()
    app.jobs["finish"].trigger(2, concurrency_key="c")
    run = app.jobs["finish"].trigger(
        3, idempotency_key="i", concurrency_key="c", coalesce=True, retry_failed=True
    )
    assert (run.id, run.disposition) == (keyed.id, "retried")


def test_a_key_that_matches_nothing_is_not_attached_to_the_joined_run(
    app: durably.Durably,
) -> None:
    """The joined run keeps the key it has, and the new key is still free."""
    pending = app.jobs["other"].trigger(1, concurrency_key="c")

    joined = app.jobs["other"].trigger(2, idempotency_key="i", concurrency_key="c", coalesce=True)
    later = app.jobs["other"].trigger(3, idempotency_key="i")

    assert (joined.id, joined.idempotency_key) == (pending.id, None)
    assert (later.disposition, later.payload) == ("created", 3)


# -- another payload ---------------------------------------------------------------------


def paths_warned(caught: pytest.WarningsRecorder) -> list[str]:
    return [str(each.message) for each in caught if each.filename == __file__]


def test_a_trigger_with_another_payload_warns_with_paths(app: durably.Durably) -> None:
    """The run stays as it is; no value is in the warning, and equal payloads warn of nothing."""
    first = app.jobs["other"].trigger({"pages": 1, "secret": "s3"}, idempotency_key="i")
    other_pages = {"pages": 2, "secret": "t4"}
    with pytest.warns(durably.PayloadChangedWarning, match="pages") as caught:
        again = app.jobs["other"].trigger(other_pages, idempotency_key="i")
    texts = paths_warned(caught)
    with pytest.warns(durably.PayloadChangedWarning, match="pages") as caught:
        batch = app.jobs["other"].batch_trigger([Trigger(other_pages, idempotency_key="i")])
    texts += paths_warned(caught)
    assert (again.id, again.payload, again.disposition) == (first.id, first.payload, "idempotent")
    assert batch == [first]
    assert ["$.pages" in text for text in texts] == [True, True]
    assert not any("s3" in text or "t4" in text for text in texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.jobs["other"].trigger({"pages": 1, "secret": "s3"}, idempotency_key="i")


def test_a_trigger_may_refuse_another_payload(app: durably.Durably) -> None:
    """Nothing of a batch is stored then, also if its own items differ."""
    app.jobs["other"].trigger({"pages": 1}, idempotency_key="i")
    options: dict[str, Any] = {"idempotency_key": "i", "on_payload_change": "refuse"}
    assert app.jobs["other"].trigger({"pages": 1}, **options).disposition == "idempotent"
    with pytest.raises(durably.ConflictError, match=r"another payload \(\$\.pages\)"):
        app.jobs["other"].trigger({"pages": 2}, **options)
    new: dict[str, Any] = {"idempotency_key": "new", "on_payload_change": "refuse"}
    with pytest.raises(durably.ConflictError, match="'new'.*another payload"):
        app.jobs["other"].batch_trigger([Trigger(1, **new), Trigger(2, **new)])
    assert app.count_runs() == 1


@pytest.mark.parametrize("status", ["pending", "completed", "failed", "cancelled"])
def test_a_trigger_may_extend_a_run(app: durably.Durably, status: str) -> None:
    """It has the new payload, and is pending again if it had ended."""
    options: dict[str, Any] = {"idempotency_key": "i", "on_payload_change": "extend"}
    run = app.jobs["finish"].trigger("fail" if status == "failed" else 1, **options)
    if status == "cancelled":
        app.cancel(run)
    elif status != "pending":
        assert app.process_one()
    assert run.refresh().status == status
    heard: list[str] = []
    app.on("*", lambda event: heard.append(event.type))

    again = app.jobs["finish"].trigger(2, **options)

    was_over = status != "pending"
    assert (again.id, again.payload, again.status) == (run.id, 2, "pending")
    assert again.disposition == ("retried" if was_over else "idempotent")
    assert heard == ["run:retry"] * was_over
    assert app.process_one()
    assert run.refresh().status == "completed"


def test_a_run_that_is_executed_is_not_extended(tmp_path: Path) -> None:
    """Its code has read the payload."""
    with durably.Durably(tmp_path / "durably.db") as app, HeldJob() as held:
        handle = app.register(held.job)
        handle.trigger(1, idempotency_key="i")
        held.inside()
        with pytest.raises(durably.ConflictError, match="is being executed"):
            handle.trigger(2, idempotency_key="i", on_payload_change="extend")
        assert handle.trigger(1, idempotency_key="i", on_payload_change="extend").payload == 1
        held.let_go(1)


def test_an_active_run_of_the_key_may_be_joined(tmp_path: Path) -> None:
    """One that is running, or waiting, as well as a pending one; none that has ended."""

    @durably.job("waits")
    def waits(step: durably.Step, number: int) -> int:
        if number == 1:
            step.sleep_until("long", 3600)
        return number

    with durably.Durably(tmp_path / "durably.db", jobs=[waits]) as app, HeldJob() as held:
        options: dict[str, Any] = {"concurrency_key": "c", "coalesce": "active"}
        handle = app.register(held.job)
        first = handle.trigger(1, **options)
        held.inside()
        joined = handle.trigger(2, **options)
        assert (joined.id, joined.disposition) == (first.id, "coalesced")
        later = handle.trigger(3, concurrency_key="c")
        assert handle.trigger(4, **options).id == later.id
        held.let_go(2)
        app.wait(later)
        waiting = app.trigger(waits, 1, concurrency_key="w")
        app.run_until_idle()
        assert waiting.refresh().status == "waiting"
        assert app.trigger(waits, 2, concurrency_key="w", coalesce="active").id == waiting.id
        other = app.trigger(waits, 2, concurrency_key="w", coalesce="pending")
        assert other.disposition == "created"
