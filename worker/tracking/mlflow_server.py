"""One tracking server of MLflow, by its client.

The client reads user, password and token from the environment, and there is no other way to give it these. So
everything runs in one thread, and each call has the credentials of its own server alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from jobs.tracking.trackers import Tracker
from worker.tracking.contents import JOB_TAG, Value

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

CREDENTIALS = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
)
"""Variables that are meant for the server in MLFLOW_TRACKING_URI."""
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # Whoever calls tries again by itself, after longer pauses.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Variables of the client that hold unless the operator has set them. They must stand before it is imported."""
PER_BATCH = 100
METRICS_PER_BATCH = 1000
LONGEST_ERROR = 500


class TrackingFailed(Exception):
    """The tracking server refused something, or can't be reached. The message says what."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        """Whether the server answered, so that other runs may succeed."""


def prepare_client() -> None:
    """Set the client's variables. Call it before the first server is made."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)


class MlflowServer:
    """Every method raises TrackingFailed. `default`: whether it is the server in MLFLOW_TRACKING_URI."""

    def __init__(self, tracker: Tracker, *, default: bool) -> None:
        from mlflow.tracking import MlflowClient

        self.uri = tracker.uri
        self._environment = _credentials(tracker, default=default)
        self._client: MlflowClient = MlflowClient(tracking_uri=tracker.uri, registry_uri=tracker.uri)

    def find_or_create_run(
        self, job_id: str, experiment: str, name: str, tags: Mapping[str, str], started: datetime
    ) -> tuple[str, str]:
        """The ids of the job's run and of its experiment. A run that was made before is found by its tag."""

        def call(client: MlflowClient) -> tuple[str, str]:
            experiment_id = _experiment_id(client, experiment)
            found = client.search_runs([experiment_id], f"tags.`{JOB_TAG}` = '{job_id}'", max_results=1)
            run = found[0] if found else client.create_run(experiment_id, _ms(started), dict(tags), name)
            return run.info.run_id, experiment_id

        return self._call("make the run", call)

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        def call(client: MlflowClient) -> None:
            from mlflow.entities import Param

            entries = [Param(name, value) for name, value in parameters.items()]
            for start in range(0, len(entries), PER_BATCH):
                client.log_batch(run_id, params=entries[start : start + PER_BATCH])

        self._call("log the parameters", call)

    def log_values(self, run_id: str, values: Sequence[Value], tags: Mapping[str, str]) -> None:
        def call(client: MlflowClient) -> None:
            from mlflow.entities import Metric, RunTag

            metrics = [Metric(value.name, value.value, _ms(value.at), value.step) for value in values]
            for start in range(0, len(metrics), METRICS_PER_BATCH):
                client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])
            if tags:
                client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

        self._call("log metrics", call)

    def set_status(self, run_id: str, status: str, finished: datetime | None) -> None:
        """`finished` ends the run."""

        def call(client: MlflowClient) -> None:
            if finished is None:
                client.update_run(run_id, status)
            else:
                client.set_terminated(run_id, status, _ms(finished))

        self._call("set the status", call)

    def log_file(self, run_id: str, path: Path, folder: str | None) -> None:
        """Upload one file into a folder of the run's artifacts."""

        def call(client: MlflowClient) -> None:
            _check_artifact_store(client.get_run(run_id))
            client.log_artifact(run_id, str(path), folder)

        self._call(f"store {path.name}", call)

    def register(self, run_id: str, folder: str, name: str, tags: Mapping[str, str]) -> str:
        """The version of the registered model `name` that the model in `folder` of the run is. It is made once."""

        def call(client: MlflowClient) -> str:
            from mlflow.exceptions import MlflowException

            try:
                client.create_registered_model(name)
            except MlflowException as failure:
                if failure.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            for made in client.search_model_versions(f"run_id = '{run_id}'"):
                if made.name == name:
                    return str(made.version)
            source = f"{client.get_run(run_id).info.artifact_uri}/{folder}"
            made = client.create_model_version(name, source, run_id, dict(tags), await_creation_for=0)
            return str(made.version)

        return self._call(f"register {name}", call)

    def _call(self, what: str, call: Callable[[MlflowClient], T]) -> T:
        try:
            with _with_environment(self._environment):
                return call(self._client)
        except TrackingFailed:
            raise
        except Exception as failure:
            raise _failed(what, failure) from failure


def _failed(what: str, failure: Exception) -> TrackingFailed:
    from mlflow.exceptions import RestException

    text = " ".join(str(failure).split()) or repr(failure)
    return TrackingFailed(f"could not {what}: {text}"[:LONGEST_ERROR], refused=isinstance(failure, RestException))


def _experiment_id(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            # Another process may have made it.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise TrackingFailed(f"the experiment {name} is deleted: restore it, or name another one", refused=True)
    return str(found.experiment_id)


def _check_artifact_store(run: Run) -> None:
    """A path would be one of this machine, not of the server. Raises TrackingFailed."""
    if urlsplit(run.info.artifact_uri).scheme in {"", "file"}:
        raise TrackingFailed(
            "the tracking server keeps artifacts in a folder of its own: start it with --artifacts-destination",
            refused=True,
        )


def _credentials(tracker: Tracker, *, default: bool) -> dict[str, str | None]:
    """The variables for a server; None: not set."""
    own = {"MLFLOW_TRACKING_USERNAME": tracker.user, "MLFLOW_TRACKING_PASSWORD": tracker.password}
    if not default:
        return dict.fromkeys(CREDENTIALS) | own
    return {} if tracker.user is None else own


@contextmanager
def _with_environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
