"""What the evidence needs from PyPI and Debian: fetched once by pip and apt-get, and checked against a hash."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    WHEEL = "wheel"
    SDIST = "sdist"
    """pip runs a source package's setup to learn its dependencies, but only after it has compared the hash."""
    DEBIAN = "debian"


@dataclass(frozen=True)
class Package:
    """One file of a package index."""

    kind: Kind
    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        separator = "=" if self.kind == Kind.DEBIAN else "=="
        return f"{self.name}{separator}{self.version}"


class FetchFailed(Exception):
    """A package could not be fetched; the message says why and what to do."""


def fetched(package: Package, cache: Path) -> Path:
    """The package's file in the cache, downloaded if it isn't there yet. Raises FetchFailed."""
    cache = cache.resolve()
    file = cache / f"{package.name}-{package.version.replace(':', '_')}.{package.kind}"
    if file.exists():
        _check_hash(file, package, f"delete {file}, so that it is downloaded again")
        return file
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        download = _apt_download if package.kind == Kind.DEBIAN else _pip_download
        found = download(package, Path(folder))
        _check_hash(found, package, "use the version that the hash was made of, or correct the hash")
        found.replace(file)
    return file


def unpacked(package: Package, cache: Path) -> Path:
    """A folder in the cache with the files of a wheel or a Debian package. Raises FetchFailed."""
    file = fetched(package, cache)
    folder = file.with_suffix("")
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=file.parent) as temporary:
            target = Path(temporary) / "files"
            _unpack(package, file, target)
            target.replace(folder)
    return folder


def member(archive: bytes, name: str) -> bytes:
    """The file of that name, in whatever folder of a .tar.gz."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        (found,) = [member for member in opened.getmembers() if member.name.endswith(f"/{name}")]
        file = opened.extractfile(found)
        if file is None:
            raise ValueError(f"{name} is no file")
        return file.read()


def _pip_download(package: Package, folder: Path) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package} --hash=sha256:{package.sha256}\n")
    form = ["--no-binary" if package.kind == Kind.SDIST else "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", *form]
    _run([*command, "--require-hashes", "-r", str(wanted), "-d", str(folder)], package, folder, "its message says why")
    wanted.unlink()
    return _only_file(folder, package)


def _apt_download(package: Package, folder: Path) -> Path:
    advice = f"run apt-get update, and see with `apt-cache policy {package.name}` whether the release has this version"
    _run(["apt-get", "download", "--quiet", str(package)], package, folder, advice)
    return _only_file(folder, package)


def _unpack(package: Package, file: Path, target: Path) -> None:
    if package.kind == Kind.DEBIAN:
        _run(["dpkg-deb", "--extract", str(file), str(target)], package, file.parent, "its message says why")
        return
    with zipfile.ZipFile(file) as archive:
        archive.extractall(target)  # noqa: S202 - its hash is known


def _run(command: list[str], package: Package, folder: Path, advice: str) -> None:
    if shutil.which(command[0]) is None:
        raise FetchFailed(f"{package} needs {command[0]}, which this machine lacks: use Debian or the project's image")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tool = "pip" if "pip" in command else command[0]
        raise FetchFailed(f"{tool} could not get {package}: {advice}\n{done.stderr.strip() or done.stdout.strip()}")


def _only_file(folder: Path, package: Package) -> Path:
    files = [file for file in folder.iterdir() if file.is_file()]
    if len(files) != 1:
        raise FetchFailed(f"{package} is {len(files)} files instead of one: {', '.join(file.name for file in files)}")
    return files[0]


def _check_hash(file: Path, package: Package, advice: str) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != package.sha256:
        raise FetchFailed(f"{package} has the sha256 {found} instead of {package.sha256}: {advice}")
