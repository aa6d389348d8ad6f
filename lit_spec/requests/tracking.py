"""To which experiment tracker a job reports, and under which name its student is registered."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field

from lit_spec.base import SpecModel

RESERVED_TAGS = ("lit.", "mlflow.")
"""Tags that begin so are set by LIT and by MLflow."""


def tracker_uri(uri: str) -> str:
    """The address of a tracking server in its one form. Raises ValueError."""
    try:
        parts = urlsplit(uri)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and "," not in uri
        valid = known and not parts.query and not parts.fragment and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("is not the address of a tracking server: it must begin with http:// or https://")
    return uri.rstrip("/")


def _without_credentials(uri: str) -> str:
    if "@" in urlsplit(uri).netloc:
        raise ValueError("must not have a user or a password: the service's operator configures them")
    return uri


def _not_reserved(tags: dict[str, str]) -> dict[str, str]:
    taken = [name for name in tags if name.startswith(RESERVED_TAGS)]
    if taken:
        raise ValueError(
            f"has {taken[0]!r}, but tags that begin with lit. or mlflow. are reserved: choose another name"
        )
    return tags


TrackerUri = Annotated[str, Field(max_length=2000), AfterValidator(tracker_uri), AfterValidator(_without_credentials)]
TagName = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^\w[\w.\- /]*$")]
TagValue = Annotated[str, Field(max_length=5000)]
ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/:\x00-\x1f]+$")]
"""MLflow reads "/" and ":" in the name of a registered model as parts of an address."""


class MlflowTracking(SpecModel):
    """A run of MLflow that follows the job."""

    tracking_uri: TrackerUri | None = None
    """Of the tracking servers that the service's operator allows. None: the operator's own."""
    experiment: str | None = Field(None, min_length=1, max_length=250)
    """None: the operator's MLFLOW_EXPERIMENT_NAME, otherwise `lit`."""
    run_name: str | None = Field(None, min_length=1, max_length=250)
    """None: the job's name, otherwise its id."""
    tags: Annotated[dict[TagName, TagValue], AfterValidator(_not_reserved)] = Field(default_factory=dict, max_length=50)
    """Further tags of the run, by name."""


class Track(SpecModel):
    """The trackers that follow the job."""

    mlflow: MlflowTracking | Literal[False]
    """`false` keeps the job out of MLflow."""


class Tracked(SpecModel):
    """The fields of a request that trackers read. The trainer knows nothing of them."""

    model_config = ConfigDict(serialize_by_alias=True)

    track: Track | None = None
    """None: the job goes to the operator's tracking server, if there is one."""
    # Not `register`, which is a method of every class with the metaclass ABCMeta, as pydantic's.
    registered_model: ModelName | None = Field(None, alias="register")
    """Name of a registered model of MLflow, of which the student becomes a version."""
