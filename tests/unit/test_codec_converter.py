"""The user's converter adds types, and loosens nothing."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Annotated, Any

import attrs
import cattrs
import pytest
from attrs import define
from cattrs import override
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn
from cattrs.preconf.json import make_converter
from cattrs.strategies import configure_tagged_union
from codeckit import UTC, Cat, Color, Dog, Invoice, Level, Money, Options, Row

from durably.codec import Codec
from durably.errors import SerializationError, ValidationError


class BadStrError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Money, Money(3)),
        (list[Money], [Money(3)]),
        (dict[str, Money | None], {"a": Money(3), "b": None}),
        (dict[Money, int], {Money(3): 1}),
        (Invoice, Invoice(Money(3))),
        (tuple[Money, ...], (Money(1), Money(2))),
        (Money | str, "3c"),
        (Money | str, Money(3)),
    ],
)
def test_hooks_of_the_user_work_everywhere(money_codec: Codec, type_: Any, value: Any) -> None:
    """A type with hooks in the converter is stored, also as a field, an item or a key."""
    money_codec.check_type(type_, "input")
    assert money_codec.encode_and_decode(value, type_, what="w")[1] == value
    assert money_codec.structure(value, type_, what="payload") == value


def test_hooks_of_the_user_see_data_and_never_instances(money_codec: Codec) -> None:
    """A mapping may hold an instance of the user's type."""
    assert money_codec.structure({"total": Money(3)}, Invoice, what="p") == Invoice(Money(3))
    assert money_codec.structure({"total": "3c"}, Invoice, what="p") == Invoice(Money(3))


def test_a_converter_is_not_changed_and_does_not_loosen() -> None:
    """Looseness about Python's own types stays out, and the converter is left as it was."""
    converter = cattrs.Converter(prefer_attrib_converters=True)
    converter.register_structure_hook(int, lambda v, _: int(v))
    converter.register_structure_hook(dt.datetime, lambda v, _: dt.datetime.fromtimestamp(v, UTC))
    converter.register_structure_hook_func(
        lambda t: t == list[int], lambda v, _: [int(i) for i in v]
    )
    codec = Codec(converter)

    for type_, data in (
        (int, "1"),
        (Row, {"email": "a", "age": "1"}),
        (dt.datetime, 3),
        (list[int], ["1"]),
    ):
        with pytest.raises(ValidationError):
            codec.structure(data, type_, what="payload")
    assert codec.structure({"email": "a"}, Row, what="p") == Row("a")
    assert converter.structure("1", int) == 1
    assert converter.structure({"email": "a", "zz": 1}, Row) == Row("a")
    assert codec.encode_and_decode(Color.RED, Color, what="w")[1] is Color.RED


def test_json_converters_of_cattrs_are_made_strict() -> None:
    """A preconfigured converter passes no union of plain types through."""
    codec = Codec(make_converter())

    assert codec.encode_and_decode(b"ab", bytes, what="w") == ('"YWI="', b"ab")
    assert codec.encode_and_decode(Color.RED, Color, what="w")[1] is Color.RED
    assert codec.encode_and_decode(Level.LOW, Level, what="w") == ("1", Level.LOW)
    for type_ in (int | str, int | Cat, Level):
        with pytest.raises(ValidationError):
            codec.structure(True, type_, what="p")


def test_unions_with_hooks_of_the_user() -> None:
    """Tagged unions, as cattrs' strategy registers them, are kept."""
    converter = cattrs.Converter()
    configure_tagged_union(Cat | Dog, converter)
    codec = Codec(converter)
    text, value = codec.encode_and_decode([Dog(1)], list[Cat | Dog], what="w")

    assert json.loads(text)[0]["_type"] == "Dog"
    assert value == [Dog(1)]


