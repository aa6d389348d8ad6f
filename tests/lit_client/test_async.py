"""`AsyncClient`, against the real application, and that `Client` is the same without asyncio."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import httpx
import pytest

from lit_client import AsyncClient, Client, ProblemError
from tests.lit_client.generate import TARGET, generated
from tests.lit_client.scripted_worker import RESULT, ScriptedWorker


def test_the_synchronous_client_is_what_the_source_generates() -> None:
    there = {path.name: path.read_text() for path in TARGET.glob("*.py")}
    assert there == generated(), "run `python -m tests.lit_client.generate`"


def test_both_clients_have_the_same_calls() -> None:
    def calls(client: type) -> dict[str, list[str]]:
        named = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}
        return {
            named.get(name, name): list(inspect.signature(call).parameters)
            for name, call in inspect.getmembers(client, inspect.isfunction)
        }

    assert calls(AsyncClient) == calls(Client)


class BreakingTransport(httpx.AsyncHTTPTransport):
    """Loses the answer to the first of each kind of request that changes something."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        self.sent.append(request.method)
        if request.method in {"POST", "PATCH"} and self.sent.count(request.method) == 1:
            await response.aread()
            raise httpx.ReadError("lost")
        return response


def test_a_job_from_upload_to_download_in_one_loop_with_others(
    url: str, worker: ScriptedWorker, teacher: Path, tmp_path: Path
) -> None:
    transport = BreakingTransport()

    async def run() -> None:
        options = {"first_pause": 0.01, "chunk_bytes": 10_000}
        async with AsyncClient(url, transport=transport, **options) as client:  # type: ignore[arg-type]
            upload = await client.wait_inspection((await client.upload(teacher, "teacher")).id, timeout=20)
            request = {"teacher": upload.id, "dataset": {"builtin": "digits"}, "student": {"depth": 14}}
            jobs = await asyncio.gather(*(client.create_job(request) for _ in range(3)))
            done = await asyncio.gather(*(client.wait_job(job.id, timeout=25) for job in jobs))
            assert [job.result for job in done] == [RESULT] * 3
            assert {job.id async for job in client.jobs()} == {job.id for job in jobs}
            (file,) = await client.download(jobs[0].id, tmp_path / "out")
            assert file.path.read_bytes() == b"student"
            assert [event.type async for event in client.follow(jobs[0].id)][-1] == "succeeded"
            with pytest.raises(ProblemError, match="job_x"):
                await client.job("job_x")

    asyncio.run(run())
    assert transport.sent[:5] == ["GET", "POST", "POST", "PATCH", "HEAD"], "after a lost answer the service is asked"
