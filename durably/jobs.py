"""Jobs: functions of named steps, and the registry of those that an engine knows."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeVar, cast, overload

import attrs

from durably._platform.safe_repr import short_repr, type_name
from durably.codec import (
    UNTYPED,
    Codec,
    Unresolved,
    resolve_annotations,
    return_type_of,
    signature_of,
)
from durably.codec.json_text import dump
from durably.errors import ConflictError, NotFoundError, ValidationError

if TYPE_CHECKING:
    from durably.execution.context import StepContext
from durably.names import check_name
from durably.settings import OnDuplicateStep, check_on_duplicate_step
from durably.values import Value

P = TypeVar("P")
R = TypeVar("R")

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
LONGEST_JOB_NAME = 200
_LONGEST_ORIGIN: Final = 2000


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
        origin: ``"any"`` to continue runs that any job of this name has begun; by default the job
            continues runs with checkpoints only if this function has begun them. The function is
            identified by its module's name (in a script the file's) and its qualified name.

    Raises:
        ValidationError: the spec is not usable as a job.

    .. versionadded:: 0.1.0
    """

    name: str
    run: Callable[..., R]
    input: Any = None
    output: Any = None
    on_duplicate_step: OnDuplicateStep | None = attrs.field(default=None, kw_only=True)
    origin: Literal["any"] | None = attrs.field(default=None, kw_only=True)
    _takes_payload: bool = attrs.field(init=False, repr=False, eq=False)
    _default: Any = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        check_name(self.name, "a job's name", longest=LONGEST_JOB_NAME)
        if self.on_duplicate_step is not None:
            check_on_duplicate_step(self.on_duplicate_step)
        if self.origin is not None and self.origin != "any":
            raise ValidationError(
                f'the origin of job {self.name!r} must be "any" or None, '
                f"not {short_repr(self.origin)}"
            )
        parameters = _positional_parameters(self.run, self.name)
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
    def __call__(self, *args: Any) -> R:
        """Call the function as it is."""
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
            + f" write jobs=[{_name_of(function)}]"
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
        name = _name_of(value)
        found = f"the function {_innermost(value).__name__}"
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
    return (_place(job.run) or short_repr(job.run)) + line


def _is_same_function(one: Job[Any, Any], other: Job[Any, Any]) -> bool:
    """Return whether both are the same function in the source, as when a cell runs again."""
    return one.run is other.run or _place(one.run) == _place(other.run) is not None


def origins_of(job: Job[Any, Any]) -> tuple[str, ...]:
    """Return the forms in which the place of the job's function may be stored, the usual one first.

    A form is the module's name and the qualified name; for a script, the script's base name and the
    qualified name. A module may also be executed as a script, and a script may be imported, so both
    forms are returned. In a notebook and at a prompt the place is not known, and there is none.
    """
    function = _innermost(job.run)
    module = getattr(function, "__module__", None)
    if not isinstance(module, str):
        return ()
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    is_main = module in ("__main__", "__mp_main__")
    names = []
    if isinstance(file, str) and os.path.basename(file) != "__init__.py":
        names.append(_script_name(file))
    if not is_main:
        names.insert(0, module)
    elif names:
        spec = getattr(loaded, "__spec__", None)
        names.append(names[0].removesuffix(".py") if spec is None else spec.name)
    qualified = function.__qualname__
    return tuple(dict.fromkeys(_storable(f"{name}:{qualified}") for name in names))


def takes_any_origin(job: Job[Any, Any]) -> bool:
    """Return whether the job continues runs with checkpoints of any code."""
    return job.origin == "any" or not origins_of(job)


def origins_json(job: Job[Any, Any]) -> str:
    """Return the job's members of the JSON object that ``Claim`` takes."""
    members: list[str | bool] = list(origins_of(job))
    if takes_any_origin(job):
        members.append(True)
    return ",".join(f"{dump(job.name)}:{dump(member)}" for member in members)


