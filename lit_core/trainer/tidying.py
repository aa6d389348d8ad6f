"""`python -m lit_core.trainer.tidying`: removes decoded data sets and cached teachers that are old or take too much.

The worker runs it beside its jobs. What a job uses is never removed. It imports no torch: it starts in a moment.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lit_core.data.store.entry import DataStore
from lit_core.training.caching.folder import CacheFolder

SECONDS_OF_DAY = 86_400


def main(arguments: Sequence[str] | None = None) -> int:
    """Folders that don't exist are left alone. A bound of 0 removes all."""
    parser = argparse.ArgumentParser(prog="python -m lit_core.trainer.tidying", description=__doc__)
    parser.add_argument("--data-store", type=Path, required=True)
    parser.add_argument("--data-store-bytes", type=int, required=True)
    parser.add_argument("--data-store-days", type=float, required=True)
    parser.add_argument("--teacher-cache", type=Path, required=True)
    parser.add_argument("--teacher-cache-bytes", type=int, required=True)
    parser.add_argument("--disk-reserve-bytes", type=int, required=True)
    asked = parser.parse_args(arguments)
    reserve = asked.disk_reserve_bytes
    if asked.data_store.is_dir():
        seconds = asked.data_store_days * SECONDS_OF_DAY
        DataStore(asked.data_store, asked.data_store_bytes, seconds, reserve_bytes=reserve).tidy()
    if asked.teacher_cache.is_dir():
        CacheFolder(asked.teacher_cache, asked.teacher_cache_bytes, asked.teacher_cache_bytes, reserve).tidy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
