"""The user's converter: which types it has hooks for."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import cattrs
from cattrs.errors import StructureHandlerNotFoundError

from durably._platform.interrupts import raise_if_signal
from durably.codec import containers, scalars
from durably.codec.messages import Unsupported, name_of, text_of
from durably.codec.typing_utils import is_union

Hook = Callable[..., Any]


class UserHooks:
    """What a converter of the user's adds to cattrs.

    A converter does not tell its own hooks from those that it was born with. So a hook is the
    user's if a converter without any would have had another one.
    """

    def __init__(self, converter: cattrs.Converter) -> None:
        # cattrs generates the hooks of classes, and no two are alike, except in this strategy.
        strategy = cattrs.UnstructureStrategy.AS_TUPLE
        self._probe = _without_builtin_hooks(converter.copy(unstruct_strat=strategy))
        self._bare = _without_builtin_hooks(
            cattrs.Converter(unstruct_strat=strategy, structure_fallback_factory=lambda _: _no_hook)
        )
        # A copy forgets the hooks that were registered for a union, and so tells them from
        # those that some predicate has for all unions, as cattrs' own for JSON have.
        self._converter = converter
        self._without_unions = converter.copy()

    def reads(self, type_: Any) -> Hook | None:
        """Give the structure hook of the user's for a type, if there is one.

        Raises:
            Unsupported: a hook factory of the user's failed.
        """
        if is_union(type_):
            theirs, bare = self._converter, self._without_unions
        else:
            theirs, bare = self._probe, self._bare
        return _hook_added_by_user(type_, theirs.get_structure_hook, bare.get_structure_hook)

    def writes(self, type_: Any) -> Hook | None:
        """Give the unstructure hook of the user's for a type, if there is one.

        Raises:
            Unsupported: a hook factory of the user's failed.
        """
        if is_union(type_) and self.reads(type_) is None:
            return None
        return _hook_added_by_user(
            type_, self._probe.get_unstructure_hook, self._bare.get_unstructure_hook
        )


def _no_hook(*_: object) -> None:
    """Stand for any hook that is not the user's."""


def _without_builtin_hooks(converter: cattrs.Converter) -> cattrs.Converter:
    for type_ in scalars.OWN:
        converter.register_structure_hook(type_, _no_hook)
        converter.register_unstructure_hook(type_, _no_hook)
    return converter


def _is_own(type_: Any) -> bool:
    """Whether a type is Python's own, so that no converter decides how it is stored."""
    origin = typing.get_origin(type_)
    if origin is typing.Literal or origin in containers.OWN:
        return True
    return isinstance(type_, type) and type_ in (*containers.OWN, *scalars.OWN)


def _hook_added_by_user(
    type_: Any, get: Callable[[Any], Hook], get_bare: Callable[[Any], Hook]
) -> Hook | None:
    """Give the hook of a converter unless the bare one has the same."""
    if _is_own(type_):
        return None
    bare: Any = None
    rejected: type[Exception] = StructureHandlerNotFoundError
    try:
        bare = get_bare(type_)
    except Exception as error:  # noqa: BLE001 - cattrs fails on some types in its own ways
        raise_if_signal(error)
        rejected = type(error)
    try:
        hook = get(type_)
    except (rejected, StructureHandlerNotFoundError):
        return None
    except Exception as error:
        raise_if_signal(error)
        msg = f"{name_of(type_)}: a hook factory of the converter failed: {text_of(error)}"
        raise Unsupported(msg) from error
    if hasattr(hook, "overrides") and hasattr(bare, "overrides"):  # both were generated
        return None if hook.overrides == bare.overrides else hook
    return None if _code(hook) == _code(bare) else hook


def _code(hook: Any) -> Any:
    """Give what two hooks share if the same line of code made them."""
    return getattr(getattr(hook, "__func__", hook), "__code__", hook)
