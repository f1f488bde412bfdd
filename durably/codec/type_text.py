"""Types as text, for those who give a value in another process than the one that awaits it."""

from __future__ import annotations

import ast
import operator
import sys
import types
from typing import Any, Final

from durably.codec.loaded import MISSING, loaded
from durably.codec.plain import UNTYPED

_BUILTIN: Final[dict[str, Any]] = {
    each.__name__: each
    for each in (bool, bytes, dict, float, frozenset, int, list, set, str, tuple)
}


def type_text(type_: Any) -> str | None:
    """Return a type as it is written in source, ``None`` for one that is not known."""
    if type_ is None or type_ is UNTYPED:
        return None
    if isinstance(type_, type) and not isinstance(type_, types.GenericAlias):
        name = type_.__qualname__
        return name if type_.__module__ == "builtins" else f"{type_.__module__}.{name}"
    return repr(type_)


def type_of_text(text: str | None) -> Any:
    """Return the type that a text means in this process, or ``UNTYPED``.

    No module is imported for it, and nothing but names, subscripts and unions is evaluated.
    """
    if text is None:
        return UNTYPED
    try:
        return _evaluated(ast.parse(text, mode="eval").body)
    except (SyntaxError, LookupError, AttributeError, TypeError, ValueError, RecursionError):
        return UNTYPED


def _evaluated(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return _BUILTIN[node.id]
    if isinstance(node, ast.Attribute):
        return _named(ast.unparse(node))
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(map(_evaluated, node.elts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return operator.or_(_evaluated(node.left), _evaluated(node.right))
    if isinstance(node, ast.Subscript):
        return _evaluated(node.value)[_evaluated(node.slice)]
    raise ValueError("not a type")


def _named(dotted: str) -> Any:
    """Return what a name of a module that is loaded stands for, if it is a type."""
    module, _, name = dotted.rpartition(".")
    while module:
        if module in sys.modules:
            found = loaded(module, name)
            if isinstance(found, type) or (module == "typing" and found is not MISSING):
                return found
            raise ValueError("not a type")
        module, _, outer = module.rpartition(".")
        name = f"{outer}.{name}"
    raise LookupError(dotted)
