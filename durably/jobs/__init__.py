"""Jobs: functions of named steps, and the registry of those that an engine knows."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

import attrs

from durably._platform.safe_repr import short_repr, type_name
from durably._platform.tracebacks import passes_on
from durably._platform.unhandled import install_hooks
from durably._platform.values import Value
from durably.codec import (
    UNTYPED,
    Unresolved,
    resolve_annotations,
    return_type_of,
)
from durably.errors import ConflictError, ValidationError
from durably.jobs.functions import innermost, name_of, place_of, positional_parameters
from durably.jobs.names import check_name
from durably.settings import (
    Duration,
    OnChange,
    OnDuplicateStep,
    check_on_change,
    check_on_duplicate_step,
    time_limit,
)

if TYPE_CHECKING:
    from durably.execution.context import StepContext
    from durably.settings.retries import Retry

P = TypeVar("P")
R = TypeVar("R")

LONGEST_JOB_NAME = 200


def _time_limit(value: Duration | None) -> float | None:
    return time_limit(value, "the timeout of a job")


@attrs.frozen(eq=False, repr=False)
class Job(Value, Generic[P, R]):
    """A function of named steps, with its name and types.

    Calling the job calls the function, so that it can be tested alone.

    Args:
        name: 1 to 200 characters, no control characters.
        run: ``f(step, payload)`` or ``f(step)``.
        input: the payload's type; by default the annotation of the second parameter.
        output: the result's type; by default the return annotation.
        on_duplicate_step: ``"error"`` or ``"reuse"``; by default the option of the engine.
        retry: how a run that has failed is tried again, with its checkpoints; by default it is not.
        timeout: seconds (or a ``timedelta``) that one execution of a run may take, a deadline that
            ``step.check``, ``step.sleep`` and ``step.run`` enforce. A run that does not come to one
            of these is failed at its deadline nevertheless.
        origin: ``"any"`` to continue runs that any job of this name has begun; by default the job
            continues runs with checkpoints only if this function has begun them. The function is
            identified by its module's name (in a script the file's) and its qualified name.
        on_change: what happens to stored results of other code than today's: ``"warn"``, the
            default, ``"redo"`` or ``"ignore"``, as for ``step.options``.

    Raises:
        ValidationError: the spec is not usable as a job.

    .. versionadded:: 0.1.0
    .. versionchanged:: 0.2.0 Has ``retry``, ``timeout`` and ``on_change``.
    """

    name: str
    run: Callable[..., R]
    input: Any = None
    output: Any = None
    on_duplicate_step: OnDuplicateStep | None = attrs.field(default=None, kw_only=True)
    retry: Retry | None = attrs.field(default=None, kw_only=True)
    timeout: float | None = attrs.field(default=None, kw_only=True, converter=_time_limit)
    origin: Literal["any"] | None = attrs.field(default=None, kw_only=True)
    on_change: OnChange | None = attrs.field(default=None, kw_only=True)
    _takes_payload: bool = attrs.field(init=False, repr=False, eq=False)
    _default: Any = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        check_name(self.name, "a job's name", longest=LONGEST_JOB_NAME)
        if self.on_duplicate_step is not None:
            check_on_duplicate_step(self.on_duplicate_step)
        if self.retry is not None:
            from durably.settings.retries import check_retry  # noqa: PLC0415 - where first needed

            check_retry(self.retry)
        check_on_change(self.on_change, f"the on_change of job {self.name!r}")
        if self.origin is not None and self.origin != "any":
            raise ValidationError(
                f'the origin of job {self.name!r} must be "any" or None, '
                f"not {short_repr(self.origin)}"
            )
        _refuse_job(self.run)
        parameters = positional_parameters(self.run, self.name)
        takes_payload = len(parameters) > 1
        if self.input is not None and not takes_payload:
            raise ValidationError(
                f"job {self.name!r} has input={short_repr(self.input)}, but its function takes no "
                "payload: give it a second parameter"
            )
        object.__setattr__(self, "_takes_payload", takes_payload)
        default = parameters[1].default if takes_payload else inspect.Parameter.empty
        object.__setattr__(self, "_default", default)
        if takes_payload and self.input is None:
            name = parameters[1].name
            annotated = resolve_annotations(self.run, {name}).get(name)
            object.__setattr__(self, "input", None if annotated in (Any, object) else annotated)
        if self.output is None:
            # Raises for an annotation that cannot be resolved; return_type_of would ignore it.
            resolve_annotations(self.run, {"return"})
            returned = return_type_of(self.run)
            if isinstance(returned, Unresolved):  # of what a functools.partial calls
                raise ValidationError(returned.reason)
            object.__setattr__(self, "output", None if returned is UNTYPED else returned)

    @overload
    def __call__(self: Job[None, R], step: StepContext, /) -> R: ...
    @overload
    def __call__(self, step: StepContext, payload: P, /) -> R: ...
    @passes_on
    def __call__(self, *args: Any) -> R:
        """Call the function as it is.

        Raises:
            TypeError: it was called without a step context, as if that executed the job.
        """
        needs_payload = self._takes_payload and self._default is inspect.Parameter.empty
        if len(args) < 1 + needs_payload:
            install_hooks()  # no engine may have been opened
            name = getattr(self.run, "__name__", self.name)
            payload = ", payload" if self._takes_payload else ""
            raise TypeError(
                f"{name} is a job: write durably.run({name}{payload}) to execute it, or "
                f"{name}(step{payload}) to call its function"
            )
        return self.run(*args)

    def __repr__(self) -> str:
        return f"<Job {self.name!r}>"


def takes_payload(job: Job[Any, Any]) -> bool:
    """Return whether the job's function has a parameter for a payload."""
    return job._takes_payload  # noqa: SLF001 - not part of the public attributes of a job


