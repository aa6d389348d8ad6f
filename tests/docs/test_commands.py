"""The documentation's commands, run as a reader runs them, page after page against one service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.running import RunningService, own_environment
from tests.docs.blocks import PAGES, ROOT, SHELLS, blocks_of

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the documentation's commands use curl")

QUICK = {"docs/first-job.md": None, "docs/bring-your-own-network.md": None, "docs/api.md": "## Studies"}
"""Pages whose commands `make test` runs, those of some only up to a heading. The others train for longer."""
ADDRESS = "http://127.0.0.1:8000"
"""As the pages write it."""


def runnable(page: Path) -> bool:
    return any(block.reason is None and block.language in {*SHELLS, "python"} for block in blocks_of(page))


LONG = [
    str(page.relative_to(ROOT)) for page in PAGES if runnable(page) and QUICK.get(str(page.relative_to(ROOT)), True)
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a checkout, in which the commands may leave files."""
    for name in ("examples", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("litc", "python"):
        (binaries / name).symlink_to(Path(sys.executable).with_name(name))
    return tmp_path


def run_page(name: str, service: RunningService, checkout: Path, *, until: str | None = None) -> None:
    """The page's blocks in one session of the shell, and then its Python in one session of that."""
    lines = (ROOT / name).read_text().splitlines()
    last = len(lines) if until is None else lines.index(until)
    blocks = [block for block in blocks_of(ROOT / name) if block.reason is None and block.line <= last]
    script = "\n".join(block.text for block in blocks if block.language in SHELLS)
    code = "\n".join(block.text for block in blocks if block.language == "python")
    environment = {
        **own_environment(checkout),
        "LIT_URL": service.url,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for command in (["bash", "-euo", "pipefail", "-c", script], [sys.executable, "-c", code]):
        done = subprocess.run(
            [*command[:-1], command[-1].replace(ADDRESS, service.url)],
            env=environment,
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert '"type": "/problems/' not in done.stdout


@pytest.mark.parametrize("page", QUICK)
def test_commands_run(page: str, shared_service: RunningService, checkout: Path) -> None:
    run_page(page, shared_service, checkout, until=QUICK[page])


@pytest.mark.long
@pytest.mark.parametrize("page", LONG)
def test_commands_that_train_run(page: str, shared_service: RunningService, checkout: Path) -> None:
    run_page(page, shared_service, checkout)


def test_commands_that_are_run_reach_no_other_machine() -> None:
    """Those of the long tests too, which run seldom."""
    blocks = [
        f"{page.relative_to(ROOT)}:{block.line}"
        for page in PAGES
        for block in blocks_of(page)
        if block.reason is None
        and block.language in {*SHELLS, "python"}
        and ("example.com" in block.text or "pip install" in block.text)
    ]
    assert blocks == []


def test_every_page_with_commands_is_run() -> None:
    assert all(runnable(ROOT / page) for page in QUICK)
    assert {"README.md", "docs/client.md", "docs/api.md"} <= set(LONG)
    assert "docs/first-job.md" not in LONG
