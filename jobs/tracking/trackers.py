"""The tracking servers that the operator allows, and which of them a request goes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit, urlunsplit

from jobs.errors import RequestRefused
from jobs.settings import Settings, listed
from lit_spec import JobRequest
from lit_spec.requests.tracking import MlflowTracking, Track, tracker_uri


@dataclass(frozen=True)
class Tracker:
    """A tracking server with the user and the password that its setting has."""

    uri: str
    """Without user and password."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, setting: str) -> Self:
        parts = urlsplit(tracker_uri(setting))
        host = parts.netloc.rpartition("@")[2]
        user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
        return cls(urlunsplit(parts._replace(netloc=host)), user or None, password)


@dataclass(frozen=True)
class Trackers:
    """Without arguments: no tracker."""

    default: Tracker | None = None
    """Where jobs go that say nothing else."""
    others: tuple[Tracker, ...] = ()
    """Where a request may send its job as well."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        default = settings.mlflow_tracking_uri
        return cls(
            None if default is None else Tracker.of(default),
            tuple(Tracker.of(uri) for uri in listed(settings.mlflow_tracking_uris)),
        )

    def __len__(self) -> int:
        return len(self._all())

    def find(self, uri: str) -> Tracker | None:
        """The server with this address, as a request gives it; None if it isn't allowed."""
        return next((tracker for tracker in self._all() if tracker.uri == uri), None)

    def uri_for(self, track: Track | None) -> str | None:
        """The address of the server that a job with this `track` goes to, allowed or not; None: to no server."""
        asked = MlflowTracking() if track is None else track.mlflow
        if not isinstance(asked, MlflowTracking):
            return None
        return asked.tracking_uri or (None if self.default is None else self.default.uri)

    def check(self, request: JobRequest) -> None:
        """Raises RequestRefused when the request needs a server that isn't there or isn't allowed."""
        uri = self.uri_for(request.track)
        if uri is None:
            self._check_untracked(request)
        elif self.find(uri) is None:
            message = f"is {uri}, which this service doesn't send runs to: {self._advice()}"
            raise RequestRefused.invalid_field("track.mlflow.tracking_uri", message)

    def _check_untracked(self, request: JobRequest) -> None:
        if request.track is not None and request.track.mlflow is not False:
            message = f"is needed, because this service has no tracking server of its own: {self._advice()}"
            raise RequestRefused.invalid_field("track.mlflow.tracking_uri", message)
        if request.registered_model is not None:
            message = f"needs a tracking server, but the job goes to none: set track.mlflow ({self._advice()})"
            raise RequestRefused.invalid_field("register", message)

    def _advice(self) -> str:
        allowed = ", ".join(tracker.uri for tracker in self._all())
        return f"the allowed ones are {allowed}" if allowed else "its operator allows none (LIT_MLFLOW_TRACKING_URIS)"

    def _all(self) -> tuple[Tracker, ...]:
        return self.others if self.default is None else (self.default, *self.others)
