"""What `litc doctor` looks at of the services beside LIT that the settings name, and of addresses open to others."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from importlib.util import find_spec

import httpx

from api.http.issuer import FETCH_SECONDS, IssuerKeys, IssuerUnreachable
from jobs import disks
from jobs.settings import Settings
from jobs.storage.dataset_stores import check_dataset_store
from jobs.tracking.trackers import Tracker, Trackers
from lit_client.addresses import is_loopback
from lit_client.checks import Check, Status

SECONDS = 5.0
EXPERIMENTS_PATH = "/api/2.0/mlflow/experiments/search"
REFUSED = frozenset({httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN})
CREDENTIALS_OF_OTHER_KINDS = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
"""Variables of MLflow's client that only it understands."""


def integration_checks(settings: Settings) -> Iterator[Check]:
    """Only of what is configured."""
    for prefix in settings.dataset_prefixes:
        yield _dataset_store(settings, prefix)
    yield from _trackers(settings)
    if settings.oidc_issuer is not None:
        yield _issuer(settings.oidc_issuer)
    yield from _public_url(settings)
    yield from _metrics(settings)


def _dataset_store(settings: Settings, prefix: str) -> Check:
    try:
        check_dataset_store(settings, prefix)
    except OSError as failure:
        detail = f"{prefix}: {disks.reason(failure)}"
        if failure.errno == errno.EACCES:
            return Check("data sets", Status.WARN, detail, "grant the workers to list and read it; folders need both")
        return Check(
            "data sets", Status.FAIL, detail, "check LIT_DATASET_STORES, the store's variables and the network"
        )
    return Check("data sets", Status.OK, f"{prefix} can be listed")


def _trackers(settings: Settings) -> Iterator[Check]:
    trackers = Trackers.of(settings)
    if trackers and find_spec("mlflow") is None:
        advice = "run `pip install 'lit-compress[mlflow]'` where the workers are, or unset the tracking servers"
        yield Check("MLflow", Status.FAIL, "the package mlflow-skinny is not installed", advice)
    if trackers.default is not None:
        yield _tracker(trackers.default, _default_headers(), _default_user(trackers.default))
    for tracker in trackers.others:
        yield _tracker(tracker, {}, _user(tracker.user, tracker.password))


def _tracker(tracker: Tracker, headers: dict[str, str], auth: tuple[str, str] | None) -> Check:
    runs_wait = "until then runs wait, and jobs go on"
    try:
        answer = _get(tracker.uri + EXPERIMENTS_PATH, params={"max_results": 1}, headers=headers, auth=auth)
    except httpx.HTTPError as failure:
        detail = f"{tracker.uri}: no answer ({type(failure).__name__})"
        return Check("MLflow", Status.FAIL, detail, f"check the address, the network and the server; {runs_wait}")
    if answer.status_code in REFUSED:
        detail = f"{tracker.uri} refuses the credentials ({answer.status_code})"
        if any(os.environ.get(name) for name in CREDENTIALS_OF_OTHER_KINDS):
            return Check("MLflow", Status.WARN, detail, "those of MLFLOW_TRACKING_AUTH were not tried")
        return Check("MLflow", Status.FAIL, detail, f"docs/tracking.md says where they are set; {runs_wait}")
    if not answer.is_success:
        detail = f"{tracker.uri} answers {answer.status_code}"
        return Check("MLflow", Status.FAIL, detail, f"it must be a tracking server of MLflow; {runs_wait}")
    return Check("MLflow", Status.OK, f"{tracker.uri} answers")


def _default_headers() -> dict[str, str]:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _default_user(tracker: Tracker) -> tuple[str, str] | None:
    if tracker.user is not None:
        return _user(tracker.user, tracker.password)
    return _user(os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD"))


def _user(name: str | None, password: str | None) -> tuple[str, str] | None:
    return (name, password or "") if name else None


def _issuer(url: str) -> Check:
    try:
        keys = asyncio.run(_issuers_keys(url))
    except (IssuerUnreachable, httpx.HTTPError, httpx.InvalidURL, TimeoutError) as failure:
        advice = "check LIT_OIDC_ISSUER, which must be as the issuer itself writes it; until then only API keys work"
        return Check("issuer", Status.FAIL, f"{url}: {failure or type(failure).__name__}", advice)
    if not keys:
        return Check("issuer", Status.FAIL, f"{url} has no key for signatures", "ask whoever runs the issuer")
    return Check("issuer", Status.OK, f"{url}: its {keys} keys can be fetched")


async def _issuers_keys(url: str) -> int:
    issuer = IssuerKeys(url)
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            return len(await issuer.fetch())
    finally:
        await issuer.close()


def _public_url(settings: Settings) -> Iterator[Check]:
    url = settings.public_url
    if url is None:
        if not is_loopback(settings.host):
            advice = "set it to the address of the API: messages of webhooks and runs of trackers then link to jobs"
            yield Check("public URL", Status.WARN, "LIT_PUBLIC_URL is not set", advice)
        return
    try:
        answer = _get(f"{url.rstrip('/')}/healthz")
        found = "" if answer.is_success else f"answers {answer.status_code}"
    except httpx.HTTPError as failure:
        found = f"no answer ({type(failure).__name__})"
    if found:
        advice = "check LIT_PUBLIC_URL, the proxy and the certificate; it may also be out of reach from here alone"
        yield Check("public URL", Status.WARN, f"{url}: {found}", advice)
    else:
        yield Check("public URL", Status.OK, f"{url} answers")


def _metrics(settings: Settings) -> Iterator[Check]:
    if settings.metrics_token is not None:
        yield Check("metrics", Status.OK, "LIT_METRICS_TOKEN opens /metrics")
    elif settings.worker_metrics_port is not None and not is_loopback(settings.worker_metrics_host):
        detail = f"LIT_WORKER_METRICS_HOST is {settings.worker_metrics_host}, which other machines can reach"
        yield Check("metrics", Status.FAIL, detail, "set LIT_METRICS_TOKEN: without it no worker starts")
    elif not is_loopback(settings.host) or settings.oidc_issuer is not None:
        advice = "set LIT_METRICS_TOKEN if a monitoring is to read it"
        yield Check("metrics", Status.WARN, "nobody can read /metrics of the API, which needs keys", advice)


def _get(
    url: str,
    *,
    params: dict[str, int] | None = None,
    headers: dict[str, str] | None = None,
    auth: tuple[str, str] | None = None,
) -> httpx.Response:
    address = httpx.URL(url)
    with httpx.Client(timeout=SECONDS, trust_env=not is_loopback(address.host)) as client:
        return client.get(address, params=params, headers=headers, auth=auth)
