"""Show tagged values as JSON-like data for people, without making the values."""

from __future__ import annotations

from typing import Any, Final

from durably._platform.nesting import MAX_DEPTH
from durably.codec.forms import BYTES, FILE, SHAPES, SIZE, TAG, VALUE
from durably.codec.json_text import dump
from durably.codec.plain import SCALARS

_AS_A_LIST: Final = ("tuple", "set", "frozenset")
_AS_IT_IS: Final = ("OrderedDict", "Counter", "defaultdict")
PICKLED: Final = "pickled."
"""How the tags of pickled values begin."""


def readable(data: Any, depth: int = 0) -> Any:
    """Return tagged JSON-like data with lists, objects and texts in place of the tagged values.

    Nothing is executed or imported for it, whatever the data is.
    """
    cls = type(data)
    if cls in SCALARS:
        return data
    if depth > MAX_DEPTH:
        return "..."
    depth += 1
    if cls is list:
        return [readable(item, depth) for item in data]
    if TAG in data and data.keys() in SHAPES and type(data[TAG]) is str:
        return _readable_value(data[TAG], data, depth)
    return {key: readable(item, depth) for key, item in data.items()}


def _readable_value(tag: str, data: dict[str, Any], depth: int) -> Any:
    if tag.startswith(PICKLED):
        return f"<pickled {tag.removeprefix(PICKLED)}, not read>"
    if VALUE not in data:
        held = data[SIZE] if FILE in data else _size_of(data[BYTES])
        return f"<{tag}, {held} bytes>"
    stored = data[VALUE]
    if tag in _AS_IT_IS or (tag in _AS_A_LIST and type(stored) is list):
        return readable(stored, depth)
    if tag == "dict" and type(stored) is list:
        pairs = [pair for pair in stored if type(pair) is list and len(pair) == 2]
        return {_key(readable(key, depth)): readable(item, depth) for key, item in pairs}
    if type(stored) is dict:
        shown = _readable_object(stored, depth)
        if shown is not None:
            return shown
    return stored if type(stored) is str else f"{tag}({dump(stored)})"


def _readable_object(stored: dict[str, Any], depth: int) -> Any:
    """Show what has a class, or is a deque."""
    if "items" in stored:
        return readable(stored["items"], depth)
    if "fields" in stored:
        return readable(stored["fields"], depth)
    if type(stored.get("class")) is str:
        name = stored["class"].rpartition(":")[2]
        return f"{name}.{stored['name']}" if "name" in stored else f"{name}({stored.get('value')})"
    return None


def _size_of(content: object) -> int:
    """Return how many bytes a base64 text stands for."""
    text = content if type(content) is str else ""
    return len(text) * 3 // 4 - text.count("=", -2)


def _key(key: Any) -> str:
    return key if type(key) is str else dump(key)
