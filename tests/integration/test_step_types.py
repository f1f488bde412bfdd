"""What the annotation of a step's function says before and after it is called."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import cattrs
import pytest
from attrs import define
from engines import again, engine, execute, record
from naming import plainly

import durably

if TYPE_CHECKING:
    from collections.abc import Sequence as Rows
    from decimal import Decimal as Price


class Frame:
    """A class that has no stored form."""


class Sized(Protocol):
    size: int


@define
class Holds:
    frame: Frame


@define
class Later:
    price: Price


# -- known before the call -----------------------------------------------------------------------


def frame() -> Frame:
    raise AssertionError


def several() -> list[Frame]:
    raise AssertionError


def perhaps() -> dict[str, Frame | None]:
    raise AssertionError


def holds() -> Holds:
    raise AssertionError


def generates() -> Iterator[int]:
    raise AssertionError


def follows() -> Sized:
    raise AssertionError


def later() -> Later:
    raise AssertionError


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (frame, "Frame is not a type that can be stored"),
        (several, "Frame is not a type that can be stored"),
        (perhaps, "Frame is not a type that can be stored"),
        (holds, "field frame of Holds: Frame is not a type that can be stored"),
        (generates, "Iterator[int] is not a type that can be stored"),
        (follows, "Sized is not a type that can be stored"),
        (later, "an annotation of Later cannot be resolved (NameError: name 'Price' is not"),
        (Frame, "Frame is not a type that can be stored"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_type_without_a_form_is_said_before_the_call(tmp_path, fn, says):
    """The step fails with SerializationError, and its function is not called."""

    def job(step):
        step.options(retry=durably.Retry(on=Exception)).run("a", fn)

    with engine(tmp_path, job) as app:
        events = record(app, "step:fail")
        run = execute(app)
        (stored,) = app.get_steps(run)
    assert run.error.type == "durably.SerializationError"
    assert run.error.message.startswith("the result of step 'a': ")
    assert says in run.error.message
    assert run.error.message.endswith("; the function was not called")
    assert (stored.status, events[0].error) == ("failed", stored.error)
    assert stored.error.message == run.error.message


def test_what_is_stored_is_no_matter_of_the_call(tmp_path):
    """A step that has completed is replayed, whatever its function says today."""

    def job(step, type_=None):
        def fn():
            return 1

        fn.__annotations__["return"] = Frame if step.attempt == 2 else int
        step.run("a", fn)
        if step.attempt == 1:
            raise ValueError
        step.run("b", fn)

    with engine(tmp_path, job) as app:
        run = again(app, execute(app))
    # The stored one says what is wrong, too.
    assert "the stored result of step 'a': Frame is not a type that can be stored" in (
        run.error.message
    )


def test_what_may_be_stored_is_called(tmp_path):
    """Types of the user's converter, ``Any``, ``object`` and ``NoReturn`` are not rejected."""
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Frame, lambda _: "f")
    converter.register_structure_hook(Frame, lambda _, __: Frame())
    called = []

    def hooked() -> Frame:
        called.append("hooked")
        return Frame()

    def anything() -> Any:
        called.append("anything")
        return 1

    def some() -> object:
        called.append("some")
        return 1

    def never() -> NoReturn:
        called.append("never")
        raise KeyError

    def job(step):
        for fn in (hooked, anything, some, never):
            step.run(fn.__name__, fn)

    with engine(tmp_path, job, converter=converter) as app:
        run = execute(app)
    assert run.error.type == "KeyError"
    assert called == ["hooked", "anything", "some", "never"]


# -- annotations that cannot be resolved ---------------------------------------------------------


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [1, None, "a", [1, {"a": [None, 1.5]}], {}, (1, 2), [{1}], {"a": [(1,)]}, date(2026, 1, 2)],
)
def test_data_is_stored_though_its_annotation_cannot_be_resolved(tmp_path, value):
    """What would come back as it is without an annotation does, now and on a resume."""
    seen = []

    def fn() -> Rows[int]:
        return value

    def job(step):
        seen.append(step.run("a", fn))
        if step.attempt == 1:
            raise ValueError

    with engine(tmp_path, job) as app:
        assert again(app, execute(app)).status == "completed"
    assert seen == [value, value]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Frame(), "$: Frame has no stored form"),
        ([{1}, threading.Lock()], "$[1]: lock has no stored form"),
        ((1, Text("a")), "$[1]: Text would come back as str"),
        ({Text("k"): 1}, "$.k: Text would come back as str"),
        (Text("a"), "$: Text would come back as str"),
        (True, None),
    ],
    ids=plainly,
)
def test_an_annotation_that_cannot_be_resolved_is_said_to_be_that(tmp_path, value, says):
    """No value changes its type for it; the error names the annotation and how to go on."""

    def price() -> Price:
        return value

    def job(step):
        step.run("a", price)

    with engine(tmp_path, job) as app:
        run = execute(app)
    if says is None:
        assert run.status == "completed"
        return
    message = run.error.message
    assert message.startswith("the result of step 'a': the annotation 'Price' of the return value")
    assert "price cannot be resolved: NameError: name 'Price' is not defined; import" in message
    assert "not only under TYPE_CHECKING, or name the type: step.options(returns=...)" in message
    assert message.endswith(f"Without that type: {says}")


