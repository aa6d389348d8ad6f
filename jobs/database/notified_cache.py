"""Values read from the ledger, kept in memory until a notification says that they may have changed."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from jobs.database.notifications import Listener

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class _Kept(Generic[ValueT]):
    topic: str
    value: ValueT
    until: float
    """By `time.monotonic`."""
    size: int


@dataclass(eq=False)
class _Reading:
    """A read that has begun. It is `stale` once its topic was notified: nobody knows which state the read saw."""

    stale: bool = False
    begun_at: float = field(default_factory=time.monotonic)


class NotifiedCache(Generic[KeyT, ValueT]):
    """The newest values by key, of one event loop. While the listener is not live, it has none.

    A value is as old as the newest notification that has come: a change shows at the latest when its notification
    arrives, milliseconds after the commit.
    """

    def __init__(self, listener: Listener, most: int, size_of: Callable[[ValueT], int] = lambda _: 1) -> None:
        """`most`: the sum of the sizes that are kept, by default the number of values. Those that were not used for
        longest go first."""
        self._listener = listener
        self._most = most
        self._size_of = size_of
        self._size = 0
        """Of all that are kept."""
        self._kept: OrderedDict[KeyT, _Kept[ValueT]] = OrderedDict()
        self._keys: dict[str, set[KeyT]] = defaultdict(set)
        self._readings: dict[str, set[_Reading]] = defaultdict(set)
        listener.observe(self)

    @property
    def is_live(self) -> bool:
        """Whether it would be told of a change."""
        return self._listener.is_live

    def get(self, key: KeyT) -> ValueT | None:
        """None: it must be read."""
        kept = self._kept.get(key)
        if kept is None or not self.is_live:
            return None
        if time.monotonic() >= kept.until:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.value

    @contextmanager
    def reading(self, topic: str) -> Iterator[Reading[KeyT, ValueT]]:
        """Around the read of a value that changes with `topic`; `keep` what was read.

        A value that may have been read before a change, of which the notification came before `keep`, is not kept.
        """
        reading = _Reading()
        self._readings[topic].add(reading)
        try:
            yield Reading(self, topic, reading)
        finally:
            self._readings[topic].discard(reading)
            if not self._readings[topic]:
                del self._readings[topic]

    def changed(self, topic: str) -> None:
        for reading in self._readings.get(topic, ()):
            reading.stale = True
        for key in list(self._keys.get(topic, ())):
            self._drop(key)

    def all_changed(self) -> None:
        for readings in self._readings.values():
            for reading in readings:
                reading.stale = True
        self._kept.clear()
        self._keys.clear()
        self._size = 0

    def keep(self, topic: str, key: KeyT, value: ValueT, until: float) -> None:
        """For a Reading. `until` is a time of `time.monotonic`."""
        self._drop(key)
        kept = _Kept(topic, value, until, self._size_of(value))
        if kept.size > self._most:
            return
        self._kept[key] = kept
        self._keys[topic].add(key)
        self._size += kept.size
        while self._size > self._most:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: KeyT) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        self._size -= kept.size
        keys = self._keys[kept.topic]
        keys.discard(key)
        if not keys:
            del self._keys[kept.topic]


@dataclass(frozen=True)
class Reading(Generic[KeyT, ValueT]):
    """The read of a value for a cache."""

    _cache: NotifiedCache[KeyT, ValueT]
    _topic: str
    _state: _Reading

    @property
    def is_current(self) -> bool:
        """Whether the value will be the newest as far as this process has been told."""
        return not self._state.stale and self._cache.is_live

    def keep(self, key: KeyT, value: ValueT, seconds: float = float("inf")) -> None:
        """Keep the value, unless it may be an old one: for so long after the read began at most."""
        if not self._state.stale:
            self._cache.keep(self._topic, key, value, self._state.begun_at + seconds)