def has_default_payload(job: Job[Any, Any]) -> bool:
    """Return whether the parameter for the payload has a default."""
    return job._default is not inspect.Parameter.empty  # noqa: SLF001 - as above


def default_payload(job: Job[Any, Any]) -> Any:
    """Return the default of the parameter for the payload, ``None`` if it has none."""
    return job._default if has_default_payload(job) else None  # noqa: SLF001 - as above


def payload_type(job: Job[Any, Any]) -> Any:
    """Return the type of the job's payloads; ``UNTYPED`` for JSON-like data."""
    return UNTYPED if job.input is None else job.input


def output_type(job: Job[Any, Any]) -> Any:
    """Return the type of the job's results; ``UNTYPED`` for JSON-like data."""
    return UNTYPED if job.output is None else job.output


def job_list(jobs: object) -> list[Job[Any, Any]]:
    """Return the jobs that an engine is opened with.

    Raises:
        ValidationError: *jobs* is not an iterable of jobs; the message shows how to write it.
        ConflictError: two different jobs have one name.
    """
    if not isinstance(jobs, Iterable) or isinstance(jobs, str | bytes | Mapping):
        function = jobs.run if isinstance(jobs, Job) else jobs
        is_function = callable(jobs) and not isinstance(jobs, Job)
        raise ValidationError(
            "jobs must be an iterable of Job"
            + ("" if callable(jobs) else f", not {type_name(jobs)}")
            + ("; decorate the function with @job, and" if is_function else ";")
            + f" write jobs=[{name_of(function)}]"
        )
    found: dict[str, Job[Any, Any]] = {}
    listed: list[Any] = list(jobs)
    for each in listed:
        check_job(each, "jobs contains")
        other = found.setdefault(each.name, each)
        if other is not each and other != each:
            raise ConflictError(
                f"jobs contains two different jobs named {each.name!r}: {_shown_place(other)} and "
                f"{_shown_place(each)}; give one of them another name"
            )
    return listed


def check_job(value: object, what: str) -> None:
    """Raise ``ValidationError`` if *value* is not a job; the message begins with *what*."""
    if isinstance(value, Job):
        return
    found, advice = short_repr(value), "decorate a function with @job"
    if inspect.isroutine(value) or isinstance(value, functools.partial):
        name = name_of(value)
        found = f"the function {innermost(value).__name__}"
        advice = f"decorate the function with @job, or write Job({name!r}, {name})"
    elif type(value).__module__ == "durably.client.handles":
        advice = "use its attribute job, or call the handle's own methods"
    elif isinstance(value, list | tuple | set | frozenset) or inspect.isgenerator(value):
        found = f"a {type_name(value)}"
        advice = (
            "each must be a function with @job; unpack it with * where several jobs are expected"
        )
    raise ValidationError(f"{what} {found}, not a job: {advice}")


