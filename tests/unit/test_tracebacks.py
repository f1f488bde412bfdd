"""Tracebacks show the frames of the user alone, unless durably itself is at fault."""

from __future__ import annotations

import contextlib
import functools
import json
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from durably._platform import tracebacks
from durably._platform.signals import let_through
from durably.codec.json_text import dump
from durably.errors import ConflictError, DurablyWarning, StopRun
from durably.models import error_info, traceback_of

# Code of a module of durably's, as far as its frames show.
OWN = """
def own(function, *args):
    return function(*args)

def own_to_user(function, *args):
    return let_through(function, *args)

def own_raises(exc):
    raise exc

def own_translates(function, kind):
    try:
        function()
    except Exception as exc:
        raise kind("translated") from exc

def own_breaks(function):
    try:
        function()
    except Exception as exc:
        {}["no such key"]

@contextlib.contextmanager
def own_context():
    yield

def own_with(function):
    with own_context():
        return let_through(function)

@contextlib.contextmanager
def own_context_breaks():
    {}["no such key"]
    yield

def own_enters():
    with own_context_breaks():
        pass
"""


@pytest.fixture(scope="module")
def own() -> Any:
    names: dict[str, Any] = {
        "__name__": "durably.own",
        "let_through": let_through,
        "contextlib": contextlib,
    }
    exec(compile(OWN, "<own>", "exec"), names)
    return type("Own", (), {name: staticmethod(each) for name, each in names.items()})


def raised(function: Callable[[], object]) -> BaseException:
    """What a call raises, with a traceback that begins in the frame of this function."""
    try:
        function()
    except BaseException as exc:
        return exc
    raise AssertionError("it raised nothing")


def names(exc: BaseException | None) -> list[str]:
    """The functions in the traceback of *exc*, without ``raised``."""
    assert exc is not None
    found = [frame.name for frame in traceback.extract_tb(exc.__traceback__)]
    return [name for name in found if name != "raised"]


def own_names(exc: BaseException) -> list[str]:
    """As ``names``, of any class."""
    entry = vars(BaseException)["__traceback__"].__get__(exc)
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(entry)]


def shown(exc: BaseException) -> list[str]:
    """The functions in the traceback of *exc* as it is formatted, and also when removed."""
    formatted = tracebacks.format_exception(exc)
    tracebacks.remove_own_frames(exc)
    assert formatted == "".join(traceback.format_exception(exc))
    assert tracebacks.format_exception(exc) == formatted
    return names(exc)


def divide(number: int = 0) -> float:
    return 1 / number


# -- whose frames they are ---------------------------------------------------------------------


def test_frames_of_durably_between_those_of_the_user_are_left_out(own: Any) -> None:
    """However often code of the user's and durably's call each other."""

    def outer() -> None:
        own.own_to_user(inner)

    def inner() -> None:
        own.own(own.own_to_user, divide)

    assert shown(raised(outer)) == ["outer", "inner", "divide"]


def test_durably_is_not_at_fault_for_a_function_that_has_no_frame(own: Any) -> None:
    """One of C's, one that is called with the wrong arguments, and one that is no function."""
    for function, *args in ((int, "x"), (divide, 1, 2), (divide.__name__,), (json.loads, 5)):

        def call(function: Any = function, args: Any = args) -> None:
            own.own_to_user(function, *args)

        assert shown(raised(call))[:1] == ["call"]
        assert not {"own_to_user", "let_through"} & set(names(raised(call)) and shown(raised(call)))


def test_frames_of_a_library_belong_to_what_has_called_it(own: Any) -> None:
    """The user's are shown, those of durably are not."""

    def call() -> None:
        own.own_to_user(json.loads, "x")

    assert shown(raised(call)) == ["call", "loads", "decode", "raw_decode"]

    def through_a_library_of_durably() -> None:
        own.own(functools.singledispatch(divide), 0)

    assert "wrapper" in names(raised(through_a_library_of_durably))
    assert shown(raised(through_a_library_of_durably)) == ["through_a_library_of_durably", "divide"]
    assert shown(raised(lambda: own.own_with(divide))) == ["<lambda>", "divide"]


