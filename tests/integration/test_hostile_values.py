"""Whatever users hand in: it comes back as it was, or a typed error says why not, and nothing of it
changes what a statement does.
"""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from engines import engine, whole
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import durably
from durably.plugins import LogPersistence
from durably.testing import check

SQL = "'); DROP TABLE durably_runs; --"
HOSTILE = [
    "",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff\ud800",
    "\u202eRTL\u202c",
    SQL,
    "%_\\",
    "\x1b[2J\r\n",
    "\x85",
]

# Any code point at all, lone surrogates too, and what has made other programs stumble.
texts = st.text(st.characters()) | st.text(st.characters(categories=["Cs", "Cc", "Cf", "Zl"]))
texts = texts | st.sampled_from(HOSTILE) | st.sampled_from(HOSTILE).map(lambda text: text * 300)
numbers = st.integers() | st.integers(-(10**400), 10**400) | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
fuzz = settings(max_examples=60, suppress_health_check=list(HealthCheck))


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types, the sign of zero included, and a NaN where there was one."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        if math.isnan(one):
            return math.isnan(other)
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def is_storable(text: str) -> bool:
    """Return whether *text* may be a name, key or label."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def is_name(text: str, longest: int) -> bool:
    """Return whether *text* may be the name of a job or step."""
    has_controls = any(char < " " or "\x7f" <= char <= "\x9f" for char in text)
    return 0 < len(text) <= longest and is_storable(text) and not has_controls


def test_any_json_comes_back_as_it_was(tmp_path: Path) -> None:
    """As payload, as result of a step, as result of the run, in events, and when read again."""

    def job(step: durably.StepContext, payload: Any) -> Any:
        return [step.run("echo", lambda: payload), payload]

    with engine(tmp_path, job) as app:
        events: list[Any] = []
        app.on("*", events.append)

        @fuzz
        @given(values)
        @example(10**5000)
        def comes_back(value: Any) -> None:
            events.clear()
            run = app.jobs["job"].trigger(value)
            assert app.process_one()
            read = app.get_run(run)
            assert read is not None
            assert same(run.payload, value)
            assert same(read.payload, value)
            assert same(read.output, [value, value])
            assert same(app.get_steps(run)[0].output, value)
            told = {event.type: event for event in events}
            assert same(told["run:start"].payload, value)
            assert same(told["step:complete"].output, value)
            assert same(told["run:complete"].output, [value, value])

        comes_back()
    assert check(tmp_path / "durably.db") == []


def test_any_text_is_a_key_and_a_label_or_is_rejected(tmp_path: Path) -> None:
    """A key finds its run again and a label is filtered by, exactly; what cannot be stored is
    rejected by name, and nothing is stored.
    """

    def job(step: durably.StepContext) -> None:
        pass

    with engine(tmp_path, job) as app:
        handle = app.jobs["job"]
        known: dict[str, str] = {}

        @fuzz
        @given(texts)
        def is_kept_or_refused(text: str) -> None:
            before = app.count_runs()
            for options in (
                {"idempotency_key": text},
                {"concurrency_key": text, "coalesce": True},
                {"labels": {"label": text}},
            ):
                if is_storable(text) and (text or "labels" in options):
                    run = handle.trigger(**options)
                    assert whole(app.get_run(run)) == whole(run)
                    continue
                with pytest.raises(durably.ValidationError, match=next(iter(options))[:5]):
                    handle.trigger(**options)
                with pytest.raises(durably.ValidationError):
                    handle.batch_trigger([None, durably.Trigger(**options)])
            if not is_storable(text):
                assert app.count_runs() == before
                return
            assert app.count_runs(labels={"label": text}) > 0
            found = app.get_runs(labels={"label": text})
            assert {run.labels["label"] for run in found} == {text}
            if text:
                run = handle.trigger(idempotency_key=text)
                assert known.setdefault(text, run.id) == run.id
                assert run.disposition == "idempotent"
            assert len(set(known.values())) == len(known)

        is_kept_or_refused()
    assert check(tmp_path / "durably.db") == []


def test_any_text_asks_and_filters_harmlessly(tmp_path: Path) -> None:
    """An id, a job name, a status or a label key that nobody has finds nothing or is rejected."""

    def job(step: durably.StepContext) -> None:
        pass

    with engine(tmp_path, job) as app:
        kept = app.jobs["job"].trigger(labels={"a": "b"})

        @fuzz
        @given(texts)
        def finds_nothing(text: str) -> None:
            calls: list[Any] = [
                lambda: app.get_run(text) is None,
                lambda: app.jobs["job"].get_run(text) is None,
                lambda: app.get_runs(job_name=text) == [],
                lambda: app.get_runs(job_name=[text, text]) == [],
                lambda: app.get_runs(status=text) == [],
                lambda: app.get_runs(labels={text: text}) == [],
                lambda: app.count_runs(labels={"a": text}) == (1 if text == "b" else 0),
                lambda: app.get_job(text) is None,
            ]
            for call in calls:
                try:
                    assert call() or text in ("a", "b", "job", "pending")
                except durably.ValidationError:
                    continue
            for act in (
                app.cancel,
                app.retry,
                app.retrigger,
                app.delete_run,
                app.get_steps,
                app.wait,
            ):
                with pytest.raises((durably.NotFoundError, durably.ValidationError)):
                    act(text)

        finds_nothing()
        assert [whole(run) for run in app.get_runs()] == [whole(kept)]


def test_any_text_is_the_name_of_a_step_or_is_rejected(tmp_path: Path) -> None:
    """A step of any name that may be is found by it in the next attempt; any other is a
    ValidationError in the job, and its function is not called.
    """
    executed: list[str] = []

    def job(step: durably.StepContext, names: list[str]) -> list[str]:
        refused = []
        for name in names:
            try:
                step.run(name, executed.append, name)
            except durably.ValidationError:
                refused.append(name)
        if step.attempt == 1:
            raise RuntimeError
        return refused

    with engine(tmp_path, job) as app:

        @fuzz
        @given(st.lists(texts, max_size=5, unique=True))
        def is_found_or_refused(names: list[str]) -> None:
            executed.clear()
            run = app.jobs["job"].trigger(names)
            assert app.process_one()
            app.retry(run)
            assert app.process_one()
            good = [name for name in names if is_name(name, 500)]
            read = app.get_run(run)
            assert read is not None
            assert read.output == [name for name in names if name not in good]
            assert executed == good
            assert [step.name for step in app.get_steps(run)] == good

        is_found_or_refused()
    assert check(tmp_path / "durably.db") == []


def test_any_text_is_the_name_of_a_job_or_is_rejected(tmp_path: Path) -> None:
    """A job of any name that may be is executed under it; any other is rejected when defined."""
    with engine(tmp_path) as app:

        @fuzz
        @given(texts)
        def is_executed_or_refused(name: str) -> None:
            if not is_name(name, 200):
                with pytest.raises(durably.ValidationError):
                    durably.Job(name, lambda step: name)
                return
            if app.get_job(name) is None:
                app.register(durably.Job(name, lambda step: step.job_name))
            run = app.jobs[name].trigger()
            assert app.process_one()
            read = app.get_run(run)
            assert read is not None
            assert (read.output, read.job_name) == (name, name)
            assert read in app.get_runs(job_name=name)

        is_executed_or_refused()
    assert check(tmp_path / "durably.db") == []


def test_any_text_may_be_reported(tmp_path: Path) -> None:
    """As progress, as log line with any data, as the message of an error and of a failed step."""

    class ToldError(Exception):
        pass

    def fail(text: str) -> None:
        raise ToldError(text)

    def job(step: durably.StepContext, payload: list[Any]) -> None:
        text, value = payload
        step.progress(1, 2, text)
        step.log.info(text, value=value, text=text, **{text: value})
        step.run("fail", fail, text)

    with engine(tmp_path, job) as app:
        app.use(LogPersistence())

        @fuzz
        @given(texts, values)
        def is_told(text: str, value: Any) -> None:
            run = app.jobs["job"].trigger([text, value])
            assert app.process_one()
            app._flusher.flush_lines()
            read = app.get_run(run)
            assert read is not None
            assert read.error is not None
            assert read.progress == durably.Progress(1, 2, text)
            assert (read.status, read.error.message) == ("failed", text)
            assert app.get_steps(run)[0].error == durably.ErrorInfo(
                read.error.type, text, app.get_steps(run)[0].error.traceback
            )
            (line,) = app.get_logs(run)
            # In a log line alone two halves of a character become that character.
            assert line.message == text.encode("utf-16", "surrogatepass").decode(
                "utf-16", "surrogatepass"
            )

        is_told()
    assert check(tmp_path / "durably.db") == []


class Evil:
    """Whatever is asked of it raises."""

    def __repr__(self) -> str:
        raise ZeroDivisionError

    __str__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __repr__  # type: ignore[assignment]


class EvilDict(dict):
    """A dict that cannot be read."""

    def items(self) -> Any:
        raise ZeroDivisionError

    __iter__ = keys = values = __getitem__ = items  # type: ignore[assignment]


class EvilText(str):
    """Text that cannot be shown."""

    __slots__ = ()

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def circular() -> Any:
    value: list[Any] = [1]
    value.append({"itself": value})
    return value


BAD = {
    "an object": object,
    "one that raises": Evil,
    "one in a list": lambda: [1, [Evil()]],
    "one as a key": lambda: {EvilText("a"): Evil()},
    "a dict of it": lambda: EvilDict(a=Evil()),
    "nested 1,000 levels": lambda: nested(1000),
    "nested 100,000 levels": lambda: nested(100_000),
    "circular": circular,
    "an exception": lambda: ValueError(Evil()),
    "a class": lambda: Evil,
    "a generator": lambda: (each for each in (1, 2)),
    "a function": lambda: nested,
    "a set of functions": lambda: {nested},
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_what_is_no_json_is_rejected_wherever_it_comes_from(tmp_path: Path, make: Any) -> None:
    """As payload a ValidationError and nothing stored; as result of a step or run a
    SerializationError that fails it. The engine goes on.
    """

    def job(step: durably.StepContext, where: Any) -> Any:
        if where == "step":
            step.run("bad", make)
        return make() if where == "run" else "good"

    with engine(tmp_path, job) as app:
        handle = app.jobs["job"]
        with pytest.raises(durably.ValidationError, match="payload"):
            handle.trigger(make())
        with pytest.raises(durably.ValidationError, match="item 1"):
            handle.batch_trigger([1, make()])
        assert app.count_runs() == 0
        for where in ("step", "run"):
            run = handle.trigger(where)
            assert app.process_one()
            read = app.get_run(run)
            assert read is not None
            assert read.error is not None
            assert read.error.type == "durably.SerializationError", read.error
            assert len(read.error.message) < 2000
        for options in ({"labels": make()}, {"idempotency_key": make()}):
            with pytest.raises(durably.ValidationError):
                handle.trigger("good", **options)
        assert app.count_runs() == 2
        assert handle.trigger("good").status == "pending"
        assert app.run_until_idle() == 1
    assert check(tmp_path / "durably.db") == []


def test_what_is_as_deep_as_may_be_comes_back_to_a_deep_caller(tmp_path: Path) -> None:
    """Data of 200 levels is stored and read, by a caller deep in its stack as well; 201 are
    rejected, and no RecursionError comes out of either.
    """

    def job(step: durably.StepContext, payload: Any) -> Any:
        return step.run("echo", lambda: payload)

    with engine(tmp_path, job) as app:
        value = nested(200)
        run = app.jobs["job"].trigger(value)
        assert app.process_one()

        def deep(levels: int) -> Any:
            if levels:
                return deep(levels - 1)
            read = app.get_run(run)
            assert read is not None
            return read.output

        assert deep(sys.getrecursionlimit() // 4) == value
        with pytest.raises(durably.ValidationError, match="deeply"):
            app.jobs["job"].trigger(nested(201))


SIZES = {
    "20 MB of text": lambda: "x" * 20_000_000,
    "text that JSON makes six times as long": lambda: "\ud800" * 3_000_000,
    "rows": lambda: [["row", number, "x" * 200] for number in range(90_000)],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "blobs"),
    [*((make, False) for make in SIZES.values()), (SIZES["rows"], None)],
    ids=[*SIZES, "rows in a file"],
)
def test_what_is_huge_comes_back_as_it_was(tmp_path: Path, make: Any, blobs: Any) -> None:
    """A payload, a result of a step and a result of a run of this size are stored and read; the
    step warns of it where it makes the database large.
    """

    def job(step: durably.StepContext, payload: Any) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = step.run("echo", lambda: payload)
        assert ["MiB in the database" in str(each.message) for each in caught] == (
            [True] if blobs is False else []
        )
        assert result == payload
        return result

    value = make()
    with engine(tmp_path, job, blobs=blobs) as app:
        run = app.jobs["job"].trigger(value)
        assert app.process_one()
        read = app.get_run(run)
        assert read is not None
        assert read.error is None
        assert read.payload == value
        assert read.output == value
    assert check(tmp_path / "durably.db") == []


@pytest.mark.slow
def test_a_huge_key_or_label_is_stored_or_rejected(tmp_path: Path) -> None:
    """Names have a limit and keys have none: what is too long for one is a ValidationError, and a
    huge key finds its run.
    """

    def job(step: durably.StepContext) -> None:
        with pytest.raises(durably.ValidationError, match="5000000 characters; 500"):
            step.run("n" * 5_000_000, int)

    huge = "k" * 5_000_000
    with pytest.raises(durably.ValidationError, match="5000000 characters; 200"):
        durably.Job(huge, job)
    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger(idempotency_key=huge, labels={"a": huge})
        assert app.jobs["job"].trigger(idempotency_key=huge).id == run.id
        assert app.count_runs(labels={"a": huge}) == 1
        with pytest.raises(durably.ValidationError, match="label key"):
            app.jobs["job"].trigger(labels={huge: ""})
        assert app.process_one()
        read = app.get_run(run)
        assert read is not None
        assert read.status == "completed", read.error
    assert check(tmp_path / "durably.db") == []
