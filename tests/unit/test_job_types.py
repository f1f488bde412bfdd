"""The types that a job's payload and result may have, through an engine."""

from __future__ import annotations

import datetime as dt
import enum
import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import attrs
import pytest

import durably
from durably import ValidationError
from durably.codec import Codec


@attrs.define
class ImportCsv:
    path: str
    batch_size: int = 100


@durably.job
def nightly(step: durably.StepContext) -> int:
    return 1


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Point:
    x: int


class Named(NamedTuple):
    a: int


class Typed(TypedDict):
    a: int


TYPES = [
    (ImportCsv, {"path": "a"}),
    (Point, {"x": 1}),
    (Typed, {"a": 1}),
    (Named, Named(1)),
    (int, 1),
    (str, "a"),
    (float, 1.5),
    (bool, True),
    (type(None), None),
    (int | str, "a"),
    (ImportCsv | None, None),
    (Literal["a", 1], "a"),
    (Color, Color.RED),
    (Level, Level.LOW),
    (dt.datetime, dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
    (dt.date, dt.date(2026, 1, 2)),
    (UUID, UUID(int=5)),
    (Decimal, Decimal("1.10")),
    (bytes, b"\x00\xff"),
    (Path, Path("a/b")),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (list[ImportCsv], [{"path": "a"}]),
    (dict[int, Point], {1: Point(2)}),
]


class TestTypes:
    @pytest.mark.parametrize(("type_", "value"), TYPES, ids=lambda each: str(each)[:30])
    def test_what_cattrs_structures_can_be_input_and_output(
        self, tmp_path: Path, type_: Any, value: Any
    ) -> None:
        """Payload and result of every supported type arrive as values of that type."""
        seen = []

        @durably.job("echo", input=type_, output=type_)
        def echo(step, payload):
            seen.append(payload)
            return payload

        app = durably.Durably(tmp_path / "x.db", jobs=[echo])
        try:
            run = app.jobs["echo"].trigger(value)
            app.process_one()
            ended = app.get_run(run.id)
            assert ended is not None
            expected = Codec().structure(value, type_, what="the value")
            assert seen == [expected]
            assert [type(each) for each in seen] == [type(expected)]
            assert ended.status == "completed", ended.error
            assert ended.output == expected
            assert type(ended.output) is type(expected)
        finally:
            app.close()

    def test_a_result_that_does_not_fit_fails_the_run(self, tmp_path: Path) -> None:
        """A job that returns something else than its output type fails with SerializationError."""

        @durably.job
        def wrong(step) -> int:
            return "1"

        app = durably.Durably(tmp_path / "x.db", jobs=[wrong])
        try:
            run = app.jobs["wrong"].trigger()
            app.process_one()
            ended = app.get_run(run.id)
            assert ended is not None
            assert ended.status == "failed"
            assert ended.error is not None
            assert ended.error.type == "durably.SerializationError"
            assert "'wrong'" in ended.error.message
        finally:
            app.close()

    def test_without_input_the_payload_comes_as_it_is(self, tmp_path: Path) -> None:
        """Untyped payloads and results are JSON-like data."""

        @durably.job
        def plain(step, payload):
            return payload

        value = {"a": [1, 1.5, "x", None, True]}
        app = durably.Durably(tmp_path / "x.db", jobs=[plain])
        try:
            run = app.jobs["plain"].trigger(value)
            assert run.payload == value
            app.process_one()
            assert json.dumps(app.get_run(run.id).output) == json.dumps(value)
        finally:
            app.close()

    def test_a_payload_for_a_job_without_one_is_rejected(self, tmp_path: Path) -> None:
        """trigger(payload) of def f(step) raises ValidationError and stores nothing."""
        app = durably.Durably(tmp_path / "x.db", jobs=[nightly])
        try:
            for payload in ({}, 0, "", False):
                with pytest.raises(ValidationError, match="'nightly'"):
                    app.jobs["nightly"].trigger(payload)
            assert app.count_runs() == 0
            assert app.jobs["nightly"].trigger().payload is None
            assert app.jobs["nightly"].trigger(None).payload is None
        finally:
            app.close()
