"""Where the data comes from, how it is preprocessed, split and augmented."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lit_spec.base import SpecModel
from lit_spec.networks.architecture import Modality, Resampling
from lit_spec.requests.store_urls import dataset_url

Channel = Annotated[list[float], Field(min_length=1, max_length=64)]
Size = Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=2, max_length=2)]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BUILTIN = ("digits",)
DATASET_SOURCES = ("upload", "builtin", "mounted", "url")
"""The fields of a `DatasetRequest` that say where the data comes from. A request has exactly one of them."""
VDCNN_VOCABULARY = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/|_#$%\u02c6&*~`+=<>()[]{} "
"""The 67 characters of VDCNN's reference. With padding and the unknown character they are the 69 rows of its
embedding."""


class Constants(StrEnum):
    """Where the values of `mean` and `std` come from, if the request doesn't give them."""

    DATA = "data"
    """They are measured on the training split."""
    IMAGENET = "imagenet"
    """The usual ones of ImageNet, for three channels."""
    LIBRARY = "library"
    """Those with which the teacher's library publishes its weights."""


class Preprocessing(SpecModel):
    """How raw images and texts become the network's input."""

    size: Size | None = None
    """Height and width in pixels to which images are resized. None: they keep their size, which all must share. Unset:
    the size of the teacher's library, and the same for `resampling`."""
    crop: int | None = Field(None, ge=1, le=16_384)
    """Side of the square that is cut from the centre of each image before resizing."""
    resize: Annotated[int, Field(ge=1, le=8192)] | Size | None = None
    """Length in pixels of the shorter side to which each image is resized with its aspect ratio kept, or height and
    width, before `size` is cut from its centre. None: images are resized to `size` itself. Unset: as the teacher's
    library does, if `size` and `crop` are unset too."""
    resampling: Resampling = Resampling.BILINEAR
    """The filter for resizing."""
    mean: Channel | Constants = Constants.DATA
    """Per channel, after scaling to [0, 1]. Unset: "library" for a teacher whose library has constants, 0.5 for a
    generator, otherwise "data", and the same for `std`."""
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=64)] | Constants = Constants.DATA
    """Standard deviation per channel, as for `mean`."""
    length: int = Field(1014, ge=8, le=1_000_000)
    """Number of characters to which a text is cut or padded."""
    vocabulary: str | None = Field(None, min_length=1, max_length=10_000)
    """The characters that a text network knows, in the order of its embedding, after padding and the unknown character.
    None: the 67 characters of VDCNN."""
    lowercase: bool = True
    """Whether texts are converted to lower case first."""
    class_order: list[str] | None = None
    """Class names in the order of the teacher's outputs. None: alphabetical for folders and names, ascending for
    numbers."""
    attributes: list[str] | None = Field(None, min_length=1, max_length=1000)
    """For data in CelebA's layout: the attributes that are the generator's domains, in its order."""


class TableColumns(SpecModel):
    """The columns of a table that have the samples and their labels. One that is not given is told by its name."""

    text: str | Annotated[list[str], Field(min_length=1, max_length=64)] | None = None
    """The column of texts, or several, which are joined by a space in this order."""
    image: str | None = None
    """The column of encoded images."""
    label: str | None = None
    """The column with the labels. None: the one that its name tells."""

    @property
    def texts(self) -> list[str]:
        """The columns of texts; empty if they are not given."""
        return [self.text] if isinstance(self.text, str) else self.text or []

    def of_another_modality(self, modality: Modality) -> str | None:
        """The field that is given, but is for networks of another modality."""
        other = "image" if modality == Modality.TEXT else "text"
        return None if getattr(self, other) is None else other


