"""Values of a class that was defined again, as by a notebook's cell, where the older is annotated.

They are accepted by way of their fields, and come back as the class that is annotated.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import types
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict

import attrs
import cattrs
import pytest

from durably.codec import Codec
from durably.errors import SerializationError, ValidationError

# One cell, as a function: each call defines its classes again, under the same names.


def cell(source: str) -> types.SimpleNamespace:
    """Execute a cell; what it has defined."""
    names: dict[str, Any] = {
        "__name__": "__main__",
        "attrs": attrs,
        "collections": collections,
        "dataclasses": dataclasses,
        "enum": enum,
        "Literal": Literal,
        "NamedTuple": NamedTuple,
        "TypedDict": TypedDict,
    }
    # Without the future statement of this file, which compile() would inherit.
    exec(compile(source, "cell", "exec", dont_inherit=True), names)
    return types.SimpleNamespace(**names)


@pytest.fixture
def codec() -> Codec:
    return Codec()


CLASSES = """
@attrs.define
class Inner:
    n: int = 1

@attrs.frozen
class Key:
    id: str

class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"

class Level(enum.IntEnum):
    LOW = 1

class Access(enum.Flag):
    READ = 1
    WRITE = 2

class Id(str):
    pass

class Pair(NamedTuple):
    a: int
    b: str = "b"

class Options(TypedDict):
    inner: Inner

@attrs.define
class Private:
    _token: str
    made: int = attrs.field(init=False, default=3)

@dataclasses.dataclass
class Data:
    inner: Inner
    more: list[Inner] = dataclasses.field(default_factory=list)

@attrs.define
class Outer:
    inner: Inner
    color: Color
    by_name: dict[str, Data]
    maybe: Inner | None = None

@attrs.define
class Left:
    n: int

@attrs.define
class Right:
    n: int

@attrs.define
class Box:
    item: Left | Right
