"""`AsyncClient`: everything that the service offers, as typed methods.

```
async with AsyncClient() as client:
    teacher = await client.upload("teacher.safetensors", "teacher")
    job = await client.create_job({"teacher": teacher.id, "dataset": {"builtin": "digits"}, "student": {"depth": 14}})
    job = await client.wait_job(job.id)
    await client.download(job.id, "student/")
```
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx

from lit_client.asynchronous.account_calls import AsyncAccountCalls
from lit_client.asynchronous.compression import AsyncCompression
from lit_client.asynchronous.connection import AsyncConnection
from lit_client.asynchronous.study_calls import AsyncStudyCalls
from lit_client.asynchronous.uploads import CHUNK_BYTES


class AsyncClient(AsyncCompression, AsyncStudyCalls, AsyncAccountCalls):
    """An asynchronous client of one service. It belongs to one event loop.

    `base_url` and `api_key` default to the environment's LIT_URL and LIT_API_KEY. Requests that are safe to
    repeat are repeated `retries` times with growing pauses from `first_pause` seconds on. `timeout` is how long
    the service may take to answer, in seconds. `transport` replaces httpx's own, as in `httpx.AsyncClient`. Every
    method raises a LitError when it fails.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        retries: int = 8,
        timeout: float = 60.0,
        first_pause: float = 0.25,
        chunk_bytes: int = CHUNK_BYTES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        connection = AsyncConnection(
            base_url, api_key, retries=retries, timeout=timeout, first_pause=first_pause, transport=transport
        )
        super().__init__(connection, chunk_bytes)

    @property
    def base_url(self) -> str:
        return self._connection.base_url

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
