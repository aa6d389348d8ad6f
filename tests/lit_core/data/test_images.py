"""Image folders in archives."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_core.data import Dataset, DatasetError, Interface, Limits, load_dataset
from lit_core.data.pixels import image_to_raw
from lit_spec import DatasetRequest, Split

Files = dict[str, bytes]


def load(path: Path, *, channels: int = 3, classes: int = 2, limits: Limits | None = None, **request: Any) -> Dataset:
    asked = DatasetRequest(upload="upl_x", **request)
    return load_dataset(asked, None, path, Interface(channels, classes), limits=limits or Limits())


def refusal(path: Path, **options: Any) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load(path, **options)
    return caught.value


def picture(value: int, size: tuple[int, int] = (5, 4), mode: str = "RGB", fmt: str = "PNG") -> bytes:
    """`size` is (width, height)."""
    content = io.BytesIO()
    colour = (value, value // 2, 7) if mode == "RGB" else value
    Image.new(mode, size, colour).save(content, fmt)
    return content.getvalue()


def pack(path: Path, files: Files, kind: str = "zip") -> Path:
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{kind.partition('.')[2]}") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            tar.addfile(info, io.BytesIO(content))
    return path


def folders(*prefixes: str, count: int = 10) -> Files:
    """Two classes under each prefix; the red channel tells class and place: cats 100 + i, dogs 200 + i."""
    return {
        f"{prefix}{label}/{i:02}.png": picture(start + i)
        for prefix in prefixes
        for label, start in (("dogs", 200), ("cats", 100))
        for i in range(count)
    }


def red(x: torch.Tensor) -> list[int]:
    return x[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("kind", ["zip", "tar.", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("wrap", ["", "./", "pets/", "./test/", "photos/data/", "photos/test/"])
def test_splits_and_classes_from_folders(tmp_path: Path, kind: str, wrap: str) -> None:
    files = folders(f"{wrap}train/", f"{wrap}valid/", f"{wrap}test/", count=3)
    noise = {
        f"{wrap}README.md": b"hello",
        f"__MACOSX/{wrap}._x": b"",
        f"{wrap}train/.DS_Store": b"",
        f"{wrap}val/cats/Thumbs.db": b"",
        f"{wrap}train/@eaDir/cats/00.png": b"",
    }
    dataset = load(pack(tmp_path / "dataset", {**noise, **files}, kind))
    assert dataset.classes == ["cats", "dogs"]
    for split in Split:
        arrays = dataset.splits[split]
        assert red(arrays.x) == [100, 101, 102, 200, 201, 202]
        assert arrays.y.tolist() == [0, 0, 0, 1, 1, 1]
        assert arrays.x.shape == (6, 3, 4, 5)
        assert arrays.x.dtype == torch.uint8


@pytest.mark.parametrize("wrap", ["", "pets/", "photos/data/"])
def test_missing_splits_are_held_out(tmp_path: Path, wrap: str) -> None:
    dataset = load(pack(tmp_path / "dataset", folders(wrap)), test_fraction=0.2)
    assert {split: len(arrays.y) for split, arrays in dataset.splits.items()} == {"train": 14, "val": 2, "test": 4}
    values = [value for arrays in dataset.splits.values() for value in red(arrays.x)]
    assert sorted(values) == [*range(100, 110), *range(200, 210)]
    for arrays in dataset.splits.values():
        assert [int(value >= 200) for value in red(arrays.x)] == arrays.y.tolist()


def test_the_archive_s_order_changes_nothing(tmp_path: Path) -> None:
    files = folders("")
    one = load(pack(tmp_path / "a", files))
    other = load(pack(tmp_path / "b", dict(sorted(files.items())), "tar.gz"))
    for split in Split:
        assert torch.equal(one.splits[split].x, other.splits[split].x)


def test_class_order_maps_folders_to_outputs(tmp_path: Path) -> None:
    dataset = load(pack(tmp_path / "dataset", folders("")), class_order=["dogs", "cats"])
    train = dataset.splits[Split.TRAIN]
    assert [int(value < 200) for value in red(train.x)] == train.y.tolist()
    assert dataset.preprocessing.class_order == ["dogs", "cats"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    files = {name.replace("cats", "train"): content for name, content in folders("").items()}
    assert load(pack(tmp_path / "dataset", files)).classes == ["dogs", "train"]


@pytest.mark.parametrize("names", [("training", "dev", "testing"), ("Train", "VALIDATION", "Test")])
def test_other_names_of_splits(tmp_path: Path, names: tuple[str, str, str]) -> None:
    dataset = load(pack(tmp_path / "dataset", folders(*(f"pets/{name}/" for name in names), count=2)))
    assert dataset.classes == ["cats", "dogs"]
    assert all(red(arrays.x) == [100, 101, 200, 201] for arrays in dataset.splits.values())


@pytest.mark.parametrize("wrap", ["", "photos/data/"])
def test_class_folders_inside_of_folders_are_named_by_their_path(tmp_path: Path, wrap: str) -> None:
    files = {
        name.replace("cats/", "animals/small/cat/").replace("dogs/", "cars/"): content
        for name, content in folders(f"{wrap}train/", f"{wrap}test/").items()
    }
    dataset = load(pack(tmp_path / "dataset", files))
    assert dataset.classes == ["animals/small/cat", "cars"]
    assert [int(value >= 200) for value in red(dataset.splits[Split.TEST].x)] == [0] * 10 + [1] * 10
    assert "class folders inside of other folders are named by their path: animals/small/cat" in dataset.notes
    without_splits = {name.replace("train/", ""): content for name, content in files.items() if "train/" in name}
    other = load(pack(tmp_path / "other", without_splits), class_order=["cars", "animals/small/cat"])
    train = other.splits[Split.TRAIN]
    assert [int(value < 200) for value in red(train.x)] == train.y.tolist()


def test_a_folder_may_hold_images_without_labels(tmp_path: Path) -> None:
    files = {**folders("train/", "test/"), **loose("train/unknown/", start=30)}
    dataset = load(pack(tmp_path / "dataset", files), unlabelled="unknown")
    assert dataset.classes == ["cats", "dogs"]
    assert dataset.splits[Split.TEST].labelled
    assert any(arrays.labels < len(arrays.y) for arrays in dataset.splits.values())
    signs = {f"{label}/{i}.png": picture(i) for label in ("1", "-1") for i in range(10)}
    error = refusal(pack(tmp_path / "signs", signs))
    assert (error.field, error.member) == ("dataset.unlabelled", "-1/0.png")
    assert load(pack(tmp_path / "signs", signs), class_order=["-1", "1"]).splits[Split.TRAIN].labelled


def test_splits_inside_of_classes_are_refused(tmp_path: Path) -> None:
    files = {f"{label}/{split}/1.png": picture(1) for label in ("cats", "dogs") for split in ("train", "Test")}
    error = refusal(pack(tmp_path / "dataset", files), classes=4)
    assert "cats/train/1.png lies in a split inside of a class" in error.detail


@pytest.mark.parametrize(
    ("extra", "options", "member", "field", "words"),
    [
        ({"cats/broken.png": picture(1)[:50]}, {}, "cats/broken.png", None, ["cats/broken.png", "truncated"]),
        ({"cats/text.png": b"no image"}, {}, "cats/text.png", None, ["as an image"]),
        ({"cats/empty.jpg": b""}, {}, "cats/empty.jpg", None, ["as an image"]),
        ({"cats/labels.csv": b"1,2"}, {}, "cats/labels.csv", None, ["not an image", ".png", "README"]),
        ({"cats/wide.png": picture(1, (9, 4))}, {}, "cats/wide.png", "dataset.size", ["4x9", "4x5", "dataset.size"]),
        ({"stray.png": picture(1)}, {}, "stray.png", None, ["wrong place", "CLASS/IMAGE"]),
        (
            {"cats/more/deep.png": picture(1)},
            {},
            "cats/more/deep.png",
            None,
            ["inside of a class", "cats/00.png is an image beside that folder"],
        ),
        ({"train/cats/1.png": picture(1)}, {}, "dogs/00.png", None, ["wrong place", "train|val|test"]),
        ({}, {"classes": 3}, None, "dataset.upload", ["2 class folders (cats, dogs)", "3 classes"]),
        ({"emus/1.png": picture(1)}, {}, None, "dataset.upload", ["3 class folders", "2 classes"]),
        ({}, {"class_order": ["cats", "emus"]}, "emus", "dataset.class_order", ['"emus"', "no folder", "dogs"]),
        (
            {"emus/1.png": picture(1)},
            {"class_order": ["cats", "dogs"]},
            "emus",
            "dataset.class_order",
            ['lacks "emus"'],
        ),
        ({}, {"channels": 4}, None, None, ["1 or 3 channels", "takes 4"]),
        ({"cats/f.tiff": picture(1, mode="F", fmt="TIFF")}, {}, "cats/f.tiff", None, ["floating-point"]),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_refusals_name_the_member(
    tmp_path: Path,
    kind: str,
    extra: Files,
    options: dict[str, Any],
    member: str | None,
    field: str | None,
    words: list[str],
) -> None:
    error = refusal(pack(tmp_path / "dataset", {**folders(""), **extra}, kind), **options)
    assert (error.member, error.field) == (member, field)
    for word in words:
        assert word in error.detail


@pytest.mark.parametrize(("empty", "named"), [("train", "train"), ("validation", "val"), ("test", "test")])
@pytest.mark.parametrize("wrap", ["", "pets/"])
def test_an_empty_split_folder(tmp_path: Path, empty: str, named: str, wrap: str) -> None:
    rest = [f"{wrap}{split}/" for split in ("train", "validation", "test") if split != empty]
    files = {f"{wrap}{empty}/": b"", f"{wrap}{empty}/cats/": b"", **folders(*rest)}
    for kind in ("zip", "tar."):
        error = refusal(pack(tmp_path / kind, files, kind))
        assert error.member == named
        assert f'"{named}" is empty' in error.detail


def loose(*prefixes: str, start: int = 0, count: int = 10) -> Files:
    """Images without class folders; the red channel counts on from `start`."""
    names = [f"{prefix}{i:02}.png" for prefix in prefixes for i in range(count)]
    return {name: picture(start + number) for number, name in enumerate(names)}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("wrap", ["", "./", "pets/", "photos/data/"])
def test_images_without_class_folders_have_no_labels(tmp_path: Path, kind: str, wrap: str) -> None:
    files = {f"{wrap}README.md": b"hello", **loose(wrap, count=30)}
    dataset = load(pack(tmp_path / "dataset", files, kind))
    assert sorted(value for arrays in dataset.splits.values() for value in red(arrays.x)) == list(range(30))
    for arrays in dataset.splits.values():
        assert set(arrays.y.tolist()) == {-1}
        assert arrays.y.dtype == torch.int64
    assert dataset.classes == ["0", "1"]
    assert load(pack(tmp_path / "other", files, kind), class_order=["cats", "dogs"]).classes == ["cats", "dogs"]


@pytest.mark.parametrize("wrap", ["", "pets/"])
def test_splits_without_class_folders(tmp_path: Path, wrap: str) -> None:
    files = loose(*(f"{wrap}{split}/" for split in ("train", "Val", "test")), count=4)
    dataset = load(pack(tmp_path / "dataset", files))
    assert [red(dataset.splits[split].x) for split in Split] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert {int(label) for arrays in dataset.splits.values() for label in arrays.y} == {-1}
    only_train = load(pack(tmp_path / "train", loose(f"{wrap}train/", count=30)))
    assert [len(only_train.splits[split].y) for split in Split] == [24, 3, 3]


@pytest.mark.parametrize("wrap", ["", "pets/"])
@pytest.mark.parametrize("unlabelled", [["train"], ["train", "val"], ["test"]])
def test_some_splits_may_have_class_folders_and_others_not(tmp_path: Path, wrap: str, unlabelled: list[str]) -> None:
    names = ["train", "val", "test"]
    labelled = [name for name in names if name not in unlabelled]
    files = {
        **loose(*(f"{wrap}{name}/" for name in unlabelled), count=4),
        **folders(*(f"{wrap}{name}/" for name in labelled), count=2),
    }
    dataset = load(pack(tmp_path / "dataset", files), class_order=["dogs", "cats"])
    for name in labelled:
        assert dataset.splits[Split(name)].y.tolist() == [1, 1, 0, 0]
        assert dataset.splits[Split(name)].labelled
    for number, name in enumerate(unlabelled):
        arrays = dataset.splits[Split(name)]
        assert (arrays.y.tolist(), red(arrays.x)) == ([-1] * 4, list(range(4 * number, 4 * number + 4)))
    assert dataset.classes == ["dogs", "cats"]
    assert load(pack(tmp_path / "again", files)).classes == ["cats", "dogs"]


@pytest.mark.parametrize(
    ("extra", "member"),
    [
        ({"train/stray.png": picture(1)}, "train/stray.png"),
        ({"stray.png": picture(1)}, "stray.png"),
        ({"test/cats/1.png": picture(1)}, "test/00.png"),
        ({"test/more/cats/1.png": picture(1)}, "test/00.png"),
        ({"more/1.png": picture(1)}, "more/1.png"),
    ],
)
def test_one_image_in_the_wrong_place_among_splits(tmp_path: Path, extra: Files, member: str) -> None:
    files = {**folders("train/"), **loose("test/"), **extra}
    error = refusal(pack(tmp_path / "dataset", files))
    assert error.member == member
    assert "all of that split must" in error.detail


@pytest.mark.parametrize(
    ("extra", "member"),
    [({"cats/1.png": picture(1)}, "00.png"), ({"a/b/1.png": picture(1)}, "00.png")],
)
def test_class_folders_beside_loose_images(tmp_path: Path, extra: Files, member: str) -> None:
    assert refusal(pack(tmp_path / "dataset", {**loose(""), **extra})).member == member


COCO = b'{"info": {}, "licenses": [], "images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"bbox": []}]}'
BOXES = b"0 0.5 0.5 0.25 0.25\n3 0.1 0.2 0.05 1e-2\n"


@pytest.mark.parametrize(
    ("files", "layout", "member"),
    [
        ({"train2017/1.png": picture(1), "annotations/instances_train2017.json": COCO}, "COCO", None),
        ({"train/1.png": picture(1), "train/_annotations.coco.json": COCO}, "COCO", None),
        ({"data.yaml": b"nc: 2\nnames: [a, b]\n", "images/train/1.png": picture(1)}, "YOLO", None),
        ({"images/train/1.png": picture(1), "labels/train/1.txt": BOXES}, "YOLO", None),
        ({"images/1.png": picture(1), "labels/1.txt": b"", "notes.pdf": b""}, "YOLO", "labels/1.txt"),
        ({"obj/1.png": picture(1), "obj/1.txt": BOXES}, "YOLO", None),
        ({"VOC/JPEGImages/1.jpg": picture(1), "VOC/Annotations/1.xml": b"<annotation>"}, "Pascal VOC", None),
        ({"VOC/ImageSets/Main/train.txt": b"1\n", "VOC/JPEGImages/1.jpg": picture(1)}, "Pascal VOC", None),
        ({"1.png": picture(1), "1.xml": b'<?xml version="1.0"?>\n<annotation verified="no">'}, "Pascal VOC", None),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_data_sets_of_detection_are_named(
    tmp_path: Path, kind: str, files: Files, layout: str, member: str | None
) -> None:
    error = refusal(pack(tmp_path / "dataset", files, kind))
    assert f"in the layout of {layout} (" in error.detail
    assert "one folder a class" in error.detail
    assert error.member == (member or next(name for name in files if not name.endswith(("png", "jpg"))))


def test_other_files_are_not_taken_for_detection(tmp_path: Path) -> None:
    for name, content in (("cats/a.json", b'{"label": 1}'), ("cats/a.txt", b"1 cat\n"), ("a.xml", b"<x/>")):
        error = refusal(pack(tmp_path / "dataset", {**folders(""), name: content}))
        assert f"{name} is not an image" in error.detail


def test_no_images(tmp_path: Path) -> None:
    assert "no images" in refusal(pack(tmp_path / "dataset", {"README": b"x"})).detail


def test_sizes_may_differ_when_one_is_asked_for(tmp_path: Path) -> None:
    files = {**folders(""), "cats/wide.png": picture(1, (90, 40))}
    dataset = load(pack(tmp_path / "dataset", files), size=[6, 7])
    assert all(arrays.x.shape[1:] == (3, 6, 7) for arrays in dataset.splits.values())


def test_images_with_more_pixels_than_allowed(tmp_path: Path) -> None:
    path = pack(tmp_path / "dataset", {**folders(""), "cats/bomb.png": picture(1, (100, 101), "L")})
    error = refusal(path, size=[4, 4], limits=Limits(image_pixels=10_000))
    assert error.member == "cats/bomb.png"
    assert "more pixels" in error.detail


def test_pillow_s_own_bomb_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    for size in ((60, 60), (100, 101)):  # above the warning's limit, above the error's
        path = pack(tmp_path / "dataset", {**folders(""), "cats/bomb.png": picture(1, size, "L")})
        assert refusal(path, size=[4, 4]).member == "cats/bomb.png"


def test_more_decoded_bytes_than_allowed(tmp_path: Path) -> None:
    content = {f"{label}/{i}.png": picture(1, (1000, 1000), "L") for label in ("a", "b") for i in range(5)}
    error = refusal(pack(tmp_path / "dataset", content), limits=Limits(total_bytes=20_000_000))
    assert error.field == "dataset.size"


def test_modes() -> None:
    ramp = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    assert torch.equal(image_to_raw(Image.fromarray(ramp), 1)[0], torch.from_numpy((ramp >> 8).astype(np.uint8)))
    grey = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    assert torch.equal(image_to_raw(grey, 3), torch.from_numpy(np.array(grey)).expand(3, 4, 4))
    half_clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert image_to_raw(half_clear, 3)[:, 0, 0].tolist() == [10, 20, 30]
    palette = Image.new("RGB", (2, 2), (255, 0, 0)).quantize(4)
    assert palette.mode == "P"
    assert image_to_raw(palette, 3)[:, 0, 0].tolist() == [255, 0, 0]
    assert image_to_raw(Image.new("1", (2, 2), 1), 1).tolist() == [[[255, 255], [255, 255]]]
    assert image_to_raw(Image.new("LA", (2, 2), (9, 0)), 1).unique().tolist() == [9]
    assert image_to_raw(Image.new("CMYK", (2, 2), (0, 0, 0, 0)), 3).unique().tolist() == [255]


def test_images_stand_upright(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 255, 255], [255, 255, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned clockwise
    content = io.BytesIO()
    image.save(content, "PNG", exif=exif)
    upright = image_to_raw(Image.open(content), 1)
    assert upright.shape == (1, 3, 2)
    assert (upright[0] == 0).nonzero().tolist() == [[0, 1]]


def test_jpeg_gif_and_friends(tmp_path: Path) -> None:
    files = folders("")
    for fmt, suffix in (
        ("JPEG", "JPG"),
        ("JPEG", "jfif"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("TIFF", "tif"),
        ("WEBP", "webp"),
        ("PPM", "pgm"),
    ):
        files[f"cats/{fmt}.{suffix}"] = picture(50, mode="L", fmt=fmt)
    dataset = load(pack(tmp_path / "dataset", files), channels=1)
    assert sum(len(arrays.y) for arrays in dataset.splits.values()) == 27


def test_the_shorter_side_is_resized_and_the_middle_cut(tmp_path: Path) -> None:
    """Images of several shapes; the same by the reader of files and by the student's own preprocessing."""
    generator = np.random.default_rng(3)
    shapes = [(40, 60), (61, 33), (50, 50)]
    pictures = [Image.fromarray(generator.integers(0, 256, (*shape, 3), np.uint8)) for shape in shapes * 4]
    files = {}
    for place, image in enumerate(pictures):
        content = io.BytesIO()
        image.save(content, "PNG")
        files[f"{'cats' if place % 2 else 'dogs'}/{place:02}.png"] = content.getvalue()
    data = load(
        pack(tmp_path / "d", files), size=[24, 20], resize=32, resampling="bicubic", mean=[0.0] * 3, std=[1.0] * 3
    )
    assert data.preprocessing.kind == "image"
    assert (data.preprocessing.size, data.preprocessing.resize) == ([24, 20], 32)
    made = {sample.numpy().tobytes() for arrays in data.splits.values() for sample in arrays.x}
    expected = set()
    for image in pictures:
        width, height = image.size
        scaled = (32, 32 * height // width) if width <= height else (32 * width // height, 32)
        whole = np.asarray(image.resize(scaled, Image.Resampling.BICUBIC))
        top, left = round((whole.shape[0] - 24) / 2), round((whole.shape[1] - 20) / 2)
        expected.add(whole[top : top + 24, left : left + 20].transpose(2, 0, 1).tobytes())
        assert data.preprocessing.from_image(image)[0].numpy().tobytes() in expected
    assert made == expected


def test_a_long_thin_image_can_not_take_the_memory(tmp_path: Path) -> None:
    path = pack(tmp_path / "d", {**folders(""), "cats/long.png": picture(1, (1 << 19, 1))})
    error = refusal(path, size=[224, 224], resize=256)
    assert (error.field, error.member) == ("dataset.resize", "cats/long.png")
    assert "1x524288 pixels" in error.detail
    assert load(path, size=[4, 4]).splits[Split.TRAIN].x.shape[2:] == (4, 4)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"resize": 8}, "dataset.resize"),
        ({"resize": 8, "size": [9, 4]}, "dataset.resize"),
        ({"mean": "library"}, "dataset.mean"),
    ],
)
def test_what_only_a_job_can_ask_for_is_refused(tmp_path: Path, asked: dict[str, Any], field: str) -> None:
    assert refusal(pack(tmp_path / "d", folders("")), **asked).field == field
