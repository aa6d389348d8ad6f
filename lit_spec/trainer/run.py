"""run.json: what the worker tells the trainer about one run, apart from the job's specification."""

from __future__ import annotations

from pathlib import Path

from lit_spec.base import SpecModel


class TrainerMachine(SpecModel):
    """The part that is the same for every trainer of a worker."""

    threads: int | None = None
    """Number of CPU threads. None: torch's choice."""
    datasets: Path | None = None
    """The folder of mounted data sets; absolute, because the trainer's working folder is the job folder."""
    datasets_download: bool = False
    """Whether a mounted data set may be downloaded into that folder."""
    teacher_cache: Path | None = None
    """The folder of cached teachers, which the trainers of a machine share; absolute. None: none are cached."""
    teacher_cache_bytes: int = 0
    """What the folder may have."""
    teacher_cache_job_bytes: int = 0
    """What one job may have there."""
    feature_network: Path | None = None
    """The operator's network for FID and Inception Score; absolute as well."""
    data_store: Path | None = None
    """The folder of decoded images, which all jobs of the machine share; absolute as well. None: there is none."""
    data_store_bytes: int = 0
    """What the data sets in that folder may take together."""
    data_store_days: float | None = None
    """After which a data set that was not used is removed from it. None: only for room."""
    disk_reserve_bytes: int = 0
    """Of the disk, which both folders leave free."""


class DatasetOrigin(SpecModel):
    """What lay under the URL of a data set when the worker fetched it."""

    url: str
    files: int
    bytes: int
    etag: str | None
    """Of the object; for a folder a sha256 over the names, sizes and ETags of its objects. None: the store has none."""
    version: str | None
    """Of the object, in a bucket that keeps versions."""


class TrainerRun(TrainerMachine):
    """The content of run.json."""

    device: str
    """`cpu` or `cuda`."""
    attempt: int = 1
    is_trial: bool = False
    """Whether it is a trial of a study, whose other trials have the same teacher and data."""
    dataset_origin: DatasetOrigin | None = None
    """None: the data set has no URL."""
