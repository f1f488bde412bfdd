"""JSON-like values and their text: odd ones, deep ones, circular ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from attrs import define
from codeckit import Box, FloatSubclass, IntSubclass, LiarStr, Row, Tree, nested
from naming import plainly

from durably.codec import MAX_DEPTH, UNTYPED, Codec
from durably.codec import json_text as text_module
from durably.errors import SerializationError, ValidationError


@pytest.mark.parametrize(
    ("value", "comes_back"),
    [
        (IntSubclass(3), 3),
        (FloatSubclass(1.5), 1.5),
        (LiarStr("a"), "a"),
        ({LiarStr("k"): [IntSubclass(1)]}, {"k": [1]}),
        (10**5000, 10**5000),
        ({"a": [-(10**20000) + 1, "\ud800\udc00"]}, {"a": [-(10**20000) + 1, "\ud800\udc00"]}),
        (
            ["\ud800\x00\x00\udc00\ud800", None, True, 1.5],
            ["\ud800\x00\x00\udc00\ud800", None, True, 1.5],
        ),
        ({"\ud800\udc00": "\\ud800"}, {"\ud800\udc00": "\\ud800"}),
    ],
    ids=plainly,
)
def test_json_like_values_come_back_plain(codec: Codec, value: Any, comes_back: Any) -> None:
    """Subclasses and tuples come back as the plain types; big ints and any str as they were."""
    limit = sys.get_int_max_str_digits()
    text, decoded = codec.encode_and_decode(value, UNTYPED, what="w")

    assert decoded == comes_back
    assert type(decoded) is type(comes_back)
    assert codec.load_json(text) == comes_back
    assert codec.structure(value, UNTYPED, what="w") == comes_back
    assert text.isascii()
    assert sys.get_int_max_str_digits() == limit


def test_digits_of_huge_integers_are_right() -> None:
    """Writing and reading huge integers agrees with Python's own conversion."""
    numbers = [0, 1, -1, 10**600, 10**600 - 1, 7**1000, 10**1200 + 5, -(3**8000)]
    assert [text_module.to_digits(n) for n in numbers] == [str(n) for n in numbers]
    assert [text_module.from_digits(str(n)) for n in numbers] == numbers


@pytest.fixture
def deep_recursion() -> Iterator[None]:
    """A program that allows more recursion than the C code that reads JSON has a stack for."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    yield
    sys.setrecursionlimit(limit)


def test_a_text_that_is_too_deep_is_not_read(deep_recursion: None) -> None:
    """Brackets in a string are no depth, nor are those side by side."""
    deep, quoted = "[" * 2000 + "]" * 2000, '["' + "[" * 2000 + '\\"{", {}]'
    beside = f"[{','.join(['[]'] * 2000)}]"
    assert text_module.nesting(deep) == 2000
    assert text_module.nesting(quoted) == 2
    assert text_module.nesting(beside) == 2
    for load in (text_module.load, lambda text: text_module.load_all(["1", text])):
        with pytest.raises(RecursionError):
            load(deep)
    assert text_module.load_all([quoted, beside]) == [["[" * 2000 + '"{', {}], [[]] * 2000]


def test_any_data_is_written_for_a_log_line() -> None:
    """What is not JSON-like is represented, and a key that is no text is left out."""
    data = {"a": {1, 2}, (1, 2): "left out", "b": [1.5, None, "\x00"]}
    assert text_module.dump_any(data, repr) == r'{"a":"{1, 2}","b":[1.5,null,"\u0000"]}'
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        text_module.dump_any(circle, repr)


def circular_list() -> Any:
    value: list[Any] = []
    value += [value, value]
    return value


def circular_dict() -> Any:
    value: dict[str, Any] = {}
    value["a"] = value["b"] = value
    return value


def circular_tree() -> Tree:
    tree = Tree("a")
    tree.children = [tree, tree]
    return tree


TOO_DEEP: list[tuple[Any, Any]] = [
    (UNTYPED, circular_list()),
    (UNTYPED, circular_dict()),
    (UNTYPED, nested(MAX_DEPTH + 1, lambda v: [v])),
    (UNTYPED, nested(100_000, lambda v: [v])),
    (UNTYPED, nested(100_000, lambda v: {"a": v})),
    (list[Any], circular_list()),
    (dict[str, Any], circular_dict()),
    (Box[Any], Box(circular_list())),
    (Tree, circular_tree()),
    (Tree, nested(5000, lambda v: Tree("a", parent=v))),
    (Tree | Row, circular_tree()),
    (tuple[Any, Any], tuple(circular_list())),
    (set[Any] | None, nested(5000, lambda v: frozenset({v}))),
]


@pytest.mark.parametrize(("type_", "value"), TOO_DEEP, ids=lambda v: type(v).__name__)
def test_what_is_too_deep_or_circular_is_rejected(codec: Codec, type_: Any, value: Any) -> None:
    """It is never a RecursionError, and takes no time."""
    with pytest.raises(SerializationError):
        codec.encode_and_decode(value, type_, what="step 'a'")
    with pytest.raises(ValidationError):
        codec.structure(value, type_, what="payload")


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (UNTYPED, nested(MAX_DEPTH, lambda v: [v])),
        (UNTYPED, nested(MAX_DEPTH, lambda v: {"a": v})),
        (Tree, nested(MAX_DEPTH // 2, lambda v: Tree("a", parent=v))),
        (Tree, nested(MAX_DEPTH // 2 - 1, lambda v: Tree("a", [v] if v else []))),
    ],
)
def test_the_limit_itself_works_in_a_deep_stack_or_is_rejected(
    codec: Codec, type_: Any, value: Any
) -> None:
    """Near the limit, the caller's own stack may lead to the typed errors and to no other."""

    def at(depth: int) -> Any:
        if depth:
            return at(depth - 1)
        try:
            return codec.encode_and_decode(value, type_, what="w")[1]
        except SerializationError:
            return None

    assert repr(at(0)) == repr(value)
    results = [at(depth) for depth in range(0, sys.getrecursionlimit() - 200, 25)]
    assert results[0] is not None


