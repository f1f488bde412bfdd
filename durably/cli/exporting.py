"""``durably export``: a run as a page that needs nothing else, to mail or to keep."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

import click

from durably._platform.displayable import displayable
from durably.cli.shell import Unknown, find, run_argument, shell, verb
from durably.cli.tables import is_terminal
from durably.cli.times import now
from durably.client.arguments import AnyRun
from durably.client.read_only import ReadOnlyClient
from durably.rendering.bases import Shown

# How many failed items of a map, and how many of its other ones, the page has.
_MOST_ITEMS: Final = 50

# Nothing is loaded, and nothing executed, whatever is in the run.
_HEAD: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font-family: system-ui, sans-serif; margin: 2em auto; max-width: 64em; padding: 0 1em }}
h2 {{ font-size: 1.1em; margin: 1.5em 0 .5em }}
div {{ overflow-x: auto }}
footer {{ margin-top: 2em; opacity: .65 }}
</style>
</head>
<body>
"""


@verb()
@run_argument()
@click.option("--html", metavar="FILE", help="Write the page to a file, and not to stdout.")
def export(*, run: str, html: str | None) -> None:
    """Make a page of a run, to mail or to keep.

    It says what "durably show" does, and more of it, in one HTML file that loads nothing. It
    has payload, output and log lines: mind who reads it.
    """
    with shell().read_only() as client:
        page = "".join(_page(client, find(client, run)))
    if html is None:
        click.echo(page, nl=False)
        return
    try:
        with open(html, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(page)
    except OSError as exc:
        raise Unknown(f"{html!r} cannot be written: {exc.strerror}") from exc
    if is_terminal():
        shell().say(html)


def _page(client: ReadOnlyClient, run: AnyRun) -> Iterator[str]:
    title = displayable(f"{run.job_name} {run.idempotency_key or run.id}", 120)
    yield _HEAD.format(title=escape(title))
    yield run._repr_html_()
    if run.started_at is not None:
        yield f"\n<h2>Timeline</h2>\n<div>{run.timeline()._repr_svg_()}</div>\n"
    yield from _part("Steps", run.steps)
    for step in run.steps:
        if step.items is not None:
            name = displayable(step.name, 80)
            failed = run.items(step.name, status="failed", limit=_MOST_ITEMS)
            if failed:
                yield from _part(f"Failed items of {name}", failed)
            yield from _part(f"Items of {name}", run.items(step.name, limit=_MOST_ITEMS))
    yield from _part("Attempts", run.attempts)
    if run.logs:
        yield from _part("Log", run.logs)
    made = escape(f"{now():%Y-%m-%d %H:%M %Z}, {client.path}")
    yield f"<footer>Made by durably export: {made}</footer>\n</body>\n</html>\n"


def _part(title: str, listing: Shown) -> Iterator[str]:
    yield f"<h2>{escape(title)}</h2>\n{listing._repr_html_()}\n"
