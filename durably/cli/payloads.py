"""Payloads and keys as they are given on a command line."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import typing
from datetime import datetime
from typing import Any, Final

import click

from durably._platform.displayable import displayable
from durably.cli.shell import Unknown
from durably.cli.times import now
from durably.client.arguments import NOT_GIVEN
from durably.codec import UNTYPED, Codec
from durably.errors import ValidationError
from durably.jobs import Job, payload_type

_CODEC: Final = Codec(None)
_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_CHUNK: Final = 1 << 20


def payload_of(job: Job[Any, Any], given: str | None, parts: tuple[str, ...]) -> Any:
    """Return the payload that is meant by an argument, or by several ``--set name=value``.

    Args:
        given: JSON text, ``@file`` with JSON in it, or ``-`` for that of stdin.
        parts: ``name=value``, each by the type of that field.

    Raises:
        click.UsageError: it is no JSON, or both are given.
        ValidationError: it does not fit the type of the job.
    """
    if given is not None and parts:
        raise click.UsageError("a payload is given as an argument or by --set, not by both")
    type_ = payload_type(job)
    if parts:
        return _structured(_from_parts(type_, parts), type_)
    if given is None:
        return NOT_GIVEN
    return _structured(_loaded(_read(given), type_), type_)


def json_of(given: str, what: str) -> Any:
    """Return the value of JSON text, of ``@file`` with JSON in it, or of stdin for ``-``.

    Raises:
        click.UsageError: it is no JSON; the message begins with *what*.
    """
    return _loaded(_read(given), UNTYPED, what)


def _structured(value: Any, type_: Any) -> Any:
    return _CODEC.decode(json.dumps(value), type_, what="the payload")


def _read(given: str) -> str:
    if given == "-":
        return sys.stdin.read()
    if not given.startswith("@"):
        return given
    try:
        with open(given[1:], encoding="utf-8") as file:
            return file.read()
    except OSError as exc:
        raise Unknown(f"{given[1:]!r} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise Unknown(f"{given[1:]!r} cannot be read: it is not UTF-8") from exc


def _loaded(text: str, type_: Any, what: str = "the payload") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        if type_ is str:
            return text
        raise click.UsageError(
            f"{what} is not JSON ({exc}): {displayable(text, 60)!r}; text is written as "
            "'\"text\"', a file as @FILE"
        ) from exc


def _from_parts(type_: Any, parts: tuple[str, ...]) -> dict[str, Any]:
    fields = _fields(type_)
    found: dict[str, Any] = {}
    for part in parts:
        name, equals, text = part.partition("=")
        if not equals:
            raise click.UsageError(f"{displayable(part)!r} has no '='; write --set name=value")
        found[name] = _value(text, fields.get(name, UNTYPED))
    return found


def _fields(type_: Any) -> dict[str, Any]:
    """Return the types of the fields of a class, or of a TypedDict; none of any other type."""
    try:
        return typing.get_type_hints(type_)
    except (TypeError, NameError):
        return {}


def _value(text: str, type_: Any) -> Any:
    """Return the first of the forms in which *text* fits: text for a ``str``, else JSON first."""
    forms: list[Any] = [text]
    try:
        forms.append(json.loads(text))
    except (ValueError, RecursionError):
        return text
    if not _takes_text(type_):
        forms.reverse()
    for form in forms:
        try:
            _CODEC.decode(json.dumps(form), type_, what="it")
        except ValidationError:
            continue
        return form
    return forms[0]  # the message about the payload says what is wrong with it


def _takes_text(type_: Any) -> bool:
    return type_ is str or str in typing.get_args(type_)


# -- keys ------------------------------------------------------------------------------------


def key_of(template: str | None, when: datetime | None = None) -> str | None:
    """Return a key with its places filled: ``{date}``, ``{hour}``, ``{sha256:PATH}``.

    Date and hour are those of this machine's zone.

    Raises:
        click.UsageError: there is another place in it.
        Unknown: a file cannot be read.
    """
    if template is None:
        return None
    instant = now() if when is None else when

    def fill(found: re.Match[str]) -> str:
        name, _, path = found[1].partition(":")
        if found[1] == "date":
            return f"{instant:%Y-%m-%d}"
        if found[1] == "hour":
            return f"{instant:%Y-%m-%dT%H}"
        if name == "sha256" and path:
            return _digest(path)
        raise click.UsageError(
            f"{displayable(found[0])!r} in the key means nothing; known are {{date}}, {{hour}} "
            "and {sha256:PATH}"
        )

    return _PLACE.sub(fill, template)


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as exc:
        raise Unknown(f"{path!r} cannot be read: {exc.strerror}") from exc
    return digest.hexdigest()
