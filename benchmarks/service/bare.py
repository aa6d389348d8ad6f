"""The bare framework: what FastAPI and uvicorn can do at most, with constant answers and files as they come.

`python -m benchmarks.service.bare FOLDER` serves on a free port of 127.0.0.1, with the service's own settings of
uvicorn, and prints the port.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from service import http_server

BLOCK = 1 << 20
STORED = "stored"
ANSWER: dict[str, Any] = {
    "id": "job_abcdefghijklmnopqrstuvwxyz",
    "state": "succeeded",
    "spec": {f"field_{number}": [number, str(number), None] for number in range(100)},
}
"""About as large as a job."""


def create_app(folder: Path) -> FastAPI:
    app = FastAPI()

    @app.get("/constant")
    async def constant() -> Response:
        return JSONResponse(ANSWER)

    @app.get("/unchanged")
    async def unchanged() -> Response:
        return Response(status_code=304, headers={"ETag": '"constant"'})

    @app.put("/file")
    async def receive(request: Request) -> Response:
        """To disk, durably, block by block, as a service must that promises to keep it."""
        with (folder / STORED).open("wb") as file:
            gathered = bytearray()
            async for chunk in request.stream():
                gathered += chunk
                if len(gathered) >= BLOCK:
                    await asyncio.to_thread(file.write, bytes(gathered))
                    gathered.clear()
            await asyncio.to_thread(file.write, bytes(gathered))
            await asyncio.to_thread(_flush, file.fileno())
        return Response(status_code=204)

    @app.get("/file")
    async def send() -> Response:
        path = folder / STORED
        return StreamingResponse(_blocks(path), headers={"Content-Length": str(path.stat().st_size)})

    return app


def _flush(descriptor: int) -> None:
    os.fsync(descriptor)


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while block := await asyncio.to_thread(file.read, BLOCK):
            yield block


def main() -> int:
    with http_server.listen("127.0.0.1", 0) as listening:
        print(listening.getsockname()[1], flush=True)
        http_server.run(create_app(Path(sys.argv[1])), listening)
    return 0


if __name__ == "__main__":
    sys.exit(main())
