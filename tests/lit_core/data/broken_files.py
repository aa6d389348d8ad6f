"""Small valid files of every format, and what a fuzzer makes of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save

from lit_core.data import Interface
from lit_spec import Modality

IMAGES = Interface(3, 2)
TEXTS = Interface(None, 2, Modality.TEXT, vocabulary_size=69)
SAMPLES = 12


def npz(*, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    save_arrays = np.savez_compressed if compressed else np.savez
    x: NDArray[np.uint8] = np.arange(SAMPLES * 75, dtype=np.uint8).reshape(SAMPLES, 3, 5, 5)
    save_arrays(file, x=x, y=np.arange(SAMPLES) % 2)
    return file.getvalue()


def npz_with(header: bytes, data: bytes = b"", *, name: str = "x.npy") -> bytes:
    """An npz file whose array has this text as its header."""
    padded = header + b"\n"
    return zipped({name: b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data})


def safetensors() -> bytes:
    x = torch.arange(SAMPLES * 75).to(torch.uint8).reshape(SAMPLES, 3, 5, 5)
    return save({"x": x, "y": torch.arange(SAMPLES) % 2})


def picture(kind: str, value: int = 9) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 2 * value, 7)).save(file, kind)
    return file.getvalue()


def folders() -> dict[str, bytes]:
    kinds = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
    return {f"{'ab'[i % 2]}/{i}.{kinds[i % 7].lower()}": picture(kinds[i % 7], i) for i in range(SAMPLES + 2)}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def table(separator: str = ",") -> bytes:
    return "".join(f"{i % 2 + 1}{separator}text number {i}\n" for i in range(SAMPLES)).encode()


def parquet(*, texts: bool = False) -> bytes:
    file = io.BytesIO()
    label = pa.array([i % 2 for i in range(SAMPLES)])
    inputs = [f"text {i}" for i in range(SAMPLES)] if texts else [picture("PNG", i) for i in range(SAMPLES)]
    pq.write_table(pa.table({"text" if texts else "image": inputs, "label": label}), file)
    return file.getvalue()


def objects() -> bytes:
    return "".join(f'{{"label": {i % 2}, "text": "text number {i}"}}\n' for i in range(SAMPLES)).encode()


def samples() -> dict[str, bytes]:
    """Those of a WebDataset."""
    files = ((f"{i:03}.jpg", picture("JPEG", i), f"{i:03}.cls", b"%d" % (i % 2)) for i in range(SAMPLES))
    return {name: content for image, pixels, label, text in files for name, content in ((image, pixels), (label, text))}


FILES: dict[str, tuple[Callable[[], bytes], Interface]] = {
    "npz": (npz, IMAGES),
    "compressed npz": (lambda: npz(compressed=True), IMAGES),
    "safetensors": (safetensors, IMAGES),
    "zip of images": (lambda: zipped(folders()), IMAGES),
    "deflated zip of images": (lambda: zipped(folders(), zipfile.ZIP_DEFLATED), IMAGES),
    "lzma zip of images": (lambda: zipped(folders(), zipfile.ZIP_LZMA), IMAGES),
    "tar of images": (lambda: tarred(folders()), IMAGES),
    "tar.gz of images": (lambda: gzip.compress(tarred(folders()), mtime=0), IMAGES),
    "tar.bz2 of images": (lambda: bz2.compress(tarred(folders())), IMAGES),
    "tar.xz of images": (lambda: lzma.compress(tarred(folders())), IMAGES),
    "CSV": (table, TEXTS),
    "TSV": (lambda: table("\t"), TEXTS),
    "JSON lines": (objects, TEXTS),
    "WebDataset": (lambda: tarred(samples()), IMAGES),
    "zip of CSV": (lambda: zipped({"train.csv": table(), "test.csv": table()}), TEXTS),
    "Parquet of images": (parquet, IMAGES),
    "Parquet of texts": (lambda: parquet(texts=True), TEXTS),
    "zip of Parquet": (lambda: zipped({"train.parquet": parquet(), "test.parquet": parquet()}), IMAGES),
}
"""By format: a valid file, and what the teacher takes."""


def broken(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """`count` files made of a valid one: bytes flipped, overwritten, cut off, doubled or put in."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            place = rng.randrange(len(data))
            match rng.randrange(7):
                case 0:
                    data[place] ^= 1 << rng.randrange(8)
                case 1:
                    data[place] = rng.choice((0, 1, 0x28, 0x2D, 0x7F, 0x80, 0xFF))
                case 2:
                    del data[place + 1 :]
                case 3:
                    del data[place : place + rng.randrange(1, 9)]
                case 4:
                    data[place:place] = data[place : place + rng.randrange(1, 65)]
                case 5:
                    data[place : place + 8] = rng.choice(
                        (b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"((((((((", b"--------")
                    )
                case _:
                    data[place:place] = rng.randbytes(rng.randrange(1, 17))
            data = data or bytearray(b"\0")
        yield bytes(data)


