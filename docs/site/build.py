"""`make docs`: builds the documentation into site/, and fails on broken links, missing pages and missing anchors.

The pages are docs/*.md as they are, some files of the repository's root, and the API reference that is written from the
OpenAPI document. Links work on GitHub and on the site alike: those that leave docs/ are bent to the copies here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from docs.site import reference

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "zensical.toml"
ROOT_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
"""Pages that stand in the repository's root, where people and GitHub look for them, and their names on the site."""
LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


class BrokenSite(Exception):
    """The site can't be built; the message says what is wrong, for people."""


def build(site: Path) -> None:
    """Build the whole site into the folder `site`, which is replaced.

    Raises BrokenSite when a page, a link or an anchor is missing, or a page stands outside the navigation.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _stage(work / "docs")
        shutil.copy(CONFIGURATION, work)
        _check_navigation(work / "docs")
        command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
        built = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        if built.returncode != 0:
            raise BrokenSite(_without_colours(built.stdout + built.stderr))
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(work / "site", site)


def _stage(pages: Path) -> None:
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("site", "__pycache__"))
    for name, staged in ROOT_PAGES.items():
        shutil.copy(ROOT / name, pages / staged)
    for page in pages.glob("*.md"):
        page.write_text(LINK.sub(partial(_on_the_site, pages), page.read_text()))
    (pages / "reference").mkdir()
    for name, text in reference.pages().items():
        (pages / "reference" / name).write_text(text)


def _on_the_site(pages: Path, link: re.Match[str]) -> str:
    """The link with the address that its target has on the site. Files of the repository are copied there."""
    target, anchor = link[1], link[2] or ""
    if "://" in target:
        return link[0]
    inside = target.removeprefix("../").removeprefix("docs/")
    if not inside.endswith(".md") and not (pages / inside).exists() and (ROOT / inside).is_file():
        (pages / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / inside, pages / inside)
    return f"]({ROOT_PAGES.get(inside, inside)}{anchor})"


def _check_navigation(pages: Path) -> None:
    """Zensical drops entries whose page is missing, and builds pages that no entry names."""
    named = set(_pages_in(tomllib.loads(CONFIGURATION.read_text())["project"]["nav"]))
    present = {page.relative_to(pages).as_posix() for page in pages.rglob("*.md")}
    if missing := named - present:
        raise BrokenSite(f"zensical.toml names pages that don't exist: {', '.join(sorted(missing))}")
    if unnamed := present - named:
        raise BrokenSite(
            f"Pages are missing in the navigation; add them to zensical.toml: {', '.join(sorted(unnamed))}"
        )


def _pages_in(entry: Any) -> Iterator[str]:
    match entry:
        case str():
            yield entry
        case list():
            for each in entry:
                yield from _pages_in(each)
        case dict():
            for each in entry.values():
                yield from _pages_in(each)


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


if __name__ == "__main__":
    try:
        build(ROOT / "site")
    except BrokenSite as broken:
        sys.exit(str(broken))
    print("The site is in site/: open site/index.html, or run python3 -m http.server --directory site")  # noqa: T201
