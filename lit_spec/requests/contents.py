"""Whether a data set, as its inspection found it, fits the teacher and the request."""

from __future__ import annotations

from collections.abc import Sequence

from lit_spec.base import SpecError, Split
from lit_spec.dataset_inspection import DatasetInspection, ImageContents, LabelKind, Need
from lit_spec.networks.architecture import Architecture, Modality, Task
from lit_spec.requests.dataset import DatasetRequest
from lit_spec.requests.splits import split_sizes
from lit_spec.requests.training import Hyperparameters

NAMES_SHOWN = 10
UPLOAD = "dataset.upload"


def check_contents(
    dataset: DatasetRequest, training: Hyperparameters, teacher: Architecture, found: DatasetInspection
) -> None:
    """Refuse at once what the job would refuse after it has read the data. Raises SpecError.

    What the inspection didn't see is left to the job.
    """
    if not found.modalities:
        return
    if teacher.modality not in found.modalities:
        raise _other_modality(teacher, found)
    if teacher.modality != found.modalities[0]:
        return
    if found.images is not None:
        _check_images(dataset, teacher, found.images)
    if found.needs is not None and not _is_met(found.needs, dataset):
        missing = "" if found.needs.field == UPLOAD else "is missing: "
        raise SpecError(found.needs.field, f"{missing}{found.needs.why}")
    if found.label_kind == LabelKind.UNKNOWN:
        return
    if found.label_kind == LabelKind.ATTRIBUTES:
        _check_attributes(dataset, teacher, found)
    else:
        _check_classes(dataset, teacher, found)
    _check_splits(dataset, found)
    _check_labels(dataset, training, teacher, found)


def check_test_contents(dataset: DatasetRequest, teacher: Architecture, found: DatasetInspection) -> None:
    """The same for an upload that is the test split, in which classes may be missing. Raises SpecError."""
    try:
        if found.modalities and teacher.modality not in found.modalities:
            raise _other_modality(teacher, found)
        if found.images is not None and teacher.modality == Modality.IMAGE:
            _check_images(dataset, teacher, found.images)
        if found.label_kind == LabelKind.NUMBERS:
            _check_classes(dataset, teacher, found)
    except SpecError as failure:
        raise SpecError("dataset.test_upload", failure.message) from failure


def _other_modality(teacher: Architecture, found: DatasetInspection) -> SpecError:
    return SpecError(
        UPLOAD, f"has {found.modalities[0]}s, but the teacher takes {teacher.modality}s: give data of that kind"
    )


def _check_images(dataset: DatasetRequest, teacher: Architecture, images: ImageContents) -> None:
    if teacher.channels not in images.channels:
        counts = " or ".join(str(count) for count in images.channels)
        raise SpecError(
            UPLOAD, f"has images of {counts} channels, but the teacher takes {teacher.channels}: give such images"
        )
    shortest = min(images.height[0], images.width[0])
    if dataset.crop is not None and dataset.crop > shortest:
        raise SpecError(
            "dataset.crop", f"is {dataset.crop}, but an image has a side of {shortest} pixels: give at most {shortest}"
        )
    one_size = images.height[0] == images.height[1] and images.width[0] == images.width[1]
    if not one_size and dataset.size is None and dataset.crop is None:
        raise SpecError(
            "dataset.size",
            f"is missing, but the images differ in size ({_range(images.height)} high, {_range(images.width)} wide): "
            "give the height and the width to which they are resized",
        )


def _check_classes(dataset: DatasetRequest, teacher: Architecture, found: DatasetInspection) -> None:
    order, outputs = dataset.class_order, teacher.classes
    if found.label_kind == LabelKind.NUMBERS:
        largest = max((int(name) for name in found.classes), default=0)
        if largest >= outputs:
            raise SpecError(
                UPLOAD,
                f"has labels up to {largest}, but the teacher has {_outputs(teacher)}: labels must be 0 to "
                f"{outputs - 1}",
            )
    elif found.label_kind == LabelKind.NAMES:
        if order is None and found.number_of_classes != outputs:
            raise SpecError(
                UPLOAD,
                f"has {found.number_of_classes} classes ({_some(found.classes)}), but the teacher has "
                f"{_outputs(teacher)}: use the data that the teacher was trained on, or name all of its classes in "
                "dataset.class_order",
            )
        unnamed = [name for name in found.classes if order is not None and name not in order]
        if unnamed:
            raise SpecError(
                "dataset.class_order", f"lacks {_some(unnamed)}: name every class of the data, which has these"
            )


def _check_attributes(dataset: DatasetRequest, teacher: Architecture, found: DatasetInspection) -> None:
    if teacher.task != Task.TRANSLATION:
        return
    if dataset.attributes is None:
        raise SpecError(
            "dataset.attributes",
            f"is missing: name the {teacher.classes} attributes that are the generator's domains, in its order, of "
            f"{_some(found.classes)}",
        )
    unknown = [name for name in dataset.attributes if name not in found.classes]
    if unknown:
        raise SpecError("dataset.attributes", f"has {_some(unknown)}, but the data has {_some(found.classes)}")


def _check_splits(dataset: DatasetRequest, found: DatasetInspection) -> None:
    sizes = split_sizes({Split(split): part.samples for split, part in found.splits.items()}, dataset)
    if dataset.train_samples is not None and dataset.train_samples > sizes[Split.TRAIN]:
        raise SpecError(
            "dataset.train_samples",
            f"is {dataset.train_samples}, but the training split has {sizes[Split.TRAIN]} samples: lower it or leave "
            "it out",
        )


def _check_labels(
    dataset: DatasetRequest, training: Hyperparameters, teacher: Architecture, found: DatasetInspection
) -> None:
    train = found.splits[Split.TRAIN]
    if teacher.task == Task.TRANSLATION and train.labelled < train.samples:
        raise SpecError(UPLOAD, "has samples without a label, but a generator needs the domain of each: give labels")
    if teacher.task == Task.CLASSIFICATION and training.learns_labels and (not train.labelled or not dataset.labels):
        raise SpecError(
            "alpha",
            f"is {training.alpha:g}, but the training split has no labels: set it to 0 to learn from the teacher "
            "alone, or give labels",
        )


def _is_met(need: Need, dataset: DatasetRequest) -> bool:
    match need.field:
        case "dataset.unlabelled":
            # A class order says of every label that it is a class.
            return dataset.unlabelled is not None or dataset.class_order is not None
        case _:
            return dataset.columns is not None


def _outputs(teacher: Architecture) -> str:
    what = "domains" if teacher.task == Task.TRANSLATION else "classes"
    return f"{teacher.classes} {what}"


def _range(bounds: Sequence[int]) -> str:
    return f"{bounds[0]}" if bounds[0] == bounds[1] else f"{bounds[0]} to {bounds[1]}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
