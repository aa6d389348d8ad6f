"""examples/pipelines: each pipeline runs against a running service that needs a key."""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
from ruamel.yaml import YAML
from sklearn.datasets import load_digits

from lit_client import Client
from service.running import RunningService, own_environment
from tests.worker.bench import wait_for

ROOT = Path(__file__).parents[2]
PIPELINES = ROOT / "examples/pipelines"
TEACHER = ROOT / "examples/digits/teacher.safetensors"
TOOLS = ROOT / ".venv-pipelines"

QUICK = {
    "student": {"depth": 8, "select": "even"},
    "schedule": {"lit": {"epochs": 1}, "fine_tune": {"epochs": 1}},
    "exports": [],
    "accept": {"max_accuracy_drop": 20},
}
REFUSED = QUICK | {
    "student": {"depth": 8, "select": "even", "init": "random"},
    "schedule": {"lit": {"epochs": 1}, "fine_tune": {"epochs": 1}, "steps_per_epoch": 1},
}
DIGITS = {"dataset": {"builtin": "digits"}}


@dataclass
class Service:
    url: str
    key: str

    def environment(self, **more: str) -> dict[str, str]:
        """Of a machine that runs pipelines: `litc` is installed, and the service's address and key are set."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LIT_")}
        return kept | {"LIT_URL": self.url, "LIT_API_KEY": self.key, "PYTHONPATH": str(ROOT), "PATH": path} | more

    def client(self) -> Client:
        return Client(self.url, self.key)

    def bash(self, folder: Path, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", *map(str, words)],
            cwd=folder,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def jobs(self, name: str) -> list[str]:
        with self.client() as client:
            return [job.id for job in client.jobs(name=name)]


@pytest.fixture(scope="module")
def service(shared_service: RunningService) -> Iterator[Service]:
    """It needs a key until the last test has ended."""

    def keys(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lit_client.command", "keys", *words],
            cwd=ROOT,
            env=own_environment(shared_service.log.parent / "data"),
            capture_output=True,
            text=True,
            check=True,
        )

    made = keys("create", "pipelines")
    try:
        yield Service(shared_service.url, made.stdout.strip())
    finally:
        keys("revoke", made.stderr.split()[1])


@dataclass
class Receiver:
    """webhook_receiver.py as a server, of which the service knows."""

    http: httpx.Client
    students: Path

    def answers(self) -> bool:
        try:
            return self.http.get("/openapi.json").is_success
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def receiver(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with service.client() as client:
        secret = client.create_webhook(f"http://127.0.0.1:{port}/lit", events=["job.succeeded"]).secret
    students = tmp_path_factory.mktemp("received")
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "webhook_receiver:app", "--app-dir", PIPELINES, "--port", str(port)],
        env=service.environment(LIT_WEBHOOK_SECRET=secret, STUDENTS=str(students)),
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            made = Receiver(http, students)
            wait_for(made.answers, 60, "the receiver")
            yield made
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with real digits, as the teacher saw them."""
    digits = load_digits()
    path = tmp_path_factory.mktemp("data") / "train.npz"
    x = np.rint(digits.images[:600] * (255 / 16)).astype(np.uint8)[:, None]
    np.savez_compressed(path, x=x, y=digits.target[:600].astype(np.int64))
    return path


def make_repository(folder: Path, dataset: Path, request: dict[str, Any]) -> Path:
    """A checkout as the CI examples expect it."""
    for path, source in {"models/teacher.safetensors": TEACHER, "data/train.npz": dataset}.items():
        (folder / path).parent.mkdir()
        shutil.copy(source, folder / path)
    (folder / "ci").mkdir()
    shutil.copy(PIPELINES / "compress.sh", folder / "ci")
    (folder / "ci/request.json").write_text(json.dumps(request))
    return folder


def read_yaml(name: str) -> Any:
    return YAML(typ="safe").load(PIPELINES / name)


@pytest.mark.parametrize(
    ("name", "schema"),
    [("github-actions.yml", "vendor.github-workflows"), ("gitlab-ci.yml", "vendor.gitlab-ci")],
)
def test_the_ci_files_fit_their_schemas(name: str, schema: str) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, PIPELINES / name],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


