"""How long the page of `finery report` takes to open and to filter, in Chromium.

python benchmarks/report_page.py [ROWS]     5,000 rows by default; needs chromium-driver

The project has a base, a trained and an exported model that answer from tables (tests/judged.py),
and prompts of some 400 characters.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HOME = Path(__file__).parents[1]
sys.path.insert(0, str(HOME / "tests"))

from chromium import Browser, chromium  # noqa: E402
from judged import files  # noqa: E402

TIMES = 9
FILTER = """
const search = document.querySelector('.answers input[type=search]');
const list = document.querySelector('.answers ol');
const started = performance.now();
search.value = VALUE;
search.dispatchEvent(new Event('input', {bubbles: true}));
list.getBoundingClientRect();
return performance.now() - started;
"""


def main() -> None:
    """Build the project, write its report, and print what was measured."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    with tempfile.TemporaryDirectory(prefix="finery-report-page-") as folder:
        project = Path(folder)
        for name, text in files(count, **{"rows.jsonl": _rows(count)}).items():
            (project / name).write_text(text, encoding="utf-8")
        _finery(project, "build")
        began = time.perf_counter()
        _finery(project, "report", "--html", "report.html")
        print(f"finery report: {time.perf_counter() - began:.1f} s")
        page = project / "report.html"
        print(f"page: {page.stat().st_size / 2**20:.1f} MiB, {count:,} rows, 3 models")
        with chromium(1300, 900) as browser:
            _measure(browser, page)


def _measure(browser: Browser, page: Path) -> None:
    opened = []
    for _ in range(TIMES):
        browser.open(page)
        timing = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
        opened.append(float(browser.run(timing)))
    print(f"open: median {median(opened):.0f} ms, longest {max(opened):.0f} ms")
    words = ["question 1", "", "guess", "no such text", "", "answer 77", "", "the", ""]
    filtered = [float(browser.run(FILTER.replace("VALUE", json.dumps(w)))) for w in words]
    print(f"filter: median {median(filtered):.0f} ms, longest {max(filtered):.0f} ms")


def _rows(count: int) -> str:
    text = "the ticket says what happened, when it happened, and what was tried since then. " * 5
    rows = ({"prompt": f"question {i}: {text}", "completion": f"answer {i}"} for i in range(count))
    return "".join(json.dumps(row) + "\n" for row in rows)


def _finery(project: Path, *args: str) -> None:
    own = {**os.environ, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "finery", *args]
    subprocess.run(command, cwd=project, env=own, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip


if __name__ == "__main__":
    main()
