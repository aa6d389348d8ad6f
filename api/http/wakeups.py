"""Wake-ups for the workers, sent from a thread of their own: a slow broker holds up nobody."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

from jobs.broker.wakeups import Wakeups
from jobs.side_task import SideTask

PAUSE_SECONDS = 1.0
"""After a queue was full, or the broker away. Workers that read a full queue have enough to do for so long."""
STOP_SECONDS = 5.0


class BackgroundWakeups:
    """Sends what it is asked for as soon as it can. What comes meanwhile is sent together."""

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups
        self._lock = threading.Lock()
        self._asked: Counter[str] = Counter()
        self._new = threading.Event()
        self._task = SideTask("wake-ups", self._send_until)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        """What was asked for before is sent."""
        self._task.ask_to_stop()
        self._new.set()
        self._task.stop(STOP_SECONDS)

    def send(self, queues: Iterable[str]) -> None:
        """A wake-up for each of these queues, of which one may be there several times. From any thread."""
        with self._lock:
            self._asked.update(queues)
        self._new.set()

    def _send_until(self, stopped: threading.Event) -> None:
        while not stopped.is_set():
            self._new.wait()
            if not self._send_asked():
                stopped.wait(PAUSE_SECONDS)
        self._send_asked()

    def _send_asked(self) -> bool:
        """Whether all queues have room for more."""
        self._new.clear()
        with self._lock:
            asked, self._asked = self._asked, Counter()
        have_room = [self._wakeups.send(queue, count) for queue, count in asked.items()]
        return all(have_room)
