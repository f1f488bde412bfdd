"""What is in payloads and results stays out of logs, errors and stored tracebacks, unless the
user's own code puts it there. Keys of mappings are not kept out: they name the place of an error.
"""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import pytest
from attrs import define, field, validators
from databases import open_database
from engines import engine

import durably
from durably.testing import check

SECRET = "hunter2-XYZZY"
NUMBER = 918273645546372819


@define
class Login:
    user: str
    password: int = field(validator=validators.instance_of(int))


@define
class Account:
    login: Login
    tags: dict[str, int]


class Color(Enum):
    RED = "red"


class Options(TypedDict):
    limit: int


class Point(NamedTuple):
    x: int
    y: int


class Token(str):
    """Text with something more to it."""

    __slots__ = ("more",)


def login() -> Login:
    return Login("me", 1)


def of_secret() -> Any:
    """Something that holds the secret in each way a value can hold it."""
    return {"password": SECRET, "list": [SECRET, {"a": SECRET}], "number": NUMBER}


# What has no stored form under its type: made by a step, by a job, and triggered.
BAD: list[tuple[Any, Callable[[], Any]]] = [
    (Any, lambda: {"password": SECRET.join}),
    (Any, lambda: {"password": {SECRET, SECRET.join}}),
    (Any, lambda: {"nested": [of_secret(), (SECRET, SECRET.join)]}),
    (Any, lambda: [Login(SECRET, NUMBER), SECRET.join]),
    (Any, lambda: Point(NUMBER, open)),
    (Any, lambda: memoryview(SECRET.encode())),
    (Any, lambda: SECRET.join),
    (Any, lambda: (each for each in SECRET)),
    (Any, lambda: ValueError(SECRET)),
    (int, lambda: SECRET),
    (bool, lambda: NUMBER),
    (str, lambda: NUMBER),
    (float, lambda: NUMBER),
    (list[int], lambda: [1, SECRET]),
    (set[int], lambda: {SECRET}),
    (tuple[int, int], lambda: (SECRET, 1, 2)),
    (dict[str, int], lambda: {"password": SECRET}),
    (dict[int, str], lambda: {1: NUMBER}),
    (int | None, lambda: SECRET),
    (Literal["a", "b"], lambda: SECRET),
    (Color, lambda: SECRET),
    (UUID, lambda: SECRET),
    (datetime, lambda: SECRET),
    (date, lambda: SECRET),
    (timedelta, lambda: SECRET),
    (Decimal, lambda: SECRET),
    (bytes, lambda: SECRET),
    (Login, lambda: {"user": SECRET, "password": SECRET}),
    (Login, lambda: {"user": NUMBER, "password": 1}),
    (Login, lambda: SECRET),
    (Account, lambda: {"login": {"user": [SECRET], "password": NUMBER}, "tags": {"a": SECRET}}),
    (Account | Login | None, lambda: {"login": SECRET}),
    (Options, lambda: {"limit": SECRET}),
    (Point, lambda: [SECRET, NUMBER, SECRET]),
    (Token, lambda: NUMBER),
]


class Told:
    """Everything that durably has said, wherever."""

    def __init__(self, caplog: pytest.LogCaptureFixture, database: Path) -> None:
        self._caplog = caplog
        self._database = database
        self.errors: list[BaseException] = []
        self.warned: list[warnings.WarningMessage] = []

    def refused(self, call: Callable[[], object]) -> None:
        """Make a call that must be rejected."""
        with pytest.raises((durably.DurablyError, durably.StopRun)) as caught:
            call()
        self.errors.append(caught.value)

    def texts(self) -> list[str]:
        formatter = logging.Formatter("%(message)s %(name)s")
        texts = [formatter.format(record) for record in self._caplog.records]
        for error in self.errors:
            texts += [str(error), repr(error), *traceback.format_exception(error)]
        texts += [str(each.message) for each in self.warned]
        db = open_database(self._database)
        for table in ("durably_runs", "durably_steps"):
            rows = db.execute(f"SELECT error FROM {table} WHERE error IS NOT NULL").fetchall()
            texts += [text for (text,) in rows]
        db.close()
        return texts

    def leaks(self) -> list[str]:
        """Those of its texts that hold what is secret."""
        return [text for text in self.texts() if SECRET in text or str(NUMBER) in text]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> Told:
    caplog.set_level(logging.DEBUG)
    return Told(caplog, tmp_path / "durably.db")


@pytest.mark.parametrize(("type_", "make"), BAD)
def test_a_rejected_value_is_named_by_place_and_type(
    tmp_path: Path, told: Told, type_: Any, make: Callable[[], Any]
) -> None:
    """A payload, a result of a step and one of a run that do not fit: the error says where and what
    was expected, and nothing of the value is in it, in what is stored or in what is logged.
    """

    def job(step: durably.StepContext, where: Any) -> Any:
        if where == "step":
            step.options(returns=None if type_ is Any else type_).run("bad", make)
        return make()

    def taking(step: durably.StepContext, payload: Any) -> None:
        step.run("never", int)

    output, payload = (None, None) if type_ is Any else (type_, type_)
    with engine(tmp_path) as app:
        handle = app.register(durably.Job("job", job, output=output))
        taker = app.register(durably.Job("taking", taking, input=payload))
        # An instance is a payload as good as any where the type does not forbid it.
        told.refused(lambda: taker.trigger(make()))
        told.refused(lambda: taker.batch_trigger([durably.Trigger(make())]))
        for where in ("step", "run"):
            run = handle.trigger(where)
            assert app.process_one()
            told.refused(lambda run=run: app.wait(run))
            assert app.get_run(run).error.type == "durably.SerializationError"
    assert told.leaks() == []
    assert check(tmp_path / "durably.db") == []


