"""Tables and cards, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from durably.rendering.cells import KINDS, RIGHT, WHOLE

# What a page's mathematics is made of may be in any text.
_BEGIN: Final = '<div class="durably tex2jax_ignore mathjax_ignore">'
_END: Final = "</div>"


def table(
    columns: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[Any]],
    total: int,
    *,
    caption: str = "",
) -> str:
    """Return a table of plain rows as HTML.

    Args:
        columns: the title of each, and its kind: a name of ``cells.KINDS``.
        rows: the values of those that are shown, in the order of the columns.
        total: how many rows there are; what is not shown is counted below the table.
        caption: text above the table.
    """
    parts = [_BEGIN]
    if caption:
        parts.append(_line(caption))
    if rows:
        titles = "".join(_cell("th", KINDS["name"](title), kind) for title, kind in columns)
        parts.append(f"<table><thead><tr>{titles}</tr></thead><tbody>")
        for row in rows:
            cells = zip(columns, row, strict=True)
            filled = (_cell("td", KINDS[kind](value), kind) for (_, kind), value in cells)
            parts.append(f"<tr>{''.join(filled)}</tr>")
        parts.append("</tbody></table>")
    if total > len(rows):
        parts.append(f"<div>… {total - len(rows):,} more</div>")
    return "".join([*parts, _END])


def card(
    heading: Sequence[tuple[str, Any]], fields: Sequence[tuple[str, str, Any]], *, note: str = ""
) -> str:
    """Return a card of one thing as HTML.

    Args:
        heading: the kinds and values of its first line; the first one is bold.
        fields: the title, the kind and the value of each; what is not known is left out.
        note: text below it.
    """
    first, *others = [KINDS[kind](value) for kind, value in heading]
    parts = [_BEGIN, f"<div>{' '.join([f'<b>{first}</b>', *filter(None, others)])}</div>"]
    filled = [(title, KINDS[kind](value)) for title, kind, value in fields if value is not None]
    shown = [
        _cell("th", KINDS["name"](title)) + _cell("td", html) for title, html in filled if html
    ]
    if shown:
        parts.append(f"<table><tbody><tr>{'</tr><tr>'.join(shown)}</tr></tbody></table>")
    if note:
        parts.append(_line(note))
    return "".join([*parts, _END])


def _line(text: str) -> str:
    return f"<div>{KINDS['message'](text)}</div>"


def _cell(tag: str, html: str, kind: str = "") -> str:
    align = "right" if kind in RIGHT else "left"
    faint = ";font-weight:normal;opacity:.65" if tag == "th" else ""
    whole = ";white-space:nowrap" if kind in WHOLE else ""
    style = f"text-align:{align};vertical-align:top;padding:2px 8px 2px 0{faint}{whole}"
    return f'<{tag} style="{style}">{html}</{tag}>'