def test_hooks_that_cattrs_generates_for_the_user_are_kept() -> None:
    """A renamed field, for one class or for all through a factory, names the key."""
    converter = cattrs.Converter()
    renamed = override(rename="e-mail")
    converter.register_structure_hook(Row, make_dict_structure_fn(Row, converter, email=renamed))
    converter.register_unstructure_hook(
        Row, make_dict_unstructure_fn(Row, converter, email=renamed)
    )

    def renames(cls: type) -> dict[str, Any]:
        return {a.name: override(rename=a.name.upper()) for a in attrs.fields(cls)}

    converter.register_structure_hook_factory(
        lambda t: t in (Cat, Dog), lambda t: make_dict_structure_fn(t, converter, **renames(t))
    )
    converter.register_unstructure_hook_factory(
        lambda t: t in (Cat, Dog), lambda t: make_dict_unstructure_fn(t, converter, **renames(t))
    )
    codec = Codec(converter)

    assert codec.encode_and_decode([Row("a", 2)], list[Row], what="w") == (
        '[{"e-mail":"a","age":2}]',
        [Row("a", 2)],
    )
    assert codec.encode_and_decode(Dog(1), Dog, what="w") == ('{"BARK":1,"LOUD":false}', Dog(1))
    with pytest.raises(SerializationError, match="expected Cat, found Dog"):
        codec.encode(Dog(1), Cat, what="w")


def test_classes_without_hooks_stay_strict_beside_those_with() -> None:
    """A converter that knows one type leaves all others, which hold it, to durably."""
    converter = cattrs.Converter()
    converter.register_structure_hook(Money, lambda v, _: Money(v))
    converter.register_unstructure_hook(Money, lambda m: m.cents)
    codec = Codec(converter)

    with pytest.raises(ValidationError) as caught:
        codec.structure({"total": 3, "note": 1, "more": 2}, Invoice, what="p")
    assert "$.note: expected str, found int" in str(caught.value)
    assert "$.more: unknown key" in str(caught.value)
    with pytest.raises(ValidationError, match="expected Invoice, found int"):
        codec.structure(3, Invoice, what="p")
    with pytest.raises(ValidationError, match=r"\$\.retries: expected int, found str"):
        codec.structure({"name": "a", "retries": "1"}, Options, what="p")


def test_the_users_types_need_not_be_comparable() -> None:
    """What comes back is compared by what is stored of it, if a class has no equality."""

    class Opaque:
        def __init__(self, size: int) -> None:
            self.size = size

    converter = cattrs.Converter()
    converter.register_structure_hook(Opaque, lambda v, _: Opaque(v))
    converter.register_unstructure_hook(Opaque, lambda o: o.size)

    value = Codec(converter).encode_and_decode([Opaque(3)], list[Opaque], what="w")[1]

    assert [type(each) for each in value] == [Opaque]
    assert value[0].size == 3


def test_aliases_and_overrides_of_cattrs_are_respected() -> None:
    """use_alias and Annotated overrides name the keys in both directions."""

    @define
    class Renamed:
        _a: int
        b: Annotated[int, cattrs.override(rename="B")]
        c: Annotated[int, cattrs.override(omit=True)] = 3

    codec = Codec(cattrs.Converter(use_alias=True))
    codec2 = Codec()

    assert codec.encode_and_decode(Renamed(1, 2), Renamed, what="w") == (
        '{"a":1,"B":2}',
        Renamed(1, 2),
    )
    assert codec2.encode(Renamed(1, 2), Renamed, what="w") == '{"_a":1,"B":2}'
    with pytest.raises(SerializationError, match=r"\$\.c: would come back"):
        codec2.encode(Renamed(1, 2, 4), Renamed, what="w")


@pytest.mark.parametrize("bad", [cattrs.BaseConverter(), 3, cattrs.Converter])
def test_what_is_no_converter_is_rejected(bad: Any) -> None:
    """The option is named."""
    with pytest.raises(ValidationError, match=r"^converter: expected a cattrs\.Converter"):
        Codec(bad)


def failing(error: BaseException) -> Callable[..., Any]:
    def hook(*_: object) -> Any:
        raise error

    return hook


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), KeyError("total"), BadStrError(), ExceptionGroup("g", [OSError()])]
)
def test_a_failing_hook_is_named_by_its_path(error: Exception) -> None:
    """Whatever Exception a hook raises becomes the typed error with the path."""
    converter = cattrs.Converter()
    converter.register_structure_hook(Money, failing(error))
    converter.register_unstructure_hook(Money, failing(error))
    codec = Codec(converter)

    with pytest.raises(ValidationError, match=rf"^p: \$\.total: {type(error).__name__}"):
        codec.structure({"total": "3"}, Invoice, what="p")
    with pytest.raises(
        SerializationError, match=r"^w: \$\.total: the unstructure hook for Money failed"
    ):
        codec.encode(Invoice(Money(3)), Invoice, what="w")


