"""Define forms: how values that JSON does not know are stored as tagged JSON.

A form belongs to a type. It has a tag, and converts a value to what is stored and back. What is
stored is an object of JSON in the place of the value, in one of three shapes:

``{"$": "<tag>", "v": <JSON-like data>}``
    The form's ``encode`` returned JSON-like data.
``{"$": "<tag>", "b": "<base64>"}``
    It returned bytes, and they are kept in the text.
``{"$": "<tag>", "file": "<name>", "size": <bytes>}``
    It returned bytes, and they are in a file of that name; see :mod:`durably.codec.parts`.

A text with such objects begins with a tab (``TAGGED``), which JSON ignores. A text without the tab
has none, whatever keys are in it: so what was stored before there were forms is read as it was.
In a text with the tab each object with a key ``"$"`` is one of the three; a dictionary with such a
key is written with the tag ``dict``.

A library's forms are in one module under ``durably.codec.libraries``, which has its line in
:mod:`durably.codec.form_lookup`. Such a module defines two functions, and may import its library
at the top::

    def form_of(cls: type) -> Form | None: ...     # of the exact class of a value
    def form_named(tag: str) -> Form | None: ...   # of a stored tag, as "numpy.ndarray"

It is imported for a value (or an annotation) one of whose classes is the library's, and for a
stored tag that begins with the library's name and a dot. Nothing else is ever imported for a
stored text, and nothing by a name that is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any, Final, NamedTuple, Protocol

TAG: Final = "$"
VALUE: Final = "v"
BYTES: Final = "b"
FILE: Final = "file"
SIZE: Final = "size"
SHAPES: Final = ({TAG, VALUE}, {TAG, BYTES}, {TAG, FILE, SIZE})
"""The keys of the objects that tagged values are."""
HERE: Final = object()
"""A step to a value inside that is in the same place, as the dict that an OrderedDict is."""


class Stream(NamedTuple):
    """Bytes that are produced while they are written, so that they need not be in memory.

    A form's ``encode`` may return one in place of bytes.
    """

    write: Callable[[IO[bytes]], object]
    """Write all of them to a binary file. Called once."""
    size: int
    """How many there are, or about how many: it decides whether they become a file."""


Binary = bytes | bytearray | memoryview | Stream
BINARY: Final = (bytes, bytearray, memoryview, Stream)


class Form(NamedTuple):
    """How values of a type are stored, when no other values are inside of them.

    Both functions may raise a :class:`~durably.codec.messages.Problem`, whose text is shown to the
    user, with the place of the value; any other exception is shown with its type.
    """

    tag: str
    encode: Callable[[Any], Any]
    """Return JSON-like data, bytes-like data or a :class:`Stream`."""
    decode: Callable[[Any], Any]
    """Return the value of what ``encode`` returned; of a :class:`Stream`, of its bytes."""
    reads_file: bool = False
    """``decode`` takes bytes as an open binary file at its beginning, and not as ``bytes``.

    It is a real file with a ``name`` if they are in one, else an ``io.BytesIO``. It is closed
    after the call; a memory map that was made of it remains.
    """
    copy: Callable[[Any], Any] | None = None
    """Return what ``decode`` would return of a value that ``encode`` has accepted.

    It is called in place of reading back what was just written, where that costs more.
    """
    maps_file: bool = False
    """``decode`` makes a memory map of a real file, which costs less than ``copy``."""
    refusal: str = ""
    """What to return instead, if values of the type are not stored: ``encode`` always raises."""
    structure: tuple[Callable[[Any], Any], Callable[[Any, Any], Any]] | None = None
    """For a type that an annotation names: return the JSON-like data of an instance of exactly the
    type; and return an instance of a type, which is the first argument, of such data."""


class Inside(Protocol):
    """Write or read a value inside another one, for a :class:`NestedForm`."""

    def __call__(self, value: Any, step: Any = ...) -> Any:
        """Return the data of a value inside, or the value of such data.

        Args:
            step: where it is, for messages: a key, an index, the name of an attribute or
                :data:`HERE`, which is the default.
        """
        ...


class NestedForm(NamedTuple):
    """How values of a type are stored that have other values inside of them."""

    tag: str
    encode: Callable[..., Any]
    """Take a value and an :class:`Inside`; return JSON-like data, with all inside written by it."""
    decode: Callable[..., Any]
    """Take such data and an :class:`Inside`; return the value, with each inside read by it."""
    levels: int = 2
    """How many levels of JSON there are from the value to the values inside."""


AnyForm = Form | NestedForm
