"""What travels between the processes of a map, and in what form exceptions arrive."""

from __future__ import annotations

import copyreg
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pooled
import pytest

from durably._platform.tracebacks import RemoteTraceback, format_exception
from durably.execution.loops.travel import (
    dumps,
    has_cloudpickle,
    loads,
    pack_exception,
    unpack_exception,
)

pytest.importorskip("cloudpickle", reason="the extra `test` is not installed")


@pytest.fixture(autouse=True)
def pickle_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickle exceptions as Python does; an import of Dask changes that for the whole process."""
    for cls in list(copyreg.dispatch_table):
        if isinstance(cls, type) and issubclass(cls, BaseException):
            monkeypatch.delitem(copyreg.dispatch_table, cls)


@pytest.fixture
def no_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if cloudpickle was not installed."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)


def raised(exc: BaseException) -> BaseException:
    """Return an exception with a traceback."""
    try:
        raise exc
    except BaseException as caught:
        return caught


def sent(exc: BaseException) -> BaseException:
    """Return what arrives of an exception."""
    return unpack_exception(pack_exception(raised(exc)))


def define(namespace: Any, name: str, *bases: type, **members: Any) -> Any:
    """Define a class in a module, or what stands for one, as if its source said so."""
    body = {"__module__": namespace.__name__, "__qualname__": name, **members}
    cls = type(name, bases, body)
    setattr(namespace, name, cls)
    return cls


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty module that can be imported by name."""
    made = type(sys)("of_the_user")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


# -- values ------------------------------------------------------------------------------------


def test_what_a_module_defines_travels_by_reference() -> None:
    """The other process imports it: its code is not in the bytes."""
    data = dumps(pooled.double)
    assert loads(data) is pooled.double
    assert len(data) < 60


def test_what_is_defined_in_main_travels_as_a_copy() -> None:
    """The ``__main__`` of the other process may be another program."""
    main = sys.modules["__main__"]
    define(main, "Here", list, size=lambda self: 10 * len(self))
    try:
        data = dumps(main.Here([1, 2]))
        assert has_cloudpickle()
    finally:
        del main.Here
    arrived = loads(data)
    assert arrived == [1, 2]
    assert arrived.size() == 20


def test_lambdas_and_closures_travel_where_cloudpickle_is(no_cloudpickle: None) -> None:
    """Without it pickle's own error is raised."""
    assert not has_cloudpickle()
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        dumps(lambda: 1)
    del sys.modules["cloudpickle"]
    factor = 3
    assert loads(dumps(lambda number: factor * number))(2) == 6


# -- exceptions --------------------------------------------------------------------------------


def test_an_exception_that_pickles_arrives_whole() -> None:
    """With its attributes, its notes, and the traceback of the other process as its cause."""
    exc = FileNotFoundError(2, "nowhere", "a.csv")
    exc.add_note("while reading")
    exc.__cause__ = KeyError("the cause")
    arrived = sent(exc)
    assert type(arrived) is FileNotFoundError
    assert (arrived.errno, arrived.strerror, arrived.filename) == (2, "nowhere", "a.csv")
    assert arrived.__notes__ == ["while reading"]
    cause = arrived.__cause__
    assert isinstance(cause, RemoteTraceback)
    text = str(cause)
    assert "KeyError: 'the cause'" in text
    assert "direct cause of the following exception" in text
    assert "in raised" in text
    # What is stored of it is what the other process would have printed, and nothing of this one.
    assert format_exception(raised(arrived)) == cause.text


def test_a_constructor_with_two_arguments_breaks_nothing() -> None:
    """Pickle would call it with what the exception keeps, which is one."""
    exc = pooled.TwoArgumentsError(400, "bad")
    exc.add_note("a note")
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(exc))
    arrived = sent(exc)
    assert type(arrived) is pooled.TwoArgumentsError
    assert (str(arrived), arrived.code, arrived.args) == ("400: bad", 400, ("400: bad",))
    assert arrived.__notes__ == ["a note"]


def test_of_attributes_those_arrive_that_can_travel(module: Any) -> None:
    """The class, its arguments and its message do in any case."""
    cls = define(module, "HalfError", Exception, __str__=lambda self: f"half of {self.args[0]}")
    exc = cls(5)
    exc.lock, exc.row = threading.Lock(), 7
    arrived = sent(exc)
    assert type(arrived) is cls
    assert vars(arrived) == {"row": 7}
    assert str(arrived) == "half of 5"


def test_arguments_that_cannot_travel_leave_class_and_message() -> None:
    """The one that arrives is handled as the one that was raised."""
    arrived = sent(pooled.HoldsALockError(5))
    assert isinstance(arrived, pooled.HoldsALockError)
    assert type(arrived).__qualname__ == "HoldsALockError"
    assert type(arrived).__module__ == "pooled"
    assert str(arrived) == "locked 5"


