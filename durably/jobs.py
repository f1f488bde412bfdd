"""Jobs: what a plain function becomes, and which of them an engine knows."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast, overload

import attrs

from durably.codec import UNTYPED, Codec, resolve_annotations, return_type_of
from durably.codec.text import dump
from durably.errors import ConflictError, NotFoundError, ValidationError
from durably.names import check_name
from durably.settings import OnDuplicateStep, check_on_duplicate_step
from durably.shown import shown
from durably.steps import StepContext
from durably.values import Value

P = TypeVar("P")
R = TypeVar("R")

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
LONGEST_JOB_NAME = 200


@attrs.frozen(eq=False, repr=False)
class Job(Value, Generic[P, R]):
    """A function of named steps, with its name and types.

    Calling it calls the function, so that it can be tested alone.

    Args:
        name: 1 to 200 characters, no control characters.
        run: ``f(step, payload)`` or ``f(step)``.
        input: the payload's type; by default the annotation of the second parameter.
        output: the result's type; by default the return annotation.
        on_duplicate_step: ``"error"`` or ``"reuse"``; by default what the engine was opened with.

    Raises:
        ValidationError: the spec is not usable as a job.

    .. versionadded:: 0.1.0
    """

    name: str
    run: Callable[..., R]
    input: Any = None
    output: Any = None
    on_duplicate_step: OnDuplicateStep | None = attrs.field(default=None, kw_only=True)
    _takes_payload: bool = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        check_name(self.name, "a job's name", longest=LONGEST_JOB_NAME)
        if self.on_duplicate_step is not None:
            check_on_duplicate_step(self.on_duplicate_step)
        parameters = _positional_parameters(self.run, self.name)
        takes_payload = len(parameters) > 1
        if self.input is not None and not takes_payload:
            raise ValidationError(
                f"job {self.name!r} has input={shown(self.input)}, but its function takes no "
                "payload: give it a second parameter"
            )
        object.__setattr__(self, "_takes_payload", takes_payload)
        if takes_payload and self.input is None:
            name = parameters[1].name
            annotated = resolve_annotations(self.run, {name}).get(name)
            object.__setattr__(self, "input", None if annotated in (Any, object) else annotated)
        if self.output is None:
            # Raises for one that cannot be resolved, which return_type_of takes for none.
            resolve_annotations(self.run, {"return"})
            returned = return_type_of(self.run)
            object.__setattr__(self, "output", None if returned is UNTYPED else returned)

    @overload
    def __call__(self: Job[None, R], step: StepContext, /) -> R: ...
    @overload
    def __call__(self, step: StepContext, payload: P, /) -> R: ...
    def __call__(self, *args: Any) -> R:
        """Call the function as it is."""
        return self.run(*args)

    def __repr__(self) -> str:
        return f"<Job {self.name!r}>"


def takes_payload(job: Job[Any, Any]) -> bool:
    """Whether the job's function has a parameter for a payload."""
    return job._takes_payload  # noqa: SLF001 - no part of what a user sees of a job


def payload_type(job: Job[Any, Any]) -> Any:
    """What payloads of the job are structured into; ``UNTYPED`` for JSON-like data."""
    return UNTYPED if job.input is None else job.input


def output_type(job: Job[Any, Any]) -> Any:
    """What results of the job are structured into; ``UNTYPED`` for JSON-like data."""
    return UNTYPED if job.output is None else job.output


def _is_same_function(one: Job[Any, Any], other: Job[Any, Any]) -> bool:
    """Whether both come from the same place in the source, as when a cell runs again."""
    return one.run is other.run or _place(one.run) == _place(other.run) is not None


def _place(function: Callable[..., Any]) -> str | None:
    """Where in the source the function is, or the class of an object that can be called.

    ``None`` for a ``functools.partial``: two of them may have nothing in common.
    """
    named = function if hasattr(function, "__qualname__") else type(function)
    if named is functools.partial:
        return None
    return f"{named.__module__}.{named.__qualname__}"


