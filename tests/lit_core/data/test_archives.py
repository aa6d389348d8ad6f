"""Hostile archives."""

import io
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_core.data import DatasetError, Interface, Limits, load_dataset
from lit_core.data.errors import shown
from lit_core.data.readers.archives import walk
from lit_spec import DatasetRequest

LIMITS = Limits(members=20, member_bytes=10_000, total_bytes=50_000, ratio=20, ratio_from_bytes=30_000)


def read_all(path: Path, limits: Limits = LIMITS) -> dict[str, bytes]:
    return {member.name: member.read() for member in walk(path, limits) if not member.is_folder}


def refusal(path: Path, limits: Limits = LIMITS) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        read_all(path, limits)
    return caught.value


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tarred(
    path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz", fmt: int = tarfile.PAX_FORMAT
) -> Path:
    with tarfile.open(path, mode, format=fmt) as archive:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def info(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.png", "a/../../x.png", "a\\..\\x.png", "C:/x.png", "a/.."])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    for path in (zipped(tmp_path / "zip", (name, b"1")), tarred(tmp_path / "tar", (info(name), b"1"))):
        error = refusal(path)
        assert "relative names" in error.detail
        assert error.member == shown(name)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_tar_members_that_are_no_files(tmp_path: Path, kind: bytes) -> None:
    error = refusal(tarred(tmp_path / "tar", (info("a.png", kind, "/etc/passwd"), b"")))
    assert error.member == "a.png"
    assert "plain files" in error.detail


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_zip_members_that_are_no_files(tmp_path: Path, kind: int) -> None:
    link = zipfile.ZipInfo("a.png")
    link.external_attr = (kind | 0o777) << 16
    assert refusal(zipped(tmp_path / "zip", (link, b"/etc/passwd"))).member == "a.png"


def test_limits(tmp_path: Path) -> None:
    noise = bytes(range(256)) * 39
    many = [(f"{i}.png", b"1") for i in range(21)]
    large = [("0.png", b"1"), ("large.png", bytes(10_001))]
    heavy = [(f"{i}.png", noise) for i in range(6)]
    zeros = [(f"{i}.png", bytes(9_900)) for i in range(4)]
    for members, words, member in (
        (many, "more than 20 members", None),
        (large, "at most 10000", "large.png"),
        (heavy, "more than 50000 bytes", None),
        (zeros, "bomb", None),
    ):
        plain = members in (many, heavy)
        stored = zipfile.ZIP_STORED if plain else zipfile.ZIP_DEFLATED
        mode = "w" if plain else "w:gz"
        paths = [
            zipped(tmp_path / "zip", *members, compression=stored),
            tarred(tmp_path / "tar", *((info(n), c) for n, c in members), mode=mode),
        ]
        for path in paths:
            error = refusal(path)
            assert words in error.detail
            assert error.member == member


def test_a_zip_directory_that_would_fill_the_memory(tmp_path: Path) -> None:
    path = zipped(tmp_path / "zip", *((f"{i}.png", b"1") for i in range(15)))
    assert len(read_all(path)) == 15
    assert "directory" in refusal(path, Limits(directory_bytes=500)).detail


def test_a_zip_that_lies_about_a_size(tmp_path: Path) -> None:
    path = zipped(tmp_path / "zip", ("a.png", bytes(5000)))
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")
    for size in (10, 9000):
        struct.pack_into("<L", content, entry + 24, size)
        path.write_bytes(content)
        error = refusal(path)
        assert error.member == "a.png"
        assert "damaged" in error.detail or "cut off" in error.detail


def test_an_encrypted_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "zip", ("a.png", b"1"))
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "password" in refusal(path).detail


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_tar_headers_of_any_size(tmp_path: Path, kind: bytes) -> None:
    header = info("x", kind)
    header.size = 1 << 33
    (tmp_path / "tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "extended tar header" in refusal(tmp_path / "tar").detail


def test_a_broken_tar_header_is_not_the_end(tmp_path: Path) -> None:
    members = [(info(f"{i}.png"), bytes([i]) * 600) for i in range(4)]
    path = tarred(tmp_path / "tar", *members, mode="w", fmt=tarfile.USTAR_FORMAT)
    assert len(read_all(path)) == 4
    content = bytearray(path.read_bytes())
    content[2 * (512 + 1024)] ^= 0xFF
    path.write_bytes(content)
    assert "broken tar header" in refusal(path).detail


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_cut_tars(tmp_path: Path, mode: str) -> None:
    path = tarred(tmp_path / "tar", *((info(f"{i}.png"), bytes(range(200))) for i in range(4)), mode=mode)
    content = path.read_bytes()
    cut = 1300 if mode == "w" else len(content) // 2
    path.write_bytes(content[:cut])
    assert "damaged" in refusal(path).detail


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = b"a/\xff\xfe.png".decode("utf-8", "surrogateescape")
    path = tarred(tmp_path / "tar", (info(name), b"1"), fmt=tarfile.GNU_FORMAT)
    error = refusal(path)
    assert "not UTF-8" in error.detail
    error.detail.encode("utf-8")


def test_names_are_shown_harmlessly() -> None:
    assert shown("a\x1b[2Jb\n") == "a\\x1b[2Jb\\n"
    assert shown("é/犬.png") == "é/犬.png"
    assert len(shown("x" * 10_000)) == 201


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_garbled_archives_are_read_or_refused_but_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["zip", "w", "w:gz", "w:xz"]))
    files = [(f"{label}/{i}.png", b"\x89PNG" + bytes(40)) for label in "ab" for i in range(3)]
    path = tmp_path / "dataset"
    if kind == "zip":
        zipped(path, *files)
    else:
        tarred(path, *((info(name), content) for name, content in files), mode=kind)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    # Its images are no images, so that whatever is left of it is refused; by a DatasetError and nothing else.
    with pytest.raises(DatasetError):
        load_dataset(DatasetRequest(upload="upl_x"), None, path, Interface(1, 2), limits=LIMITS)