def _script_name(file: str) -> str:
    """Return the base name of a script, or of the package or zip file that is executed as one."""
    folder, name = os.path.split(file)
    return os.path.basename(folder) if name == "__main__.py" and folder else name


def _storable(text: str) -> str:
    """Return *text* in a form that can be stored, whatever a file or a function is called."""
    plain = text.encode(errors="backslashreplace").replace(b"\0", b"\\0")
    return plain[:_LONGEST_ORIGIN].decode(errors="ignore")


def _is_typed_in(job: Job[Any, Any]) -> bool:
    """Return whether the function was typed into an interactive session, not read from a file."""
    is_interactive = hasattr(sys, "ps1") or sys.flags.interactive
    return bool(is_interactive) and getattr(job.run, "__module__", None) == "__main__"


def _innermost(function: Callable[..., Any]) -> Any:
    """Return the function inside partials, or the class of an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if hasattr(function, "__qualname__") else type(function)


def _place(function: Callable[..., Any]) -> str | None:
    """Return the place in the source of the function, or of the class of a callable object.

    Return ``None`` for a ``functools.partial``: two of them may have nothing in common.
    """
    if isinstance(function, functools.partial):
        return None
    named = _innermost(function)
    return f"{named.__module__}.{named.__qualname__}"


def _name_of(function: object) -> str:
    """Return the name of a function to show in a line of code, or an example name.

    The name of a lambda, for one, cannot be written.
    """
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) and name.isidentifier() else "import_csv"


def _refuse_method(function: object, parameters: list[inspect.Parameter], name: str) -> None:
    """Raise ``ValidationError`` for a function of a class that has to be called with an object."""
    if inspect.ismethod(function):
        return
    scope = getattr(function, "__qualname__", "").rpartition(".")[0].rpartition(".")[2]
    is_in_class = bool(scope) and scope != "<locals>"
    takes_object = parameters[0].name in ("self", "cls") or any(
        parameter.name == "step" for parameter in parameters[1:2]
    )
    if is_in_class and takes_object:
        method = f"{scope}().{_name_of(function)}"
        raise ValidationError(
            f"job {name!r} is a method of {scope}, and a run has no object to call it with; make "
            f"a job of the method of an object, Job({name!r}, {method}), or decorate a function"
        )


def _refuse_job(function: object) -> None:
    if isinstance(function, Job):
        name = _name_of(function.run)
        raise ValidationError(
            f"{name} is the job {function.name!r} already; decorate it once, or make another job "
            f"of its function: Job('other', {name}.run)"
        )


def _positional_parameters(function: object, name: str) -> list[inspect.Parameter]:
    _refuse_job(function)
    if isinstance(function, type):
        raise ValidationError(
            f"job {name!r} needs a function, and {function.__name__} is a class: decorate a "
            "function that takes (step) or (step, payload)"
        )
    if not callable(function):
        raise ValidationError(f"job {name!r} needs a function, not {short_repr(function)}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValidationError(
            f"job {name!r} is an async function; write def, and use asyncio.run() inside of it"
        )
    if inspect.isgeneratorfunction(function):
        raise ValidationError(
            f"job {name!r} is a generator; return the result, and store parts with step.run()"
        )
    try:
        signature = signature_of(function)
    except (TypeError, ValueError) as exc:
        raise ValidationError(f"the parameters of job {name!r} cannot be read: {exc}") from exc
    parameters = list(signature.parameters.values())
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    if not positional and any(each.kind is each.VAR_POSITIONAL for each in parameters):
        raise ValidationError(
            f"the parameters of job {name!r}, {signature}, do not say whether it takes a payload; "
            "if it wraps another function, put functools.wraps(...) on the wrapper"
        )
    if not positional:
        raise ValidationError(f"job {name!r} must take (step) or (step, payload), not {signature}")
    _refuse_method(function, positional, name)
    for extra in [*positional[2:], *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]:
        if extra.default is extra.empty:
            raise ValidationError(
                f"job {name!r} must take (step) or (step, payload); "
                f"parameter {extra.name!r} of {signature} has no default"
            )
    return positional


class Claimed(NamedTuple):
    """The runs that an engine claims, as JSON text: see ``Claim``."""

    jobs: str
    origins: str


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
    origin: Literal["any"] | None = None,
) -> _JobDecorator: ...
def job(
    name: Any = None,
    *,
    input: Any = None,  # noqa: A002 - the contract's name
    output: Any = None,
    on_duplicate_step: OnDuplicateStep | None = None,
    origin: Literal["any"] | None = None,
) -> Any:
    """Make a job of a function: ``@job``, ``@job("name")`` or ``@job("name", input=...)``.

    Args:
        name: 1 to 200 characters; the function's ``__name__`` by default.
        input: the payload's type; by default the annotation of the second parameter.
        output: the result's type; by default the return annotation.
        on_duplicate_step: what happens if a step name is used twice in one execution: ``"error"``
            raises ``DuplicateStepError``, ``"reuse"`` returns the first one's result and warns; by
            default the option of the engine.
        origin: ``"any"`` to continue runs with checkpoints of any job of this name, whichever
            script or module began them; by default those that this function began.

    Returns:
        A ``Job``, which calls the function when it is called.

    Raises:
        ValidationError: the function or the name is not usable; raised where the job is
            defined, not when it runs.

    .. versionadded:: 0.1.0
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
        given, input=input, output=output, on_duplicate_step=on_duplicate_step, origin=origin
    )
    return decorator if function is None else decorator(cast("Callable[..., Any]", function))


