"""Label 500 documents with a service that is slow, limits its rate and rejects ten of them.

Kill it at any moment, or stop it with Ctrl-C, and start it again: it labels the documents that
have no label yet. ``FIXED=1`` stands for documents that were corrected: then it labels those that
failed, and no other. The service is a fake one; ``SCALE=0.1`` makes it ten times as fast.
"""

from __future__ import annotations

import csv
import logging
import os
import random
import sys
import time
from pathlib import Path

from attrs import frozen

import durably

SCALE = float(os.environ.get("SCALE", "1"))
IS_FIXED = os.environ.get("FIXED") == "1"


@frozen
class Document:
    """What is to be labelled."""

    id: str
    text: str


class RateLimited(Exception):
    """The service answers 429: ask again later."""


class BadRequest(Exception):
    """The service answers 400: asking again is of no use."""


refused: set[str] = set()


def complete(document: Document) -> str:
    """Return what the service answers: after 50 to 500 ms, and every tenth time not at once."""
    time.sleep(random.uniform(0.05, 0.5) * SCALE)
    if document.id not in refused and random.random() < 0.1:
        refused.add(document.id)
        raise RateLimited("429 too many requests")
    if document.id.endswith(("07", "57")) and not IS_FIXED:
        raise BadRequest(f"400 cannot parse {document.id}")
    return "long" if len(document.text) > 100 else "short"


def main() -> None:
    """Label the documents, and write the labels to a file."""
    # Print what durably logs of the loop, and not what it logs of its run.
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: hasattr(record, "step_name"))
    logging.basicConfig(format="%(message)s", level=logging.INFO, handlers=[handler])

    documents = [Document(f"doc-{number:03}", "text " * number) for number in range(500)]
    labels = durably.map(
        complete,
        documents,
        db="labels.db",
        key=lambda document: document.id,
        max_workers=8,
        retry=durably.Retry(attempts=6, wait=0.5 * SCALE, on=RateLimited),
    )
    with Path("labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(labels.by_key.items())


if __name__ == "__main__":
    main()
