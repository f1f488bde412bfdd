"""Jobs: what a plain function becomes, and which of them an engine knows."""

from __future__ import annotations

import inspect
import threading
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import attrs

from durably.codec import UNTYPED, Codec, resolve_annotations, return_type_of
from durably.errors import ConflictError, NotFoundError, ValidationError

if TYPE_CHECKING:
    from durably.steps import StepContext

P = TypeVar("P")
R = TypeVar("R")

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
LONGEST_JOB_NAME = 200


def check_text(value: object, what: str, *, longest: int | None = None) -> str:
    """*value* as a name or key: text that is not empty, storable, and not too long.

    Raises:
        ValidationError: it is not; the message begins with *what*.
    """
    if not isinstance(value, str):
        raise ValidationError(f"{what} must be a str, not {value!r:.80}")
    if not value:
        raise ValidationError(f"{what} must not be empty")
    if longest is not None and len(value) > longest:
        raise ValidationError(f"{what} has {len(value)} characters; {longest} are allowed")
    check_storable(value, what)
    return value


def check_storable(value: str, what: str) -> None:
    """Refuse what SQLite would cut short (NUL) or UTF-8 cannot hold (lone surrogates)."""
    if "\0" in value:
        raise ValidationError(f"{what} holds a NUL character: {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValidationError(f"{what} holds a lone surrogate: {value!a:.80}") from None


def check_name(value: object, what: str, *, longest: int) -> str:
    """*value* as a name: storable text without control characters.

    Raises:
        ValidationError: it is not; the message begins with *what*.
    """
    name = check_text(value, what, longest=longest)
    # Printable text, the usual case, holds no control characters.
    if not name.isprintable():
        for character in name:
            if unicodedata.category(character) == "Cc":
                raise ValidationError(
                    f"{what} holds the control character {character!a}: {name!a:.80}"
                )
    return name


@attrs.frozen
class Job(Generic[P, R]):
    """A function of named steps, with its name and types.

    Calling it calls the function, so that it can be tested alone.

    Args:
        name: 1 to 200 characters, no control characters.
        run: ``f(step, payload)`` or ``f(step)``.
        input: the payload's type; by default the annotation of the second parameter.
        output: the result's type; by default the return annotation.

    Raises:
        ValidationError: the spec is not usable as a job.

    .. versionadded:: 0.1.0
    """

    name: str
    run: Callable[..., R]
    input: Any = None
    output: Any = None
    takes_payload: bool = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        check_name(self.name, "a job's name", longest=LONGEST_JOB_NAME)
        parameters = _positional_parameters(self.run, self.name)
        takes_payload = len(parameters) > 1
        if self.input is not None and not takes_payload:
            raise ValidationError(
                f"job {self.name!r} has input={self.input!r:.80}, but its function takes no "
                "payload: give it a second parameter"
            )
        object.__setattr__(self, "takes_payload", takes_payload)
        if takes_payload and self.input is None:
            name = parameters[1].name
            annotated = resolve_annotations(self.run, {name}).get(name)
            object.__setattr__(self, "input", None if annotated in (Any, object) else annotated)
        if self.output is None:
            # Raises for one that cannot be resolved, which return_type_of takes for none.
            resolve_annotations(self.run, {"return"})
            returned = return_type_of(self.run)
            object.__setattr__(self, "output", None if returned is UNTYPED else returned)

    @property
    def payload_type(self) -> Any:
        """What payloads are structured into; ``UNTYPED`` for JSON-like data."""
        return UNTYPED if self.input is None else self.input

    @property
    def output_type(self) -> Any:
        """What results are structured into; ``UNTYPED`` for JSON-like data."""
        return UNTYPED if self.output is None else self.output

    @overload
    def __call__(self: Job[None, R], step: StepContext, /) -> R: ...
    @overload
    def __call__(self, step: StepContext, payload: P, /) -> R: ...
    def __call__(self, *args: Any) -> R:
        """Call the function as it is."""
        return self.run(*args)

    def is_same_function(self, other: Job[Any, Any]) -> bool:
        """Whether *other* comes from the same place in the source, as when a cell runs again."""
        return self.run is other.run or _place(self.run) == _place(other.run) != (None, None)

    def __repr__(self) -> str:
        return f"<Job {self.name!r}>"


def _place(function: Callable[..., Any]) -> tuple[str | None, str | None]:
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def _positional_parameters(function: object, name: str) -> list[inspect.Parameter]:
    if not callable(function):
        raise ValidationError(f"job {name!r} needs a function, not {function!r:.80}")
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

    def __init__(self, name: str | None, input_: Any, output: Any) -> None:
        self._name = name
        self._input = input_
        self._output = output

    @overload
    def __call__(self, function: Callable[[StepContext, P], R], /) -> Job[P, R]: ...
    @overload
    def __call__(self, function: Callable[[StepContext], R], /) -> Job[None, R]: ...
    def __call__(self, function: Callable[..., R], /) -> Job[Any, R]:
        name = self._name
        if name is None:
            name = getattr(function, "__name__", None)
            if name is None:
                raise ValidationError(f"a job made of {function!r:.80} needs a name")
        return Job(name, function, self._input, self._output)


@overload
def job(name: Callable[[StepContext, P], R], /) -> Job[P, R]: ...
@overload
def job(name: Callable[[StepContext], R], /) -> Job[None, R]: ...
@overload
def job(name: str | None = None, *, input: Any = None, output: Any = None) -> _JobDecorator: ...
def job(name: Any = None, *, input: Any = None, output: Any = None) -> Any:  # noqa: A002 - the contract's name
    """Make a function a job: ``@job``, ``@job("name")`` or ``@job("name", input=..., output=...)``.

    Args:
        name: 1 to 200 characters; the function's ``__name__`` by default.
        input: the payload's type; by default the annotation of the second parameter.
        output: the result's type; by default the return annotation.

    Returns:
        A ``Job``, which calls through to the function.

    Raises:
        ValidationError: the function or the name is not usable; raised where the job is
            defined, not when it runs.

    .. versionadded:: 0.1.0
    """
    if callable(name):
        return _JobDecorator(None, input, output)(cast("Callable[..., Any]", name))
    return _JobDecorator(name, input, output)


class Registry:
    """The jobs that one engine knows. Usable from any thread."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._lock = threading.Lock()  # guards replacing the mapping; readers take what they see
        self._jobs: dict[str, Job[Any, Any]] = {}

    def add(self, new: Job[Any, Any]) -> None:
        """Register a job; the same function again replaces its old self.

        Raises:
            ValidationError: it is no job, or a type of it cannot be structured.
            ConflictError: another function has that name.
        """
        if not isinstance(new, Job):
            raise ValidationError(f"not a job: {new!r:.80}; decorate the function with @job")
        if new.takes_payload:
            self._codec.check_type(new.payload_type, f"the input of job {new.name!r}")
        self._codec.check_type(new.output_type, f"the output of job {new.name!r}")
        with self._lock:
            old = self._jobs.get(new.name)
            if old is not None and not old.is_same_function(new):
                raise ConflictError(
                    f"another function is registered as job {new.name!r}: "
                    f"{'.'.join(map(str, _place(old.run)))}; give one of them another name"
                )
            self._jobs = self._jobs | {new.name: new}

    def get(self, name: str) -> Job[Any, Any] | None:
        """The job of that name as it is registered now."""
        return self._jobs.get(name)

    def require(self, name: str) -> Job[Any, Any]:
        """Like ``get``; raises ``NotFoundError`` if there is none."""
        found = self._jobs.get(name)
        if found is None:
            raise NotFoundError(f"no job {name!r} is registered in this engine; register it first")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all jobs."""
        return tuple(self._jobs)