def test_the_argo_workflow_has_only_fields_of_argo() -> None:
    # Here, because its models take a second to import and every process of the tests imports this file.
    from hera.workflows.models import Workflow

    workflow = read_yaml("argo-workflow.yaml")
    # The models drop fields that they don't know.
    assert Workflow.model_validate(workflow).model_dump(mode="json", by_alias=True, exclude_unset=True) == workflow
    [template] = workflow["spec"]["templates"]
    mounted = {mount["name"] for mount in template["script"]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in workflow["spec"]["volumes"]}
    given = {artifact["name"] for artifact in workflow["spec"]["arguments"]["artifacts"]}
    assert {artifact["name"] for artifact in template["inputs"]["artifacts"]} == given


@dataclass
class Run:
    """A pipeline that has run in `folder`."""

    folder: Path
    done: subprocess.CompletedProcess[str]

    @property
    def job(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "job.json").read_text())
        return found


@dataclass
class GitHub:
    service: Service
    folder: Path

    def step(self, name: str) -> Run:
        workflow = read_yaml("github-actions.yml")
        steps = {step["name"]: step["run"] for step in workflow["jobs"]["compress"]["steps"] if "run" in step}
        runner = {"GITHUB_REPOSITORY": "acme/vision", "GITHUB_RUN_ID": "7", "GITHUB_STEP_SUMMARY": "summary.md"}
        variables = workflow["env"] | runner | {"DATASET": "digits"}
        return Run(self.folder, self.service.bash(self.folder, "-e", "-c", steps[name], **variables))