def test_a_group_arrives_with_its_members() -> None:
    """Each as it would by itself, in groups of groups too; ``except*`` finds them."""
    inner = ExceptionGroup("inner", [ValueError("v"), pooled.HoldsALockError(5)])
    inner.add_note("of the inner one")
    arrived = sent(ExceptionGroup("outer", [inner, pooled.TwoArgumentsError(400, "bad")]))
    assert type(arrived) is ExceptionGroup
    assert arrived.message == "outer"
    first, second = arrived.exceptions
    assert isinstance(first, ExceptionGroup)
    assert (first.message, first.__notes__) == ("inner", ["of the inner one"])
    assert [str(each) for each in first.exceptions] == ["v", "locked 5"]
    assert second.code == 400
    assert arrived.subgroup(pooled.HoldsALockError).exceptions[0].message == "inner"
    assert "TwoArgumentsError: 400: bad" in str(arrived.__cause__)
    ended = sent(BaseExceptionGroup("ended", [SystemExit(3), pooled.TwoArgumentsError(1, "a")]))
    assert type(ended) is BaseExceptionGroup
    assert ended.exceptions[0].code == 3


def test_a_group_of_the_users_arrives_with_its_members(module: Any) -> None:
    """Also where its constructor takes other arguments."""

    def make(cls: type, first: BaseException) -> Any:
        return ExceptionGroup.__new__(cls, "mine", [first, ValueError("v")])

    cls = define(module, "MineError", ExceptionGroup, __new__=make)
    cls.__init__ = lambda self, first: None
    arrived = sent(cls(pooled.TwoArgumentsError(400, "bad")))
    assert isinstance(arrived, ExceptionGroup)
    assert type(arrived).__qualname__ == "MineError"
    assert [str(each) for each in arrived.exceptions] == ["400: bad", "v"]


def nothing_pickles(self: object) -> Any:
    raise TypeError("not this one")


@pytest.mark.parametrize("make", [nothing_pickles, lambda self: (str, ("a str",))])
def test_a_class_that_pickles_to_something_else_arrives_as_itself(
    module: Any, make: Callable[[object], Any]
) -> None:
    """What pickle does is tried before it leaves."""
    cls = define(
        module, "OddError", ValueError, __reduce__=make, __reduce_ex__=lambda s, _: make(s)
    )
    arrived = sent(cls("odd"))
    assert type(arrived) is cls
    assert str(arrived) == "odd"


def test_a_message_that_cannot_be_made_is_said_to_be(module: Any) -> None:
    """The item has failed, and its worker goes on."""
    cls = define(module, "MuteError", Exception, __str__=nothing_pickles)
    arrived = sent(cls("a"))
    assert type(arrived) is cls
    arrived = sent(
        define(module, "DumbError", cls, __reduce_ex__=lambda self, _: nothing_pickles(self))(
            threading.Lock()
        )
    )
    assert isinstance(arrived, cls)
    assert str(arrived) == "<unprintable DumbError>"


@pytest.mark.parametrize("exc", ["whole", "parts", "two arguments"])
def test_a_class_that_is_unknown_here_arrives_as_the_nearest_known(module: Any, exc: str) -> None:
    """It has the name and the message of the one that was raised."""

    def init(self: Any, code: int, text: str) -> None:
        ValueError.__init__(self, f"{code}: {text}")

    if exc == "whole":
        data = pack_exception(raised(define(module, "LocalError", ValueError)("400: bad")))
    else:
        cls = define(module, "LocalError", ValueError, __init__=init)
        gone = cls(400, "bad")
        if exc == "parts":
            gone.lock = threading.Lock()
        data = pack_exception(raised(gone))
    del module.LocalError
    arrived = unpack_exception(data)
    assert type(arrived).__name__ == "LocalError"
    assert type(arrived).__module__ == "of_the_user"
    assert isinstance(arrived, ValueError)
    assert str(arrived) == "400: bad"
    assert format_exception(arrived).endswith("of_the_user.LocalError: 400: bad\n")


def test_a_class_that_cannot_be_made_here_arrives_as_one_above_it(module: Any) -> None:
    """One whose ``__new__`` raises, or that forbids classes derived from it."""

    def forbid(cls: type, **_: object) -> None:
        raise TypeError("final")

    above = define(module, "AboveError", KeyError)
    final = define(
        module,
        "FinalError",
        above,
        __init_subclass__=forbid,
        __reduce_ex__=lambda self, _: nothing_pickles(self),
    )
    exc = final(threading.Lock())
    arrived = sent(exc)
    assert type(arrived).__mro__[1] is above
    assert type(arrived).__name__ == "FinalError"
    assert str(arrived) == str(exc)
    # All classes above it that can be made are unknown: what is left is a plain one.
    names = [("of_the_user", "final.no"), ("of_the_user", "define"), ("builtins", "object")]
    data = pickle.dumps((None, None, None, names, "text", "traceback"))
    assert type(arrived := unpack_exception(data)) is Exception
    assert (str(arrived), str(arrived.__cause__)) == ("text", '\n"""\ntraceback"""')


def test_what_changes_on_its_way_is_replaced(module: Any) -> None:
    """The class here is another version: it would say something else than what was raised."""
    exc = define(module, "VersionError", ValueError)(1)
    exc.lock = threading.Lock()
    data = pack_exception(raised(exc))
    newer = define(module, "VersionError", ValueError, __str__=lambda self: "newer")
    arrived = unpack_exception(data)
    assert isinstance(arrived, newer)
    assert type(arrived) is not newer
    assert str(arrived) == "1"
    # What this version of the class pickles as is no exception any more.
    whole = pickle.dumps("no exception")
    names = [("of_the_user", "VersionError")]
    arrived = unpack_exception(pickle.dumps((whole, None, None, names, "text", "traceback")))
    assert isinstance(arrived, newer)
    assert str(arrived) == "text"
