"""Write values that have no type as texts and read them back, with what of them is in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durably.codec.json_text import FILED, TAGGED, dump, load
from durably.codec.messages import problems_in, sentence
from durably.codec.plain import NotPlainError, json_copy
from durably.errors import DatabaseError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from durably.codec.form_lookup import Forms
    from durably.codec.parts import Files, Parts
    from durably.codec.tagged import TaggedValues


_FILE = "file"  # as in ``forms``, which is imported when it is first needed


class UntypedValues:
    """Write values as texts, and read them back. Usable from any thread.

    What is JSON-like is written as it is; with anything else in it, the text is marked and has
    tagged values. The modules for those are imported when the first one is written or read.

    Args:
        forms: finds the form of a value that is not JSON-like; ``None`` for those of all engines.
        shows: read tagged values as texts and lists for people, without making any.

    Attributes:
        files: has texts and parts of values that are in files; ``None`` if none can be read.
    """

    def __init__(self, forms: Forms | None, *, shows: bool) -> None:
        self.files: Files | None = None
        self._forms = forms
        self._shows = shows

    def write(self, value: Any, new_parts: Callable[[], Parts | None]) -> tuple[str, Any]:
        """Return the text of a value, and the value that comes back from it.

        Args:
            new_parts: returns what stores the large binary parts of the value; if ``None``, all are
                in the text.

        Raises:
            Exception: one that ``problems_in`` understands.
        """
        try:
            # The text says the same as the copy, so nothing needs to be read from it.
            copy = json_copy(value)
        except NotPlainError:
            return self.write_tagged(value, new_parts())
        text = dump(copy)
        if "$" in text and '"$"' in text:  # the first finds it absent several times as fast
            return self.write_tagged(value, new_parts())
        return text, copy

    def write_tagged(
        self, value: Any, parts: Parts | None, *, is_exact: bool = False
    ) -> tuple[str, Any]:
        """Return the text of a value that may not be JSON-like, and what comes back from it.

        Args:
            is_exact: whether to reject instances of subclasses, which come back as the plain type.

        Raises:
            Exception: one that ``problems_in`` understands.
        """
        tagged = self.tagged_values(parts)
        try:
            data, has_tags, back = tagged.write_and_read(value, is_exact=is_exact)
        except BaseException:
            release(parts)
            raise
        return (tagged_text(data, parts), back) if has_tags else (dump(data), data)

    def revive(self, text: str) -> Any:
        """Return the value of a text with tagged values, without the mark."""
        if self._shows:
            return shown(text)
        return self.tagged_values(self.new_parts()).read(load(text))

    def tagged_values(self, parts: Parts | None) -> TaggedValues:
        """Return what writes and reads tagged values, with their large binary parts in *parts*."""
        from durably.codec.tagged import TaggedValues  # noqa: PLC0415 - where first needed

        return TaggedValues(self._forms, parts)

    def new_parts(self) -> Parts | None:
        """Return what stores and reads the large binary parts of one value as files."""
        return None if self.files is None else self.files.new_parts()

    def text_of_file(self, text: str, what: str) -> str:
        """Return the text that is in a file, as *text* says.

        Args:
            what: begins a message.

        Raises:
            DatabaseError: the file is missing or damaged, or cannot be read.
        """
        if self.files is None:
            raise DatabaseError(f"{what} is in a file, which cannot be read here")
        try:
            return self.files.read_text(text)
        except DatabaseError as exc:
            if self._shows and exc.is_of_row:  # the rest of the run can be shown
                return dump(f"<{str(exc).partition(';')[0]}>")
            raise about(exc, what) from exc


def shown(text: str) -> Any:
    """Return what people see of a text with tagged values, without making any.

    Raises:
        ValidationError: it is not JSON.
    """
    from durably.codec.readable import readable  # noqa: PLC0415 - where first needed

    try:
        return readable(load(text))
    except (ValueError, RecursionError) as error:
        raise ValidationError(sentence("stored data", problems_in(error))) from None


def in_file(text: str) -> bool:
    """Return whether a stored text, or a part of it, is in a file."""
    return text.startswith(FILED) or (text.startswith(TAGGED) and f'"{_FILE}":' in text)


def tagged_text(data: Any, parts: Parts | None) -> str:
    """Return the text of data with tagged values, which keeps the files that it refers to."""
    text = TAGGED + dump(data)
    if parts is None or not parts.stored:
        return text
    from durably.codec.parts import TextWithParts  # noqa: PLC0415 - where first needed

    return TextWithParts.of(text, parts.stored)


def no_parts() -> None:
    """Keep all parts of a value in its text."""


def parts_in_memory() -> Parts:
    """Keep the parts of a value that is only written to be read again at once."""
    from durably.codec.parts import PartsInMemory  # noqa: PLC0415 - where first needed

    return PartsInMemory()


def release(parts: Parts | None) -> None:
    """Allow the removal of files: the error, which may be kept for long, would keep them."""
    for part in () if parts is None else parts.stored:
        part.release()


def about(exc: DatabaseError, what: str) -> DatabaseError:
    """Return an error about the files of what is named."""
    return DatabaseError(f"{what}: {exc}", is_transient=exc.is_transient, is_of_row=exc.is_of_row)
