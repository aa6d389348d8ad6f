"""Wake-ups for the workers, sent after the answer: a slow broker holds up nobody."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from fastapi import BackgroundTasks, Depends

from api.http.context import InContext


class BackgroundWakeups:
    """Sends wake-ups to queues once this request has been answered."""

    def __init__(self, background: BackgroundTasks, context: InContext) -> None:
        self._background = background
        self._send = context.wakeups

    def send(self, queues: Iterable[str]) -> None:
        for queue in queues:
            self._background.add_task(self._send, queue)


InBackground = Annotated[BackgroundWakeups, Depends()]
