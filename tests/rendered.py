"""Read the HTML of cards and tables, and reject what is not made of their few elements."""

from __future__ import annotations

import html.parser
import re

ELEMENTS = {"b", "bdi", "div", "pre", "span", "table", "tbody", "td", "th", "thead", "time", "tr"}
ATTRIBUTES = {"class", "style", "title", "datetime"}
# What a browser or a terminal acts on, and what cannot be written.
ACTS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class Reader(html.parser.HTMLParser):
    """Reads HTML, and takes nothing but what tables and cards are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ELEMENTS, tag
        assert {name for name, _ in attrs} <= ATTRIBUTES, attrs
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> str:
    """Return the text of HTML that is safe and complete."""
    page.encode()
    assert not ACTS.search(page)
    assert not re.search(r"url\(|https?:|@import|expression", page)
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return " ".join(reader.text)
