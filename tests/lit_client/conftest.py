"""A small real HTTP server that breaks connections where a test says so, and the real service where it is cheap."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from lit_client import Client
from lit_spec import LibraryRequest


@dataclass
class Fault:
    """What happens to one request: cut after so many body bytes, or do it all and then say nothing."""

    after_bytes: int | None = None
    lose_answer: bool = False
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


class FaultyService:
    """Uploads, jobs and artifacts held in memory; `faults[method]` is used up request by request."""

    def __init__(self) -> None:
        self.uploads: dict[str, dict[str, Any]] = {}
        self.data: dict[str, bytearray] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.job_fields: dict[str, Any] = {}
        self.studies: dict[str, list[dict[str, Any]]] = {}
        """What is answered, time after time; the last one stays."""
        self.study_answers: list[dict[str, Any]] = []
        self.keys: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.manifest: list[dict[str, Any]] | None = None
        self.logs: list[str] = []
        self.ranges = True
        self.inspection: dict[str, Any] | None = None
        self.faults: dict[str, deque[Fault | None]] = {name: deque() for name in ("PATCH", "GET", "POST", "DELETE")}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.body_bytes = 0
        self.lock = threading.Lock()

    def add_file(self, name: str, content: bytes) -> None:
        self.files[name] = content

    def artifacts(self) -> list[dict[str, Any]]:
        if self.manifest is not None:
            return self.manifest
        return [
            {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in self.files.items()
        ]

    def count(self, method: str, part: str) -> int:
        return sum(1 for m, path, _ in self.requests if m == method and part in path)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: FaultyService

    def log_message(self, *_: object) -> None:
        """Silence: a test's failure says enough."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ValueError):
            self.close_connection = True

    # --- what every request goes through ---

    def begin(self) -> Fault | None:
        self.service.requests.append((self.command, self.path, dict(self.headers)))
        queue = self.service.faults.get(self.command)
        self.fault = queue.popleft() if queue else None
        return self.fault

    def answer(self, status: int, body: object = None, headers: dict[str, str] | None = None) -> None:
        if self.fault is not None and self.fault.lose_answer:
            self.cut()
            return
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/problem+json" if status >= 400 else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def problem(self, status: int, type: str, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        body = {"type": f"/problems/{type}", "title": type, "status": status, "detail": detail, **more}
        self.answer(status, body, headers)

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def refused(self) -> bool:
        """Answer with the fault's status, if it has one, without doing anything."""
        if self.fault is None or self.fault.status is None:
            return False
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.problem(self.fault.status, "temporary", "Not now.", self.fault.headers)
        return True

    # --- methods ---

    def do_POST(self) -> None:
        self.begin()
        if self.refused():
            return
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.path == "/v1/uploads":
            self.create_upload(body)
        elif self.path == "/v1/jobs":
            self.create_job(body)
        elif self.path == "/v1/studies":
            self.create_study(body)
        elif self.path.startswith("/v1/studies/"):
            self.answer(202, self.service.studies[self.path.split("/")[3]][-1])
        elif self.path.endswith("/cancel"):
            self.answer(202, self.service.jobs[self.path.split("/")[3]])
        else:
            self.problem(404, "not-found", "There is no such thing.")

    def do_HEAD(self) -> None:
        self.begin()
        upload_id = self.path.rsplit("/", 1)[1]
        self.answer(200, headers={"Upload-Offset": str(len(self.service.data[upload_id]))})

    def do_PATCH(self) -> None:
        self.begin()
        if self.refused():
            return
        upload = self.service.uploads[self.path.rsplit("/", 1)[1]]
        data = self.service.data[upload["id"]]
        length, offset = int(self.headers["Content-Length"]), int(self.headers["Upload-Offset"])
        if offset != len(data):
            self.rfile.read(length)
            self.problem(409, "upload-offset-mismatch", "Elsewhere.", {"Upload-Offset": str(len(data))})
            return
        take = length if self.fault is None or self.fault.after_bytes is None else self.fault.after_bytes
        piece = self.rfile.read(min(take, length))
        self.service.body_bytes += len(piece)
        data += piece
        upload["received"] = len(data)
        if take < length:
            self.cut()
            return
        if len(data) == upload["size"]:
            if upload["sha256"] != hashlib.sha256(data).hexdigest():
                data.clear()
                self.problem(422, "checksum-mismatch", "The bytes are not those announced.")
                return
            upload |= {"state": "complete", "inspection_state": "done", "inspection": self.service.inspection}
        self.answer(204, headers={"Upload-Offset": str(len(data))})

    def do_GET(self) -> None:
        self.begin()
        if self.refused():
            return
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")[1:]
        if parts == ["uploads"]:
            self.answer(200, {"items": list(self.service.uploads.values()), "next_cursor": None})
        elif parts[0] == "uploads":
            self.answer(200, self.service.uploads[parts[1]])
        elif parts[0] == "studies":
            self.get_study(parts[1:], query)
        elif parts == ["jobs"]:
            self.list_jobs(query)
        elif len(parts) == 2:
            self.get_job(parts[1])
        elif parts[2] == "events":
            after = int(query.get("after", 0))
            items = [event for event in self.service.events if event["seq"] > after][:2]
            self.answer(200, {"items": items, "last": len(self.service.events)})
        elif parts[2:] == ["log"]:
            self.answer(200, self.service.logs[int(query.get("attempt", 0)) - 1])
        elif parts[2:] == ["artifacts"]:
            self.answer(200, {"items": self.service.artifacts()})
        else:
            self.send_file(self.service.files[parts[3]])

    def do_DELETE(self) -> None:
        self.begin()
        self.problem(409, "upload-in-use", "Live jobs use it.", errors=[{"field": "id", "message": "job_x uses it"}])

    # --- parts ---

    def create_upload(self, body: dict[str, Any]) -> None:
        for upload in self.service.uploads.values():
            if upload["state"] == "complete" and upload["sha256"] == body["sha256"]:
                self.answer(200, upload)
                return
        new = {**body, "id": f"upl_{len(self.service.uploads)}", "received": 0, "state": "uploading"}
        new |= {"inspection_state": None, "a_field_of_tomorrow": {"x": 1}}
        if "architecture" in body:
            new["architecture"] = LibraryRequest.model_validate(body["architecture"]).model_dump(mode="json")
        self.service.uploads[new["id"]] = new
        self.service.data[new["id"]] = bytearray()
        self.answer(201, new)

    def create_job(self, body: dict[str, Any]) -> None:
        key = self.headers["Idempotency-Key"]
        with self.service.lock:
            if key not in self.service.keys:
                job_id = f"job_{len(self.service.jobs)}"
                self.service.keys[key] = job_id
                self.service.jobs[job_id] = {"id": job_id, "state": "queued", "request": body, "brand_new": True}
                self.service.jobs[job_id] |= self.service.job_fields
        self.answer(202, self.service.jobs[self.service.keys[key]])

    def create_study(self, body: dict[str, Any]) -> None:
        study_id = f"study_{len(self.service.studies)}"
        base = {"id": study_id, "kind": body["kind"], "state": "running", "request": body, "brand_new": 1}
        self.service.studies[study_id] = [base | answer for answer in self.service.study_answers or [{}]]
        self.answer(202, self.service.studies[study_id][0])

    def get_study(self, parts: list[str], query: dict[str, str]) -> None:
        if not parts:
            self.answer(200, {"items": [answers[-1] for answers in self.service.studies.values()]})
            return
        answers = self.service.studies[parts[0]]
        study = answers.pop(0) if len(answers) > 1 else answers[0]
        if parts[1:] != ["table"]:
            self.answer(200, study, {"ETag": f'"{len(answers)}"'})
        elif query.get("format") == "csv":
            content = b"arm,test_mean\r\nlit,97.5\r\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            self.answer(200, study["table"])

    def list_jobs(self, query: dict[str, str]) -> None:
        start = int(query.get("cursor", 0))
        jobs = list(self.service.jobs.values())
        end = start + min(int(query["limit"]), 2)
        self.answer(200, {"items": jobs[start:end], "next_cursor": str(end) if end < len(jobs) else None})

    def get_job(self, job_id: str) -> None:
        if job_id not in self.service.jobs:
            self.problem(404, "not-found", f"There is no job {job_id}.")
            return
        job = self.service.jobs[job_id]
        etag = f'"{job["state"]}"'
        if self.headers.get("If-None-Match") == etag:
            self.answer(304, headers={"ETag": etag})
        else:
            self.answer(200, job, {"ETag": etag})

    def send_file(self, content: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and self.service.ranges else 0
        rest = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", '"whole"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cut = None if self.fault is None else self.fault.after_bytes
        sent = rest if cut is None else rest[:cut]
        self.service.body_bytes += len(sent)
        self.wfile.write(sent)
        if cut is not None:
            self.cut()


@pytest.fixture
def faulty() -> Iterator[FaultyService]:
    service = FaultyService()
    handler = type("BoundHandler", (Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    yield service
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def client(faulty: FaultyService) -> Iterator[Client]:
    """Small pieces, few retries and short pauses, so that failures are many and quick."""
    with Client(faulty.url, retries=3, first_pause=0.01, chunk_bytes=10_000) as made:  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def fault() -> type[Fault]:
    return Fault
