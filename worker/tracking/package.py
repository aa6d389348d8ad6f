"""Whether the client of MLflow is installed, without importing it."""

from __future__ import annotations

from importlib.util import find_spec

from jobs.settings import Settings
from jobs.tracking.trackers import Trackers


def missing_package(settings: Settings) -> str | None:
    """A sentence that says what to do; None if the package is there, or if no tracking server is configured."""
    if not Trackers.of(settings) or find_spec("mlflow") is not None:
        return None
    return (
        "MLFLOW_TRACKING_URI or LIT_MLFLOW_TRACKING_URIS is set, but the package mlflow-skinny is not installed: "
        "run `pip install 'lit-compress[mlflow]'`, or unset it"
    )
