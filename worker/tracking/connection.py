"""HTTP to one tracking server: its credentials, deadlines, and answers that are believed no further than needed.

Whatever a server answers, no credentials reach another host, no call outlasts its deadline, and no text of its pages
is shown.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from jobs.tracking.trackers import Tracker
from jobs.version import VERSION

CALL_SECONDS = 20.0
"""What a call may take from its first byte to its last, unless MLFLOW_HTTP_REQUEST_TIMEOUT says otherwise."""
SLOWEST_BYTES = 1 << 20
"""Bytes per second of the slowest upload that is waited for."""
MOST_ANSWER_BYTES = 4 << 20
PIECE_BYTES = 1 << 20
LONGEST_ERROR = 500
LONGEST_REASON = 200
"""Characters that are shown of a server's own message."""
UNSUPPORTED = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
TRUE = {"true", "1"}

_ERROR_CODE = re.compile(r"[A-Z][A-Z_]{0,59}")


class TrackingFailed(Exception):
    """The tracking server refused something, or can't be reached. The message says what."""

    def __init__(self, message: str, *, refused: bool = False, code: str | None = None) -> None:
        super().__init__(one_line(message, LONGEST_ERROR))
        self.refused = refused
        """Whether the server answered, so that other runs may succeed."""
        self.code = code
        """MLflow's name of the error, if it gave one."""


class Connection:
    """Calls to one tracking server. `default`: whether it is the server in MLFLOW_TRACKING_URI.

    The environment's credentials are meant for that server alone; others have the user and password of their setting.
    """

    def __init__(self, tracker: Tracker, *, default: bool) -> None:
        self.uri = tracker.uri
        self.call_seconds = _call_seconds()
        self._authorization = _authorization(tracker, default=default)

    def call(self, what: str, method: str, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Call MLflow's REST API: `path` as in "runs/get". Returns the answer's object. Raises TrackingFailed."""
        url = f"{self.uri}/api/2.0/mlflow/{path}"
        given = {"params": dict(fields)} if method == "GET" else {"json": dict(fields)}
        content = self._run(what, self.call_seconds, method, url, **given)
        try:
            answer = json.loads(content or b"{}")
        except (ValueError, RecursionError) as wrong:
            raise TrackingFailed(f"could not {what}: the answer is not JSON", refused=True) from wrong
        if not isinstance(answer, dict):
            raise TrackingFailed(f"could not {what}: the answer is not a JSON object", refused=True)
        return answer

    def upload(self, what: str, path: str, file: Path) -> None:
        """Send a file to `path` below the server's proxied artifacts. Raises TrackingFailed."""
        url = f"{self.uri}/api/2.0/mlflow-artifacts/artifacts/{path}"
        headers = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"}
        self._run(what, self.upload_seconds(file), "PUT", url, content=_pieces(file), headers=headers)

    def upload_seconds(self, file: Path) -> float:
        return self.call_seconds + file.stat().st_size / SLOWEST_BYTES

    @cached_property
    def _tls(self) -> ssl.SSLContext | bool:
        """Loading the authorities takes a while, so once."""
        if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in TRUE:
            return False
        authorities = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
        if not authorities:
            context = httpx.create_ssl_context()
        elif Path(authorities).is_dir():
            context = ssl.create_default_context(capath=authorities)
        else:
            context = ssl.create_default_context(cafile=authorities)
        if own := os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
            context.load_cert_chain(own)
        return context

    def _run(self, what: str, seconds: float, method: str, url: str, **given: Any) -> bytes:
        try:
            status, content = asyncio.run(self._request(seconds, method, url, **given))
        except TimeoutError as late:
            raise TrackingFailed(f"could not {what}: no complete answer within {seconds:g} s") from late
        except (httpx.HTTPError, OSError) as failure:
            raise TrackingFailed(f"could not {what}: {type(failure).__name__}: {failure}") from failure
        if status != HTTPStatus.OK:
            raise _refusal(what, status, content)
        if len(content) > MOST_ANSWER_BYTES:
            raise TrackingFailed(f"could not {what}: the answer is too long", refused=True)
        return content

    async def _request(self, seconds: float, method: str, url: str, **given: Any) -> tuple[int, bytes]:
        headers = {"User-Agent": f"lit-compress/{VERSION}", "Accept-Encoding": "identity"}
        headers |= self._authorization | given.pop("headers", {})
        # httpx counts for each read alone; this counts the whole.
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(
                verify=self._tls if url.startswith("https:") else False, follow_redirects=False, timeout=seconds
            ) as client,
            client.stream(method, url, headers=headers, **given) as answer,
        ):
            content = b""
            async for piece in answer.aiter_raw():
                content += piece
                if len(content) > MOST_ANSWER_BYTES:
                    break
            return answer.status_code, content


def unsupported_variable() -> str | None:
    """A sentence that says what to do if a way to log in is set that LIT doesn't have."""
    name = next((name for name in UNSUPPORTED if os.environ.get(name, "").lower() not in {"", "false", "0"}), None)
    return None if name is None else f"{name} is set, which LIT does not support: use MLFLOW_TRACKING_TOKEN"


def one_line(text: str, most: int) -> str:
    """The text without line breaks and what can't be printed or stored, of `most` characters at most."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _call_seconds() -> float:
    try:
        seconds = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or CALL_SECONDS)
    except ValueError:
        return CALL_SECONDS
    return seconds if 0 < seconds < float("inf") else CALL_SECONDS


def _authorization(tracker: Tracker, *, default: bool) -> dict[str, str]:
    user, password = tracker.user, tracker.password
    if default and user is None:
        user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    token = os.environ.get("MLFLOW_TRACKING_TOKEN") if default else None
    if user and password:
        return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as content:
        while piece := content.read(PIECE_BYTES):
            yield piece


def _refusal(what: str, status: int, content: bytes) -> TrackingFailed:
    """Shows of the answer no more than an error in MLflow's own form, which pages of other services don't have."""
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return TrackingFailed(
            f"could not {what}: the server answered {status}, a redirect, which is not followed: "
            "the operator must set the address to which it leads",
            refused=True,
        )
    code, reason = None, ""
    try:
        answer = json.loads(content)
        if _ERROR_CODE.fullmatch(answer["error_code"]):
            code = answer["error_code"]
            first = str(answer.get("message", "")).strip().split("\n", 1)[0]
            reason = f" {code}: {one_line(first, LONGEST_REASON)}"
    except (ValueError, RecursionError, LookupError, TypeError):
        pass
    refused = status < HTTPStatus.INTERNAL_SERVER_ERROR
    return TrackingFailed(f"could not {what}: the server answered {status}{reason}", refused=refused, code=code)
