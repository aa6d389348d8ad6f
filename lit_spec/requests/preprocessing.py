"""Makes the preprocessing of images explicit: what the request leaves open is that of the teacher's library."""

from __future__ import annotations

from typing import Any

from lit_spec.base import SpecError
from lit_spec.networks.architecture import Architecture, LibraryPreprocessing, Modality, Task
from lit_spec.requests.dataset import IMAGENET_MEAN, IMAGENET_STD, Constants, DatasetRequest, Preprocessing

IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def with_library_defaults(
    dataset: DatasetRequest, teacher: Architecture, library: LibraryPreprocessing | None
) -> DatasetRequest:
    """The data set with every value that does not depend on the data. Raises SpecError for constants that this teacher
    does not have."""
    if teacher.modality == Modality.TEXT:
        return dataset
    constants = {name: _constants(name, dataset, teacher, library) for name in IMAGENET}
    geometry = {} if library is None else _geometry(dataset, library)
    return dataset.model_copy(update={**constants, **geometry})


def refused_resize(dataset: Preprocessing) -> str | None:
    """What is wrong with `resize`; None if nothing is."""
    size, resize = dataset.size, dataset.resize
    if resize is None:
        return None
    if size is None:
        return "resizes images before `size` is cut from their centre, but there is no size: give dataset.size too"
    if any(side < least for side, least in zip([resize] * 2 if isinstance(resize, int) else resize, size, strict=True)):
        return f"is {resize}, too small to cut dataset.size {size} from: give at least {max(size)}"
    return None


def _constants(
    name: str, dataset: DatasetRequest, teacher: Architecture, library: LibraryPreprocessing | None
) -> list[float] | Constants:
    given: list[float] | Constants = getattr(dataset, name)
    own: list[float] | None = None if library is None else getattr(library, name)
    if name not in dataset.model_fields_set:
        # A generator's images are scaled to -1..1, the range of its output.
        usual = [0.5] * (teacher.channels or 0) if teacher.task == Task.TRANSLATION else given
        return usual if own is None else own
    if given == Constants.IMAGENET:
        if teacher.channels != len(IMAGENET[name]):
            raise SpecError(
                f"dataset.{name}",
                f"is imagenet, which has {len(IMAGENET[name])} values, but the teacher takes {teacher.channels} input "
                "channels: give one value per channel, or data",
            )
        return IMAGENET[name]
    if given == Constants.LIBRARY:
        if own is None:
            raise SpecError(
                f"dataset.{name}",
                "is library, but no library's constants are known for this teacher: give one value per channel, "
                "imagenet or data",
            )
        return own
    return given


def _geometry(dataset: DatasetRequest, library: LibraryPreprocessing) -> dict[str, Any]:
    """A given size wins over the library's, and then nothing is cut off unless the request says so: a teacher of small
    images was hardly trained on the middle of them."""
    given = dataset.model_fields_set
    found: dict[str, Any] = {name: getattr(library, name) for name in ("size", "resampling") if name not in given}
    if not given & {"size", "crop", "resize"}:
        found["resize"] = library.resize
    return found
