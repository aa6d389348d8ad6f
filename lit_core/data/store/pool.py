"""Runs the decoding of many images over several processes, in order and with bounded memory."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lit_core.data.errors import DatasetError, NotOfTheData
from lit_core.data.store.decoder import Job, RowWriter
from lit_core.data.store.encoded import Encoded

CHUNK_IMAGES = 64
CHUNK_BYTES = 8 << 20
"""Of contents that are sent to a decoder at once."""
HELD_BYTES = 64 << 20
"""Of contents that wait for a decoder. One chunk may always wait, however large it is."""
WAITING = 4
"""Chunks that are sent or wait for each process."""
CHECKOUT = str(Path(__file__).parents[3])
"""The folder of lit_core, which may have been found by the working folder."""

Chunk = list[Encoded]


class DecoderLost(NotOfTheData):
    """A decoding process ended, as when the machine's memory ran out."""


@contextmanager
def opened_decoders(job: Job, processes: int) -> Iterator[Decoders]:
    """With one process it is this one."""
    decoders = Decoders(job, processes)
    try:
        yield decoders
    finally:
        decoders.close()


class Decoders:
    def __init__(self, job: Job, processes: int) -> None:
        self._threads = ThreadPoolExecutor(max(1, processes), thread_name_prefix="decoders")
        self._window = WAITING * processes
        self._idle: SimpleQueue[_Process | RowWriter] = SimpleQueue()
        self._all: list[_Process | RowWriter] = []
        for _ in range(processes):
            decoder = RowWriter(job) if processes == 1 else _Process(job)
            self._all.append(decoder)
            self._idle.put(decoder)

    def run(self, images: Iterable[Encoded]) -> Iterator[tuple[Chunk, int | None]]:
        """The images in pieces and in order, each with the place of the first one that could not be decoded.

        A DatasetError of `images` is raised after the pieces before it.
        """
        waiting: deque[tuple[Chunk, Future[int | None]]] = deque()
        held = 0
        try:
            for chunk in _chunks(images):
                size = _held_bytes(chunk)
                while waiting and (len(waiting) >= self._window or held + size > HELD_BYTES):
                    done, answer = waiting.popleft()
                    held -= _held_bytes(done)
                    yield done, answer.result()
                waiting.append((chunk, self._threads.submit(self._write, chunk)))
                held += size
        except DatasetError:
            yield from _answered(waiting)
            raise
        yield from _answered(waiting)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._all:
            decoder.close()

    def _write(self, chunk: Chunk) -> int | None:
        decoder = self._idle.get()
        try:
            return decoder.write(chunk)
        finally:
            self._idle.put(decoder)


class _Process:
    """A process that decodes. It ends with its input, and so with this process."""

    def __init__(self, job: Job) -> None:
        # Started anew and not forked: torch's threads would not survive a fork.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lit_core.data.store.decoder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([CHECKOUT, *filter(None, sys.path)])},
        )
        self._send(job)

    def write(self, images: Sequence[Encoded]) -> int | None:
        """As `RowWriter.write`, and raises DecoderLost."""
        self._send(images)
        assert self._process.stdout is not None  # noqa: S101
        try:
            answer: int | OSError | None = pickle.load(self._process.stdout)  # noqa: S301  # from our own process
        except (EOFError, pickle.UnpicklingError) as failure:
            raise self._lost() from failure
        if isinstance(answer, OSError):
            raise answer
        return answer

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # it has ended already
        self._process.wait()

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None  # noqa: S101
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError as failure:
            raise self._lost() from failure

    def _lost(self) -> DecoderLost:
        return DecoderLost(f"a process that decodes images ended with the code {self._process.wait()}")


def _chunks(images: Iterable[Encoded]) -> Iterator[Chunk]:
    chunk: Chunk = []
    try:
        for image in images:
            chunk.append(image)
            if len(chunk) >= CHUNK_IMAGES or _held_bytes(chunk) >= CHUNK_BYTES:
                yield chunk
                chunk = []
    except DatasetError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _held_bytes(chunk: Chunk) -> int:
    return sum(image.held_bytes for image in chunk)


def _answered(waiting: deque[tuple[Chunk, Future[int | None]]]) -> Iterator[tuple[Chunk, int | None]]:
    while waiting:
        chunk, answer = waiting.popleft()
        yield chunk, answer.result()
