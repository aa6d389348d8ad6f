"""The service that makes the evidence: `litc serve` with two workers of one thread, its data kept between runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
SECONDS_TO_START = 90.0
SECONDS_TO_STOP = 120.0


@contextmanager
def running_service(folder: Path) -> Iterator[str]:
    """The address of a service whose data lie in `folder`. What it was doing when it was stopped goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "service.log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIT_")}
    environment = {name: value for name, value in kept.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    environment |= {"LIT_DATA_DIR": str(folder / "data"), "LIT_THREADS": "1"}
    command = [sys.executable, "-m", "lit_client.command", "serve", "--port", "0", "--workers", str(WORKERS)]
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches this process alone, which then stops the service in order.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield _address(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"LIT listens on (http://\S+)", log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.1)
    raise SystemExit(f"the service did not start:\n{log.read_text(errors='replace')[-5000:]}")