@pytest.fixture(scope="module")
def github(service: Service, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> GitHub:
    return GitHub(service, make_repository(tmp_path_factory.mktemp("github"), dataset, REFUSED))


@pytest.fixture(scope="module")
def github_run(github: GitHub) -> Run:
    """Its student is not accepted."""
    return github.step("Compress")


@pytest.fixture(scope="module")
def gitlab_run(service: Service, receiver: Receiver, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Its student is accepted, and the receiver is told of it."""
    folder = make_repository(tmp_path_factory.mktemp("gitlab"), dataset, QUICK)
    pipeline = read_yaml("gitlab-ci.yml")
    runner = {"CI_PROJECT_PATH": "acme/vision", "CI_PIPELINE_ID": "7"}
    script = "\n".join(pipeline["compress"]["script"])
    return Run(folder, service.bash(folder, "-eo", "pipefail", "-c", script, **pipeline["variables"], **runner))


@pytest.mark.long
def test_github_actions(service: Service, github: GitHub, github_run: Run) -> None:
    assert github_run.done.returncode == 3, github_run.done.stderr
    job = github_run.job
    assert job["accepted"] is False
    student = github.folder / "student/model.safetensors"
    assert student.exists()

    if shutil.which("jq") is not None:
        assert github.step("Write the summary").done.returncode == 0
        written = (github.folder / "summary.md").read_text()
        assert "github acme/vision 7: succeeded, not accepted" in written
        assert f"| Parameters | 316270 | {job['result']['student']['parameters']} |" in written

    # "Re-run jobs" on a new runner: the same result, and no second job.
    student.unlink()
    again = github.step("Compress")
    assert (again.done.returncode, service.jobs("github acme/vision 7")) == (3, [job["id"]])
    assert student.exists()


@pytest.mark.long
def test_gitlab_ci(service: Service, gitlab_run: Run) -> None:
    assert gitlab_run.done.returncode == 0, gitlab_run.done.stderr
    assert service.jobs("gitlab acme/vision 7") == [gitlab_run.job["id"]]
    for path in read_yaml("gitlab-ci.yml")["compress"]["artifacts"]["paths"]:
        assert (gitlab_run.folder / path).exists()


@pytest.mark.long
def test_argo_after_a_lost_pod(service: Service, gitlab_run: Run, dataset: Path, tmp_path: Path) -> None:
    """The pod before has created the job; here, the other test's."""
    folder = make_repository(tmp_path, dataset, QUICK)
    [template] = read_yaml("argo-workflow.yaml")["spec"]["templates"]
    source = template["script"]["source"]
    for inside, here in {
        "/pipeline/": "ci/",
        "/inputs/teacher.safetensors": "models/teacher.safetensors",
        "/inputs/dataset.npz": "data/train.npz",
        "/work/": "",
    }.items():
        assert inside in source
        source = source.replace(inside, f"{folder}/{here}")
    options = read_yaml("gitlab-ci.yml")["compress"]["script"][0].split(" student", 1)[1].split()
    assert [word for word in options if word.startswith("--")] == [
        word for word in source.split() if word.startswith("--")
    ]

    done = service.bash(folder, "-c", source, RUN_NAME="gitlab acme/vision 7")
    assert done.returncode == 0, done.stderr
    assert Run(folder, done).job["id"] == gitlab_run.job["id"]
    for artifact in template["outputs"]["artifacts"]:
        assert (folder / artifact["path"].removeprefix("/work/")).exists()


@pytest.mark.long
@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="nightly.sh needs curl and jq")
def test_nightly(service: Service, tmp_path: Path, dataset: Path) -> None:
    accepted, refused, wrong = (tmp_path / name for name in ("accepted.json", "refused.json", "wrong.json"))
    accepted.write_text(json.dumps(QUICK))
    refused.write_text(json.dumps(REFUSED | DIGITS))
    wrong.write_text(json.dumps(QUICK | DIGITS | {"student": {"depth": 15}}))
    students = tmp_path / "students"

    def nightly(request: Path, *data: Path, **more: str) -> subprocess.CompletedProcess[str]:
        return service.bash(tmp_path, PIPELINES / "nightly.sh", request, TEACHER, students, *data, RUN="1", **more)

    first = nightly(accepted, dataset)
    assert first.returncode == 0, first.stderr
    job = first.stdout.splitlines()[0]
    assert (students / "latest").resolve() == students / job
    with service.client() as client:
        assert {path.name for path in (students / job).iterdir()} == {file.name for file in client.artifacts(job)}
    assert nightly(accepted, dataset).stdout == first.stdout

    second = nightly(refused)
    assert (second.returncode, "is not accepted" in second.stderr) == (1, True)
    assert (students / "latest").resolve() == students / job

    for done, said in [
        (nightly(wrong), "choose one of [8, 14, 20, 26, 32]"),
        (nightly(accepted, dataset, LIT_API_KEY="lit_other"), "not an API key"),
        (service.bash(tmp_path, PIPELINES / "nightly.sh", refused, refused, students), "neither a safetensors file"),
    ]:
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert nightly(tmp_path / "none.json").returncode == 2


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PIPELINES))
    import lit_steps

    return lit_steps


@pytest.mark.long
def test_the_receiver(receiver: Receiver, gitlab_run: Run) -> None:
    forged = {"webhook-id": "msg_1", "webhook-timestamp": "1796040000", "webhook-signature": "v1,AAAA"}
    assert receiver.http.post("/lit", headers=forged, json={"type": "job.succeeded"}).status_code == 400
    received = receiver.students / gitlab_run.job["id"] / "model.safetensors"
    wait_for(received.exists, 20, "the student that the webhook told of")
    assert received.read_bytes() == (gitlab_run.folder / "student/model.safetensors").read_bytes()


def test_the_python_steps(
    service: Service, steps: ModuleType, gitlab_run: Run, github_run: Run, tmp_path: Path
) -> None:
    with service.client() as client:
        # No worker has such a device: the job waits until it is cancelled.
        request = QUICK | DIGITS | {"device": "cuda"}
        first = steps.submit(client, TEACHER, request, "run/1")
        assert steps.submit(client, TEACHER, request, "run/1") == first
        assert not steps.is_finished(client, first)
        client.cancel(first)

        accepted = gitlab_run.job["id"]
        assert steps.is_finished(client, accepted)
        found = steps.fetch(client, accepted, tmp_path / "student")
        assert found["student_accuracy"] == gitlab_run.job["result"]["student"]["accuracy"]["test"]
        assert found["parameters_ratio"] > 7
        with pytest.raises(steps.NotAccepted):
            steps.fetch(client, github_run.job["id"], tmp_path / "refused")
        assert (tmp_path / "refused/model.safetensors").exists()
        with pytest.raises(steps.CompressionFailed, match="somebody cancelled it"):
            steps.fetch(client, first, tmp_path / "cancelled")


