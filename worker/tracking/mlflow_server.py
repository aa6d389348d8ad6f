"""What a follower asks of one tracking server, in terms of MLflow's REST API.

Source: https://mlflow.org/docs/latest/api_reference/rest-api.html. MLflow's own client is not used: it takes
credentials from the process's environment, follows redirects, and sends files wherever a server's answer says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from worker.tracking.connection import Connection, TrackingFailed
from worker.tracking.contents import JOB_TAG, OWNER_TAG, Value

PER_BATCH = 100
METRICS_PER_BATCH = 1000
ARTIFACT_SCHEME = "mlflow-artifacts"
"""Of artifacts that the tracking server itself takes, and stores where it likes."""

_IDENTIFIER = re.compile(r"[\w.\-]{1,250}", re.ASCII)
_SEGMENT = re.compile(r"(?!\.{1,2}$)[\w.\-+=@~ ]+", re.ASCII)


class NotRegistered(Exception):
    """The registered model belongs to another owner. The message says so."""


class MlflowServer:
    """Every method raises TrackingFailed.

    `renew` is called before each call with the seconds that the call may take. It raises where somebody else has taken
    over, so that nothing is made twice.
    """

    def __init__(self, connection: Connection, renew: Callable[[float], None]) -> None:
        self._connection = connection
        self._renew = renew

    def find_or_create_run(
        self, job_id: str, experiment: str, name: str, tags: Mapping[str, str], started: datetime
    ) -> tuple[str, str]:
        """The ids of the job's run and of its experiment. A run that was made before is found by its tag."""
        what = "make the run"
        experiment_id = self._experiment_id(what, experiment)
        fields = {"experiment_ids": [experiment_id], "filter": f"tags.`{JOB_TAG}` = '{job_id}'", "max_results": 1}
        found = _objects(self._post(what, "runs/search", fields), "runs")
        if found:
            return _identifier(what, found[0], "info", "run_id"), experiment_id
        fields = {"experiment_id": experiment_id, "run_name": name, "start_time": _ms(started), "tags": _pairs(tags)}
        made = self._post(what, "runs/create", fields)
        return _identifier(what, made, "run", "info", "run_id"), experiment_id

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        for batch in _batches(_pairs(parameters), PER_BATCH):
            self._post("log the parameters", "runs/log-batch", {"run_id": run_id, "params": batch})

    def log_values(self, run_id: str, values: Sequence[Value], tags: Mapping[str, str]) -> None:
        what = "log metrics"
        metrics = [{"key": v.name, "value": v.value, "timestamp": _ms(v.at), "step": v.step} for v in values]
        for batch in _batches(metrics, METRICS_PER_BATCH):
            self._post(what, "runs/log-batch", {"run_id": run_id, "metrics": batch})
        if tags:
            self._post(what, "runs/log-batch", {"run_id": run_id, "tags": _pairs(tags)})

    def set_status(self, run_id: str, status: str, finished: datetime | None) -> None:
        """`finished` ends the run."""
        fields: dict[str, Any] = {"run_id": run_id, "status": status}
        if finished is not None:
            fields["end_time"] = _ms(finished)
        self._post("set the status", "runs/update", fields)

    def log_file(self, run_id: str, path: Path, folder: str | None) -> None:
        """Upload one file into a folder of the run's artifacts."""
        what = f"store {path.name}"
        root = _artifact_folder(self._artifact_uri(what, run_id), self._connection.uri)
        names = [*root, *([] if folder is None else [folder]), path.name]
        self._renew(self._connection.upload_seconds(path))
        self._connection.upload(what, "/".join(quote(name, safe="") for name in names), path)

    def register(self, run_id: str, folder: str, name: str, owner: str, tags: Mapping[str, str]) -> str:
        """The version of the registered model `name` that the model in `folder` of the run is. It is made once.

        Raises NotRegistered for a model that LIT made for another owner.
        """
        what = f"register {name}"
        try:
            self._post(what, "registered-models/create", {"name": name, "tags": _pairs({OWNER_TAG: owner})})
        except TrackingFailed as failure:
            if failure.code != "RESOURCE_ALREADY_EXISTS":
                raise
            self._check_owner(what, name, owner)
        fields = {"filter": f"run_id = '{run_id}'", "max_results": PER_BATCH}
        for made in _objects(self._get(what, "model-versions/search", fields), "model_versions"):
            if made.get("name") == name:
                return _identifier(what, made, "version")
        uri = self._artifact_uri(what, run_id)
        _artifact_folder(uri, self._connection.uri)
        fields = {"name": name, "source": f"{uri}/{folder}", "run_id": run_id}
        fields["tags"] = _pairs({**tags, OWNER_TAG: owner})
        return _identifier(what, self._post(what, "model-versions/create", fields), "model_version", "version")

    def _check_owner(self, what: str, name: str, owner: str) -> None:
        model = _at(self._get(what, "registered-models/get", {"name": name}), "registered_model")
        owners = [tag.get("value") for tag in _objects(model, "tags") if tag.get("key") == OWNER_TAG]
        if owners and owners != [owner]:
            raise NotRegistered(
                f"the student was not registered, because the registered model {name} belongs to another owner: "
                "choose another name"
            )

    def _experiment_id(self, what: str, name: str) -> str:
        found = self._experiment(what, name)
        if found is None:
            try:
                made = self._post(what, "experiments/create", {"name": name})
                return _identifier(what, made, "experiment_id")
            except TrackingFailed as failure:
                # Another process may have made it.
                if failure.code is None or (found := self._experiment(what, name)) is None:
                    raise
        if found.get("lifecycle_stage") != "active":
            raise TrackingFailed(f"the experiment {name} is deleted: restore it, or name another one", refused=True)
        return _identifier(what, found, "experiment_id")

    def _experiment(self, what: str, name: str) -> dict[str, Any] | None:
        try:
            answer = self._get(what, "experiments/get-by-name", {"experiment_name": name})
        except TrackingFailed as failure:
            if failure.code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        found = _at(answer, "experiment")
        return found if isinstance(found, dict) else {}

    def _artifact_uri(self, what: str, run_id: str) -> str:
        found = _at(self._get(what, "runs/get", {"run_id": run_id}), "run", "info", "artifact_uri")
        return found if isinstance(found, str) else ""

    def _get(self, what: str, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        self._renew(self._connection.call_seconds)
        return self._connection.call(what, "GET", path, fields)

    def _post(self, what: str, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        self._renew(self._connection.call_seconds)
        return self._connection.call(what, "POST", path, fields)


def _artifact_folder(artifact_uri: str, tracking_uri: str) -> list[str]:
    """The folder below the tracking server's own artifacts. Any other place would be the server's choice of where
    this process writes, and to whom it sends files and credentials. Raises TrackingFailed."""
    try:
        parts = urlsplit(artifact_uri)
        own = parts.scheme == ARTIFACT_SCHEME and parts.netloc.lower() in {"", urlsplit(tracking_uri).netloc.lower()}
    except ValueError:
        own = False
    names = [name for name in parts.path.split("/") if name] if own else []
    if not names or parts.query or parts.fragment or not all(map(_SEGMENT.fullmatch, names)):
        raise TrackingFailed(
            "the tracking server keeps the run's artifacts elsewhere, and LIT sends files to the server itself alone: "
            "start it with --artifacts-destination, and name a new experiment",
            refused=True,
        )
    return names


def _at(answer: Any, *path: str) -> Any:
    for name in path:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer


def _identifier(what: str, answer: Any, *path: str) -> str:
    found = _at(answer, *path)
    if not isinstance(found, str | int) or not _IDENTIFIER.fullmatch(str(found)):
        raise TrackingFailed(f"could not {what}: the server's answer has no valid {path[-1]}", refused=True)
    return str(found)


def _objects(answer: Any, name: str) -> list[dict[str, Any]]:
    found = _at(answer, name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in values.items()]


def _batches(entries: Sequence[Any], most: int) -> list[Sequence[Any]]:
    return [entries[start : start + most] for start in range(0, len(entries), most)]


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