def test_what_was_stored_under_another_type_is_not_shown(tmp_path: Path, told: Told) -> None:
    """A stored payload or checkpoint that today's code rejects fails the run, and is not shown."""

    def job(step: durably.StepContext, payload: Any) -> Any:
        kept = step.run("kept", of_secret)
        raise ValueError(len(kept))

    def today(step: durably.StepContext, payload: Any) -> Any:
        return step.options(returns=Login).run("kept", login)

    with engine(tmp_path) as app:
        first = app.register(durably.Job("job", job)).trigger(of_secret())
        assert app.process_one()
    for function, input_, expected in (
        (today, None, "durably.SerializationError"),
        (job, Account, "durably.ValidationError"),
    ):
        with engine(tmp_path) as app:
            app.register(durably.Job("job", function, input=input_, origin="any"))
            app.retry(first)
            assert app.process_one()
            error = app.get_run(first).error
            assert error.type == expected, error
            told.refused(lambda app=app: app.retrigger(first) and app.wait(first))
    assert told.leaks() == []


WRONG_USES: dict[str, Callable[[durably.StepContext, Any], object]] = {
    "a result for a function": lambda step, secret: step.run("s", secret),
    "a result for a name": lambda step, secret: step.run(secret, int),
    "progress": lambda step, secret: step.progress(secret),
    "a total": lambda step, secret: step.progress(1, secret),
    "a message": lambda step, secret: step.progress(1, 2, secret),
}


@pytest.mark.parametrize("use", WRONG_USES.values(), ids=WRONG_USES)
@pytest.mark.parametrize("secret", [of_secret(), [SECRET], b"hunter2-XYZZY", {NUMBER}])
def test_data_in_the_place_of_something_else_is_not_shown(
    tmp_path: Path, told: Told, use: Callable[[durably.StepContext, Any], object], secret: Any
) -> None:
    """The error of mixed-up arguments says what was expected, and not what was there."""

    def job(step: durably.StepContext) -> None:
        use(step, secret)

    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger()
        assert app.process_one()
        assert app.get_run(run).error.type == "durably.ValidationError"
        told.refused(lambda: app.wait(run))
        told.refused(lambda: app.jobs["job"].batch_trigger(secret if secret != [SECRET] else {}))
        told.refused(lambda: app.get_run(secret))
        told.refused(lambda: app.jobs["job"].trigger(secret))
        told.refused(lambda: app.jobs["job"].trigger(labels={"a": secret}))
    assert told.leaks() == []


@pytest.mark.filterwarnings("ignore::durably.DuplicateStepWarning")
def test_a_failing_run_reports_nothing_of_its_data(tmp_path: Path, told: Told) -> None:
    """With all logging on, a run that takes a secret, returns one from each step and fails leaves
    none of it in logs, errors and tracebacks, through retries, listeners that raise and recovery.
    """

    def fetch(payload: Any) -> Any:
        local = {"also": payload}
        return [local, of_secret()]

    def fail(payload: Any, *, number: int = NUMBER) -> None:
        local = [payload, number]
        raise RuntimeError(f"no luck with {len(local)} things")

    def job(step: durably.StepContext, payload: Any) -> Any:
        fetched = step.run("fetch", fetch, payload)
        step.run("fetch", fetch, payload)
        try:
            step.run("fail", fail, fetched)
        except RuntimeError:
            step.options(retry=durably.Retry(attempts=2, wait=0)).run("fail", fail, payload)

    def listener(event: Any) -> None:
        raise LookupError(event.type)

    with (
        engine(tmp_path, job, on_duplicate_step="reuse") as app,
        warnings.catch_warnings(record=True) as told.warned,
    ):
        warnings.simplefilter("always")
        app.on("*", listener)
        for options in ({}, {"idempotency_key": "k", "concurrency_key": "c", "labels": {"a": "b"}}):
            run = app.jobs["job"].trigger(of_secret(), **options)
            assert app.process_one()
            app.retry(run)
            assert app.process_one()
            told.refused(lambda run=run: app.wait(run))
            told.refused(lambda run=run: app.cancel(run))
        told.refused(lambda: app.register(durably.Job("job", fail)))
    assert len(told.warned) > 0
    assert any("a listener of run:fail raised" in text for text in told.texts())
    assert sum("no luck with 2 things" in text for text in told.texts()) > 4
    assert told.leaks() == []


def test_what_the_users_own_code_says_is_kept(tmp_path: Path, told: Told) -> None:
    """The control: what a job puts into its exception or its log is there, as it is."""

    def job(step: durably.StepContext, payload: Any) -> Any:
        step.log.info("got", payload=payload)
        raise ValueError(payload)

    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger(SECRET)
        assert app.process_one()
        told.refused(lambda: app.wait(run))
        assert app.get_run(run).error.message == SECRET
    assert len(told.leaks()) >= 3
