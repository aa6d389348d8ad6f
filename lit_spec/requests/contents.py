"""Whether a data set, as its inspection found it, fits the teacher and the request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lit_spec.base import SpecError, Split
from lit_spec.dataset_inspection import DatasetInspection, ImageContents, LabelKind, Need
from lit_spec.networks.architecture import Architecture, Task
from lit_spec.requests.dataset import DatasetRequest
from lit_spec.requests.splits import split_sizes
from lit_spec.requests.training import Hyperparameters
from lit_spec.shown import shown, some_shown

MINUS_ONE = "-1"
WHOLE = re.compile(r"([+-]?[0-9]{1,18})\.0*")
"""An integer as a float, which pandas writes where a value was missing."""
UPLOAD, TEST_UPLOAD = "dataset.upload", "dataset.test_upload"


def check_contents(
    dataset: DatasetRequest, training: Hyperparameters, teacher: Architecture, found: DatasetInspection
) -> None:
    """Refuse at once what the job would refuse after it has read the data. Raises SpecError.

    What the inspection didn't see is left to the job.
    """
    if not found.modalities:
        return
    _check_modality(teacher, found)
    # What is said of the samples is of the first modality, and of the columns that are told by their names.
    if teacher.modality != found.modalities[0] or dataset.columns is not None:
        return
    if found.needs is not None and not _is_met(found.needs, dataset):
        missing = "" if found.needs.field == UPLOAD else "is missing: "
        raise SpecError(found.needs.field, f"{missing}{found.needs.why}")
    if found.label_kind == LabelKind.UNKNOWN:
        return
    if found.images is not None:
        _check_images(dataset, teacher, found.images)
    _check_classes(dataset, teacher, found)
    _check_splits(dataset, found)
    _check_labels(dataset, training, teacher, found)


def check_test_contents(
    dataset: DatasetRequest, teacher: Architecture, found: DatasetInspection, train: DatasetInspection | None = None
) -> None:
    """The same for an upload that is the test split, in which classes may be missing. `train`: what was found in the
    other upload. Raises SpecError.
    """
    try:
        if found.modalities:
            _check_modality(teacher, found)
        if not found.modalities or teacher.modality != found.modalities[0] or dataset.columns is not None:
            return
        if found.images is not None:
            _check_images(dataset, teacher, found.images)
        if found.label_kind in (LabelKind.NUMBERS, LabelKind.ATTRIBUTES, LabelKind.DOMAINS):
            _check_classes(dataset, teacher, found)
    except SpecError as failure:
        field = TEST_UPLOAD if failure.field == UPLOAD else failure.field
        raise SpecError(field, f"{failure.message} (the test upload)") from failure
    numbered = train is not None and train.label_kind == LabelKind.NUMBERS
    if numbered and found.label_kind == LabelKind.NAMES and dataset.class_order is None:
        raise SpecError(
            "dataset.class_order",
            f"is missing: the training labels are numbers, but the test upload names its classes "
            f"({some_shown(found.classes)}); give the names in the order of the outputs",
        )


def _check_modality(teacher: Architecture, found: DatasetInspection) -> None:
    if teacher.modality not in found.modalities:
        raise SpecError(
            UPLOAD, f"has {found.modalities[0]}s, but the teacher takes {teacher.modality}s: give data of that kind"
        )


def _check_images(dataset: DatasetRequest, teacher: Architecture, images: ImageContents) -> None:
    if teacher.channels not in images.channels:
        counts = " or ".join(str(count) for count in images.channels)
        raise SpecError(
            UPLOAD, f"has {counts}-channel images, but the teacher takes {teacher.channels} channels: give such images"
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
    match found.label_kind:
        case LabelKind.NUMBERS:
            _check_numbers(dataset, teacher, found)
        case LabelKind.NAMES:
            _check_names(dataset, teacher, found)
        case LabelKind.ATTRIBUTES:
            _check_attributes(dataset, teacher, found)
        case LabelKind.DOMAINS if teacher.task != Task.TRANSLATION:
            raise SpecError(UPLOAD, "has several labels a sample, but the teacher is a classifier: give one a sample")
        case LabelKind.DOMAINS if found.number_of_classes != teacher.classes:
            raise SpecError(
                UPLOAD,
                f"has {found.number_of_classes} columns of labels, but the teacher has {_outputs(teacher)}: give a "
                "column for each",
            )


def _check_numbers(dataset: DatasetRequest, teacher: Architecture, found: DatasetInspection) -> None:
    unlabelled = str(dataset.unlabelled)
    largest = found.number_of_classes - 1
    if str(largest) == unlabelled:
        if len(found.classes) < found.number_of_classes:
            return
        largest = max((place for place in _with_samples(found) if str(place) != unlabelled), default=0)
    if largest >= teacher.classes:
        raise SpecError(
            UPLOAD,
            f"has labels up to {largest}, but the teacher has {_outputs(teacher)}: labels must be 0 to "
            f"{teacher.classes - 1}",
        )


def _check_names(dataset: DatasetRequest, teacher: Architecture, found: DatasetInspection) -> None:
    without = shown(str(dataset.unlabelled))
    names = [name for name in found.classes if name != without]
    if dataset.unlabelled is not None and len(found.classes) < found.number_of_classes:
        return  # the label may be one of those that are not in the list
    number = found.number_of_classes - (len(found.classes) - len(names))
    if dataset.class_order is None and number != teacher.classes:
        raise SpecError(
            UPLOAD,
            f"has {number} classes ({some_shown(names)}), but the teacher has {_outputs(teacher)}: use the data that "
            "the teacher was trained on, or name all of its classes in dataset.class_order",
        )
    if dataset.class_order is None:
        return
    # Whole floats are the integers that they are equal to.
    order = {form for name in dataset.class_order for form in (shown(name), WHOLE.sub(r"\1", name.strip()))}
    unnamed = [name for name in names if name not in order]
    if unnamed:
        raise SpecError("dataset.class_order", f"lacks {some_shown(unnamed)}: name every class of the data")


def _with_samples(found: DatasetInspection) -> list[int]:
    """The places of the classes that have samples."""
    counts = [split.counts for split in found.splits.values()]
    return [place for place in range(len(found.classes)) if any(one[place : place + 1] > [0] for one in counts)]


def _check_attributes(dataset: DatasetRequest, teacher: Architecture, found: DatasetInspection) -> None:
    if teacher.task != Task.TRANSLATION:
        raise SpecError(UPLOAD, "has attributes, as CelebA, but the teacher is a classifier: give one label a sample")
    if dataset.attributes is None:
        raise SpecError(
            "dataset.attributes",
            f"is missing: name the {teacher.classes} attributes that are the generator's domains, in its order, of "
            f"{some_shown(found.classes)}",
        )
    unknown = [name for name in dataset.attributes if shown(name) not in found.classes]
    if unknown and len(found.classes) == found.number_of_classes:
        known = some_shown(found.classes)
        raise SpecError("dataset.attributes", f"has {some_shown(unknown)}, but the data has {known}")


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
    labelled = train.labelled
    if dataset.unlabelled is not None:
        if len(found.classes) < found.number_of_classes:
            return
        without = shown(str(dataset.unlabelled))
        labelled -= sum(count for name, count in zip(found.classes, train.counts, strict=False) if name == without)
    if teacher.task == Task.TRANSLATION and labelled < train.samples:
        raise SpecError(UPLOAD, "has samples without a label, but a generator needs the domain of each: give labels")
    if teacher.task == Task.CLASSIFICATION and training.learns_labels and (not labelled or not dataset.labels):
        raise SpecError(
            "alpha",
            f"is {training.alpha:g}, but the training split has no labels: set it to 0 to learn from the teacher "
            "alone, or give labels",
        )


def _is_met(need: Need, dataset: DatasetRequest) -> bool:
    match need.field:
        case "dataset.unlabelled":
            return dataset.unlabelled is not None or MINUS_ONE in (dataset.class_order or ())
        case "dataset.class_order":
            return dataset.class_order is not None
        case _:
            return dataset.columns is not None


def _outputs(teacher: Architecture) -> str:
    what = "domains" if teacher.task == Task.TRANSLATION else "classes"
    return f"{teacher.classes} {what}"


def _range(bounds: Sequence[int]) -> str:
    return f"{bounds[0]}" if bounds[0] == bounds[1] else f"{bounds[0]} to {bounds[1]}"
