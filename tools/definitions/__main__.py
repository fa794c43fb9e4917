"""python -m tools.definitions            write the table
python -m tools.definitions --check    exit 1 if it is stale
"""

import sys
from pathlib import Path

from tools.definitions.sources import TABLE
from tools.definitions.table import Refused, table

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Write the table, or check it; the exit code."""
    file = ROOT / "core" / TABLE
    try:
        text = table(ROOT)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    if "--check" not in sys.argv[1:]:
        file.write_text(text, encoding="utf-8")
    elif not file.exists() or file.read_text(encoding="utf-8") != text:
        print(f"{file} is stale; write it anew: make format", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