def test_frames_of_an_exception_that_durably_raises_on_purpose(own: Any) -> None:
    """The user's own line is the last one."""

    class OwnError(ConflictError):
        """An error of a plugin, say."""

    for exc in (
        ConflictError("x"),
        OwnError("x"),
        StopRun("x"),
        DurablyWarning("x"),
        KeyboardInterrupt(),
        SystemExit(1),
        MemoryError(),
        RecursionError(),
    ):

        def call(exc: BaseException = exc) -> None:
            own.own(own.own_raises, exc)

        assert shown(raised(call)) == ["call"], exc


@pytest.mark.parametrize("breaks", ["own_breaks", "own_enters", "a library"])
def test_where_durably_itself_breaks_all_frames_are_shown(own: Any, breaks: str) -> None:
    """They say where, down to the libraries that it calls."""
    calls: dict[str, tuple[Callable[[], object], list[str]]] = {
        "own_breaks": (lambda: own.own(own.own_breaks, divide), ["<lambda>", "own", "own_breaks"]),
        "own_enters": (
            own.own_enters,
            ["own_enters", "__enter__", "own_context_breaks"],
        ),
        "a library": (lambda: dump(object()), ["<lambda>", "dump"]),
    }
    call, expected = calls[breaks]
    exc = raised(call)
    every = names(exc)
    assert shown(exc) == every
    assert every[: len(expected)] == expected


def test_an_exception_without_frames_of_the_user_has_no_traceback(own: Any) -> None:
    """As Python prints one that was not raised."""
    exc = raised(functools.partial(own.own_raises, ConflictError("x")))
    exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next
    assert tracebacks.format_exception(exc) == "durably.ConflictError: x\n"
    assert shown(exc) == []


# -- causes, contexts and groups ---------------------------------------------------------------


def test_what_durably_raised_an_error_from_is_not_its_fault(own: Any) -> None:
    """Also if that has happened in its own code."""

    def breaking() -> None:
        own.own_raises(KeyError("private"))

    def private() -> None:
        own.own(own.own_raises, KeyError())

    exc = raised(lambda: own.own_translates(private, ConflictError))
    assert shown(exc) == ["<lambda>"]
    assert names(exc.__cause__) == ["private"]

    # But an error of the user's own does not hide that durably broke.
    def translates() -> None:
        try:
            breaking()
        except KeyError as error:
            raise ValueError("the user's") from error

    exc = raised(translates)
    assert shown(exc) == ["translates"]
    assert names(exc.__cause__) == ["translates", "breaking", "own_raises"]


def test_causes_contexts_and_members_are_cleaned_too(own: Any) -> None:
    """Each exception is cleaned once, also in a circle."""

    def fail() -> None:
        own.own_to_user(divide)

    def in_handler() -> None:
        try:
            fail()
        except ZeroDivisionError:
            own.own_to_user(int, "x")

    def chained() -> None:
        try:
            in_handler()
        except ValueError as exc:
            raise ExceptionGroup("group", [raised(fail), raised(in_handler)]) from exc  # type: ignore[list-item]

    exc = raised(chained)
    assert isinstance(exc, ExceptionGroup)
    assert exc.__cause__ is not None
    assert shown(exc) == ["chained"]
    assert names(exc.__cause__) == ["chained", "in_handler"]
    assert names(exc.__cause__.__context__) == ["in_handler", "fail", "divide"]
    assert names(exc.exceptions[0]) == ["fail", "divide"]
    assert names(exc.exceptions[1].__context__) == ["in_handler", "fail", "divide"]
    assert exc.__cause__.__context__ is not None
    exc.__cause__.__context__.__cause__ = exc
    shown(exc)