def _positional_parameters(function: object, name: str) -> list[inspect.Parameter]:
    if not callable(function):
        raise ValidationError(f"job {name!r} needs a function, not {shown(function)}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValidationError(f"job {name!r} is an async function; durably runs plain functions")
    if inspect.isgeneratorfunction(function):
        raise ValidationError(f"job {name!r} is a generator; durably runs plain functions")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as exc:
        raise ValidationError(f"the parameters of job {name!r} cannot be read: {exc}") from exc
    parameters = list(signature.parameters.values())
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    if not positional:
        raise ValidationError(f"job {name!r} must take (step) or (step, payload), not {signature}")
    for extra in [*positional[2:], *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]:
        if extra.default is extra.empty:
            raise ValidationError(
                f"job {name!r} must take (step) or (step, payload); "
                f"parameter {extra.name!r} of {signature} has no default"
            )
    return positional


class _JobDecorator:
    """What ``@job(...)`` is before it meets its function."""

    def __init__(self, name: str | None, **options: Any) -> None:
        self._name = name
        self._options = options

    @overload
    def __call__(self, function: Callable[[StepContext, P], R], /) -> Job[P, R]: ...
    @overload
    def __call__(self, function: Callable[[StepContext], R], /) -> Job[None, R]: ...
    def __call__(self, function: Callable[..., R], /) -> Job[Any, R]:
        name = self._name
        if name is None:
            name = getattr(function, "__name__", None)
            if name is None:
                raise ValidationError(f"a job made of {shown(function)} needs a name")
        return Job(name, function, **self._options)


@overload
def job(name: Callable[[StepContext, P], R], /) -> Job[P, R]: ...
@overload
def job(name: Callable[[StepContext], R], /) -> Job[None, R]: ...
@overload
def job(
    name: str | None = None,
    *,
    input: Any = None,
    output: Any = None,
    on_duplicate_step: OnDuplicateStep | None = None,
) -> _JobDecorator: ...
def job(
    name: Any = None,
    *,
    input: Any = None,  # noqa: A002 - the contract's name
    output: Any = None,
    on_duplicate_step: OnDuplicateStep | None = None,
) -> Any:
    """Make a function a job: ``@job``, ``@job("name")`` or ``@job("name", input=..., output=...)``.

    Args:
        name: 1 to 200 characters; the function's ``__name__`` by default.
        input: the payload's type; by default the annotation of the second parameter.
        output: the result's type; by default the return annotation.
        on_duplicate_step: what a step name does that is used twice in one execution: ``"error"``
            raises ``DuplicateStepError``, ``"reuse"`` returns the first one's result and warns; by
            default what the engine was opened with.

    Returns:
        A ``Job``, which calls through to the function.

    Raises:
        ValidationError: the function or the name is not usable; raised where the job is
            defined, not when it runs.

    .. versionadded:: 0.1.0
    """
    given, function = (None, name) if callable(name) else (name, None)
    decorator = _JobDecorator(
        given, input=input, output=output, on_duplicate_step=on_duplicate_step
    )
    return decorator if function is None else decorator(cast("Callable[..., Any]", function))


class Registry:
    """The jobs that one engine knows. Usable from any thread."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._lock = threading.Lock()  # guards replacing the mapping; readers take what they see
        self._jobs: dict[str, Job[Any, Any]] = {}
        # The names of all jobs as a JSON array, which is how a claim asks for them.
        self.names_json: str | None = None

    def add(self, new: Job[Any, Any]) -> None:
        """Register a job; the same function again replaces its old self.

        Raises:
            ValidationError: it is no job, or a type of it cannot be structured.
            ConflictError: another function has that name.
        """
        if not isinstance(new, Job):
            raise ValidationError(f"not a job: {shown(new)}; decorate the function with @job")
        if takes_payload(new):
            self._codec.check_type(payload_type(new), f"the input of job {new.name!r}")
        self._codec.check_type(output_type(new), f"the output of job {new.name!r}")
        with self._lock:
            old = self._jobs.get(new.name)
            if old is not None and not _is_same_function(old, new):
                raise ConflictError(
                    f"another function is registered as job {new.name!r}: "
                    f"{_place(old.run) or shown(old.run)}; give one of them another name"
                )
            self._jobs = self._jobs | {new.name: new}
            self.names_json = dump(list(self._jobs))

    def get(self, name: str) -> Job[Any, Any] | None:
        """The job of that name as it is registered now."""
        return self._jobs.get(name)

    def require(self, name: str) -> Job[Any, Any]:
        """Like ``get``; raises ``NotFoundError`` if there is none."""
        found = self._jobs.get(name)
        if found is None:
            raise NotFoundError(f"no job {name!r} is registered in this engine; register it first")
        return found