def missing_job(name: object, registered: Iterable[str]) -> str:
    """Return the message for a name under which no job is registered."""
    if isinstance(name, Job):
        return (
            f"{name!r} is a job, not the name of one; write app.jobs[{name.name!r}], or "
            "app.trigger() with the job itself"
        )
    names = ", ".join(map(repr, sorted(registered)))
    return f"no job {short_repr(name)} is registered in this engine; " + (
        f"registered are: {names}" if names else "register it first"
    )


class Registry:
    """The jobs that one engine knows. Usable from any thread."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._lock = threading.Lock()  # guards replacing the mapping; readers need no lock
        self._jobs: dict[str, Job[Any, Any]] = {}
        # The names of all jobs and their origins, in the form that a claim takes.
        self.claimed: Claimed | None = None
        # The names of the jobs that continue only their own code's runs; None if there is none.
        self.particular_json: str | None = None

    def add(self, new: Job[Any, Any]) -> None:
        """Register a job. Registering the same function again replaces the job.

        Raises:
            ValidationError: it is not a job, or one of its types cannot be structured.
            ConflictError: another function has that name.
        """
        check_job(new, "register was given")
        if takes_payload(new):
            self._codec.check_type(payload_type(new), f"the input of job {new.name!r}")
        self._codec.check_type(output_type(new), f"the output of job {new.name!r}")
        with self._lock:
            old = self._jobs.get(new.name)
            if old is not None and not (_is_same_function(old, new) or _is_typed_in(new)):
                raise ConflictError(
                    f"another function is registered as job {new.name!r}: "
                    f"{_place(old.run) or short_repr(old.run)}; give one of them another name"
                )
            self._jobs = self._jobs | {new.name: new}
            particular = [name for name, job in self._jobs.items() if not takes_any_origin(job)]
            self.particular_json = dump(particular) if particular else None
            self.claimed = Claimed(
                dump(list(self._jobs)),
                "{" + ",".join(filter(None, map(origins_json, self._jobs.values()))) + "}",
            )

    def get(self, name: str) -> Job[Any, Any] | None:
        """Return the job of that name as it is registered now, ``None`` if there is none."""
        return self._jobs.get(name)

    def require(self, name: str) -> Job[Any, Any]:
        """Return the job of that name; raise ``NotFoundError`` if there is none."""
        found = self._jobs.get(name)
        if found is None:
            raise NotFoundError(missing_job(name, self._jobs))
        return found
