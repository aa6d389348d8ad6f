"""What HTTP says of the page's files."""

from __future__ import annotations

import gzip
import re

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.http import problems
from api.page import endpoints

PLOTLY = "/page/plotly.min.js"


@pytest.fixture(scope="module")
def http() -> httpx.Client:
    """The routes of the page alone: they need no database."""
    app = FastAPI()
    problems.install(app)
    app.include_router(endpoints.router)
    return TestClient(app)


def test_the_page_names_only_files_that_the_service_has(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Cache-Control"] == "no-store"
    waiting = {f"/{path}" for path in re.findall(r'(?:href|src)="(page/[^"]+)"', page.text)}
    seen = set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        file = http.get(path)
        assert (file.status_code, file.headers["X-Content-Type-Options"]) == (200, "nosniff"), path
        assert not re.search(r"(?<!xmlns=\")(?<!SVG = \")https?://(?!www\.w3\.org)", file.text), path
        if path.endswith(".js"):
            found = re.findall(r'(?:from |import\()"(\.[^"]+)"', file.text)
            waiting |= {str(httpx.URL(path).join(name)) for name in found} - seen
    assert len(seen) > 20


def test_headers_that_keep_others_out(http: httpx.Client) -> None:
    for path in ("/", "/page/main.js"):
        headers = http.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert (
            policy["default-src"]
            == policy["frame-ancestors"]
            == policy["form-action"]
            == policy["base-uri"]
            == "'none'"
        )
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["Referrer-Policy"] == "no-referrer"


def test_plotly_is_kept_by_browsers_and_sent_small(http: httpx.Client) -> None:
    small = http.get(PLOTLY, headers={"Accept-Encoding": "gzip"})
    whole = http.get(PLOTLY, headers={"Accept-Encoding": "identity"})
    assert small.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in whole.headers
    assert small.content == whole.content
    assert len(gzip.compress(whole.content, 1)) > int(small.headers["Content-Length"])
    assert "max-age=604800" in whole.headers["Cache-Control"]
    again = http.get(PLOTLY, headers={"If-None-Match": whole.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = http.head(PLOTLY, headers={"Accept-Encoding": "identity"})
    assert (head.headers["Content-Length"], head.content) == (str(len(whole.content)), b"")


@pytest.mark.parametrize(
    "path", ["/page/none.js", "/page/", "/page/..%2fendpoints.py", "/page/../../app.py", "/page/%2e%2e/files.py"]
)
def test_nothing_else_is_served(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
