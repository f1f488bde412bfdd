"""The registry: which jobs an engine knows, and where the code of each is from."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from durably._platform.fingerprints import fingerprint
from durably._platform.interactive import is_interactive
from durably._platform.safe_repr import short_repr
from durably.codec import Codec
from durably.codec.json_text import dump
from durably.errors import ConflictError, NotFoundError
from durably.jobs import (
    Job,
    check_job,
    output_type,
    payload_type,
    takes_payload,
)
from durably.jobs.functions import innermost, place_of

_LONGEST_ORIGIN: Final = 2000


class Claimed(NamedTuple):
    """The runs that an engine claims, as JSON text: see ``Claim``."""

    jobs: str
    origins: str
    codes: str


def origins_of(job: Job[Any, Any]) -> tuple[str, ...]:
    """Return the forms in which the place of the job's function may be stored, the usual one first.

    A form is the module's name and the qualified name; for a script, the script's base name and the
    qualified name. A module may also be executed as a script, and a script may be imported, so both
    forms are returned. In a notebook and at a prompt the place is not known, and there is none.
    """
    function = innermost(job.run)
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


def codes_json(*jobs: Job[Any, Any]) -> str:
    """Return the JSON object of the jobs' fingerprints that ``Claim`` takes."""
    return dump({job.name: code for job in jobs if (code := fingerprint(job.run)) is not None})


def _script_name(file: str) -> str:
    """Return the base name of a script, or of the package or zip file that is executed as one."""
    folder, name = os.path.split(file)
    return os.path.basename(folder) if name == "__main__.py" and folder else name


def _storable(text: str) -> str:
    """Return *text* in a form that can be stored, whatever a file or a function is called."""
    plain = text.encode(errors="backslashreplace").replace(b"\0", b"\\0")
    return plain[:_LONGEST_ORIGIN].decode(errors="ignore")


def _may_replace(new: Job[Any, Any], old: Job[Any, Any]) -> bool:
    """Return whether *new* may take the name of *old*.

    In an interactive session a function is renamed, or moved into a module, between two cells.
    """
    if _is_same_function(old, new):
        return True
    return is_interactive() and (_is_typed_in(new) or _is_typed_in(old))


def _is_typed_in(job: Job[Any, Any]) -> bool:
    """Return whether the function is of the session itself, or of the script that begins it."""
    return getattr(innermost(job.run), "__module__", None) == "__main__"


def _is_same_function(one: Job[Any, Any], other: Job[Any, Any]) -> bool:
    """Return whether both are the same function in the source, as when a cell runs again."""
    return one.run is other.run or place_of(one.run) == place_of(other.run) is not None


def _as_defined_now(job: Job[Any, Any]) -> Job[Any, Any]:
    """Return the job that is in the place of *job* now, if a session has defined it again.

    A cell may have been executed again, or a module loaded again: ``%autoreload`` brings a function
    up to date wherever it was imported, but not a job.
    """
    if not is_interactive():
        return job
    function = innermost(job.run)
    module, qualified = (getattr(function, name, None) for name in ("__module__", "__qualname__"))
    if not isinstance(module, str) or not isinstance(qualified, str):
        return job
    found: object = sys.modules.get(module)
    for name in qualified.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, Job) or found.name != job.name:
        return job
    return found if _is_same_function(found, job) else job


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


class JobRegistry:
    """The jobs that one engine knows. Usable from any thread."""

    def __init__(self, codec: Codec, jobs: Iterable[Job[Any, Any]] = ()) -> None:
        self._codec = codec
        self._lock = threading.Lock()  # guards replacing the mapping; readers need no lock
        self._jobs: dict[str, Job[Any, Any]] = {}
        # The names of all jobs and their origins, in the form that a claim takes.
        self.claimed: Claimed | None = None
        # The names of the jobs that continue only their own code's runs; None if there is none.
        self.particular_json: str | None = None
        for job in jobs:
            self.add(job)

    def add(self, new: Job[Any, Any]) -> None:
        """Register a job, in the place of an older one of the same function.

        Raises:
            ValidationError: it is not a job, or one of its types cannot be structured.
            ConflictError: another function has that name, and may not be replaced.
        """
        check_job(new, "register was given")
        if takes_payload(new):
            self._codec.check_type(payload_type(new), f"the input of job {new.name!r}")
        self._codec.check_type(output_type(new), f"the output of job {new.name!r}")
        with self._lock:
            old = self._jobs.get(new.name)
            if old is not None and not _may_replace(new, old):
                raise ConflictError(
                    f"another function is registered as job {new.name!r}: "
                    f"{place_of(old.run) or short_repr(old.run)}; give one of them another name"
                )
            self._jobs = self._jobs | {new.name: new}
            particular = [name for name, job in self._jobs.items() if not takes_any_origin(job)]
            self.particular_json = dump(particular) if particular else None
            self.claimed = Claimed(
                dump(list(self._jobs)),
                "{" + ",".join(filter(None, map(origins_json, self._jobs.values()))) + "}",
                codes_json(*self._jobs.values()),
            )

    def names(self) -> list[str]:
        """Return the names of the jobs."""
        return list(self._jobs)

    def get(self, name: str) -> Job[Any, Any] | None:
        """Return the job of that name as it is registered now, ``None`` if there is none."""
        return self._jobs.get(name)

    def require(self, name: str) -> Job[Any, Any]:
        """Return the job of that name; raise ``NotFoundError`` if there is none."""
        found = self._jobs.get(name)
        if found is None:
            raise NotFoundError(missing_job(name, self._jobs))
        return found

    def require_as_defined_now(self, name: str) -> Job[Any, Any]:
        """Return the job of that name; register it anew if its cell or module has replaced it."""
        registered = self.require(name)
        job = _as_defined_now(registered)
        if job is not registered:
            self.add(job)
        return job