def test_a_base_exception_of_a_hook_passes() -> None:
    """Ctrl-C is not taken for a validation error."""
    converter = cattrs.Converter()
    converter.register_structure_hook(Money, failing(KeyboardInterrupt()))
    converter.register_unstructure_hook(Money, failing(KeyboardInterrupt()))
    codec = Codec(converter)

    with pytest.raises(KeyboardInterrupt):
        codec.structure({"total": "3"}, Invoice, what="p")
    with pytest.raises(KeyboardInterrupt):
        codec.encode(Invoice(Money(3)), Invoice, what="w")


def test_half_a_pair_of_hooks_is_rejected() -> None:
    """A type needs both hooks; the missing one is named."""
    converter = cattrs.Converter()
    converter.register_structure_hook(Money, lambda v, _: Money(v))
    with pytest.raises(ValidationError, match="no unstructure hook"):
        Codec(converter).check_type(Money, "input")

    converter = cattrs.Converter()
    converter.register_unstructure_hook(Money, lambda m: m.cents)
    with pytest.raises(ValidationError, match="no structure hook"):
        Codec(converter).check_type(Money, "input")


def test_one_hook_for_a_class_is_completed() -> None:
    """Where only one direction is the user's, the other one is the class's own."""
    converter = cattrs.Converter()
    converter.register_structure_hook(Cat, lambda v, _: Cat(v["meow"]))
    converter.register_unstructure_hook(Dog, lambda d: {"bark": d.bark, "loud": d.loud})
    codec = Codec(converter)

    assert codec.encode_and_decode(Cat(1), Cat, what="w")[1] == Cat(1)
    assert codec.encode_and_decode(Dog(1), Dog, what="w")[1] == Dog(1)


def test_what_a_hook_returns_must_be_json_like_and_faithful() -> None:
    """An unstructure hook gives data, and the structure hook undoes it."""
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Money, lambda m: iter(()) if m.cents < 0 else m.cents)
    converter.register_structure_hook(Money, lambda v, _: Money(abs(v - 1)))
    codec = Codec(converter)

    with pytest.raises(SerializationError, match="has no stored form"):
        codec.encode(Money(-1), Money, what="w")
    with pytest.raises(SerializationError, match="would come back as another Money"):
        codec.encode(Money(3), Money, what="w")
    with pytest.raises(SerializationError, match="expected Money, found int"):
        codec.encode(3, Money, what="w")


def test_a_failing_hook_factory_is_reported() -> None:
    """A factory that raises makes the type unsupported."""
    converter = cattrs.Converter()
    converter.register_structure_hook_factory(lambda t: t is Money, failing(RuntimeError("x")))
    with pytest.raises(ValidationError, match="hook factory of the converter failed: RuntimeError"):
        Codec(converter).check_type(Money, "input")


def test_factories_of_the_user_get_strict_hooks_inside() -> None:
    """A hook factory that asks the converter for the hooks of fields gets the strict ones."""
    converter = cattrs.Converter()

    @converter.register_structure_hook_factory(lambda t: t is Invoice)
    def structure_invoice(_: Any, inner: cattrs.Converter) -> Any:
        hook = inner.get_structure_hook(int)
        return lambda v, t: Invoice(Money(hook(v["cents"], int)))

    @converter.register_unstructure_hook_factory(lambda t: t is Invoice)
    def unstructure_invoice(_: Any, inner: cattrs.Converter) -> Any:
        hook = inner.get_unstructure_hook(int)
        return lambda i: {"cents": hook(i.total.cents)}

    codec = Codec(converter)

    assert codec.encode_and_decode(Invoice(Money(3)), Invoice, what="w")[1] == Invoice(Money(3))
    with pytest.raises(ValidationError, match="expected int, found str"):
        codec.structure({"cents": "3"}, Invoice, what="p")
    with pytest.raises(SerializationError, match="expected int, found str"):
        codec.encode(Invoice(Money("3")), Invoice, what="w")  # type: ignore[arg-type] # on purpose