class DatasetRequest(Preprocessing):
    """Where the samples come from, how they are read, and how they become the network's input."""

    upload: str | None = None
    """The id of an upload of the kind `dataset`."""
    builtin: Literal["digits"] | None = None
    """A data set that LIT has built in."""
    mounted: Literal["cifar10", "cifar100", "svhn", "celeba"] | None = None
    """Name of a data set in the folder that the operator of the workers has mounted."""
    url: Annotated[str, Field(max_length=2048), AfterValidator(dataset_url)] | None = None
    """s3://, gs:// or az:// of a file, or of a folder with a slash at its end, in a store that the operator allows."""
    test_upload: str | None = None
    """The id of a dataset upload, all of whose samples are the test split. One that `upload` has is then not used."""
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the training split that is held out for validation if the data set has no `val` split."""
    test_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the training split that is held out for the test if the data set has no `test` split."""
    train_samples: int | None = Field(None, ge=2)
    """Use only this many samples of the training split, with the same shares of the classes. None: all."""
    labels: bool = True
    """False: ignore the labels of the training and validation splits, as if there were none."""
    columns: TableColumns | None = None
    """For tables (CSV, TSV, JSON lines, Parquet): which column is which. None: names and types tell it."""
    unlabelled: int | str | None = None
    """Samples with this label have none. None: -1 among other labels is an error."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(getattr(self, source) is not None for source in DATASET_SOURCES) != 1:
            raise ValueError(
                'give exactly one of "upload" (the id of a dataset upload), "builtin" ("digits"), "mounted" (a name) '
                'or "url" (of an object store)'
            )
        if self.test_upload is not None and self.upload is None:
            raise ValueError('has a "test_upload", which goes with an "upload": give both, or leave it out')
        return self

    @model_validator(mode="after")
    def _of_uploads(self) -> Self:
        for name in ("columns", "unlabelled"):
            if self.upload is None and self.url is None and getattr(self, name) is not None:
                raise ValueError(f'"{name}" is for an upload or a "url", but the data set is neither: leave it out')
        if self.unlabelled is not None and str(self.unlabelled) in (self.class_order or ()):
            raise ValueError(f'"unlabelled" and "class_order" both have {self.unlabelled}: leave it out of one of them')
        return self


class Augmentation(SpecModel):
    """Random changes of the training samples, drawn for each sample in each pass or view."""

    shift: int | None = Field(None, ge=0, le=64)
    """Largest random shift in pixels, in each direction; zeros fill the gap. None: an eighth of the
    shorter side for image classifiers, and no shift for generators or with `crop_scale`."""
    flip: bool | None = None
    """Random horizontal mirroring. None: only for generators."""
    rotate: float = Field(0.0, ge=0, le=180)
    """Largest random rotation in degrees, in either direction."""
    scale: float = Field(1.0, ge=1, le=4)
    """Largest random enlargement factor. The factor is drawn log-uniformly from its inverse to this value."""
    noise: float = Field(0.0, ge=0, le=10)
    """Standard deviation of Gaussian noise, in standard deviations of the data."""
    crop_scale: list[Annotated[float, Field(gt=0, le=1)]] | None = Field(None, min_length=2, max_length=2)
    """Random resized crops: least and largest share of the image that a crop takes, as [0.08, 1]. Each crop is resized
    to `dataset.size`. None: whole images."""
    crop_ratio: list[Annotated[float, Field(ge=0.1, le=10)]] = Field([0.75, 4 / 3], min_length=2, max_length=2)
    """Least and largest ratio of a crop's width to its height."""
    crop_from: int | None = Field(None, ge=8, le=4096)
    """Shorter side in pixels of the images from which crops are taken, as 256 where `dataset.size` is [224, 224]. They
    are decoded beside those of `dataset.size`, so that small crops stay sharp. None: crops are taken from images of
    `dataset.size`."""
    color_jitter: float = Field(0.0, ge=0, le=1)
    """Brightness, contrast and saturation are each multiplied by a factor of 1 - color_jitter to 1 + color_jitter."""
    mask: float = Field(0.0, ge=0, lt=1)
    """For texts: share of the characters that are replaced by the unknown character."""

    @model_validator(mode="after")
    def _crops(self) -> Self:
        for name in ("crop_scale", "crop_ratio"):
            bounds = getattr(self, name)
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"{name} is {bounds}, with the larger value first: give the least and the largest")
        if self.crop_from is not None and self.crop_scale is None:
            raise ValueError("crop_from is for random resized crops: give crop_scale too, or leave it out")
        return self
