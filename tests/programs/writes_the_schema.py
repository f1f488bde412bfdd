"""Write what the migrations make beside them, after one was added: without it each open is slower.

``python tests/programs/writes_the_schema.py [FILE]``
"""

import json
import sys
from pathlib import Path

from durably.store.sqlite.sql import schema

made = schema.schemas(tuple(schema.migrations()))[-1]
objects = sorted([kind, name, sql] for (kind, name), sql in made.items())
beside = Path(schema.__file__).parent / "migrations" / "newest.json"
path = Path(sys.argv[1]) if len(sys.argv) > 1 else beside
path.write_text(json.dumps(objects, indent=0) + "\n", encoding="utf-8")