def _shown_place(job: Job[Any, Any]) -> str:
    """Return the place of a job's function with its line, because closures share their names."""
    code = getattr(inspect.unwrap(job.run), "__code__", None)
    line = "" if code is None else f", line {code.co_firstlineno}"
    return (place_of(job.run) or short_repr(job.run)) + line


def _refuse_job(function: object) -> None:
    if isinstance(function, Job):
        name = name_of(function.run)
        raise ValidationError(
            f"{name} is the job {function.name!r} already; decorate it once, or make another job "
            f"of its function: Job('other', {name}.run)"
        )


class _JobDecorator:
    """The result of ``job(...)``: a decorator that makes a function a job."""

    def __init__(self, name: str | None, **options: Any) -> None:
        self._name = name
        self._options = options

    @overload
    def __call__(self, function: Callable[[StepContext, P], R], /) -> Job[P, R]: ...
    @overload
    def __call__(self, function: Callable[[StepContext], R], /) -> Job[None, R]: ...
    def __call__(self, function: Callable[..., R], /) -> Job[Any, R]:
        _refuse_job(function)
        name = self._name
        if name is None:
            name = getattr(function, "__name__", None)
            if name is None:
                raise ValidationError(f"a job made of {short_repr(function)} needs a name")
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
    retry: Retry | None = None,
    timeout: Duration | None = None,
    origin: Literal["any"] | None = None,
    on_change: OnChange | None = None,
) -> _JobDecorator: ...
def job(
    name: Any = None,
    *,
    input: Any = None,  # noqa: A002 - the contract's name
    output: Any = None,
    on_duplicate_step: OnDuplicateStep | None = None,
    retry: Retry | None = None,
    timeout: Duration | None = None,
    origin: Literal["any"] | None = None,
    on_change: OnChange | None = None,
) -> Any:
    """Make a job of a function: ``@job``, ``@job("name")`` or ``@job("name", input=...)``.

    Args:
        name: 1 to 200 characters; the function's ``__name__`` by default.
        input: the payload's type; by default the annotation of the second parameter.
        output: the result's type; by default the return annotation.
        on_duplicate_step: what happens if a step name is used twice in one execution: ``"error"``
            raises ``DuplicateStepError``, ``"reuse"`` returns the first one's result and warns; by
            default the option of the engine.
        retry: how a run that has failed is tried again, with its checkpoints, such as
            ``Retry(attempts=5, wait=60)``; by default it is not.
        timeout: seconds (or a ``timedelta``) that one execution of a run may take; by default there
            is no limit.
        origin: ``"any"`` to continue runs with checkpoints of any job of this name, whichever
            script or module began them; by default those that this function began.
        on_change: what happens if a stored result was made by other code than today's: ``"warn"``,
            the default, uses it and warns (``CodeChangedWarning``), ``"ignore"`` uses it, and
            ``"redo"`` executes that step again and all that come after it, as
            ``StepContext.options`` describes. ``"redo"`` is for pure computations: a job that sends
            mails would send them again. A step or a map may say otherwise.

    Returns:
        A ``Job``, which calls the function when it is called.

    Raises:
        ValidationError: the function or the name is not usable; raised where the job is
            defined, not when it runs.

    .. versionadded:: 0.1.0
    .. versionchanged:: 0.2.0 Has ``retry``, ``timeout`` and ``on_change``.
    """
    if isinstance(name, classmethod):
        raise ValidationError(
            "a classmethod is called with its class and cannot be decorated; make a job of it "
            "outside of the class: Job(name, Class.method)"
        )
    if not callable(name) and name is not None:
        check_name(name, "a job's name", longest=LONGEST_JOB_NAME)
    given, function = (None, name) if callable(name) else (name, None)
    decorator = _JobDecorator(
        given,
        input=input,
        output=output,
        on_duplicate_step=on_duplicate_step,
        retry=retry,
        timeout=timeout,
        origin=origin,
        on_change=on_change,
    )
    return decorator if function is None else decorator(cast("Callable[..., Any]", function))
