"""The documentation's site builds without a broken link, and its pages ask no other host for anything."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.site import build
from jobs.settings import Settings

pytest.importorskip("zensical", reason="the extra `docs` isn't installed")

LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""What a browser fetches by itself, by element. The address in `a` is followed only by readers."""
OUTSIDE = re.compile(r"^(?:[a-z]+:)?//")


class Fetched(HTMLParser):
    """The addresses that a page makes a browser fetch."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if address := dict(attrs).get(LOADED.get(tag, "")):
            self.found.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    build.build(folder)
    return folder


def test_no_page_fetches_anything_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    found = {page: Fetched(page).found for page in pages}
    assert all(found[site / name] for name in ("index.html", "reference/operations.html"))
    outside = [f"{page.name}: {each}" for page, all_of in found.items() for each in all_of if OUTSIDE.match(each)]
    assert outside == []
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:[a-z]+:)?//", sheet.read_text()), sheet


def test_no_page_makes_the_theme_load_a_library_from_elsewhere(site: Path) -> None:
    """Its script loads these from another host where a page has their elements."""
    for page in site.rglob("*.html"):
        assert not re.search(r'class="[^"]*\b(?:mermaid|glightbox)\b', page.read_text()), page
    assert "```mermaid" not in "".join(page.read_text() for page in (build.ROOT / "docs").glob("*.md"))


def test_the_reference_shows_requests_and_objects(site: Path) -> None:
    assert "POST /v1/jobs" in (site / "reference" / "operations.html").read_text()
    assert 'id="jobrequest"' in (site / "reference" / "objects.html").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gone](gone.md)", "page does not exist"),
        ("[gone](index.md#gone)", "anchor does not exist"),
        ("", "missing in the navigation"),
    ],
)
def test_what_is_broken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    """A site of one good page and one other page, which only the first two name in the navigation."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n")
    (tmp_path / "docs" / "other.md").write_text(f"# Other\n\n{text}\n")
    named = 'nav = ["index.md", "other.md"]' if text else 'nav = ["index.md"]'
    (tmp_path / "zensical.toml").write_text(f'[project]\nsite_name = "x"\n{named}\n[project.theme]\nfont = false\n')
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "CONFIGURATION", tmp_path / "zensical.toml")
    monkeypatch.setattr(build, "ROOT_PAGES", {})
    monkeypatch.setattr(build.reference, "pages", dict)
    with pytest.raises(build.BrokenSite, match=said):
        build.build(tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_every_setting_is_in_the_one_table() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", (build.ROOT / "docs" / "settings.md").read_text(), re.M)
    assert len(rows) == len(set(rows)), "a variable has two rows"
    names = {str(field.validation_alias or f"LIT_{name.upper()}") for name, field in Settings.model_fields.items()}
    assert names <= set(rows)
