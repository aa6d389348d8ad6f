"""The files of an entry: what they hold, and what they take of a process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_core.training.caching.folder import CacheFolder
from lit_core.training.caching.pieces import Piece
from lit_core.training.caching.store import Entry
from lit_spec import CachedType

PIECE = Piece("output", (3,), torch.float32)
MIB = 1 << 20


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("dtype", CachedType)
def test_what_one_process_writes_another_one_reads_at_once(tmp_path: Path, dtype: CachedType) -> None:
    folder = CacheFolder(tmp_path / "cache", MIB, MIB)
    with folder.opened("one") as path:
        writer, reader = (Entry(folder, path, samples=5, dtype=dtype) for _ in range(2))
        values = torch.tensor([[1.0, -2.5, 0.0], [4.0, 0.125, 8.0]])
        rows = torch.tensor([4, 1])
        written, read = writer.file(PIECE, view=0), reader.file(PIECE, view=0)
        writer.write(written, rows, values.to(written.values.dtype))
        assert reader.are_there([read], torch.arange(5)).tolist() == [False, True, False, False, True]
        assert torch.equal(read.values[rows].float(), values)
        writer.close()
        reader.close()


def test_views_keep_no_files_open(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", MIB, MIB)
    with folder.opened("one") as path:
        entry = Entry(folder, path, samples=5, dtype=CachedType.FLOAT16)
        before = open_files()
        files = [entry.file(PIECE, view) for view in range(40)]
        assert len({file.values.data_ptr() for file in files}) == 40
        assert open_files() == before
        entry.close()


def test_a_file_that_can_not_be_mapped_is_an_error_of_the_disk(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", MIB, MIB)
    with folder.opened("one") as path:
        entry = Entry(folder, path, samples=5, dtype=CachedType.FLOAT16)
        (path / "output-0").mkdir()
        with pytest.raises(OSError, match="output-0"):
            entry.file(PIECE, view=0)
        entry.close()
