"""What callers give to a model: one sample or many, as paths, pictures, arrays, tensors or texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lit_core.data.pictures import FORMATS, MODES
from lit_core.data.preprocessing import ImagePreprocessing
from lit_core.data.readers.images import SUFFIXES
from lit_core.data.text_preprocessing import TextPreprocessing

Sample = str | Path | Image.Image | NDArray[Any] | Tensor
Samples = Sample | Iterable[Sample]
"""For a model of images: paths of image files, pictures, arrays and tensors, one or several; the path of a folder
stands for the image files in it, in the order of their names. For a model of texts: one text or several."""


def listed(samples: Samples, preprocessing: ImagePreprocessing | TextPreprocessing) -> Tensor | Sequence[Any]:
    """A raw batch as it was given, or a list of samples, of which image files are still paths. Raises ValueError."""
    if isinstance(samples, Tensor):
        return samples[None] if samples.ndim == _dimensions(preprocessing) else samples
    if isinstance(preprocessing, TextPreprocessing):
        texts = [samples] if isinstance(samples, str) else list(_several(samples))
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise ValueError(f"the model reads texts, but was given a {type(wrong).__name__}: give strings")
        return texts
    if isinstance(samples, str | Path):
        return _images_in(Path(samples)) if Path(samples).is_dir() else [Path(samples)]
    if isinstance(samples, Image.Image) or (isinstance(samples, np.ndarray) and _is_one(samples, preprocessing)):
        return [samples]
    return [Path(sample) if isinstance(sample, str) else sample for sample in _several(samples)]


def opened(sample: Any) -> Image.Image | NDArray[Any]:
    """One of the samples of `listed` for `ImagePreprocessing.from_image`. Raises FileNotFoundError and ValueError."""
    if isinstance(sample, Tensor):
        array: NDArray[Any] = sample.detach().cpu().numpy()
        return array
    if isinstance(sample, Path):
        try:
            with Image.open(sample, formats=FORMATS) as image:
                image.load()
                return image
        except UnidentifiedImageError as failure:
            raise ValueError(f"{sample} can't be read as an image: give {', '.join(FORMATS)}") from failure
    if isinstance(sample, Image.Image | np.ndarray):
        return sample
    raise ValueError(f"the model reads images, but was given a {type(sample).__name__}: give a path, picture or array")


def _several(samples: Any) -> Iterator[Any]:
    if not isinstance(samples, Iterable) or isinstance(samples, Path):
        raise ValueError(f"{type(samples).__name__} is not a sample of this model: give one sample, or a list of them")
    return iter(samples)


def _images_in(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{folder} has no image files: give a folder with {', '.join(FORMATS)} files")
    return found


def _dimensions(preprocessing: ImagePreprocessing | TextPreprocessing) -> int:
    return 1 if isinstance(preprocessing, TextPreprocessing) else 3


def _is_one(array: NDArray[Any], preprocessing: ImagePreprocessing) -> bool:
    """Whether the array is one image, and not a batch of images or of planes."""
    if array.ndim != 3:
        return array.ndim == 2
    channels = preprocessing.channels
    is_picture = array.dtype == np.uint8 and channels in MODES and array.shape[2] in (3, 4)
    return is_picture or channels in (array.shape[0], array.shape[2])
