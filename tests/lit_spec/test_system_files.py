"""Which files no data set has of its own."""

from __future__ import annotations

import pytest

from lit_spec.system_files import is_system_file

OF_MACOS = (".DS_Store", "__MACOSX/train/._1.png", "cats/._1.png", ".Spotlight-V100/Store-V2/x", "cats/Icon\r")
OF_WINDOWS = (
    *("cats/Thumbs.db", "ehthumbs.db", "EHTHUMBS_VISTA.DB", "Desktop.ini", "$RECYCLE.BIN/1.png"),
    "System Volume Information/x",
)
OF_OTHERS = (
    *("@eaDir/1.png", "photos/#recycle/1.png", ".directory", "lost+found/1.png", ".Trash-1000/files/1.png"),
    *(".git/HEAD", ".gitignore", ".svn/entries", ".hg/x", "src/__pycache__/x.pyc", ".ipynb_checkpoints/1.png"),
)


@pytest.mark.parametrize("path", [*OF_MACOS, *OF_WINDOWS, *OF_OTHERS])
def test_files_of_systems_and_tools(path: str) -> None:
    assert is_system_file(path)


@pytest.mark.parametrize("path", ["./cats/1.png", "cats//1.png", "Icon/1.png", "cats/thumbs.png", "recycle/1.png", ""])
def test_files_of_data_sets(path: str) -> None:
    assert not is_system_file(path)