@pytest.mark.parametrize("name", ["airflow_dag.py", "prefect_flow.py"])
def test_the_dag_and_the_flow_call_the_steps_as_they_are(steps: ModuleType, name: str) -> None:
    """Without their tools: what they hand to each step fits its parameters, and a retry has the same key."""
    tree = ast.parse((PIPELINES / name).read_text())
    called = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("lit_steps."):
            step = ast.unparse(node.func).removeprefix("lit_steps.")
            called[step] = inspect.signature(getattr(steps, step)).bind(*map(ast.unparse, node.args)).arguments
    assert {"submit", "fetch"} <= called.keys()
    assert "run" in (called["submit"]["key"] if name == "airflow_dag.py" else ast.unparse(tree))


# --- with the tools: `make test-long` -------------------------------------------------------------------


def tool_python(tool: str, requirement: str) -> Path:
    """Python of a virtual environment with the tool and the client, which is made once. Skips where it can't be."""
    folder = TOOLS / tool
    python = folder / "bin/python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", ROOT, requirement]
        installed = subprocess.run(pip, capture_output=True, text=True)
        if installed.returncode != 0:
            pytest.skip(f"{requirement} can't be installed: {installed.stderr[-300:]}")
        (folder / "installed").touch()
    return python


@pytest.mark.long
@pytest.mark.timeout(900)
def test_airflow(service: Service, tmp_path: Path) -> None:
    python = tool_python("airflow", "apache-airflow>=3.3,<4")
    dags = tmp_path / "dags"
    dags.mkdir()
    for name in ("airflow_dag.py", "lit_steps.py"):
        shutil.copy(PIPELINES / name, dags)
    connection = {"conn_type": "http", "host": service.url, "password": service.key}
    environment = own_environment(tmp_path) | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_LIT": json.dumps(connection),
    }

    def airflow(*words: str) -> subprocess.CompletedProcess[str]:
        command = [python.with_name("airflow"), *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)

    def run(request: dict[str, Any], students: Path) -> subprocess.CompletedProcess[str]:
        conf = {"teacher": str(TEACHER), "students": str(students), "request": request | DIGITS}
        return airflow("dags", "test", "compress_teacher", "--conf", json.dumps(conf))

    assert airflow("db", "migrate").returncode == 0
    accepted = run(QUICK, tmp_path / "students")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    assert len(list((tmp_path / "students").glob("job_*/model.safetensors"))) == 1
    refused = run(REFUSED, tmp_path / "refused")
    said = refused.stdout + refused.stderr
    assert (refused.returncode, said.count("AirflowFailException: The student of job_")) == (1, 1), said


@pytest.mark.long
@pytest.mark.timeout(900)
def test_prefect(service: Service, tmp_path: Path) -> None:
    python = tool_python("prefect", "prefect>=3.9,<4")
    program = f"""
import json, sys
from pathlib import Path
from prefect.blocks.system import Secret

sys.path.insert(0, {str(PIPELINES)!r})
import lit_steps
import prefect_flow

Secret(value={service.key!r}).save("lit-api-key")
found = prefect_flow.compress_teacher(Path({str(TEACHER)!r}), {QUICK | DIGITS!r}, Path("students"))
try:
    prefect_flow.compress_teacher(Path({str(TEACHER)!r}), {REFUSED | DIGITS!r}, Path("students"))
except lit_steps.NotAccepted as refused:
    print(json.dumps({{"accepted": found["job"], "refused": str(refused)}}))
"""
    environment = own_environment(tmp_path) | {
        "LIT_URL": service.url,
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "200",
    }
    done = subprocess.run(
        [python, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (tmp_path / "students" / said["accepted"] / "model.safetensors").exists()
    assert "is not accepted" in said["refused"]
    assert "Retry 1/3" not in done.stderr
