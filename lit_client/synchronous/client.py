"""`Client`: everything that the service offers, as typed methods.

```
with Client() as client:
    teacher = client.upload("teacher.safetensors", "teacher")
    job = client.create_job({"teacher": teacher.id, "dataset": {"builtin": "digits"}, "student": {"depth": 14}})
    job = client.wait_job(job.id)
    client.download(job.id, "student/")
```
"""

# Generated from lit_client/asynchronous by `python -m tests.lit_client.generate`: change the source instead.

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx

from lit_client.synchronous.account_calls import AccountCalls
from lit_client.synchronous.compression import Compression
from lit_client.synchronous.connection import Connection
from lit_client.synchronous.study_calls import StudyCalls
from lit_client.synchronous.uploads import CHUNK_BYTES


class Client(Compression, StudyCalls, AccountCalls):
    """A synchronous client of one service. Don't share one between threads.

    `base_url` and `api_key` default to the environment's LIT_URL and LIT_API_KEY. Requests that are safe to
    repeat are repeated `retries` times with growing pauses from `first_pause` seconds on. `timeout` is how long
    the service may take to answer, in seconds. `transport` replaces httpx's own, as in `httpx.Client`. Every
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        connection = Connection(
            base_url, api_key, retries=retries, timeout=timeout, first_pause=first_pause, transport=transport
        )
        super().__init__(connection, chunk_bytes)

    @property
    def base_url(self) -> str:
        return self._connection.base_url

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