def test_a_chain_of_many_exceptions_needs_no_stack(own: Any) -> None:
    """There may be thousands of causes and of contexts."""
    for link in ("__cause__", "__context__"):
        first = last = raised(lambda: own.own_to_user(divide))
        for _ in range(5000):
            cause = raised(lambda: own.own_to_user(divide))
            setattr(last, link, cause)
            last = cause
        tracebacks.remove_own_frames(first)
        assert names(last) == ["<lambda>", "divide"]
        assert tracebacks.format_exception(first).count("ZeroDivisionError") == 5001


def test_exceptions_of_unusual_classes(own: Any) -> None:
    """One that forbids to set attributes, and one with a method of that name."""

    class FrozenError(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

        def with_traceback(self, tb: TracebackType | None) -> FrozenError:
            raise AttributeError("with_traceback")

    class SecretiveError(ExceptionGroup[Exception]):
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    for exc in (FrozenError(), SecretiveError("s", [ValueError()])):

        def fail(exc: Exception = exc) -> None:
            raise exc

        raised(lambda: own.own_to_user(fail))
        assert "let_through" in own_names(exc)
        tracebacks.remove_own_frames(exc)
        assert own_names(exc)[-2:] == ["<lambda>", "fail"]
        assert "let_through" not in own_names(exc)


# -- the text ----------------------------------------------------------------------------------


def test_a_syntax_error_keeps_the_line_that_it_is_about(own: Any) -> None:
    """The line is shown, although it is no frame."""
    exc = raised(lambda: own.own_to_user(compile, "x = (", "some.py", "exec"))
    text = tracebacks.format_exception(exc)
    assert '  File "some.py", line 1\n    x = (\n' in text
    assert "let_through" not in text
    assert "'(' was never closed" in text


def test_code_without_source_is_shown_by_its_place(own: Any) -> None:
    """What ``exec`` has compiled, in a module without a name or one of any type."""
    for module in ({}, {"__name__": None}, {"__name__": "durablyish"}, {"__name__": "user"}):
        code = "def made():\n    1 / 0"
        exec(compile(code, "<made>", "exec"), module)
        exc = raised(lambda module=module: own.own_to_user(module["made"]))  # type: ignore[misc]
        assert shown(exc) == ["<lambda>", "made"]
        assert '  File "<made>", line 2, in made\nZeroDiv' in tracebacks.format_exception(exc)


def test_the_source_lines_are_those_of_now(own: Any, tmp_path: Path) -> None:
    """A file that has gone is shown by its place."""
    file = tmp_path / "job.py"
    file.write_text("def made():\n    1 / 0  # here\n")
    module: dict[str, Any] = {"__name__": "job"}
    exec(compile(file.read_text(), str(file), "exec"), module)
    exc = raised(lambda: own.own_to_user(module["made"]))
    assert "    1 / 0  # here\n" in tracebacks.format_exception(exc)
    file.unlink()
    linecache.checkcache(str(file))
    assert "# here" not in tracebacks.format_exception(exc)
    assert f'  File "{file}", line 2, in made\n' in tracebacks.format_exception(exc)


def test_frames_that_repeat_are_shown_once(own: Any) -> None:
    """As Python shows a recursion."""

    def deeper(depth: int) -> None:
        own.own_to_user(deeper if depth else divide, *([depth - 1] if depth else []))

    text = tracebacks.format_exception(raised(lambda: deeper(50)))
    assert "[Previous line repeated" in text
    assert "let_through" not in text


@pytest.fixture
def _cells(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Name a file as IPython names a cell."""
    label = {"/tmp/ipykernel_1/123.py": "Cell In[2]"}.get
    monkeypatch.setattr(tracebacks, "cell_label", label)
    lines = ["def fetch():\n", "    1 / 0\n"]
    linecache.cache["/tmp/ipykernel_1/123.py"] = (30, None, lines, "/tmp/ipykernel_1/123.py")
    yield
    del linecache.cache["/tmp/ipykernel_1/123.py"]


@pytest.mark.usefixtures("_cells")
def test_a_cell_of_a_notebook_is_named_by_its_number(own: Any) -> None:
    """Its file is one that nobody knows."""
    module: dict[str, Any] = {"__name__": "__main__"}
    code = compile("def fetch():\n    1 / 0\n", "/tmp/ipykernel_1/123.py", "exec")
    exec(code, module)
    exc = raised(functools.partial(own.own_to_user, module["fetch"]))
    exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next
    text = tracebacks.format_exception(exc)
    assert tracebacks.frames_in(text) == ["  Cell In[2], line 2, in fetch", "    1 / 0"]
    assert text.startswith("Traceback (most recent call last):\n  Cell In[2], line 2, in fetch\n")


def test_the_frames_in_a_text(own: Any) -> None:
    """Without marks and the exception, whose message may look like anything."""

    def fail() -> None:
        raise ValueError("Traceback (most recent call last):\n  File no, line no\nend")

    exc = raised(fail)
    lines = tracebacks.frames_in(traceback_of(exc))
    place = f'  File "{__file__}", line '
    assert [line for line in lines if line.startswith(place)] == [lines[0], lines[2]]
    assert lines[3] == (
        '    raise ValueError("Traceback (most recent call last):\\n  File no, line no\\nend")'
    )
    assert len(lines) == 4
    assert tracebacks.frames_in("ValueError: x\n") == []
    assert tracebacks.frames_in("") == []


def test_the_frames_in_the_text_of_several_exceptions(own: Any) -> None:
    """All of it: each exception has its own."""

    def chained() -> None:
        try:
            divide()
        except ZeroDivisionError as exc:
            raise ValueError("x") from exc

    for exc in (raised(chained), ExceptionGroup("g", [raised(divide)]), raised_group(divide)):  # type: ignore[list-item]
        text = traceback_of(exc)
        if isinstance(exc, ExceptionGroup) and exc.__traceback__ is None:
            assert "ZeroDivisionError" in text
        else:
            assert tracebacks.frames_in(text) == text.splitlines()


def raised_group(function: Callable[[], object]) -> BaseException:
    def group() -> None:
        raise ExceptionGroup("g", [raised(function)])  # type: ignore[list-item]

    return raised(group)


# -- what is recorded --------------------------------------------------------------------------


def test_the_notes_of_an_exception_are_recorded(own: Any) -> None:
    """As texts, whatever they are."""

    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError

    class Text(str):
        __slots__ = ()

    exc = ValueError("x")
    assert error_info(exc).notes == ()
    exc.add_note("one")
    exc.add_note(Text("t\u00fcwo\nlines"))
    exc.__notes__ += [3, Unprintable(), "x" * 100_000]  # type: ignore[list-item]
    notes = error_info(exc).notes
    assert notes[:3] == ("one", "t\u00fcwo\nlines", "3")
    assert "unprintable" in notes[3]
    assert len(notes[4]) < 70_000
    assert all(type(note) is str for note in notes)
    exc.__notes__ = "no list"  # type: ignore[assignment]
    assert error_info(exc).notes == ("no list",)
    exc.__notes__ = ["n"] * 1000
    assert len(error_info(exc).notes) == 100


def test_the_stack_limit_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch, own: Any) -> None:
    """``sys.tracebacklimit`` is how many frames of the user are shown."""
    exc = raised(functools.partial(own.own_to_user, divide))
    monkeypatch.setattr(sys, "tracebacklimit", 1, raising=False)
    assert traceback_of(exc).count("  File ") == 1
    assert "in raised" in traceback_of(exc)
    monkeypatch.setattr(sys, "tracebacklimit", 0)
    assert traceback_of(exc) == "ZeroDivisionError: division by zero\n"
