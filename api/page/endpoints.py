"""`/` and `/page/…`: the web page. It needs no key: what it shows comes from /v1, with the key of its user."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.http.conditional import UnderConditions
from api.http.headers import FOR_BROWSERS
from api.http.problems import Problem
from api.page import files

router = APIRouter(include_in_schema=False)

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy: nothing from elsewhere, and no script or style that stands in the HTML."""

HEADERS = {
    **FOR_BROWSERS,
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

WEEK_SECONDS = 7 * 24 * 3600


@router.api_route("/", methods=["GET", "HEAD"])
def index(request: Request, conditions: UnderConditions) -> Response:
    return _send(files.INDEX, request, conditions)


@router.api_route("/page/{name:path}", methods=["GET", "HEAD"])
def static_file(name: str, request: Request, conditions: UnderConditions) -> Response:
    """A script, a style sheet or an icon."""
    return _send(name, request, conditions)


def _send(name: str, request: Request, conditions: UnderConditions) -> Response:
    file = files.find(name)
    if file is None:
        raise Problem(404, "not-found", f"The page has no file {name!r}: reload the page at /")
    headers = {**HEADERS, "ETag": file.etag, "Cache-Control": _caching(name), "Vary": "Accept-Encoding"}
    if (not_modified := conditions.not_modified(file.etag, headers)) is not None:
        return not_modified
    content = file.content
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        content = file.compressed
        headers["Content-Encoding"] = "gzip"
    headers["Content-Length"] = str(len(content))
    shown = b"" if request.method == "HEAD" else content
    return Response(shown, media_type=file.media_type, headers=headers)


def _caching(name: str) -> str:
    if name == files.INDEX:
        return "no-store"
    if name == files.PLOTLY:
        return f"public, max-age={WEEK_SECONDS}"
    # Asked for at each load, so that all modules are of one version.
    return "no-cache"