def test_a_recursive_union_takes_no_exponential_time(codec: Codec) -> None:
    """Members are distinguished by their keys and literals before going deeper."""
    value: Any = Leaf(1)
    for index in range(60):
        value = Add(value, Leaf(1)) if index % 2 else Mul(value, Leaf(1))
    text, decoded = codec.encode_and_decode(value, Add | Mul | Leaf, what="w")

    assert decoded == value
    with pytest.raises(ValidationError):
        codec.decode(text.replace('{"number":1}', '{"number":"x"}'), Add | Mul | Leaf, what="w")


@define
class Leaf:
    number: int


@define
class Add:
    left: Add | Mul | Leaf
    right: Add | Mul | Leaf
    op: Literal["+"] = "+"


@define
class Mul:
    left: Add | Mul | Leaf
    right: Add | Mul | Leaf
    op: Literal["*"] = "*"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "nope"])
def test_text_that_is_not_json_is_rejected(codec: Codec, text: str) -> None:
    """What is not JSON is a ValidationError that says what was read."""
    with pytest.raises(ValidationError, match="^stored data: "):
        codec.load_json(text)
    with pytest.raises(ValidationError, match="^payload: "):
        codec.decode(text, Row, what="payload")


TEXTS = [
    "1",
    "-0.0",
    "NaN",
    '"a"',
    "null",
    "true",
    "[1,[2]]",
    '{"a":{"a":1}}',
    ' "\\ud800\\u0000\\udc00"',  # with the mark of surrogates that stand side by side
    "1" * 5000,  # more digits than Python converts
    " 1 ",
]
DAMAGED = ["", "1,2", '"a', "1 2", "nul", "[" * 100_000, " "]


@pytest.mark.parametrize("type_", [UNTYPED, int, float, str, bool, type(None), list[int], Row])
@pytest.mark.parametrize("text", [*TEXTS, *DAMAGED], ids=plainly)
def test_texts_are_read_together_as_one_by_one(codec: Codec, type_: Any, text: str) -> None:
    """With the same values of the same types, and the same error that names the same text."""

    def of_one(each: str, name: int) -> Any:
        return codec.decode(each, type_, what="item", name=str(name), advice="go on")

    def of_all(texts: list[str]) -> list[Any]:
        return codec.decode_all(texts, type_, what="item", names=range(len(texts)), advice="go on")

    samples = [7, 0.5, "s", True, None]
    of_scalars = {type(each): each for each in samples}
    others = {UNTYPED: 7, list[int]: [7], Row: Row("r")}
    good = codec.encode((of_scalars | others)[type_], type_, what="value")
    assert of_all([]) == []
    try:
        expected = of_one(text, 1)
    except ValidationError as exc:
        said = str(exc)
        with pytest.raises(ValidationError, match=f"^{re.escape(said)}$"):
            of_all([good, text, good, "nul"])
        return
    first, found, last = of_all([good, text, good])
    assert type(found) is type(expected)
    assert found == expected or (found != found and expected != expected)
    assert (first, last) == (of_one(good, 0), of_one(good, 2))
