"""What an inspection finds out about a data set, whatever teacher it is for."""

from __future__ import annotations

from pydantic import Field

from lit_spec.base import OpenEnum, SpecModel
from lit_spec.networks.architecture import Modality

MOST_CLASSES_SHOWN = 1000
"""Of a data set with more classes, the names and counts of the first ones are in the inspection."""


class LabelKind(OpenEnum):
    NAMES = "names"
    """The classes are what the data names them; their order is that of the outputs."""
    NUMBERS = "numbers"
    """Each label is the number of the teacher's output, from 0."""
    ATTRIBUTES = "attributes"
    """A sample has each of them or not, as in CelebA; a request chooses the generator's domains."""
    DOMAINS = "domains"
    """The same in an array with a column for each domain of the generator."""
    NONE = "none"
    UNKNOWN = "unknown"
    """Not without the job's request; the notes say what it must give."""


class SplitContents(SpecModel):
    """The samples of one split."""

    samples: int
    """How many there are."""
    labelled: int
    """How many of them have a label."""
    counts: list[int] = Field(default_factory=list)
    """Labelled samples of each class, in the order of `classes`."""


class ImageContents(SpecModel):
    """What the images of a data set are like."""

    channels: list[int]
    """The numbers of channels that the images can be read with: 1 and 3 for image files, of an array what its shape
    allows."""
    grey: bool = False
    """Whether all images that were looked at are grey."""
    height: list[int]
    """The least and the largest, in pixels."""
    width: list[int]
    """The least and the largest, in pixels."""
    mean: list[float]
    """Per channel, after scaling to [0, 1] for integers."""
    std: list[float]
    """Standard deviation per channel, on the same scale."""


class TextContents(SpecModel):
    """How long the texts of a data set are."""

    shortest: int
    """In characters."""
    median: int
    """In characters."""
    longest: int
    """In characters."""


class Need(SpecModel):
    """What a request must say before the data can be read."""

    field: str
    """`dataset.unlabelled`, `dataset.columns` or `dataset.class_order`; or `dataset.upload`, if the columns that are
    told by their names can't be read, so that only a request that names others can use it."""
    why: str
    """Why that must be said, for people."""


class DatasetInspection(SpecModel):
    """What the upload of a data set contains."""

    format: str
    """What the file was read as, for example `npz`, `images` or `parquet`."""
    modalities: list[Modality]
    """Of the teachers that may take it; what is said of the samples is for the first of them. A table may have images
    and texts. Empty: the inspection couldn't read it within its limits of time and memory."""
    label_kind: LabelKind = LabelKind.NONE
    """What a sample's label says."""
    classes: list[str] = Field(default_factory=list)
    """In the order of the outputs, unless the request gives another; for numbers those from 0 to the largest."""
    number_of_classes: int = 0
    """How many classes the labels have; 0 without classes."""
    splits: dict[str, SplitContents] = Field(default_factory=dict)
    """By `Split`, those that the data has; what else is needed is held out from `train`."""
    images: ImageContents | None = None
    """What the images are like; null without images."""
    texts: TextContents | None = None
    """What the texts are like; null without texts."""
    looked_at: int = 0
    """Samples whose content was read. The others are read by the job."""
    skipped: list[str] = Field(default_factory=list)
    """Hidden files and files of operating systems, the first ones."""
    needs: Need | None = None
    """None: the data can be read as it is."""
    notes: list[str] = Field(default_factory=list)
    """What may be wrong with it."""

    @classmethod
    def not_read(cls, why: str) -> DatasetInspection:
        """Of a data set that is too large to be looked through. The job reads it with limits of its own."""
        return cls(format="unknown", modalities=[], notes=[f"{why}; the job will check the data"])

    @property
    def samples(self) -> int:
        return sum(split.samples for split in self.splits.values())
