"""Images that are decoded into files on the disk: the same pixels as in memory, by all cores, once."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from lit_core.data import Dataset, DatasetError, Interface, Limits, load_dataset
from lit_core.data.errors import Stopped
from lit_core.data.pictures import Frame, framed, to_picture
from lit_core.data.pixels import fit, frame_of, image_to_raw
from lit_core.data.preprocessing import measured
from lit_core.data.readers.archives import walk
from lit_core.data.store import decoding, pool
from lit_core.data.store.decoder import Job
from lit_core.data.store.encoded import Encoded
from lit_core.data.store.entry import DataStore
from lit_core.data.store.rows import StoredRows, hash_of, pieces
from lit_spec import DatasetRequest, Resampling, Split
from tests.small_disks import MORE_THAN_A_DISK, files_up_to, mounted

CHECKOUT = Path(__file__).parents[3]
SAMPLES = 60


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is too small for the store, for a second process and for several pieces."""
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(decoding, "PROCESS_BYTES", 1)
    monkeypatch.setattr(pool, "CHUNK_IMAGES", 4)


def store_of(folder: Path, processes: int = 2, limit: int = 1 << 40, seconds: float | None = None) -> DataStore:
    return DataStore(folder / "store", limit, seconds, processes)


def picture(number: int, side: int = 12) -> Image.Image:
    values = np.random.default_rng(number).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def contents(samples: int = SAMPLES) -> dict[str, bytes]:
    """Image folders of two classes, in an order that isn't the one of the rows."""
    names = [f"{'ab'[number % 2]}/{number:03}.png" for number in range(samples)]
    return {name: encoded(picture(number)) for number, name in reversed(list(enumerate(names)))}


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes], mode: str) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def load(
    path: Path, store: DataStore | None, watch: Callable[[int, int], None] | None = None, **request: object
) -> Dataset:
    asked = DatasetRequest(upload="upl_x", **{"size": [8, 8], **request})
    return load_dataset(asked, None, path, Interface(3, 2), store=store, watch=watch)


def stored(dataset: Dataset, split: Split = Split.TRAIN) -> StoredRows:
    x = dataset.splits[split].x
    assert isinstance(x, StoredRows)
    return x


# --- pixels -------------------------------------------------------------------------------------------------


def kinds_of_images() -> Iterator[Image.Image]:
    colours = picture(1, 40)
    turned = picture(2, 30)
    turned.getexif()[0x0112] = 6
    yield from (colours, turned, colours.convert("L"), colours.convert("P"), colours.convert("CMYK"))
    yield colours.convert("RGBA")
    yield Image.fromarray(np.arange(35 * 50, dtype=np.uint16).reshape(35, 50) * 37)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resampling", list(Resampling))
@pytest.mark.parametrize("geometry", [{}, {"crop": 20}, {"resize": 24}, {"resize": [25, 31], "crop": 28}])
def test_pixels_are_those_of_arrays(channels: int, resampling: Resampling, geometry: dict[str, object]) -> None:
    """Pillow resizes channels together as it resizes each alone."""
    request = DatasetRequest(upload="u", size=[22, 17], resampling=resampling, **geometry)
    for image in kinds_of_images():
        made = framed(to_picture(image, channels), frame_of(request))
        wanted = fit(image_to_raw(image, channels)[None], request)[0]
        found = np.array(made).reshape(22, 17, channels)
        assert np.array_equal(found, wanted.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", ["stored", "deflated", "bzip2", "tar", "tar.gz"])
def test_every_archive_gives_the_same_rows(tmp_path: Path, kind: str, processes: int) -> None:
    files, path = contents(), tmp_path / "archive"
    methods = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2}
    if kind in methods:
        zipped(path, files, methods[kind])
    else:
        tarred(path, files, "w" if kind == "tar" else "w:gz")
    found = load(path, store_of(tmp_path, processes))
    request = DatasetRequest(upload="u", size=[8, 8])
    rows = torch.cat([stored(found, split)[:] for split in Split])
    y = torch.cat([found.splits[split].y for split in Split])
    assert len(rows) == SAMPLES
    wanted = {
        fit(image_to_raw(picture(number), 3)[None], request)[0].numpy().tobytes(): number % 2
        for number in range(SAMPLES)
    }
    assert {row.contiguous().numpy().tobytes(): int(label) for row, label in zip(rows, y, strict=True)} == wanted


