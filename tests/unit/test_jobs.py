"""Jobs: what the decorator makes of a function, and what it rejects before anything runs."""

from __future__ import annotations

import functools
import importlib
import re
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from naming import plainly

import durably
from durably import ConflictError, Job, StepContext, ValidationError
from durably._platform.safe_repr import type_name
from durably.codec import UNTYPED, Codec
from durably.jobs import job_list, output_type, payload_type
from durably.jobs.registry import JobRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    # Names that exist for type checkers only, as in many a module.
    from somewhere import Imaginary


@attrs.define
class ImportCsv:
    path: str
    batch_size: int = 100


@attrs.define
class Imported:
    rows: int


def import_csv(step: StepContext, payload: ImportCsv) -> Imported:
    """Import a file."""
    return Imported(payload.batch_size)


def nightly(step: StepContext) -> int:
    return 1


class TestDecorator:
    def test_with_a_name_it_makes_a_job_of_that_name(self) -> None:
        """@job("name") turns a function into a Job with that name and the function."""
        made = durably.job("import-csv")(import_csv)

        assert isinstance(made, Job)
        assert made.name == "import-csv"
        assert made.run is import_csv

    def test_input_and_output_come_from_the_annotations(self) -> None:
        """Input is the second parameter's annotation, output the return annotation."""
        made = durably.job("import-csv")(import_csv)

        assert (made.input, made.output) == (ImportCsv, Imported)

    @pytest.mark.parametrize(
        "decorate",
        [durably.job, durably.job(), durably.job(None), durably.job(name=None)],
        ids=["bare", "called", "None", "name=None"],
    )
    def test_without_a_name_it_takes_the_functions(self, decorate: Callable[..., Any]) -> None:
        """The name of a job is the function's __name__ unless one is given."""
        made = decorate(import_csv)

        assert isinstance(made, Job)
        assert (made.name, made.input, made.output) == ("import_csv", ImportCsv, Imported)

    def test_the_name_is_accepted_by_keyword(self) -> None:
        """name= is the decorator's first parameter."""
        assert durably.job(name="by-keyword")(import_csv).name == "by-keyword"

    def test_types_given_win_over_annotations(self) -> None:
        """input= and output= replace the function's annotations."""
        made = durably.job("x", input=dict[str, int], output=float)(import_csv)

        assert (made.input, made.output) == (dict[str, int], float)

    def test_a_job_can_be_built_directly(self) -> None:
        """Job(name, run, input, output) is the same as what the decorator makes."""
        assert Job("x", import_csv, ImportCsv, Imported) == durably.job("x")(import_csv)
        assert Job("x", import_csv) == durably.job("x")(import_csv)

    def test_a_job_is_frozen(self) -> None:
        """No attribute of a job can be set."""
        made = durably.job(import_csv)
        for name in ("name", "run", "input", "output"):
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                setattr(made, name, None)

    def test_a_job_is_an_attrs_class_of_four_fields_and_options(self) -> None:
        """name, run, input and output are what it is built from, in that order, and options."""
        arguments = [field.name for field in attrs.fields(Job) if field.init and not field.kw_only]
        assert arguments == ["name", "run", "input", "output"]
        options = [field.name for field in attrs.fields(Job) if field.init and field.kw_only]
        assert options == ["on_duplicate_step", "retry", "timeout", "origin", "on_change"]

    def test_calling_it_calls_the_function(self) -> None:
        """job(step, payload) returns what the function returns, unconverted and unvalidated."""
        seen = []

        @durably.job
        def plain(step: object, payload: int) -> object:
            seen.append((step, payload))
            return "as it is"

        assert plain("no step", "no int") == "as it is"
        assert seen == [("no step", "no int")]

    def test_calling_it_without_a_step_says_how_it_is_executed(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """job(payload) and job() are what a beginner writes, who sees no frame of durably."""

        @durably.job("nightly-import")
        def imports(step: durably.StepContext, path: str) -> str:
            return path

        message = (
            "imports is a job: write durably.run(imports, payload) to execute it, or "
            "imports(step, payload) to call its function"
        )
        with pytest.raises(TypeError, match=re.escape(message)) as raised:
            imports("users.csv")  # type: ignore[call-overload]
        sys.excepthook(raised.type, raised.value, raised.tb)
        printed = capsys.readouterr().err
        assert (printed.count('  File "'), printed.count(__file__)) == (1, 1)
        with pytest.raises(TypeError, match=re.escape("durably.run(nightly) to execute it")):
            durably.job(nightly)()  # type: ignore[call-overload]

    def test_calling_one_without_payload(self) -> None:
        """job(step) works for def f(step)."""
        assert durably.job(nightly)(None) == 1

    def test_its_repr_names_it(self) -> None:
        """A job shows its name."""
        assert "import-csv" in repr(durably.job("import-csv")(import_csv))


class TestAnnotations:
    def test_no_annotations_are_untyped(self) -> None:
        """Without annotations payload and result are JSON-like data."""

        @durably.job
        def plain(step, payload):
            return payload

        assert (plain.input, plain.output) == (None, None)
        assert payload_type(plain) is UNTYPED
        assert output_type(plain) is UNTYPED

    def test_any_and_object_are_untyped(self) -> None:
        """Any and object say nothing: JSON-like data."""

        @durably.job
        def plain(step: StepContext, payload: Any) -> object:
            return payload

        assert payload_type(plain) is UNTYPED
        assert output_type(plain) is UNTYPED

    def test_none_as_return_annotation_is_a_type(self) -> None:
        """-> None is a type like any other, and not the absence of one."""

        @durably.job
        def plain(step: StepContext) -> None:
            return None

        assert output_type(plain) is type(None)

    def test_an_annotation_of_step_that_cannot_be_resolved_does_not_matter(self) -> None:
        """Only the second parameter and the return value are read."""

        @durably.job
        def plain(step: Imaginary, payload: int) -> str:
            return str(payload)

        assert (plain.input, plain.output) == (int, str)

    def test_an_annotation_that_is_overridden_need_not_resolve(self) -> None:
        """input= and output= stand in for annotations that exist for type checkers only."""

        @durably.job(input=int, output=str)
        def plain(step: StepContext, payload: Imaginary) -> Imaginary:
            return str(payload)

        assert (plain.input, plain.output) == (int, str)

    @pytest.mark.parametrize("place", ["payload", "return"])
    def test_an_annotation_that_cannot_be_resolved_is_rejected(self, place: str) -> None:
        """A payload or result type that is not there is an error at definition, which names it."""

        def plain(step, payload):
            return payload

        plain.__annotations__[place] = "Imaginary"
        with pytest.raises(ValidationError, match="Imaginary"):
            durably.job(plain)

    def test_an_object_that_can_be_called_is_a_job(self) -> None:
        """The types of its __call__ count, not those of its attributes."""

        class Importer:
            payload: str

            def __call__(self, step: StepContext, payload: ImportCsv) -> Imported:
                return Imported(payload.batch_size)

        made = durably.job("x")(Importer())
        assert (made.input, made.output) == (ImportCsv, Imported)

    def test_wrapped_functions_keep_their_types(self) -> None:
        """A decorator that uses functools.wraps does not hide the annotations."""

        @functools.wraps(import_csv)
        def wrapper(*args: Any) -> Any:
            return import_csv(*args)

        made = durably.job(wrapper)
        assert (made.name, made.input, made.output) == ("import_csv", ImportCsv, Imported)


class TestRefused:
    @pytest.mark.parametrize(
        "name",
        ["", "x" * 201, "a\nb", "a\tb", "\x00", "a\x7f", "a\x85b", "\ud800", 5, b"bytes", ["x"]],
        ids=ascii,
    )
    def test_bad_names(self, name: Any) -> None:
        """A name is 1 to 200 characters of text without control characters or lone surrogates."""
        with pytest.raises(ValidationError, match="name"):
            durably.job(name)(import_csv)
        with pytest.raises(ValidationError, match="name"):
            Job(name, import_csv)

    @pytest.mark.parametrize("name", ["x", "x" * 200, "two words", "größe/π:日本", "\u200d", "🐍"])
    def test_good_names(self, name: str) -> None:
        """Everything else is a name, up to 200 characters, format characters included."""
        assert durably.job(name)(import_csv).name == name

    @pytest.mark.parametrize(
        "function",
        [
            lambda: None,
            lambda *, step: None,
            lambda step, payload, more: None,
            lambda step, *, more: None,
        ],
        ids=["none", "keyword only", "three", "required keyword"],
    )
    def test_bad_signatures(self, function: Callable[..., Any]) -> None:
        """A job takes (step) or (step, payload); what cannot be called so is rejected."""
        with pytest.raises(ValidationError, match=r"'x'.*\(step, payload\)"):
            durably.job("x")(function)

    @pytest.mark.parametrize(
        "function",
        [
            lambda step, payload, more=1: payload,
            lambda step, payload, *rest, **others: payload,
            lambda step, payload, *, more=1: payload,
        ],
        ids=["default", "variadic", "keyword default"],
    )
    def test_parameters_that_need_no_value_are_accepted(self, function: Any) -> None:
        """What can be called as f(step, payload) is a job."""
        assert durably.job("x")(function)(None, 7) == 7

    def test_not_a_function(self) -> None:
        """A value that cannot be called is no job."""
        with pytest.raises(ValidationError, match="'x'.*function"):
            Job("x", 5)  # type: ignore[arg-type]  # what is under test

    def test_coroutines_and_generators(self) -> None:
        """async def and generators are rejected: durably runs plain functions."""

        async def coroutine(step):
            return 1

        def generator(step):
            yield 1

        async def both(step):
            yield 1

        for function in (coroutine, generator, both):
            with pytest.raises(ValidationError, match=function.__name__):
                durably.job(function)

    def test_an_input_for_a_function_without_payload(self) -> None:
        """input= on def f(step) is rejected at definition."""
        with pytest.raises(ValidationError, match="'nightly'.*payload"):
            durably.job(input=int)(nightly)
        with pytest.raises(ValidationError, match="'nightly'.*payload"):
            Job("nightly", nightly, int)

    def test_a_nameless_callable_needs_a_name(self) -> None:
        """A callable without __name__ is a job only under a name given."""
        partial = functools.partial(import_csv)
        with pytest.raises(ValidationError, match="name"):
            durably.job(partial)
        assert durably.job("named")(partial).name == "named"


class Importer:
    """A class whose functions are made jobs of."""

    rate = 3

    def plain(self, step: StepContext, payload: int) -> int:
        return payload * self.rate

    def unusual(this, step: StepContext) -> int:  # noqa: N805 - what is under test
        return this.rate

    @classmethod
    def of_class(cls, step: StepContext, payload: int) -> int:
        return payload * cls.rate

    @staticmethod
    def static(step: StepContext, payload: int) -> int:
        return payload


class TestMethods:
    @pytest.mark.parametrize("name", ["plain", "unusual"])
    def test_a_method_is_rejected_with_the_reason(self, name: str) -> None:
        """A run has no object to call it with; the message shows how to make a job of it."""
        method = vars(Importer)[name]
        with pytest.raises(ValidationError, match=r"method of Importer.*no object") as caught:
            durably.job(method)
        assert f"Job({name!r}, Importer().{name})" in str(caught.value)
        with pytest.raises(ValidationError, match="method of Importer"):
            Job("x", method)

    def test_a_method_with_a_wrapper_is_rejected_too(self) -> None:
        """A decorator that keeps the signature does not hide that it is a method."""

        @functools.wraps(Importer.plain)
        def wrapper(*args: Any) -> Any:
            return Importer.plain(*args)

        with pytest.raises(ValidationError, match="method of Importer"):
            durably.job(wrapper)

    def test_a_method_of_an_object_is_a_job(self) -> None:
        """What is bound has all it needs: to an object, or to the class."""
        made = Job("x", Importer().plain)
        assert (made(None, 2), made.input, made.output) == (6, int, int)
        assert durably.job(Importer.of_class)(None, 2) == 6

    def test_a_static_function_of_a_class_is_a_job(self) -> None:
        """A class that only holds functions binds none of them, in either order of decorators."""
        assert durably.job(Importer.static)(None, 2) == 2

        class Jobs:
            @durably.job
            @staticmethod
            def below(step: StepContext, payload: int) -> int:
                return payload

            @staticmethod
            @durably.job
            def above(step: StepContext, payload: int) -> int:
                return payload

            @durably.job
            def bare(step: StepContext, payload: int) -> int:  # noqa: N805 - no method
                return payload

        assert [each(None, 2) for each in (Jobs.below, Jobs.above, Jobs.bare)] == [2, 2, 2]
        assert Jobs.below.name == "below"

    def test_a_classmethod_that_is_not_bound_is_rejected(self) -> None:
        """It cannot be called; the message shows the job of the bound one."""
        with pytest.raises(ValidationError, match=r"classmethod.*Job\(name, Class\.method\)"):
            durably.job(vars(Importer)["of_class"])


class TestMistakes:
    def test_a_wrapper_that_hides_the_parameters_is_rejected(self) -> None:
        """Nobody can know if it takes a payload; the message names functools.wraps."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return import_csv(*args, **kwargs)

        with pytest.raises(ValidationError, match=r"\(\*args.*functools\.wraps"):
            durably.job("x")(wrapper)

    @pytest.mark.parametrize("cls", [Job, int, type("Made", (), {})], ids=plainly)
    def test_a_class_is_not_a_job(self, cls: Any) -> None:
        """Calling it makes an object of it, which no run can return."""
        for make in (durably.job, durably.job("x"), lambda each: Job("x", each)):
            with pytest.raises(
                ValidationError, match=rf"{cls.__name__} is a class: decorate a fun"
            ):
                make(cls)

    def test_a_job_of_a_job_is_rejected(self) -> None:
        """Decorated twice, under the same name or another one: the message names the function."""
        made = durably.job("import-csv")(import_csv)
        for make in (durably.job, durably.job("x"), lambda each: Job("x", each)):
            with pytest.raises(ValidationError, match=r"'import-csv' already.*import_csv\.run"):
                make(made)

    @pytest.mark.parametrize("value", [5, b"x", ["x"], object()], ids=plainly)
    def test_a_name_that_cannot_be_one_is_rejected_at_once(self, value: Any) -> None:
        """The call with the name raises, and not the decorator that it returns."""
        with pytest.raises(ValidationError, match="name"):
            durably.job(value)

    def test_one_job_instead_of_several(self) -> None:
        """The message shows the line as it should be."""
        made = durably.job("import-csv")(import_csv)
        expected = "jobs must be an iterable of Job; write jobs=[import_csv]"
        with pytest.raises(ValidationError) as caught:
            job_list(made)
        assert str(caught.value) == expected
        with pytest.raises(ValidationError, match=r"with @job, and write jobs=\[import_csv\]"):
            job_list(import_csv)

    @pytest.mark.parametrize("jobs", [None, 5, "import_csv", {"x": 5}], ids=plainly)
    def test_what_holds_no_jobs(self, jobs: Any) -> None:
        """Anything else is named by its type."""
        with pytest.raises(ValidationError, match=rf"not {type_name(jobs)}; write jobs=\["):
            job_list(jobs)

    def test_functions_that_are_not_decorated(self) -> None:
        """The message shows how to make a job of it."""
        expected = (
            r"^jobs contains the function import_csv, not a job: .*Job\('import_csv', import_csv\)"
        )
        with pytest.raises(ValidationError, match=expected):
            job_list([import_csv])
        with pytest.raises(ValidationError, match=r"^jobs contains .*'x', not a job"):
            job_list(["x"])
        with pytest.raises(ValidationError, match=r"^jobs contains a list, not a job: .*unpack it"):
            job_list([[durably.job(import_csv)]])

    def test_two_closures_of_one_name_in_one_list(self) -> None:
        """They share module and qualified name, and are two functions all the same."""

        def make(table: str, name: str | None = None) -> Job[None, str]:
            @durably.job(name)
            def load(step: StepContext) -> str:
                return table

            return load

        first, second = make("a"), make("b")
        with pytest.raises(ConflictError, match=r"two different jobs named 'load'.*another name"):
            job_list([first, second])
        assert job_list([first, first, make("b", "other")])[:2] == [first, first]
        assert job_list(iter([first, Job("load", first.run)])) == [first, first]


class TestRegistry:
    @pytest.mark.parametrize("is_partial", [False, True], ids=["function", "partial"])
    @pytest.mark.parametrize("is_session", [False, True], ids=["script", "session"])
    @pytest.mark.parametrize("is_new_typed", [False, True], ids=["imported", "typed"])
    @pytest.mark.parametrize("is_old_typed", [False, True], ids=["imported", "typed"])
    def test_what_is_typed_into_a_session_replaces(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        is_old_typed: bool,
        is_new_typed: bool,
        is_session: bool,
        is_partial: bool,
    ) -> None:
        """In an interactive session another function may take a name if one of the two is of
        __main__; two functions of imported modules never may, and in a script none may.
        """

        def old(step: StepContext) -> int:
            return 1

        def new(step: StepContext) -> int:
            return 2

        for function, is_typed in ((old, is_old_typed), (new, is_new_typed)):
            if is_typed:
                monkeypatch.setattr(function, "__module__", "__main__", raising=False)
        if is_session:
            monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
        registry = JobRegistry(Codec())
        registry.add(durably.job("x")(old))
        second = Job("x", functools.partial(new) if is_partial else new)
        if is_session and (is_old_typed or is_new_typed):
            registry.add(second)
            assert registry.require("x") is second
        else:
            with pytest.raises(ConflictError, match="another function is registered as job 'x'"):
                registry.add(second)

    def test_a_module_that_is_loaded_again_replaces(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The function of the same place is today's, as after importlib.reload or %autoreload."""
        monkeypatch.syspath_prepend(tmp_path)
        source = tmp_path / "loaded_twice.py"
        text = "import durably\n@durably.job\ndef load(step):\n    return {}\n"
        source.write_text(text.format(1))
        module = importlib.import_module("loaded_twice")
        registry = JobRegistry(Codec())
        registry.add(module.load)
        source.write_text(text.format("'another'"))
        try:
            importlib.reload(module)
            registry.add(module.load)
            assert registry.require("load") is module.load
            assert registry.require("load").run(None) == "another"
        finally:
            del sys.modules["loaded_twice"]

    def test_another_function_under_a_taken_name_is_rejected(self) -> None:
        """A name means one function; the message says which one has it."""
        registry = JobRegistry(Codec())
        registry.add(durably.job("x")(import_csv))
        with pytest.raises(ConflictError, match="'x'.*import_csv"):
            registry.add(durably.job("x")(nightly))

    def test_the_same_place_in_the_source_replaces(self) -> None:
        """The same module and qualified name, as when a notebook cell runs again, replaces."""
        registry = JobRegistry(Codec())
        again = types.FunctionType(import_csv.__code__, import_csv.__globals__)
        again.__qualname__ = import_csv.__qualname__
        again.__module__ = import_csv.__module__
        registry.add(durably.job("x")(import_csv))
        registry.add(durably.job("x")(again))

        assert registry.require("x").run is again

    def test_objects_that_can_be_called_are_distinguished_by_their_class(self) -> None:
        """One of the same class replaces, one of another class is another function."""

        class Caller:
            def __call__(self, step: StepContext) -> int:
                return 1

        class Other(Caller):
            pass

        registry = JobRegistry(Codec())
        registry.add(Job("x", Caller()))
        registry.add(Job("x", again := Caller()))
        with pytest.raises(ConflictError, match="Caller"):
            registry.add(Job("x", Other()))
        assert registry.require("x").run is again

    def test_a_partial_is_the_same_as_itself_alone(self) -> None:
        """Two of them have no name by which they could be the same function."""
        registry = JobRegistry(Codec())
        spec = Job("x", functools.partial(nightly))
        registry.add(spec)
        registry.add(Job("x", spec.run))
        with pytest.raises(ConflictError, match="partial"):
            registry.add(Job("x", functools.partial(nightly)))

    def test_a_type_that_nothing_can_structure_is_rejected_before_it_runs(self) -> None:
        """A job whose input or output has no stored form cannot be registered."""

        class Opaque:
            def __init__(self, a, b) -> None:
                self.a = a

        registry = JobRegistry(Codec())
        with pytest.raises(ValidationError, match="the input of job 'x'"):
            registry.add(Job("x", lambda step, payload: None, Opaque))
        with pytest.raises(ValidationError, match="the output of job 'x'"):
            registry.add(Job("x", lambda step: None, None, Opaque))
        assert registry.get("x") is None

    @pytest.mark.parametrize("spec", [import_csv, "x", None, ("x", import_csv)], ids=plainly)
    def test_what_is_no_job_is_rejected(self, spec: Any) -> None:
        """Registering a bare function says that it needs the decorator."""
        with pytest.raises(ValidationError, match="@job"):
            JobRegistry(Codec()).add(spec)
