"""The settings, from environment variables. docs/settings.md has a table of them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs.broker.queues import DEVICE_QUEUES
from jobs.webhooks.networks import AllowedNetworks
from lit_spec.answers.owners import Quotas
from lit_spec.requests.store_urls import store_prefix
from lit_spec.requests.tracking import tracker_uri
from lit_spec.scopes import GRANTED_SCOPES, Scope

GIB = 1 << 30
MOST_BYTES = 1 << 62
"""The kernel and the database count in 64 bits, and sums of limits must fit too."""
MOST_SECONDS = 1 << 30
"""34 years. The kernel counts processor time in nanoseconds, and no wait may be longer than threads can wait."""
MOST_DAYS = 36_500
MOST_THREADS = 1 << 15
BROKER_SCHEMES = ("redis://", "rediss://", "unix://")
HOST_NAME = re.compile(r"(?=.{1,253}$)[\w-]{1,63}(\.[\w-]{1,63})*\.?")


class Settings(BaseSettings):
    """`LIT_<NAME>` for each field; DATABASE_URL, REDIS_URL and MLFLOW_TRACKING_URI carry no prefix."""

    model_config = SettingsConfigDict(env_prefix="LIT_", allow_inf_nan=False)

    database_url: str | None = Field(None, validation_alias="DATABASE_URL")
    """PostgreSQL, as postgresql://user:password@host/database. `litc serve` starts its own when not given."""
    redis_url: str | None = Field(None, validation_alias="REDIS_URL")
    """Redis or Valkey, as redis://:password@host:6379/0. `litc serve` starts its own when not given."""
    data_dir: Path = Path(".lit")
    """Folder of the embedded database, of job folders, and of storage unless `storage_dir` is set."""
    storage_dir: Path | None = None
    """Uploads, checkpoints and outputs; must be shared by API and workers. None: `storage` in the data folder."""
    storage_url: str | None = None
    """An object store instead of that folder: s3://, gs:// or az:// with a bucket and perhaps a prefix. The credentials
    come from the store's usual variables, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL."""
    storage_encryption: Literal["AES256", "aws:kms"] | None = None
    """Server-side encryption that is asked for with every object in S3. None: the bucket's own rule."""
    storage_kms_key: str | None = None
    """Key for `aws:kms`. None: the account's default key."""
    storage_timeout_seconds: float = Field(60, ge=1, le=200)
    """Time for one request to an object store, with its bytes."""
    storage_retry_seconds: float = Field(30, ge=0, le=200)
    """For how long a failed request to an object store is tried again."""
    presigned_seconds: int = Field(900, ge=0, le=604_800)
    """How long a signed URL of the object store is valid. 0: no URLs are signed."""
    dataset_stores: str | None = None
    """Buckets or prefixes, comma-separated, from which jobs may use data sets by URL. None: there are none."""
    datasets_dir: Path | None = None
    """On workers: the folder of the data sets that jobs use by name, without an upload. None: there are none."""
    datasets_download: bool = False
    """Whether workers may download data sets that are missing in that folder."""
    data_store_bytes: int | None = Field(None, ge=0, le=MOST_BYTES)
    """On workers: what decoded data sets may take in the folder `decoded` of the data folder, where later jobs with the
    same data find them. 0: they are not kept. None: half of the disk."""
    data_store_days: float = Field(7, gt=0, le=MOST_DAYS)
    """A decoded data set is removed this many days after its last use."""
    disk_reserve_bytes: int | None = Field(None, ge=0, le=MOST_BYTES)
    """On workers: what decoded data sets and cached teachers leave free of the disk. None: a tenth of it."""
    feature_network: Path | None = None
    """On workers: a file of torch.export or TorchScript that maps images (B, 3, H, W) uint8 to features (B, D), for FID
    and Inception Score of generators. It is code, and trusted. None: reports have neither."""
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    """0 takes a free port."""
    api_workers: int = Field(1, ge=1, le=64)
    """Processes of the API, on one port. Each takes what one process takes: memory, and connections to PostgreSQL."""
    trusted_proxies: str | None = None
    """Addresses or networks of proxies before the API, comma-separated. Only their X-Forwarded-For and
    X-Forwarded-Proto are believed. None: nobody's."""
    lease_seconds: float = Field(60, ge=1, le=MOST_SECONDS)
    """A worker that has sent no heartbeat for this long loses its job. The interval of heartbeats follows from it."""
    housekeeping_seconds: float = Field(5, gt=0, le=MOST_SECONDS)
    """How often expired leases are taken back, and wake-ups for queued jobs sent again. Less with short leases."""
    restart_seconds: float = Field(1, gt=0, le=MOST_SECONDS)
    """Pause before a child process that ended by itself is started again; it doubles with each further failure."""
    max_upload_bytes: int = Field(8 * GIB, ge=1, le=MOST_BYTES)
    worker_devices: str | None = None
    """Devices that a worker takes jobs for: cpu, cuda or both, comma-separated. None: detected."""
    node_address: str | None = None
    """Name or address at which other workers reach this one, for jobs with several nodes. None: its host's name."""
    join_seconds: float = Field(300, ge=1, le=MOST_SECONDS)
    """How long a worker waits for the other workers of a job with several nodes, before it gives the job back."""
    threads: int | None = Field(None, ge=1, le=MOST_THREADS)
    """CPU threads of a trainer. None: torch's own choice."""
    warm_trainer: bool = True
    """Whether a worker keeps a process that has loaded torch, so that jobs and inspections start within a second. It
    takes about 500 MB, for inspections 430. False: each job loads torch."""
    trainer_memory_bytes: int | None = Field(None, ge=1, le=MOST_BYTES)
    """Memory that a trainer may use, apart from a GPU's. None: what the machine has."""
    trainer_data_bytes: int | None = Field(None, ge=1, le=MOST_BYTES)
    """Private memory that a process of a trainer may allocate (RLIMIT_DATA), for `cpu` jobs only. None: no limit."""
    trainer_cpu_seconds: int | None = Field(None, ge=1, le=MOST_SECONDS)
    """Processor time of a trainer, over all its threads and for each attempt. None: no limit."""
    trainer_file_bytes: int | None = Field(None, ge=1, le=MOST_BYTES)
    """Largest file that a trainer may write. None: 8 GiB and 16 times the job's teacher and data set, or
    `data_store_bytes` if that is more."""
    trainer_disk_bytes: int | None = Field(None, ge=1, le=MOST_BYTES)
    """What a trainer may add to its job folder. None: as for one file."""
    teacher_cache_bytes: int = Field(32 * GIB, ge=0, le=MOST_BYTES)
    """What cached teachers may have on a worker's disk, in the data folder. The oldest are removed. 0: none are
    cached."""
    teacher_cache_job_bytes: int = Field(16 * GIB, ge=0, le=MOST_BYTES)
    """What the teacher of one job may have there."""
    inspect_timeout_seconds: float = Field(120, gt=0, le=MOST_SECONDS)
    inspect_memory_bytes: int = Field(4 * GIB, ge=1, le=MOST_BYTES)
    """Memory that the inspection of an upload may take, beside torch."""
    public_url: str | None = None
    """Where users reach the API, as https://lit.example.com. Messages of webhooks and runs of trackers then link to
    it."""
    webhook_allowed_networks: str | None = None
    """Networks that are not public and that webhooks may reach all the same, also by http, comma-separated."""
    mlflow_tracking_uri: str | None = Field(None, validation_alias="MLFLOW_TRACKING_URI")
    """MLflow's tracking server, to which all jobs go unless they say otherwise. None: only those that name a server."""
    mlflow_tracking_uris: str | None = None
    """Further tracking servers that requests may name, comma-separated; each may have a user and a password."""
    tracking_give_up_seconds: float = Field(86_400, ge=0, le=MOST_SECONDS)
    """For how long after a job's end its run is tried again when the tracking server fails."""
    quota_jobs_queued: int | None = Field(None, ge=1, le=MOST_BYTES)
    """How many jobs of one owner may be queued. More are refused. None: no limit, here and below."""
    quota_jobs_running: int | None = Field(None, ge=1, le=MOST_BYTES)
    """How many jobs of one owner may run at once. More wait. API and workers need the same value."""
    quota_bytes: int | None = Field(None, ge=1, le=MOST_BYTES)
    """How many bytes of one owner may be stored: uploads, and files of jobs. More uploads are refused."""
    audit_days: int = Field(365, ge=1, le=36_500)
    """How long entries of the audit log are kept."""
    oidc_issuer: str | None = None
    """URL of an OpenID Connect issuer. Its tokens are accepted beside API keys. None: only keys are."""
    oidc_audience: str | None = Field(None, validate_default=True)
    """What `aud` of a token must name: this service, as the issuer knows it."""
    oidc_owner_claim: str = Field("sub", min_length=1)
    """The claim that names the owner. It must be one that users can't choose. Dots lead into nested claims."""
    oidc_scope_claim: str = Field("scope", min_length=1)
    """The claim with a caller's roles: words in a string, or a list."""
    oidc_scopes: str = "read=lit:read,submit=lit:submit,admin=lit:admin"
    """Which role gives which scope, as `scope=role`, comma-separated. The role `*` is everybody's."""
    retention_days: float | None = Field(None, gt=0, le=MOST_DAYS)
    """The files of a finished job are removed after this many days, unless its owner keeps them. None: never."""
    upload_retention_days: float | None = Field(None, gt=0, le=MOST_DAYS)
    """An upload that nothing unfinished needs is removed this many days after its last use. None: never."""
    log_format: Literal["json", "console"] = "console"
    metrics_token: str | None = Field(None, pattern=r"^[!-~]{16,500}$")
    """Whoever sends it as `Authorization: Bearer` reads /metrics of API and workers. None: loopback only."""
    worker_metrics_port: int | None = Field(None, ge=1, le=65_000)
    """Port on which a worker process serves /metrics; those of one command take consecutive ports. None: it doesn't."""
    worker_metrics_host: str = "127.0.0.1"
    """Address for that port. Any address other than loopback needs `metrics_token`."""

    @field_validator("metrics_token", mode="before")
    @classmethod
    def _empty_is_none(cls, token: object) -> object:
        # As Compose hands over a variable that .env leaves empty.
        return token or None

    @field_validator("redis_url")
    @classmethod
    def _is_of_a_broker(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(BROKER_SCHEMES):
            raise ValueError(f"must begin with one of {', '.join(BROKER_SCHEMES)}")
        return url

    @field_validator("host", "worker_metrics_host")
    @classmethod
    def _is_a_host(cls, host: str) -> str:
        if HOST_NAME.fullmatch(host) is None:
            try:
                ipaddress.ip_address(host)
            except ValueError as wrong:
                raise ValueError(f"{host!r} is not a host name or an IP address") from wrong
        return host

    @field_validator("public_url")
    @classmethod
    def _is_of_the_web(cls, url: str | None) -> str | None:
        if url is not None and re.fullmatch(r"https?://[^\s?#/]+[^\s?#]*", url) is None:
            raise ValueError("must begin with https:// or http:// and a host, without a query")
        return url

    @field_validator("webhook_allowed_networks")
    @classmethod
    def _are_networks(cls, networks: str | None) -> str | None:
        AllowedNetworks.parse(networks)
        return networks

    @field_validator("trusted_proxies")
    @classmethod
    def _are_proxies(cls, proxies: str | None) -> str | None:
        for proxy in listed(proxies):
            try:
                ipaddress.ip_network(proxy)
            except ValueError as wrong:
                raise ValueError(f"{proxy!r} is not an IP address or a network, as 10.0.0.0/8") from wrong
        return ",".join(listed(proxies)) or None

    @field_validator("storage_url")
    @classmethod
    def _is_of_a_store(cls, url: str | None) -> str | None:
        return None if url is None else store_prefix(url)

    @field_validator("dataset_stores")
    @classmethod
    def _are_stores(cls, urls: str | None) -> str | None:
        if urls is None:
            return None
        return ",".join(f"{store_prefix(url.strip())}/" for url in urls.split(",") if url.strip()) or None

    @field_validator("oidc_issuer")
    @classmethod
    def _is_an_issuer(cls, issuer: str | None) -> str | None:
        if issuer is not None and not is_safe_address(issuer):
            raise ValueError("must begin with https://, or name a loopback address")
        return issuer

    @field_validator("oidc_audience")
    @classmethod
    def _stands_beside_an_issuer(cls, audience: str | None, info: ValidationInfo) -> str | None:
        if (audience is None) != (info.data.get("oidc_issuer") is None):
            raise ValueError("give both LIT_OIDC_ISSUER and LIT_OIDC_AUDIENCE, or neither")
        return audience

    @field_validator("oidc_scopes")
    @classmethod
    def _names_scopes(cls, setting: str) -> str:
        scopes_by_role(setting)
        return setting

    @field_validator("worker_devices")
    @classmethod
    def _are_devices(cls, devices: str | None) -> str | None:
        if devices is not None:
            device_names(devices)
        return devices

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _is_a_tracking_server(cls, uri: str | None) -> str | None:
        if uri:
            tracker_uri(uri)
        return uri or None

    @field_validator("mlflow_tracking_uris")
    @classmethod
    def _are_tracking_servers(cls, uris: str | None) -> str | None:
        for uri in listed(uris):
            tracker_uri(uri)
        return uris or None

    @property
    def storage_root(self) -> Path:
        return self.storage_dir or self.data_dir / "storage"

    @property
    def teacher_cache(self) -> Path:
        """The folder of cached teachers, which all workers of a machine share."""
        return self.data_dir.resolve() / "cached-teachers"

    @property
    def storage_place(self) -> str:
        """The storage in words, for messages."""
        return self.storage_url or str(self.storage_root)

    @property
    def dataset_prefixes(self) -> tuple[str, ...]:
        """The stores of data sets, each with a slash at its end."""
        return tuple(self.dataset_stores.split(",")) if self.dataset_stores else ()

    @property
    def quotas(self) -> Quotas:
        """What every owner may use, unless an administrator has set something else."""
        return Quotas(jobs_queued=self.quota_jobs_queued, jobs_running=self.quota_jobs_running, bytes=self.quota_bytes)

    def as_environment(self) -> dict[str, str]:
        """The variables from which another process on this machine reads the same settings, wherever it runs."""
        values = dict(self) | {"storage_dir": self.storage_root}
        absolute = {name: value.resolve() if isinstance(value, Path) else value for name, value in values.items()}
        return {_variable(name): str(value) for name, value in absolute.items() if value is not None}


def listed(setting: str | None) -> list[str]:
    """The entries of a comma-separated setting, without empty ones."""
    return [entry.strip() for entry in (setting or "").split(",") if entry.strip()]


def device_names(setting: str) -> list[str]:
    """The devices in "cpu", "cuda" or "cpu,cuda", sorted. Raises ValueError."""
    devices = sorted({name.strip() for name in setting.split(",") if name.strip()})
    if not devices or not DEVICE_QUEUES.keys() >= set(devices):
        raise ValueError(
            f"{setting!r} are not devices of a worker: give one or more of {', '.join(DEVICE_QUEUES)}, "
            "separated by commas"
        )
    return devices


def is_safe_address(url: str) -> bool:
    """Whether nobody on the way can change what comes from there: HTTPS, or this machine itself."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.scheme == "http":
        return parts.hostname in {"localhost", "127.0.0.1", "::1"}
    return parts.scheme == "https" and bool(parts.hostname)


def scopes_by_role(setting: str) -> dict[str, frozenset[Scope]]:
    """The scopes of each role in "read=lit:read,admin=operators". Raises ValueError."""
    found: dict[str, frozenset[Scope]] = {}
    for pair in filter(None, (part.strip() for part in setting.split(","))):
        scope, _, role = (part.strip() for part in pair.partition("="))
        if scope not in GRANTED_SCOPES or not role:
            raise ValueError(f"{pair!r} gives no scope: write {', '.join(f'{name}=ROLE' for name in GRANTED_SCOPES)}")
        found[role] = found.get(role, frozenset()) | {Scope(scope)}
    return found


def explain(wrong: ValidationError, options: Collection[str] = ()) -> str:
    """What is wrong with each variable, or with the option whose field is in `options`."""
    return "; ".join(f"{_source(entry['loc'], options)}{_message(entry)}" for entry in wrong.errors())


def _source(location: tuple[int | str, ...], options: Collection[str]) -> str:
    name = str(location[0])
    if name in options:
        return f"--{name.removeprefix('worker_')}: "
    return f"{_variable(name)}: "


def _variable(name: str) -> str:
    """The environment variable of a field. Some carry no prefix."""
    field = Settings.model_fields.get(name)
    own = None if field is None else field.validation_alias
    return own if isinstance(own, str) else name if name.isupper() else f"LIT_{name.upper()}"


def _message(entry: ErrorDetails) -> str:
    return entry["msg"].removeprefix("Value error, ")