def test_small_data_is_a_tensor_with_the_same_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip", contents())
    large = load(path, store_of(tmp_path))
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1 << 20)
    small = load(path, None)
    for split in Split:
        x = small.splits[split].x
        assert isinstance(x, torch.Tensor)
        assert torch.equal(x, large.splits[split].x[:])
        assert torch.equal(small.splits[split].y, large.splits[split].y)
    assert (small.preprocessing, small.classes, small.notes) == (large.preprocessing, large.classes, large.notes)


def test_mean_and_deviation_are_those_of_a_tensor(tmp_path: Path) -> None:
    train = stored(load(zipped(tmp_path / "a.zip", contents()), store_of(tmp_path)))
    assert measured(train, 255.0) == measured(train[:].contiguous(), 255.0)
    black = {f"{'ab'[number % 2]}/{number}.png": encoded(Image.new("RGB", (8, 8))) for number in range(30)}
    dark = stored(load(zipped(tmp_path / "b.zip", black), store_of(tmp_path)))
    assert measured(dark, 255.0) == ([0.0] * 3, [1.0] * 3)


def test_the_store_notes_samples_that_are_in_two_splits(tmp_path: Path) -> None:
    files = {
        f"{split}/{'ab'[n % 2]}/{n}.png": encoded(picture(n % 7))
        for split in ("train", "val", "test")
        for n in range(14)
    }
    found = load(zipped(tmp_path / "a.zip", files), store_of(tmp_path))
    assert any('7 different samples of the split "test"' in note for note in found.notes)
    train = stored(found)
    assert train.hashes().tolist() == [hash_of(sample) for sample in train[:]]


# --- rows ---------------------------------------------------------------------------------------------------


def test_rows_are_indexed_like_a_tensor(tmp_path: Path) -> None:
    train = stored(load(zipped(tmp_path / "a.zip", contents()), store_of(tmp_path)))
    x = train[:]
    assert (train.shape, train.dtype, len(train)) == (x.shape, x.dtype, len(x))
    some = torch.tensor([5, 6, 7, 0, 3, 3, len(x) - 1])
    for rows in (some, some[:0], slice(3, 9), slice(40, 1000)):
        assert torch.equal(train[rows], x[rows])
    assert torch.equal(train.subset(some)[2:5], x[some][2:5])
    assert torch.equal(torch.cat(list(pieces(train))), x)


def test_rows_that_are_expected_are_read_ahead(tmp_path: Path) -> None:
    train = stored(load(zipped(tmp_path / "a.zip", contents()), store_of(tmp_path)))
    x, some = train[:], torch.tensor([4, 2, 9])
    train.expect(some)
    assert torch.equal(train[some], x[some])
    train.expect(some)
    assert torch.equal(train[some.flip(0)], x[some.flip(0)])


# --- faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_bad_image_in_the_archive_s_order_is_named(tmp_path: Path, processes: int) -> None:
    files = contents()
    names = list(files)
    for place in (23, 24, 41):
        files[names[place]] = files[names[place]][:40]
    for archive in (zipped(tmp_path / "a", files), tarred(tmp_path / "b", files, "w:gz")):
        for _ in range(2):  # what was decoded the first time hides nothing
            with pytest.raises(DatasetError, match="can't be read") as failure:
                load(archive, store_of(tmp_path, processes))
            assert failure.value.member == names[23]


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    files = contents()
    names = list(files)
    files[names[30]] = encoded(picture(1, 20))
    with pytest.raises(DatasetError, match="to resize all images") as failure:
        load(zipped(tmp_path / "a.zip", files), store_of(tmp_path), size=None)
    assert (failure.value.member, failure.value.field) == (names[30], "dataset.size")


def test_a_damaged_member_of_a_zip_is_named(tmp_path: Path) -> None:
    """Its bytes are still an image, but not those that were packed."""
    files = contents()
    name = list(files)[10]
    content = encoded(picture(3), "BMP")
    files[name] = content
    path = zipped(tmp_path / "a.zip", files)
    whole = path.read_bytes()
    place = whole.index(content) + len(content) - 5
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(DatasetError, match="Bad CRC-32") as failure:
        load(path, store_of(tmp_path))
    assert failure.value.member == name


