"""What `litc webhooks` sends and shows. A small server stands for the service."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.lit_client.command import litc

ENDPOINT = {"id": "whk_1", "url": "https://example.org/hook", "events": [], "name": "mine", "enabled": True}
DELIVERY = {"id": "dlv_1", "type": "job.succeeded", "state": "dead", "attempts": [{"status": 500, "error": None}]}
ANSWERS: dict[tuple[str, str], Any] = {
    ("POST", "/v1/webhooks"): ENDPOINT | {"secret": "whsec_new"},
    ("GET", "/v1/webhooks"): {"items": [ENDPOINT], "next_cursor": None},
    ("GET", "/v1/webhooks/whk_1"): ENDPOINT,
    ("PATCH", "/v1/webhooks/whk_1"): ENDPOINT | {"enabled": False},
    ("DELETE", "/v1/webhooks/whk_1"): None,
    ("POST", "/v1/webhooks/whk_1/test"): DELIVERY | {"state": "pending"},
    ("GET", "/v1/webhooks/whk_1/deliveries"): {"items": [DELIVERY], "next_cursor": None},
    ("POST", "/v1/webhooks/whk_1/deliveries/dlv_1/redeliver"): DELIVERY | {"state": "pending"},
    ("POST", "/v1/webhooks/whk_1/rotate-secret"): ENDPOINT | {"secret": "whsec_next"},
}


class Service(BaseHTTPRequestHandler):
    received: list[tuple[str, str, Any]] = []  # noqa: RUF012

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.received.append((self.command, self.path, json.loads(body) if body else None))
        answer = ANSWERS[self.command, path]
        content = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(204 if answer is None else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def stand_in() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("words", "sent", "shown"),
    [
        (
            ("create", "https://example.org/hook", "--event", "job.failed", "--name", "mine", "--disabled"),
            ("POST", "/v1/webhooks", {"url": "https://example.org/hook", "events": ["job.failed"], "name": "mine"}),
            "whsec_new",
        ),
        (("list",), ("GET", "/v1/webhooks?limit=100", None), "https://example.org/hook"),
        (("show", "whk_1"), ("GET", "/v1/webhooks/whk_1", None), "all"),
        (("update", "whk_1", "--disable"), ("PATCH", "/v1/webhooks/whk_1", {"enabled": False}), "no"),
        (("delete", "whk_1"), ("DELETE", "/v1/webhooks/whk_1", None), "whk_1 deleted"),
        (("test", "whk_1"), ("POST", "/v1/webhooks/whk_1/test", None), "pending"),
        (
            ("deliveries", "whk_1", "--state", "dead"),
            ("GET", "/v1/webhooks/whk_1/deliveries?state=dead&limit=20", None),
            "1: 500",
        ),
        (
            ("redeliver", "whk_1", "dlv_1"),
            ("POST", "/v1/webhooks/whk_1/deliveries/dlv_1/redeliver", None),
            "pending",
        ),
        (("rotate-secret", "whk_1"), ("POST", "/v1/webhooks/whk_1/rotate-secret", None), "whsec_next"),
    ],
)
def test_each_command_asks_and_shows(
    stand_in: str, words: tuple[str, ...], sent: tuple[str, str, dict[str, Any] | None], shown: str
) -> None:
    done = litc(stand_in, "webhooks", *words)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    method, path, body = Service.received[-1]
    assert (method, path) == sent[:2]
    assert body == (sent[2] | {"enabled": False} if sent[2] and words[0] == "create" else sent[2])
    answer = json.loads(litc(stand_in, "webhooks", *words, "--json").stdout)
    expected = ANSWERS[method, path.partition("?")[0]]
    assert answer == ({"deleted": ["whk_1"]} if expected is None else expected.get("items", expected))


def test_the_secret_alone_is_on_stdout(stand_in: str) -> None:
    done = litc(stand_in, "webhooks", "create", "https://example.org/hook")
    assert done.stdout == "whsec_new\n"
    assert "whk_1" in done.stderr
    assert litc(stand_in, "webhooks", "update", "whk_1").returncode == 2