"""

VALUES: dict[str, tuple[str, str]] = {
    "attrs": ("Inner", "Inner(5)"),
    "frozen": ("Key", "Key('x')"),
    "private": ("Private", "Private('t')"),
    "dataclass": ("Data", "Data(Inner(2), [Inner(3)])"),
    "nested": ("Outer", "Outer(Inner(2), Color.BLUE, {'a': Data(Inner(4))}, Inner(9))"),
    "enum": ("Color", "Color.RED"),
    "int enum": ("Level", "Level.LOW"),
    "flags": ("Access", "Access.READ | Access.WRITE"),
    "literal": ("Literal[Color.RED, 'x']", "Color.RED"),
    "text": ("Id", "Id('x')"),
    "named tuple": ("Pair", "Pair(1, 'x')"),
    "typed dict": ("Options", "{'inner': Inner(3)}"),
    "list": ("list[Inner]", "[Inner(1), Inner(2)]"),
    "tuple": ("tuple[int, Inner]", "(1, Inner(2))"),
    "set": ("set[Key]", "{Key('x'), Key('y')}"),
    "frozen set of tuples": ("frozenset[tuple[Key, int]]", "frozenset({(Key('x'), 1)})"),
    "set of enums": ("set[Color]", "{Color.RED, Color.BLUE}"),
    "mapping": ("dict[str, Inner]", "{'a': Inner(1)}"),
    "keys": ("dict[Key, Pair]", "{Key('x'): Pair(1)}"),
    "enum keys": ("dict[Color, int]", "{Color.RED: 1}"),
    "deque": ("collections.deque[Inner]", "collections.deque([Inner(1)])"),
    "optional": ("Inner | None", "Inner(7)"),
    "union": ("Left | Right", "Right(1)"),
    "union inside": ("Box", "Box(Right(1))"),
    "union with its base": ("str | Id", "Id('x')"),
    "union of lists": ("list[Left | Right | Color]", "[Left(1), Right(2), Color.RED]"),
}


@pytest.mark.parametrize(("type_", "value"), VALUES.values(), ids=VALUES)
def test_a_value_of_the_newer_class_fits_the_older_one(
    codec: Codec, type_: str, value: str
) -> None:
    """As payload and as result: what comes back is the same value of the annotated classes."""
    older, newer = cell(CLASSES), cell(CLASSES)
    annotated, given = eval(type_, vars(older)), eval(value, vars(newer))
    expected = eval(value, vars(older))
    payload = codec.structure(given, annotated, what="w")
    assert payload == expected
    assert type(payload) is type(expected)
    text, result = codec.encode_and_decode(given, annotated, what="w")
    assert result == expected
    assert text == codec.encode(expected, annotated, what="w")
    assert codec.decode(text, annotated, what="w") == expected


FITTING = {
    "a field with a default is new": ("n: int", "n: int\n    m: int = 3", "P(1)"),
    "a default is another one": ("n: int = 1", "n: int = 2", "P(1)"),
    "the fields are in another order": ("n: int\n    m: int", "m: int\n    n: int", "P(n=1, m=2)"),
    "a field that is not stored is gone": (
        "n: int\n    c: int = attrs.field(init=False, default=0)",
        "n: int",
        "P(1)",
    ),
}


@pytest.mark.parametrize(("given", "annotated", "value"), FITTING.values(), ids=FITTING)
def test_fields_that_fit(codec: Codec, given: str, annotated: str, value: str) -> None:
    """The value has all that the annotated class needs, and nothing else."""
    source = "@attrs.define\nclass P:\n    {}"
    older, newer = cell(source.format(annotated)), cell(source.format(given))
    made = eval(value, vars(newer))
    for found in (
        codec.structure(made, older.P, what="w"),
        codec.encode_and_decode(made, older.P, what="w")[1],
    ):
        assert type(found) is older.P
        assert found.n == made.n


KINDS = {
    "attrs to dataclass": ("@attrs.define", "@dataclasses.dataclass"),
    "dataclass to attrs": ("@dataclasses.dataclass", "@attrs.define"),
    "slots to none": ("@attrs.define", "@attrs.define(slots=False)"),
}


@pytest.mark.parametrize(("before", "after"), KINDS.values(), ids=KINDS)
def test_a_class_of_another_kind_with_the_same_fields(
    codec: Codec, before: str, after: str
) -> None:
    """What made the class does not matter, only its fields do."""
    source = "{}\nclass P:\n    n: int"
    older, newer = cell(source.format(before)), cell(source.format(after))
    assert codec.structure(newer.P(4), older.P, what="w") == older.P(4)
    assert codec.encode_and_decode(newer.P(4), older.P, what="w")[1] == older.P(4)


BAD: dict[str, tuple[str, str, str, str]] = {
    "a field is gone": (
        "@attrs.define\nclass P:\n    n: int\n    k: int = 0",
        "@attrs.define\nclass P:\n    n: int",
        "P(1, 2)",
        "$.k: unknown key",
    ),
    "a field is missing": (
        "@attrs.define\nclass P:\n    n: int",
        "@attrs.define\nclass P:\n    n: int\n    m: str",
        "P(1)",
        "$.m: required, but missing",
    ),
    "a field has another type": (
        "@attrs.define\nclass P:\n    n: str",
        "@attrs.define\nclass P:\n    n: int",
        "P('x')",
        "$.n: expected int, found str",
    ),
    "a validator is stricter": (
        "@attrs.define\nclass P:\n    n: int",
        "@attrs.define\nclass P:\n    n: int = attrs.field(validator=attrs.validators.lt(5))",
        "P(7)",
        "'n' must be < 5",
    ),
    "it is no class of fields any more": (
        "class P:\n    n = 1",
        "@attrs.define\nclass P:\n    n: int",
        "P()",
        "P has no fields any more",
    ),
    "a member has another value": (
        "class P(enum.Enum):\n    A = 'other'",
        "class P(enum.Enum):\n    A = 'a'",
        "P.A",
        "expected P ('a'), found str",
    ),
    "an item is gone": (
        "class P(NamedTuple):\n    a: int\n    b: int",
        "class P(NamedTuple):\n    a: int",
        "P(1, 2)",
        "P has other items",
    ),
    "an item is missing": (
        "class P(NamedTuple):\n    a: int",
        "class P(NamedTuple):\n    a: int\n    b: int",
        "P(1)",
        "(2 items), found 1 items",
    ),
    "it is a number, and was a text": (
        "class P(int): pass",
        "class P(str): pass",
        "P(1)",
        "P has another base class",
    ),
}


@pytest.mark.parametrize("wrap", [lambda each: each, lambda each: [each]], ids=["bare", "list"])
@pytest.mark.parametrize(("given", "annotated", "value", "says"), BAD.values(), ids=BAD)
def test_fields_that_do_not_fit(
    codec: Codec, given: str, annotated: str, value: str, says: str, wrap: Callable[[Any], Any]
) -> None:
    """The message says what does not fit, that the class was defined again, and what to do."""
    older, newer = cell(annotated), cell(given)
    made, type_ = wrap(eval(value, vars(newer))), older.P
    if isinstance(made, list):
        type_ = list[type_]
    with pytest.raises(ValidationError) as caught:
        codec.structure(made, type_, what="the payload of j")
    assert says.removeprefix("$") in str(caught.value)
    assert caught.value.__context__ is None
    assert str(caught.value).startswith("the payload of j: $")
    assert str(caught.value).endswith(
        "; P was defined again after the job: run the job's cell again"
    )
    with pytest.raises(SerializationError) as failed:
        codec.encode(made, type_, what="w")
    assert failed.value.__context__ is None
    assert str(failed.value).endswith(
        "; P was defined again after the function: run the function's cell again"
    )


def test_the_class_inside_that_does_not_fit_is_named(codec: Codec) -> None:
    """All were defined again; one of them is why."""
    source = (
        "@attrs.define\nclass Page:\n    n: {}\n"
        "@attrs.define\nclass Crawl:\n    pages: list[Page]\n"
    )
    older, newer = cell(source.format("int")), cell(source.format("str"))
    with pytest.raises(ValidationError, match="; Page was defined again after the job"):
        codec.structure(newer.Crawl([newer.Page("x")]), older.Crawl, what="w")


def test_a_class_that_fits_is_not_blamed(codec: Codec) -> None:
    """Another mistake in the value is said alone."""
    source = "@attrs.define\nclass P:\n    n: int\n"
    older, newer = cell(source), cell(source)
    with pytest.raises(ValidationError) as caught:
        codec.structure([newer.P(1), 5], list[older.P], what="w")
    assert str(caught.value) == "w: $[1]: expected P, found int"


def test_a_class_of_another_module_is_another_class(codec: Codec) -> None:
    """Its name alone says nothing about its fields."""
    source = "@attrs.define\nclass P:\n    n: int\n"
    older, newer = cell(source), cell(source)
    newer.P.__module__ = "elsewhere"
    with pytest.raises(ValidationError, match=r"another class of that name \(elsewhere\.P, not "):
        codec.structure(newer.P(1), older.P, what="w")


def test_hooks_of_the_user_convert_it() -> None:
    """A class that only the user's converter can store goes the way of its hooks."""
    source = "class P:\n    def __init__(self, n): self.n = n\n"
    older, newer = cell(source), cell(source)
    converter = cattrs.Converter()
    converter.register_unstructure_hook(older.P, lambda p: p.n)
    converter.register_structure_hook(older.P, lambda data, _: older.P(data))
    codec = Codec(converter)
    assert type(codec.structure(newer.P(3), older.P, what="w")) is older.P
    assert codec.encode(newer.P(3), older.P, what="w") == "3"
    with pytest.raises(ValidationError, match="; P was defined again after the job"):
        codec.structure(cell("class P: pass").P(), older.P, what="w")
