"""Find the types for which the user's converter has hooks."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import cattrs
from cattrs.errors import StructureHandlerNotFoundError

from durably.codec import containers, scalars
from durably.codec.messages import Unsupported, name_of, text_of
from durably.codec.typing_utils import is_union

Hook = Callable[..., Any]


class UserHooks:
    """The hooks that a user's converter adds to cattrs' own.

    A converter does not distinguish the user's hooks from cattrs' own. So a hook is the
    user's if a converter without any would have had another one.
    """

    def __init__(self, converter: cattrs.Converter) -> None:
        # cattrs generates the hooks of classes, and no two are alike, except in this strategy.
        strategy = cattrs.UnstructureStrategy.AS_TUPLE
        self._probe = _without_builtin_hooks(converter.copy(unstruct_strat=strategy))
        self._bare = _without_builtin_hooks(
            cattrs.Converter(unstruct_strat=strategy, structure_fallback_factory=lambda _: _no_hook)
        )
        # A copy has no hooks that were registered for a union. Comparing with it separates them
        # from those of a predicate for all unions, such as cattrs' own for JSON.
        self._converter = converter
        self._without_unions = converter.copy()

    def reads(self, type_: Any) -> Hook | None:
        """Return the user's structure hook for a type, or None.

        Raises:
            Unsupported: a hook factory of the user's failed.
        """
        if is_union(type_):
            theirs, bare = self._converter, self._without_unions
        else:
            theirs, bare = self._probe, self._bare
        return _hook_added_by_user(type_, theirs.get_structure_hook, bare.get_structure_hook)

    def writes(self, type_: Any) -> Hook | None:
        """Return the user's unstructure hook for a type, or None.

        Raises:
            Unsupported: a hook factory of the user's failed.
        """
        if is_union(type_) and self.reads(type_) is None:
            return None
        return _hook_added_by_user(
            type_, self._probe.get_unstructure_hook, self._bare.get_unstructure_hook
        )


def _no_hook(*_: object) -> None:
    """Represent any hook that is not the user's."""


def _without_builtin_hooks(converter: cattrs.Converter) -> cattrs.Converter:
    for type_ in scalars.OWN:
        converter.register_structure_hook(type_, _no_hook)
        converter.register_unstructure_hook(type_, _no_hook)
    return converter


def _is_own(type_: Any) -> bool:
    """Return whether a type is Python's own, so that no converter decides how it is stored."""
    origin = typing.get_origin(type_)
    if origin is typing.Literal or origin in containers.OWN:
        return True
    return isinstance(type_, type) and type_ in (*containers.OWN, *scalars.OWN)


def _hook_added_by_user(
    type_: Any, get: Callable[[Any], Hook], get_bare: Callable[[Any], Hook]
) -> Hook | None:
    """Return the hook of a converter unless the bare one has the same."""
    if _is_own(type_):
        return None
    bare: Any = None
    rejected: type[Exception] = StructureHandlerNotFoundError
    try:
        bare = get_bare(type_)
    except Exception as error:  # noqa: BLE001 - cattrs fails on some types in its own ways
        rejected = type(error)
    try:
        hook = get(type_)
    except (rejected, StructureHandlerNotFoundError):
        return None
    except Exception as error:
        msg = f"{name_of(type_)}: a hook factory of the converter failed: {text_of(error)}"
        raise Unsupported(msg) from error
    if hasattr(hook, "overrides") and hasattr(bare, "overrides"):  # both were generated
        return None if hook.overrides == bare.overrides else hook
    return None if _code(hook) == _code(bare) else hook


def _code(hook: Any) -> Any:
    """Return what two hooks share if the same line of code made them.

    cattrs makes closures for enums, NewTypes, Annotated, Final and unions, anew for each converter:
    compared by identity they would pass for the user's, and read values as loosely as cattrs does.
    """
    return getattr(getattr(hook, "__func__", hook), "__code__", hook)
