"""Writes `lit_client/synchronous` from `lit_client/asynchronous`: `python -m tests.lit_client.generate`.

A synchronous client is the asynchronous one without `async` and `await`, and with the synchronous names of httpx and of
the standard library.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "lit_client/asynchronous"
TARGET = SOURCE.with_name("synchronous")
NOTE = "# Generated from lit_client/asynchronous by `python -m tests.lit_client.generate`: change the source instead.\n"
FIXES = "I,F401,UP028,UP034,RET504"
"""Rules of ruff: the order of imports, imports that are not needed, loops that are `yield from`, parentheses."""

REPLACEMENTS = (
    (r"await asyncio\.to_thread\(\s*([\w.]+),\s*", r"\1("),
    (r"\basyncio\.sleep\(", "time.sleep("),
    (r"^import asyncio$", "import time"),
    (r"\bawait ", ""),
    (r"\basync (with|for|def)\b", r"\1"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\baclosing\b", "closing"),
    (r"\b(_?)Async(?=[A-Z])", r"\1"),
    (r"\b__a(enter|exit)__", r"__\1__"),
    (r"\b(httpx\.)?a(iter_bytes|read|close)\(", r"\1\2("),
    (r"\blit_client\.asynchronous\b", "lit_client.synchronous"),
    (r"An asynchronous client", "A synchronous client"),
    (r"It belongs to one event loop\.", "Don't share one between threads."),
)


def generated() -> dict[str, str]:
    """The content of each file in `synchronous`."""
    return {path.name: _synchronous(path) for path in sorted(SOURCE.glob("*.py")) if path.name != "__init__.py"} | {
        "__init__.py": f'"""The client without asyncio."""\n\n{NOTE}'
    }


def _synchronous(path: Path) -> str:
    text = path.read_text()
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    # Where the source has both.
    text = text.replace("import time\nimport time\n", "import time\n")
    docstring, rest = text.split('"""\n', 1)
    text = f'{docstring}"""\n\n{NOTE}{rest}'
    text = _ruff(["check", "--fix", "--unsafe-fixes", "--quiet", "--exit-zero", "--select", FIXES], text, path.name)
    return _ruff(["format", "--quiet"], text, path.name)


def _ruff(command: list[str], text: str, name: str) -> str:
    made = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET / name), "-"]
    return subprocess.run(made, input=text, check=True, capture_output=True, text=True).stdout


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    for path in TARGET.glob("*.py"):
        path.unlink()
    for name, text in generated().items():
        (TARGET / name).write_text(text)


if __name__ == "__main__":
    main()
