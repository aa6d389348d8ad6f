"""The files of the web page, read once, with what HTTP says of each."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

FOLDER = Path(__file__).with_name("static")
INDEX = "index.html"
PLOTLY = "plotly.min.js"
"""Draws the charts. It is served from the installed package plotly, because no code of others is in this repository."""

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page. It is sent compressed to those who take that."""

    content: bytes
    compressed: bytes
    etag: str
    media_type: str


def find(name: str) -> PageFile | None:
    """The file with this path below `static`, or None."""
    source = _sources().get(name)
    return None if source is None else _read(source)


@cache
def _sources() -> dict[str, Path]:
    """By path. What isn't listed here is never opened, whatever a request asks for."""
    found = {str(PurePosixPath(path.relative_to(FOLDER))): path for path in FOLDER.rglob("*") if _belongs(path)}
    if (plotly := _plotly()) is not None:
        found[PLOTLY] = plotly
    return found


def _belongs(path: Path) -> bool:
    return path.suffix in MEDIA_TYPES and path.is_file()


def _plotly() -> Path | None:
    """The script in the installed package; the package itself is not imported, which would take a second."""
    package = find_spec("plotly")
    if package is None or package.origin is None:
        return None
    script = Path(package.origin).with_name("package_data") / PLOTLY
    return script if script.is_file() else None


def _read(source: Path) -> PageFile:
    # By the time of its change, so that someone who works on the page sees it at the next load.
    return _read_version(source, source.stat().st_mtime_ns)


@cache
def _read_version(source: Path, _changed: int) -> PageFile:
    content = source.read_bytes()
    return PageFile(
        content=content,
        # Level 9 takes a third longer for plotly's 5 MB, and saves 0.2 %.
        compressed=gzip.compress(content, compresslevel=6, mtime=0),
        etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        media_type=MEDIA_TYPES[source.suffix],
    )