def crafted() -> dict[str, tuple[bytes, Interface]]:
    """Files that are broken on purpose, by what they are."""
    recursive = zipped({"a/again.zip": zipped({"a/again.zip": npz()})})
    pickled = b"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }"
    huge = b"{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904, 3), }"
    columns = pa.table({"image": pa.array([1.5] * SAMPLES), "label": pa.array([None] * SAMPLES, pa.int64())})
    floats = io.BytesIO()
    pq.write_table(columns, floats)
    listed = io.BytesIO()
    labels = pa.array([[1]] * SAMPLES)
    pq.write_table(pa.table({"image": [picture("PNG")] * SAMPLES, "label": labels}), listed)
    return {
        "npy header ((((": (npz_with(b"(" * 4), IMAGES),
        "npy header of 9,000 brackets": (npz_with(b"(" * 9000), IMAGES),
        "npy header of 9,000 signs": (npz_with(b"-" * 9000 + b"1"), IMAGES),
        "npy header of 60,000 bytes": (npz_with(b" " * 60_000), IMAGES),
        "npy header with an unknown dtype": (
            npz_with(b"{'descr': 'quark', 'fortran_order': False, 'shape': (2,), }"),
            IMAGES,
        ),
        "npy header with a dtype of tuples": (
            npz_with(b"{'descr': (((1,),),), 'fortran_order': False, 'shape': (2,), }"),
            IMAGES,
        ),
        "npy header that is no dict": (npz_with(b"[1, 2]"), IMAGES),
        "npy header that closes nothing": (npz_with(b"{'descr': '<u1', 'shape': (1,"), IMAGES),
        "npy header with a null byte": (npz_with(b"{'descr': '\0'}"), IMAGES),
        "npy shape of text": (npz_with(b"{'descr': '|u1', 'fortran_order': False, 'shape': ('a',), }"), IMAGES),
        "npy shape below zero": (npz_with(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-2, -2), }"), IMAGES),
        "npy shape of truths": (
            npz_with(b"{'descr': '|u1', 'fortran_order': False, 'shape': (True,), }", b"a"),
            IMAGES,
        ),
        "npy shape without axes": (npz_with(b"{'descr': '|u1', 'fortran_order': False, 'shape': (), }", b"a"), IMAGES),
        "npy shape of 64 axes": (
            npz_with(b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"1," * 70 + b"), }", b"a"),
            IMAGES,
        ),
        "npy larger than memory": (npz_with(huge), IMAGES),
        "npy to unpickle": (npz_with(pickled, b"cos\nsystem\n"), IMAGES),
        "npy of version 9": (zipped({"x.npy": b"\x93NUMPY\x09\x00" + b"\0" * 20}), IMAGES),
        "npy that is empty": (zipped({"x.npy": b""}), IMAGES),
        "archive in an archive": (recursive, IMAGES),
        "zip bomb": (zipped({"a/0.png": b"\0" * (300 << 20)}, zipfile.ZIP_DEFLATED), IMAGES),
        "zip without members": (zipped({}), IMAGES),
        "gzip of nothing": (gzip.compress(b""), IMAGES),
        "gzip of text": (gzip.compress(b"not a tar archive" * 100), IMAGES),
        "Parquet with numbers for images": (floats.getvalue(), IMAGES),
        "Parquet with lists for labels": (listed.getvalue(), IMAGES),
        "Parquet of its magic alone": (b"PAR1PAR1", IMAGES),
        "Parquet with a footer of 4 GB": (b"PAR1" + b"\0" * 8 + b"\xff\xff\xff\xffPAR1", IMAGES),
        "CSV with null bytes": (b"1,a\n2,b\0c\n" * 9, TEXTS),
        "CSV with a quote that is never closed": (table() + b'1,"' + b"\n" * 100_000, TEXTS),
        "CSV that is not UTF-8": (table() + b"1,\xff\xfe\n", TEXTS),
        "CSV of quotes": (b'"' * 5000, TEXTS),
        "safetensors with nested brackets": (_with_header(b'{"x":' + b"[" * 100_000), IMAGES),
        "safetensors of no known dtype": (
            _with_header(b'{"x":{"dtype":"F13","shape":[1],"data_offsets":[0,4]}}', b"abcd"),
            IMAGES,
        ),
        "safetensors of 8 bit floats": (
            _with_header(b'{"x":{"dtype":"F8_E4M3","shape":[2,3,1,1],"data_offsets":[0,6]}}', b"abcdef"),
            IMAGES,
        ),
        "safetensors of complex numbers": (save({"x": torch.zeros(4, 3, 2, 2, dtype=torch.complex64)}), IMAGES),
        "safetensors without axes": (save({"x": torch.tensor(1), "y": torch.tensor(1)}), IMAGES),
        "safetensors without pixels": (save({"x": torch.zeros(9, 3, 0, 0), "y": torch.zeros(9).long()}), IMAGES),
        "safetensors whose numbers are not finite": (save({"x": torch.full((9, 3, 2, 2), torch.nan)}), IMAGES),
        "safetensors for a network of texts": (save({"x": torch.zeros(4, 0, dtype=torch.int64)}), TEXTS),
        "bytes of no format": (b"\x01\x02\x03" * 100, IMAGES),
        "nothing": (b"", IMAGES),
        "one byte": (b"P", IMAGES),
    }


def _with_header(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data