def test_a_member_that_claims_to_be_packed_to_more_than_it_has_is_not_read_at_once(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a/0.png": encoded(picture(0))})
    whole = bytearray(path.read_bytes())
    place = whole.index(b"PK\x01\x02") + 20  # the packed size in the directory
    [member] = walk(path, Limits())
    assert member.extent() is not None
    whole[place : place + 4] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(whole)
    [member] = walk(path, Limits())
    assert member.extent() is None


def test_decoded_images_have_a_bound(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", contents())
    asked = DatasetRequest(upload="u", size=[64, 64])
    limits = Limits(total_bytes=400_000)
    with pytest.raises(DatasetError, match="more than 400000"):
        load_dataset(asked, None, path, Interface(3, 2), store=store_of(tmp_path, limit=300_000), limits=limits)


# --- going on, and sharing -----------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, time
from pathlib import Path
from lit_core.data import Interface, load_dataset
from lit_core.data.store import decoding, entry, pool
from lit_core.data.store.entry import DataStore
from lit_spec import DatasetRequest

folder, kind = Path(sys.argv[1]), sys.argv[2]
decoding.IN_MEMORY_BYTES, decoding.PROCESS_BYTES, decoding.SYNC_SECONDS, pool.CHUNK_IMAGES = 0, 1, 0.0, 4
calls = []

def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)

def watch(done, images):
    calls.append(done)
    if kind == "killed" and done >= 20:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "first":
        (folder / "decoding").touch()
        wait_for("waiting")
    if kind == "second" and done == 0:
        (folder / "waiting").touch()

if kind == "second":
    wait_for("decoding")
store = DataStore(folder / "store", 1 << 40, None, 2)
request = DatasetRequest(upload="upl_x", size=[8, 8])
load_dataset(request, None, folder / "a.zip", Interface(3, 2), store=store, watch=watch)
print(sum(done > 0 for done in calls))
"""


def child(folder: Path, kind: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), kind], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )


def entry_of(folder: Path) -> Path:
    [entry] = (folder / "store").iterdir()
    return entry


def test_a_killed_job_goes_on_with_what_is_there(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", contents())
    killed = child(tmp_path, "killed")
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    entry = entry_of(tmp_path)
    marks = np.fromfile(entry / "marks", dtype=np.uint8)
    assert 0 < marks.sum() < SAMPLES
    # A row that is marked is not decoded again, so this stays.
    kept = int(np.flatnonzero(marks)[0])
    with (entry / "rows").open("r+b") as file:
        file.seek(kept * 3 * 8 * 8)
        file.write(bytes([7] * 3 * 8 * 8))
    seen: list[int] = []
    found = load(path, store_of(tmp_path), lambda done, _: seen.append(done))
    assert seen[0] > marks.sum()
    assert (entry / "complete").exists()
    whole = load(path, store_of(tmp_path / "other"))
    for split in Split:
        mine, others = stored(found, split), stored(whole, split)
        same = [torch.equal(a, b) for a, b in zip(mine[:], others[:], strict=True)]
        assert [row for row, equal in zip(mine.rows.tolist(), same, strict=True) if not equal] == (
            [kept] if kept in mine.rows else []
        )


def test_a_job_that_is_stopped_keeps_what_it_has_decoded(tmp_path: Path) -> None:
    def watch(done: int, _: int) -> None:
        if done >= 20:
            raise Stopped

    path = zipped(tmp_path / "a.zip", contents())
    with pytest.raises(Stopped):
        load(path, store_of(tmp_path), watch)
    assert np.fromfile(entry_of(tmp_path) / "marks", dtype=np.uint8).sum() >= 20


def test_why_decoding_ended_is_told_although_what_is_there_cannot_be_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a disk that is full, or when an operator has removed the store."""

    def watch(_done: int, _images: int) -> None:
        shutil.rmtree(tmp_path / "store")
        raise Stopped

    with pytest.raises(Stopped):
        load(zipped(tmp_path / "a.zip", contents()), store_of(tmp_path), watch)
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "will be decoded again" in warning.getMessage()


def test_two_jobs_at_once_decode_once(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", contents())
    first, second = child(tmp_path, "first"), child(tmp_path, "second")
    decoded = [int(one.communicate(timeout=120)[0]) for one in (first, second)]
    assert decoded[0] > 0
    assert decoded[1] == 0
    assert (entry_of(tmp_path) / "complete").exists()


def test_another_geometry_or_another_file_is_another_entry(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    path = zipped(tmp_path / "a.zip", contents())
    load(path, store)
    load(path, store, mean=[0.0, 0.0, 0.0], train_samples=10)
    assert len(list(store.folder.iterdir())) == 1
    load(path, store, size=[9, 9])
    load(path, store, resampling="nearest")
    load(zipped(tmp_path / "b.zip", contents(50)), store)
    assert len(list(store.folder.iterdir())) == 4


# --- eviction -------------------------------------------------------------------------------------------------


def entry_bytes() -> int:
    return SAMPLES * (3 * 8 * 8 + 8 + 6 * 8)


def test_the_entry_unused_for_longest_makes_room(tmp_path: Path) -> None:
    store = store_of(tmp_path, limit=int(2.7 * entry_bytes()))
    path = zipped(tmp_path / "a.zip", contents())
    for resampling in ("bilinear", "nearest"):
        load(path, store, resampling=resampling)
        time.sleep(0.02)
    before = {folder.name for folder in store.folder.iterdir()}
    load(path, store, resampling="bilinear")  # used last
    load(path, store, resampling="bicubic")
    after = {folder.name for folder in store.folder.iterdir()}
    assert len(before & after) == 1
    seen: list[int] = []
    load(path, store, lambda done, _: seen.append(done), resampling="bilinear")
    assert not seen


def test_an_entry_in_use_is_never_removed(tmp_path: Path) -> None:
    store = store_of(tmp_path, limit=entry_bytes() // 2)
    path = zipped(tmp_path / "a.zip", contents())
    limits = Limits(total_bytes=1 << 30)
    asked = DatasetRequest(upload="u", size=[8, 8])
    used = load_dataset(asked, None, path, Interface(3, 2), store=store, limits=limits)
    kept = stored(used)[:]
    other = asked.model_copy(update={"resampling": Resampling.NEAREST})
    load_dataset(other, None, path, Interface(3, 2), store=store, limits=limits)
    assert torch.equal(stored(used)[:], kept)
    assert len(list(store.folder.iterdir())) == 2
    del used
    load_dataset(asked.model_copy(update={"size": [7, 7]}), None, path, Interface(3, 2), store=store, limits=limits)
    assert len(list(store.folder.iterdir())) == 1


def test_what_a_killed_job_has_decoded_needs_no_room_again(tmp_path: Path) -> None:
    with mounted(tmp_path / "store", 1 << 20) as folder:
        store = DataStore(folder, 1 << 40)
        store.open("other").close()
        (folder / "other" / "rows").write_bytes(bytes(100 << 10))
        half = store.open("half")
        half.rows.write_bytes(bytes(500 << 10))
        store.make_room(600 << 10, half)
        assert (folder / "other").exists()
        store.make_room(1000 << 10, half)
        assert not (folder / "other").exists()


def test_old_entries_go(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", contents())
    load(path, store_of(tmp_path))
    old = entry_of(tmp_path)
    os.utime(old / "lock", (0, 0))
    load(path, store_of(tmp_path, seconds=3600), size=[9, 9])
    assert not old.exists()


def test_an_entry_that_can_not_be_removed_keeps_no_other_from_being_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(tmp_path, limit=100)
    for name in ("broken", "other"):
        store.open(name).close()
        (store.folder / name / "rows").write_bytes(bytes(200))
    (store.folder / "broken" / "lock").unlink()
    (store.folder / "broken" / "lock").mkdir()
    os.utime(store.folder / "broken" / "lock", (0, 0))
    new = store.open("new")
    store.make_room(50, new)
    assert {folder.name for folder in store.folder.iterdir()} == {"broken", "new"}
    assert "the decoded data set broken can't be removed" in caplog.text


def test_what_nobody_uses_goes_when_the_store_is_tidied(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", contents())
    used = load(path, store_of(tmp_path))
    kept = entry_of(tmp_path)
    load(path, store_of(tmp_path), resampling="nearest")
    os.utime(kept / "lock", (0, 0))
    store_of(tmp_path).tidy()
    assert len(list(kept.parent.iterdir())) == 2
    store_of(tmp_path, limit=0).tidy()
    assert list(kept.parent.iterdir()) == [kept]
    del used
    store_of(tmp_path, seconds=3600).tidy()
    assert list(kept.parent.iterdir()) == [kept], "it was in use until now"
    os.utime(kept / "lock", (0, 0))
    store_of(tmp_path, seconds=3600).tidy()
    assert not list(kept.parent.iterdir())
    load(path, store_of(tmp_path))
    replace(store_of(tmp_path), reserve_bytes=MORE_THAN_A_DISK).tidy()
    assert not list(kept.parent.iterdir())


def test_data_that_the_disk_or_the_jobs_limit_has_no_room_for(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", contents())
    rows = SAMPLES * 3 * 8 * 8
    with files_up_to(rows - 1), pytest.raises(DatasetError, match=f"may write {rows - 1}: set a smaller") as refused:
        load(path, store_of(tmp_path, processes=1))
    assert refused.value.field == "dataset.size"
    assert "LIT_DATA_STORE_BYTES" in refused.value.detail
    with mounted(tmp_path / "store", 64 << 10), pytest.raises(DatasetError, match="the worker's disk has") as refused:
        load(path, store_of(tmp_path, processes=1), size=[32, 32])
    assert refused.value.field == "dataset.size"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_disk_that_fills_up_while_images_are_decoded_is_told(processes: int) -> None:
    frame = Frame(None, None, (8, 8), Image.Resampling.NEAREST)
    job = Job("/dev/full", "/dev/null", 3, 8, 8, frame, most_pixels=1 << 20)
    images = [Encoded(row, name, len(content), content) for row, (name, content) in enumerate(contents(2).items())]
    with pool.opened_decoders(job, processes) as decoders, pytest.raises(OSError, match="No space left") as failure:
        list(decoders.run(images))
    assert failure.value.errno == errno.ENOSPC


def test_without_a_store_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    found = load(zipped(tmp_path / "a.zip", contents()), None)
    assert len(stored(found)[:3]) == 3
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    del found
    assert not list((tmp_path / "temporary").iterdir())


# --- memory -------------------------------------------------------------------------------------------------

MEMORY = """
import sys
from pathlib import Path
import torch
from lit_core.data import Interface, load_dataset
from lit_core.data.store.entry import DataStore
from lit_spec import DatasetRequest, Split

torch.set_num_threads(1)
folder = Path(sys.argv[1])
peak = 0

def look(*_):
    global peak
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = max(peak, int(status["VmRSS"].split()[0]))

look()
before = peak
request = DatasetRequest(upload="upl_x", size=[512, 512], resampling="nearest")
store = DataStore(folder / "store", 1 << 40)
dataset = load_dataset(request, None, folder / "a.zip", Interface(3, 2), store=store, watch=look)
x = dataset.splits[Split.TRAIN].x
total = 0
for rows in torch.randperm(len(x)).split(16):
    total += x[rows].numel()
    look()
print(total, (peak - before) * 1024)
"""


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """400 MB are decoded and read, in their order and in a random one."""
    path = zipped(tmp_path / "a.zip", contents(560))
    assert path.stat().st_size < 1 << 20
    child = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path], cwd=CHECKOUT, capture_output=True, check=True, text=True
    )
    total, grown = map(int, child.stdout.split())
    assert total > 340_000_000
    assert grown < 120_000_000


def test_a_decoder_imports_little() -> None:
    code = "import sys, lit_core.data.store.decoder; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, check=True, text=True)
    assert not {"torch", "numpy", "pydantic", "lit_spec"} & set(found.stdout.split())


# --- arrays -------------------------------------------------------------------------------------------------


def saved(path: Path, x: np.ndarray, kind: str) -> Path:
    y = np.arange(len(x)) % 2
    if kind == "safetensors":
        save_file({"x": x, "y": y}, path)
    else:
        with path.open("wb") as file:
            (np.savez if kind == "npz" else np.savez_compressed)(file, x=x, y=y)
    return path


@pytest.mark.parametrize("kind", ["npz", "compressed", "safetensors"])
@pytest.mark.parametrize("shape", [(50, 3, 8, 6), (50, 8, 6, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_arrays_are_read_from_their_file(
    tmp_path: Path, kind: str, shape: tuple[int, ...], dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape)
    path = saved(tmp_path / "d", (values if dtype is np.uint8 else values / 255).astype(dtype), kind)
    found = load(path, None, size=[8, 6])
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1 << 20)
    small = load(path, None, size=[8, 6])
    for split in Split:
        x = found.splits[split].x
        assert isinstance(x, torch.Tensor) == (kind == "compressed")
        assert torch.equal(x[:], small.splits[split].x[:])
    assert (found.preprocessing, found.notes) == (small.preprocessing, small.notes)


def test_arrays_that_are_resized_are_read_into_memory(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    found = load(saved(tmp_path / "d", x, "npz"), None, size=[4, 4])
    assert isinstance(found.splits[Split.TRAIN].x, torch.Tensor)


def test_stored_arrays_are_checked(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((30, 3, 8, 8), dtype=np.float32)
    x[17, 1, 2, 3] = np.nan
    with pytest.raises(DatasetError, match="first in sample 17"):
        load(saved(tmp_path / "d", x, "npz"), None)
    path = saved(tmp_path / "e", np.nan_to_num(x), "npz")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DatasetError, match="Bad CRC-32"):
        load(path, None)
