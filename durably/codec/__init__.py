"""Convert values to JSON text and back, validated, typed and unchanged.

JSON-like data is stored as it is. What has a type is structured by cattrs, with hooks of durably's
that precede its own and reject each value that is not exactly of the type. The module ``typed`` is
imported when the first such type is used: a script whose data is JSON-like starts a fifth sooner.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from durably._platform.nesting import MAX_DEPTH
from durably._platform.safe_repr import type_name
from durably.codec import messages
from durably.codec.annotations import resolve_annotations, return_type_of, signature_of
from durably.codec.json_text import FILED, TAGGED, dump, load, load_all
from durably.codec.messages import Outdated, Unsupported, sentence
from durably.codec.plain import (
    NOTHING,
    SCALARS,
    UNTYPED,
    Nothing,
    Unresolved,
    check_discardable,
    exactly_plain,
)
from durably.codec.untyped import (
    UntypedValues,
    about,
    in_file,
    no_parts,
    parts_in_memory,
    shown,
)
from durably.errors import DatabaseError, SerializationError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import cattrs

    from durably.codec.form_lookup import Forms
    from durably.codec.own_forms import ValueCodec
    from durably.codec.parts import Files
    from durably.codec.typed import TypedValues

__all__ = [
    "MAX_DEPTH",
    "NOTHING",
    "UNTYPED",
    "Codec",
    "Nothing",
    "Unresolved",
    "resolve_annotations",
    "return_type_of",
    "signature_of",
]


class Codec:
    """Validates values, writes them as JSON text, and reads them back.

    Safe to be used by several threads at once.

    Args:
        converter: hooks for types of the user's own. It is copied; the copy is strict about
            everything else.
        codecs: how values of types of the program's own are stored.
        shows: read tagged values as texts and lists for people, without making any.

    Raises:
        ValidationError: *converter* is not a ``cattrs.Converter``, or a codec cannot be used.
    """

    def __init__(
        self,
        converter: cattrs.Converter | None = None,
        *,
        codecs: Iterable[ValueCodec] = (),
        shows: bool = False,
    ) -> None:
        self._converter = converter
        forms: Forms | None = None
        if codecs != ():
            from durably.codec.form_lookup import Forms  # noqa: PLC0415 - where first needed
            from durably.codec.own_forms import own_codecs  # noqa: PLC0415 - where first needed

            forms = Forms(own_codecs(codecs))
        self._untyped = UntypedValues(forms, shows=shows)
        self._lock = threading.Lock()
        self._typed: TypedValues | None = None
        if converter is not None:
            import cattrs  # noqa: PLC0415 - where first needed

            if not isinstance(converter, cattrs.Converter):
                msg = f"converter: expected a cattrs.Converter, found {type_name(converter)}"
                raise ValidationError(msg)
            # Copied now: hooks that are registered later have no effect.
            self._typed_values()

    def use_files(self, files: Files) -> None:
        """Read texts and binary parts of values that are in files, and put large parts there."""
        self._untyped.files = files

    is_in_file = staticmethod(in_file)

    def check_type(self, type_: Any, where: str) -> None:
        """Check that values of a type can be stored.

        Raises:
            ValidationError: they cannot; the message names *where*.
        """
        if type_ is UNTYPED or (type(type_) is type and type_ in SCALARS):
            return
        try:
            self._typed_values().check(type_)
        except Unsupported as error:
            msg = f"{where}: {error}"
            raise ValidationError(msg) from None

    def require_storable(self, type_: Any, *, what: str, name: str) -> None:
        """Check a type before the function that returns such a value is called.

        Args:
            what: begins a message, followed by *name*.

        Raises:
            SerializationError: values of the type cannot be stored.
        """
        if type(type_) is type and type_ in SCALARS:
            return
        if type_ is NOTHING or type(type_) is Unresolved:
            return
        try:
            self._typed_values().check(type_)
        except Unsupported as error:
            msg = f"{_named(what, name)}: {error}; the function was not called"
            raise SerializationError(msg) from None

    def structure(self, value: Any, type_: Any, *, what: str) -> Any:
        """Validate a payload: an instance of the type, or data that structures into it.

        Returns:
            The structured value, as it would come back from storage. It shares nothing
            mutable with *value*.

        Raises:
            ValidationError: it does not fit; the message names every bad path.
        """
        cls = type(value)
        if cls in SCALARS and (type_ is UNTYPED or type_ is cls):
            return value
        try:
            if type_ is UNTYPED:
                return self._untyped.write(value, parts_in_memory)[1]
            return self._typed_values().structure(value, type_)
        except Unsupported as error:
            said = f"{what}: {error}"
        except Exception as error:  # noqa: BLE001 - a hook of the user's may raise anything
            said = sentence(what, self._problems_in(error)) + self._redefined(value, type_, "job")
        # Here, so that no group of exceptions is its context: IPython would leave its own display.
        raise ValidationError(said)

    def encode(
        self,
        value: Any,
        type_: Any,
        *,
        what: str,
        name: str | None = None,
        has_parts: bool = False,
    ) -> str:
        """Return the JSON text of a value.

        Args:
            what: begins a message, followed by *name*, if there is one.
            has_parts: as of :meth:`encode_and_decode`.

        Raises:
            SerializationError: it has no text from which it would come back the same under
                this type.
        """
        return self.encode_and_decode(value, type_, what=what, name=name, has_parts=has_parts)[0]

    def decode(
        self, text: str, type_: Any, *, what: str, name: str | None = None, advice: str = ""
    ) -> Any:
        """Return the value of a JSON text.

        Args:
            what: begins a message, followed by *name*, if there is one.
            advice: ends a message that says that the text does not fit the type, or that a class
                in it has changed.

        Raises:
            ValidationError: the text does not fit the type; the message names every bad path.
            SerializationError: it has a tagged value that cannot be read here.
            DatabaseError: a file of it is missing or damaged, or cannot be read.
        """
        revive = None
        if text < '"':  # JSON begins so only with a mark: most texts pay for one comparison
            revive = self._untyped.revive
            if text.startswith(FILED):
                text = self._untyped.text_of_file(text, _named(what, name))
        try:
            data = load(text, revive)
        except DatabaseError as exc:
            raise about(exc, _named(what, name)) from exc
        except Exception as error:  # noqa: BLE001 - a form of the user's may raise anything
            raised = SerializationError if text.startswith(TAGGED) else ValidationError
            said = sentence(_named(what, name), self._problems_in(error))
            said = f"{said}; {advice}" if advice and isinstance(error, Outdated) else said
            raise raised(said) from None
        if type_ is UNTYPED or (type(data) is type_ and type_ in SCALARS):
            return data
        if type_ is NOTHING or type(type_) is Unresolved:
            return None if type_ is NOTHING else data
        try:
            typed = self._typed_values()
            try:
                return typed.read(data, type_)
            except Exception:
                if not text.startswith(TAGGED):
                    raise
                return typed.structure(data, type_)  # it was stored before it had a type
        except Unsupported as error:
            said = f"{_named(what, name)}: {error}"
        except Exception as error:  # noqa: BLE001 - a hook of the user's may raise anything
            said = sentence(_named(what, name), self._problems_in(error))
            said = f"{said}; {advice}" if advice else said
        raise ValidationError(said)  # without a context, as in structure()

    def decode_all(
        self,
        texts: Sequence[str],
        type_: Any,
        *,
        what: str,
        names: Iterable[object],
        advice: str = "",
    ) -> list[Any]:
        """Return the values of JSON texts, each as :meth:`decode` returns it.

        Args:
            what: begins a message, followed by that of the *names* which belongs to the text.
            advice: ends a message that says that a text does not fit the type, or that a class
                in it has changed.

        Raises:
            ValidationError: one does not fit the type; the message names every bad path.
        """
        is_scalar = type(type_) is type and type_ in SCALARS
        in_files = any(text.startswith(FILED) for text in texts)
        if (type_ is UNTYPED or is_scalar) and not in_files:
            try:
                values = load_all(texts, self._untyped.revive)
            except Exception:  # noqa: BLE001, S110 - a form of the user's may raise anything
                pass  # said below, with the name of the first of them
            else:
                if not is_scalar or all(type(value) is type_ for value in values):
                    return values
        return [
            self.decode(text, type_, what=what, name=str(name), advice=advice)
            for text, name in zip(texts, names, strict=True)
        ]

    def encode_and_decode(
        self,
        value: Any,
        type_: Any,
        *,
        what: str,
        name: str | int | None = None,
        has_parts: bool = False,
    ) -> tuple[str, Any]:
        """Return the JSON text of a value, and the value that comes back from it.

        Args:
            what: begins a message, followed by *name*, if there is one.
            has_parts: whether large binary parts become files, to which the text then refers: it is
                a :class:`~durably.codec.parts.TextWithParts`. Only for what is stored as a result,
                an item, a payload or an answer.

        Raises:
            SerializationError: it does not come back as it was under this type.
            DatabaseError: a file cannot be written.
        """
        cls = type(value)
        if cls in SCALARS and (type_ is UNTYPED or type_ is cls):
            return dump(value), value
        try:
            new_parts = self._untyped.new_parts if has_parts else no_parts
            if type_ is UNTYPED:
                return self._untyped.write(value, new_parts)
            if type(type_) is Unresolved:
                try:
                    data = decoded = exactly_plain(value)
                except (messages.Problem, messages.Problems):
                    return self._untyped.write_tagged(value, new_parts(), is_exact=True)
            elif type_ is NOTHING:
                check_discardable(value)
                data = decoded = None
            else:
                check_discardable(value)  # whatever its type, it is not data
                return self._typed_values().write_and_read(value, type_, new_parts)
            return dump(data), decoded
        except DatabaseError as exc:
            raise about(exc, _named(what, name)) from exc
        except Unsupported as error:
            said = f"{_named(what, name)}: {error}; return data of a supported type"
        except Exception as error:  # noqa: BLE001 - a hook of the user's may raise anything
            said, problems = _named(what, name), self._problems_in(error)
            if type(type_) is Unresolved:
                said = f"{said}: {type_.reason}. Without that type"
                # Beside the reason, their advice to annotate would be none.
                problems = [(path, text.partition(";")[0]) for path, text in problems]
            said = sentence(said, problems) + self._redefined(value, type_, "function")
        raise SerializationError(said)  # without a context, as in structure()

    def load_json(self, text: str, what: str = "stored data") -> Any:
        """Return the value of a stored text, which has whatever type, for people who read it.

        Tagged values that cannot be read here are shown as :mod:`durably.codec.readable` says.

        Args:
            what: begins a message.

        Raises:
            ValidationError: it is not JSON.
            DatabaseError: it is in a file that is missing, damaged or cannot be read.
        """
        try:
            return self.decode(text, UNTYPED, what=what)
        except SerializationError:
            return shown(text)

    def load_data(self, text: str) -> Any:
        """Return the JSON-like data of a stored text, with its tagged values as they are there."""
        try:
            is_filed = text.startswith(FILED)
            return load(self._untyped.text_of_file(text, "stored data") if is_filed else text)
        except (ValueError, RecursionError) as error:
            raise ValidationError(sentence("stored data", self._problems_in(error))) from None

    def _typed_values(self) -> TypedValues:
        typed = self._typed
        if typed is None:
            from durably.codec.typed import TypedValues  # noqa: PLC0415 - where first needed

            with self._lock:
                typed = self._typed
                if typed is None:
                    typed = self._typed = TypedValues(self._converter, self._untyped.tagged_values)
        return typed

    def _redefined(self, value: Any, type_: Any, where: str) -> str:
        """Return the end of a message about a value: whether its class was defined again.

        Args:
            where: what is annotated with the type.
        """
        name = None if self._typed is None else self._typed.unfit(value, type_)
        if name is None:
            return ""
        return f"; {name} was defined again after the {where}: run the {where}'s cell again"

    def _problems_in(self, error: Exception) -> Iterable[tuple[str, str]]:
        typed = self._typed
        return messages.problems_in(error) if typed is None else typed.problems_in(error)


def _named(what: str, name: str | int | None) -> str:
    return what if name is None else f"{what} {name!r}"
