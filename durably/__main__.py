"""``python -m durably``: the command line."""

from __future__ import annotations

from durably.cli import main

if __name__ == "__main__":
    main()
