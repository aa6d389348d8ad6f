"""`make performance`: run the benchmarks of speed and size, keep their figures, and write their tables.

Each benchmark prints its figures as one JSON line last. The lines are kept in docs/performance.json; `--page` writes
the tables from that file without running anything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.performance.page import TABLES, checked_text, write_page
from benchmarks.stopping import exit_on_sigterm

RESULTS = Path(__file__).parents[2] / "docs/performance.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES), help="these benchmarks")
    parser.add_argument("--page", action="store_true", help="run nothing: write the tables from docs/performance.json")
    arguments = parser.parse_args()
    # Before anything is measured for an hour.
    checked_text()
    results: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not arguments.page:
        for name in arguments.only:
            results[name] = measured(name)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_page(results)
    return 0


def measured(name: str) -> dict[str, Any]:
    """What the benchmark prints, passed on, and its last line. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", f"benchmarks.{name}.run"]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                last = line.strip() or last
        except BaseException:
            # Else this would wait for the whole benchmark.
            process.terminate()
            raise
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    found: dict[str, Any] = json.loads(last)
    return found


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
