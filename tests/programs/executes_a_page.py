"""Executes the blocks of a page one after the other as one module, each at its own lines.

Arguments: the page, and the pattern of a block.
"""

import logging
import re
import sys
import types
from pathlib import Path

# Some runs of a page fail on purpose; that durably logs their tracebacks is no fault of the page.
logging.getLogger("durably").addHandler(logging.NullHandler())

page, pattern = sys.argv[1:]
text = Path(page).read_text(encoding="utf-8")
module = types.ModuleType("page")
sys.modules["page"] = module
for block in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
    lines_before = text.count("\n", 0, block.start(1))
    code = re.sub(r"\btime\.sleep\(0\.5\)", "time.sleep(0.005)", block[1])  # a slow service
    exec(compile("\n" * lines_before + code, page, "exec"), vars(module))
