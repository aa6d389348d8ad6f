"""The folder of cached teachers: its bounds, and what is removed when."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from lit_core.training.caching import folder as folder_module
from lit_core.training.caching.folder import CacheFolder, NoRoom, size_of
from tests.small_disks import MORE_THAN_A_DISK, files_up_to

CHECKOUT = Path(__file__).parents[4]


def fill(folder: CacheFolder, name: str, size: int, age: float = 0) -> None:
    """An entry with a file of this size that nobody has open, last used so many seconds ago."""
    with folder.opened(name) as entry:
        folder.make_file(entry / "values", size)
    used = (folder.root / name / "used").stat().st_mtime
    os.utime(folder.root / name / "used", (used - age, used - age))


def entries(folder: CacheFolder) -> list[str]:
    return sorted(path.name for path in folder.root.iterdir() if path.is_dir())


def test_the_oldest_entries_make_room_and_never_one_in_use(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", 10_000, 10_000)
    with ExitStack() as users:
        for name, age in (("oldest, in use", 400), ("old", 300), ("new", 100)):
            fill(folder, name, 3000, age)
        users.enter_context(folder.opened("oldest, in use"))
        fill(folder, "newest", 3000)
        assert entries(folder) == ["new", "newest", "oldest, in use"]
        with folder.opened("large") as entry:
            folder.make_file(entry / "values", 6000)
        assert entries(folder) == ["large", "oldest, in use"]
        # What it is made for is in use itself.
        with folder.opened("large") as entry, pytest.raises(NoRoom, match="LIT_TEACHER_CACHE_BYTES"):
            folder.make_file(entry / "more", 2000)
    assert (folder.root / "large" / "values").stat().st_size == 6000


def test_an_entry_of_another_process_is_in_use(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", 5000, 5000)
    fill(folder, "other", 3000)
    program = (
        "import sys, pathlib\n"
        "from lit_core.training.caching.folder import CacheFolder\n"
        f"with CacheFolder(pathlib.Path({str(folder.root)!r}), 5000, 5000).opened('other'):\n"
        "    print('open', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(NoRoom):
            fill(folder, "mine", 3000)
        assert "other" in entries(folder)
        # A process that was killed uses nothing.
        process.kill()
        process.wait()
        fill(folder, "mine", 3000)
        assert entries(folder) == ["mine"]
    finally:
        process.kill()
        process.communicate()


def test_one_entry_has_a_bound_of_its_own_and_files_are_whole(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", 100_000, 5000)
    assert folder.room("one") == 5000
    with folder.opened("one") as entry:
        folder.make_file(entry / "values", 4000)
        # All of it is allocated, so that a full disk can't end a process that writes into it.
        assert (entry / "values").stat().st_blocks * 512 >= 4000
        (entry / "values").write_bytes(b"x" * 4000)
        folder.make_file(entry / "values", 4000)
        assert (entry / "values").read_bytes() == b"x" * 4000, "what is there stays"
        with pytest.raises(NoRoom, match="one job"):
            folder.make_file(entry / "more", 4000)
    assert sorted(path.name for path in (folder.root / "one").iterdir()) == ["boot", "used", "values"]


def test_a_full_disk_leaves_no_room(tmp_path: Path) -> None:
    fill(CacheFolder(tmp_path / "cache", 100_000, 100_000), "old", 3000)
    folder = CacheFolder(tmp_path / "cache", 100_000, 100_000, MORE_THAN_A_DISK)
    assert folder.room("new") == 0
    with folder.opened("new") as entry, pytest.raises(NoRoom):
        folder.make_file(entry / "values", 3000)
    assert entries(folder) == ["new"], "what nobody uses was given up first"


def test_there_is_no_room_where_others_are_in_use(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", 10_000, 8000)
    with folder.opened("shared") as shared, folder.opened("other") as other:
        folder.make_file(shared / "values", 3000)
        folder.make_file(other / "values", 3500)
        used, mine = (sum(path.stat().st_size for path in entry.iterdir()) for entry in (other, shared))
        assert folder.room("shared") == 10_000 - used
        assert folder.room("new") == 10_000 - used - mine
    assert folder.room("new") == 8000


def test_nothing_is_removed_where_what_is_in_use_leaves_no_room(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", 10_000, 10_000)
    fill(folder, "idle", 2000)
    with folder.opened("used") as used, folder.opened("new") as new:
        folder.make_file(used / "values", 6000)
        with pytest.raises(NoRoom):
            folder.make_file(new / "values", 5000)
        assert entries(folder) == ["idle", "new", "used"]


def test_what_is_too_much_is_removed_unless_it_is_in_use(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", 10_000, 10_000)
    for name, age in (("used", 300), ("old", 200), ("new", 100)):
        fill(folder, name, 3000, age)
    folder.tidy()
    assert entries(folder) == ["new", "old", "used"]
    with folder.opened("used"):
        CacheFolder(folder.root, 7000, 7000).tidy()
        assert entries(folder) == ["new", "used"]
        CacheFolder(folder.root, 0, 0).tidy()
        assert entries(folder) == ["used"]
    CacheFolder(folder.root, 0, 0).tidy()
    assert entries(folder) == []


def test_after_a_reboot_an_entry_is_empty(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", 100_000, 100_000)
    fill(folder, "one", 3000)
    with folder.opened("one") as entry:
        assert (entry / "values").exists()
    (folder.root / "one" / "boot").write_text("another boot")
    with folder.opened("one") as entry:
        assert sorted(path.name for path in entry.iterdir()) == ["boot", "used"]


def test_how_its_use_ended_is_told_although_an_entry_was_removed_meanwhile(tmp_path: Path) -> None:
    """As by an operator who needs room."""
    folder = CacheFolder(tmp_path / "cache", 100_000, 100_000)
    with pytest.raises(LookupError, match="how it ended"), folder.opened("one"):  # noqa: PT012
        shutil.rmtree(folder.root)
        raise LookupError("how it ended")


def test_a_file_that_was_not_finished_takes_no_room(tmp_path: Path) -> None:
    """As of a process that was killed while it made the file."""
    folder = CacheFolder(tmp_path / "cache", 5000, 5000)
    with folder.opened("one") as entry:
        (entry / "other.part").write_bytes(bytes(4000))
        folder.make_file(entry / "values", 4000)
        assert not list(entry.glob("*.part"))


def test_a_file_that_the_disk_has_no_room_for_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another program has filled the disk since its room was looked at."""
    folder = CacheFolder(tmp_path / "cache", 100_000, 100_000)
    monkeypatch.setattr(folder_module, "most_bytes_of_file", lambda: 1 << 62)
    with folder.opened("one") as entry:
        before = sorted(entry.iterdir())
        with files_up_to(1000), pytest.raises(OSError, match="File too large"):
            folder.make_file(entry / "values", 4000)
        assert sorted(entry.iterdir()) == before


def test_a_file_that_vanishes_while_an_entry_is_measured_hides_no_other(tmp_path: Path) -> None:
    """As one that another process finishes, which gives it another name."""
    folder = CacheFolder(tmp_path / "cache", 100_000, 100_000)
    with folder.opened("one") as entry:
        folder.make_file(entry / "values", 3000)
        (entry / "more.part").symlink_to("nowhere")
        assert 3000 < size_of(entry) < 3200