def test_what_a_partial_holds_is_not_shown(tmp_path):
    """The error names the function, and nothing of its arguments."""

    def price(token: str) -> Price:
        return {Text(token)}

    def job(step):
        step.run("a", functools.partial(price, "secret"))

    with engine(tmp_path, job) as app:
        message = execute(app).error.message
    assert (
        "of the return value of test_what_a_partial_holds_is_not_shown.<locals>.price cannot"
        in (message)
    )
    assert "secret" not in message


def test_a_type_by_option_needs_no_annotation(tmp_path):
    """``returns=`` stands in for an annotation that cannot be resolved."""
    seen = []

    def fn() -> Rows[int]:
        return (1, 2)

    def job(step):
        seen.append(step.options(returns=tuple[int, ...]).run("a", fn))

    with engine(tmp_path, job) as app:
        assert execute(app).status == "completed"
    assert seen == [(1, 2)]


def test_a_name_that_is_defined_later_is_found(tmp_path, monkeypatch):
    """An annotation that could not be resolved once is tried again."""
    seen = []

    def fn() -> Rows[int]:
        return [1]

    def job(step):
        step.run("a", fn)
        monkeypatch.setitem(globals(), "Rows", set)
        with pytest.raises(durably.SerializationError, match=r"expected set\[int\], found list"):
            step.run("b", fn)
        seen.append(step.attempt)

    with engine(tmp_path, job) as app:
        assert execute(app).status == "completed"
    assert seen == [1]


def test_a_jobs_annotation_is_said_at_its_definition():
    """Of its payload and of its result, with how to go on."""

    def takes(step, payload: Price):
        raise AssertionError

    def returns(step) -> Price:
        raise AssertionError

    for function in (takes, returns):
        with pytest.raises(durably.ValidationError) as caught:
            durably.job(function)
        assert "cannot be resolved: NameError: name 'Price' is not defined" in str(caught.value)
        assert "durably.job(input=..., output=...)" in str(caught.value)


# -- NOTHING -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, 1, "a", Frame(), {1: {2}}, (1,), threading.Lock(), [object()], print]
)
def test_nothing_throws_the_result_away(tmp_path, value):
    """Whatever it is, null is stored and None returned, on a resume too, and as the event's."""
    seen, calls = [], []

    def fn() -> Frame:
        calls.append(1)
        return value

    def job(step):
        for name, options in (("a", {}), ("b", {"retry": durably.Retry()})):
            seen.append(step.options(returns=durably.NOTHING, **options).run(name, fn))
        if step.attempt == 1:
            raise ValueError

    with engine(tmp_path, job) as app:
        events = record(app, "step:complete")
        run = again(app, execute(app))
        steps = app.get_steps(run)
    assert run.status == "completed"
    assert (seen, calls) == ([None] * 4, [1, 1])
    assert [each.output for each in (*steps, *events)] == [None] * 4


def test_nothing_takes_over_what_was_stored(tmp_path):
    """A result of an earlier version of the code is not read."""
    seen = []

    def job(step):
        options = {} if step.attempt == 1 else {"returns": durably.NOTHING}
        seen.append(step.options(**options).run("a", lambda: {"rows": 3}))
        if step.attempt == 1:
            raise ValueError

    with engine(tmp_path, job) as app:
        assert again(app, execute(app)).status == "completed"
    assert seen == [{"rows": 3}, None]


def test_nothing_of_a_coroutine_is_an_error(tmp_path):
    """An async function has done nothing when it returns."""

    async def fn():
        raise AssertionError

    def job(step):
        step.options(returns=durably.NOTHING).run("a", fn)

    with engine(tmp_path, job) as app:
        run = execute(app)
    assert run.error.message == (
        "the result of step 'a': $: a coroutine, so nothing was done; pass a plain function "
        "that calls asyncio.run"
    )


def test_nothing_is_a_constant_with_a_name():
    """It shows itself as what it is."""
    assert repr(durably.NOTHING) == "NOTHING"


# -- classes that have changed -------------------------------------------------------------------


def test_a_class_that_has_changed_says_how_to_go_on(tmp_path):
    """The error names the step, each place, and what to do, and so does that of a payload."""

    def of(**fields):
        return define(type("Rows", (), {"__annotations__": fields}))

    old, new = of(n=int), of(n=int, last=str)

    def job_with(of_step, of_payload):
        def job(step, payload):
            step.options(returns=of_step).run("read", of_step, 3)
            raise ValueError

        return durably.Job("job", job, input=of_payload)

    with engine(tmp_path) as app:
        app.register(job_with(old, old))
        run = execute(app, old(1))
    with engine(tmp_path) as app:
        app.register(job_with(new, old))
        step = again(app, run).error.message
    with engine(tmp_path) as app:
        app.register(job_with(new, new))
        payload = again(app, run).error.message
    assert re.sub(r"\([^)]*:\d\d\)", "(…)", step) == (
        "the stored result of step 'read': $.last: required, but missing; it was stored by an "
        "earlier version of the code (…): give new fields a default, or app.redo(run, "
        "from_step='read') executes the step again, or app.set_step(run, 'read', value) stores "
        "another result"
    )
    assert payload == (
        f"the stored payload of run {run.id}: $.last: required, but missing; it was stored by an "
        "earlier version of the code: give new fields a default, or trigger a new run and delete "
        "this one"
    )
