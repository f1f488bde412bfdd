"""Values of types of the program's own, and values that another process reads."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import json
import pathlib
import subprocess
import sys
import zoneinfo
from pathlib import Path
from typing import Any

import attrs
import cattrs
import pytest
from children import execute

import durably
from durably import codecs
from durably.codec import UNTYPED, Codec, own_forms


class Money:
    """A class that is neither attrs nor a dataclass."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return type(other) is Money and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment] # nor is it hashable


@attrs.define
class Order:
    total: Money
    lines: list[Money]
    tip: Money | None = None


class Model:
    def __init__(self, weights: bytes) -> None:
        self.weights = weights


MONEY = codecs.ValueCodec(Money, "money", lambda m: {"cents": m.cents}, lambda d: Money(d["cents"]))
BY_BYTES = codecs.ValueCodec(Model, "shop/model", lambda m: m.weights, Model)


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave nothing registered."""
    monkeypatch.setattr(own_forms, "_registered", {})


def both(path: Path, function: Any, **options: Any) -> tuple[Any, Any]:
    """What a step returns at first, and from its checkpoint."""
    results = []

    def job(step: durably.StepContext) -> Any:
        results.append(step.run("make", function))
        if len(results) == 1:
            raise ValueError
        return results[-1]

    for _ in range(2):
        with durably.Durably(
            path, jobs=[durably.Job("job", job)], raise_failed=False, **options
        ) as app:
            run = app.jobs["job"].trigger(idempotency_key="a", retry_failed=True)
            app.run_until_idle()
            assert app.get_run(run.id).status == ("failed", "completed")[len(results) - 1]
    return results[0], results[1]


def test_a_registered_class_is_stored_with_and_without_an_annotation(tmp_path: Path) -> None:
    """All engines store it, in other values and as a field too, or one engine by its codecs=."""

    def untyped():
        return {"a": (Money(1), [Money(2)])}

    def typed() -> list[Order]:
        return [Order(Money(1), [Money(2)], Money(3)), Order(Money(1), [])]

    codecs.register(*MONEY)
    for name, function in {"untyped": untyped, "typed": typed}.items():
        first, resumed = both(tmp_path / f"{name}.db", function)
        assert first == resumed == function()
    own_forms._registered.clear()
    first, resumed = both(tmp_path / "own.db", typed, codecs=[MONEY])
    assert first == resumed == typed()
    # Without its codec the value is shown as data.
    with durably.Durably(tmp_path / "untyped.db") as app:
        (run,) = app.get_runs()
        shown = app.get_steps(run)[0].output
    assert shown == {"a": ['money({"cents":1})', ['money({"cents":2})']]}


def test_bytes_of_a_codec_come_back(tmp_path: Path) -> None:
    """encode may return bytes; decode gets them."""

    def make():
        return [Model(b"\x00\xff")]

    first, resumed = both(tmp_path / "a.db", make, codecs=[BY_BYTES])
    assert first[0].weights == resumed[0].weights == b"\x00\xff"


def test_a_pickled_value_comes_back_and_the_command_line_does_not_read_it(tmp_path: Path) -> None:
    """It is an explicit choice for one class; the file shows that it is one."""
    path = tmp_path / "a.db"

    def job(step: durably.StepContext) -> int:
        return len(step.run("make", lambda: Model(b"abc")).weights)

    pickled = codecs.pickled(Model)
    with durably.Durably(path, jobs=[durably.Job("job", job)], codecs=[pickled]) as app:
        run = app.run("job")
        assert run.output == 3
        assert type(app.get_steps(run)[0].output) is Model
    done = subprocess.run(
        [sys.executable, "-m", "durably", "steps", run.id, "--json", "--db", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "not read" in done.stdout, done
    with durably.Durably(path) as app:
        assert "not read" in app.get_steps(run.id)[0].output


def test_a_class_of_a_script_is_pickled() -> None:
    """Its module is __main__, with which no other name of a codec may begin."""
    cls = type("Größe", (), {"__module__": "__main__"})
    (codec,) = own_forms.own_codecs([codecs.pickled(cls)])
    assert codec.name == "pickled.__main__.Größe"


@pytest.mark.parametrize(
    ("tag", "advice"),
    [
        ("money", r"durably\.codecs\.register"),
        ("pickled.Model", r"codecs=\[durably\.codecs\.pickled"),
    ],
)
def test_a_value_whose_codec_is_not_here_names_what_brings_it(tag: str, advice: str) -> None:
    """The error says which call or option brings the codec."""
    text = '\t{"$":"' + tag + '","b":"YQ=="}'
    with pytest.raises(durably.SerializationError, match=f"'{tag}', which has no codec .*{advice}"):
        Codec().decode(text, UNTYPED, what="a value")


def test_what_a_users_converter_does_precedes_a_codec(tmp_path: Path) -> None:
    """It decides where a value is annotated."""
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Money, lambda m: m.cents)
    converter.register_structure_hook(Money, lambda data, _: Money(data))
    codecs.register(*MONEY)

    def make() -> Money:
        return Money(7)

    assert both(tmp_path / "a.db", make, converter=converter) == (Money(7), Money(7))


@pytest.mark.parametrize(
    ("codec", "says"),
    [
        ((1, "one", str, str), "a codec is for a class, found int"),
        ((dict, "dict2", str, str), "dict has a stored form of its own"),
        ((dt.date, "day", str, str), "date has a stored form of its own"),
        ((Money, "tuple", str, str), "is durably's own"),
        ((Money, "numpy.money", str, str), "is durably's own"),
        ((Money, "a b", str, str), "must have letters, digits"),
        ((Money, "money", 1, str), "must be functions"),
    ],
)
def test_a_codec_that_cannot_be_used_is_rejected(codec: Any, says: str, tmp_path: Path) -> None:
    """When it is registered, and by the engine before it makes a file."""
    path = tmp_path / "a.db"
    with pytest.raises(durably.ValidationError, match=says):
        codecs.register(*codec)
    with pytest.raises(durably.ValidationError, match=says):
        durably.Durably(path, codecs=[codecs.ValueCodec(*codec)])
    for wrong in (1, [MONEY, MONEY], ["money"], MONEY):
        with pytest.raises(durably.ValidationError, match="codecs"):
            durably.Durably(path, codecs=wrong)  # type: ignore[arg-type] # which is rejected
    assert not path.exists()


def test_a_name_belongs_to_one_class(tmp_path: Path) -> None:
    """A class that is defined again may take it; another one may not."""
    codecs.register(*MONEY)
    codecs.register(*MONEY)
    with pytest.raises(durably.ValidationError, match="choose another"):
        codecs.register(Model, "money", str, Model)


VALUES = {
    "paris": dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
    "decimal": [decimal.Decimal("-0"), decimal.Decimal("NaN")],
    "keys": {(1, "a"): {dt.date(2026, 1, 2)}, None: frozenset({b"x"})},
    "path": pathlib.Path("a/b"),
    "deque": collections.deque([1, (2,)], maxlen=3),
    "counter": collections.Counter("aab"),
    "dollar": {"$": {"$": "tuple", "v": [1]}},
    "complex": complex("nan-0j"),
}


def test_values_are_read_by_another_process(tmp_path: Path) -> None:
    """Each as it was, and the results of a map too."""
    path = tmp_path / "a.db"
    with pytest.raises(ZeroDivisionError), durably.session("values", path) as step:
        for name, value in VALUES.items():
            assert repr(step.run(name, lambda value=value: value)) == repr(value)
        mapped = step.map("map", lambda n: (n, {n}), [1, 2])
        assert list(mapped) == [(1, {1}), (2, {2})]
        raise ZeroDivisionError
    lines = execute("prints_results", path).stdout.splitlines()
    for name, value in VALUES.items():
        assert f"{name} {type(value).__name__} {value!r}" in lines
    with durably.session("values", path) as step:
        again = step.map("map", lambda n: json, [1, 2])  # which could not be stored
        assert list(again) == [(1, {1}), (2, {2})]
