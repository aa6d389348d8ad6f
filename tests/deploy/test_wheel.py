"""The wheel: what it ships, and that its types are read where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("lit_spec", "lit_core", "lit_client")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
USE = """
import lit_client
import lit_core
import lit_spec

reveal_type(lit_spec.JobRequest)
reveal_type(lit_core.compress)
reveal_type(lit_client.Client)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because a build writes beside the sources."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "api"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, built], cwd=source, check=True, capture_output=True)
    (found,) = built.glob("*.whl")
    return found


def test_the_wheel_has_all_of_the_three_packages_and_says_that_they_are_typed(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.suffix in {".py", ".json"}}
    assert names == {str(path.relative_to(ROOT)) for path in sources} | {f"{name}/py.typed" for name in PACKAGES}


def test_types_of_the_installed_packages_are_checked(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env/bin/python"
    (packages,) = (tmp_path / "env/lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)
    (tmp_path / "use.py").write_text(USE)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-executable", python, "use.py"],
        cwd=tmp_path,
        env={},
        text=True,
        capture_output=True,
    )
    assert "import-untyped" not in checked.stdout
    shown = [line for line in checked.stdout.splitlines() if "Revealed type" in line]
    for line, expected in zip(shown, ("JobRequest", "compressed.Compressed", "Client"), strict=True):
        assert expected in line
