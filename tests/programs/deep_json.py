"""Reads, stores and shows what is nested too deeply, under a raised recursion limit.

Argument: the name of a function below.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import sys
import types
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import define

from durably import Job, LogEntry, Retry
from durably._platform.safe_repr import safe_repr, safe_str, short_repr
from durably.codec import UNTYPED, Codec
from durably.codec.json_text import load
from durably.codec.messages import show, text_of
from durably.errors import SerializationError, ValidationError
from durably.models import error_info

sys.setrecursionlimit(10**6)
codec = Codec()


def raises(kind, call, *args, **kwargs):
    with pytest.raises(kind, match="nested more deeply than 200 levels"):
        call(*args, **kwargs)


@define
class Node:
    next: object


@dataclasses.dataclass
class Data:
    next: object


class OwnError(Exception):
    def __init__(self, data):
        self.data = data

    def __str__(self):
        return f"no: {self.data}"


class SlotsError(OSError):
    pass


def texts():
    for text in ("[" * 200_000 + "]" * 200_000, '{"a":' * 200_000, '["[",' * 200_000):
        raises(ValidationError, codec.load_json, text)
        raises(ValidationError, codec.decode, text, list[Any], what="w")
    wide = "[" + ",".join(['["[[{\\"]"]'] * 5000) + "]"
    assert load(wide) == [['[[{"]']] * 5000


def values():
    value = []
    for _ in range(200_000):
        value = [value]
    for type_ in (UNTYPED, list, list[Any], list[int] | None, list[list[Any]]):
        raises(SerializationError, codec.encode, value, type_, what="w")
        raises(ValidationError, codec.structure, value, type_, what="w")
    while value:  # one level at a time
        value = value.pop()


def shown():
    wraps = [
        lambda v: [v],
        lambda v: (v,),
        lambda v: {"a": v},
        lambda v: {"b": v, "a": 1},
        lambda v: collections.deque([v]),
        lambda v: collections.OrderedDict(a=v),
        lambda v: collections.UserList([v]),
        lambda v: collections.UserDict(a=v),
        lambda v: types.MappingProxyType({"a": v}),
        lambda v: types.SimpleNamespace(a=v),
        lambda v: functools.partial(print, v),
        lambda v: functools.partial(print, a=v),
        Node,
        Data,
        ValueError,
        KeyError,
        OwnError,
        lambda v: ExceptionGroup("x", [ValueError(v)]),
        lambda v: OSError(1, "x", v),
        lambda v: SlotsError(1, "x", "a", None, v),
    ]
    for wrap in wraps:
        value = None
        for _ in range(100_000):
            value = wrap(value)
        for call in (safe_repr, safe_str, short_repr, show):
            text = call(value)
            assert "nested more deeply than 200 levels>" in text, (call, text)
        with contextlib.suppress(ValidationError):
            Retry(attempts=value)
        with contextlib.suppress(ValidationError):
            Job(value, print)
        errors = [ValueError("x", value), OwnError(value), OSError(1, "x", value)]
        outer = RuntimeError("outer")
        outer.__cause__ = errors[0]
        noted = ValueError("noted")
        noted.__notes__ = value
        for error in (*errors, outer, ExceptionGroup("x", errors), noted):
            info = error_info(error)
            assert len(info.message) < 200, info
            assert len(info.traceback) < 500, info
            text_of(error)
        assert error_info(outer).message == "outer"
        assert "nested more deeply than 200 levels" in error_info(outer).traceback
        assert "nested more deeply than 200 levels" in error_info(errors[0]).message
    now = datetime.now(UTC)
    line = LogEntry(level="info", message="x", data={"a": value}, step_name=None, created_at=now)
    assert "nested more deeply" in str(line)
    sys.stderr.flush()
    os._exit(0)  # to free such values takes as much of the stack


globals()[sys.argv[1]]()
