"""Make the forms of types whose values are not stored: each says what to return instead."""

from __future__ import annotations

from typing import Any, NoReturn

from durably._platform.safe_repr import full_name
from durably.codec.forms import Form
from durably.codec.messages import NotStorable, Problem


def refused(cls: type, advice: str) -> Form:
    """Return a form that rejects each value, with advice."""
    name = full_name(cls)

    def encode(_: Any) -> NoReturn:
        msg = f"{name} has no stored form; {advice}"
        raise NotStorable(msg)

    def decode(_: Any) -> NoReturn:
        raise unlike(name)

    return Form(name, encode, decode, refusal=advice)


def unlike(tag: str) -> Problem:
    """Return the problem that what is stored is not what the form of a tag writes."""
    return Problem(f"a {tag} that durably did not write so")
