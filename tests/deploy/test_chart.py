"""The Helm chart, rendered by Helm itself: what Kubernetes accepts and the code needs, and no more rights."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from sqlalchemy import text

from jobs.ledger import attempts, keys, uploads
from jobs.settings import Settings
from lit_client.command.service_commands import SUMMARIES
from lit_spec import SPEC_VERSION
from service.worker_children import SECONDS_TO_STOP
from tests.worker.bench import Bench

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/lit"
OLDEST, NEWEST = "1.27", "1.37"

pytestmark = pytest.mark.skipif(
    find_spec("helm_python") is None or find_spec("kubernetes_validate") is None,
    reason="needs the packages helm-python-sdk and kubernetes-validate, of the extra dev",
)

EXTERNAL = {"secret": {"databaseUrl": "postgresql://lit:hidden@db/lit", "redisUrl": "redis://:hidden@redis:6379/0"}}
BUNDLED = {"bundled": {"enabled": True, "password": "hidden"}}
SCALED = {"enabled": True, "minReplicas": 0, "maxReplicas": 8}
EVERYTHING = {
    "secret": {"existingSecret": "lit-secret"},
    "storage": {"url": "s3://bucket/lit"},
    "settings": {"LIT_RETENTION_DAYS": "90", "LIT_DATA_STORE_BYTES": "1073741824"},
    "datasets": {"existingClaim": "datasets"},
    "image": {"repository": "registry.example.com/lit", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
    "api": {
        "autoscaling": {"enabled": True, "maxReplicas": 3},
        "waitForKey": False,
        "podAnnotations": {"a/b": "c"},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
    },
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "0"},
        "hosts": [{"host": "lit.example.com"}],
        "tls": [{"secretName": "lit-tls", "hosts": ["lit.example.com"]}],
    },
    "workers": [
        {"name": "cpu", "devices": "cpu", "replicas": 2, "settings": {"LIT_THREADS": "2"}},
        {
            "name": "gpu",
            "devices": "cuda",
            "inspect": False,
            "autoscaling": SCALED,
            "runtimeClassName": "nvidia",
            "nodeSelector": {"accelerator": "h200"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}},
        },
        {"name": "any", "devices": "cpu,cuda", "autoscaling": SCALED},
    ],
    "serviceMonitor": {"enabled": True},
    "networkPolicy": {
        "apiFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}],
        "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
}
PROMETHEUS = EVERYTHING | {
    "keda": {"trigger": "prometheus", "prometheusAddress": "http://prometheus:9090"},
    "workers": [{"name": "gpu", "devices": "cuda", "inspect": False, "autoscaling": SCALED}],
}
RENDERED = {"external": EXTERNAL, "bundled": BUNDLED, "everything": EVERYTHING, "prometheus": PROMETHEUS}
INSPECTS_AND_SLEEPS = [{"name": "any", "devices": "cpu", "autoscaling": SCALED}]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no database": ({}, "secret.databaseUrl"),
    "no password": ({"bundled": {"enabled": True}}, "bundled.password"),
    "password for a URL": ({"bundled": {"enabled": True, "password": "a@b"}}, "password"),
    "both databases": (EVERYTHING | BUNDLED, "secret.existingSecret"),
    "unknown value": (EXTERNAL | {"replicas": 3}, "replicas"),
    "unknown value of a pool": (EXTERNAL | {"workers": [{"name": "a", "devices": "cpu", "gpu": 1}]}, "gpu"),
    "unknown device": (EXTERNAL | {"workers": [{"name": "a", "devices": "tpu"}]}, "devices"),
    "number in a setting": (EXTERNAL | {"settings": {"LIT_MAX_UPLOAD_BYTES": 17179869184}}, "LIT_MAX_UPLOAD_BYTES"),
    "setting of the chart": (EXTERNAL | {"settings": {"LIT_STORAGE_DIR": "/x"}}, "LIT_STORAGE_DIR"),
    "no host": (EXTERNAL | {"ingress": {"enabled": True}}, "ingress.hosts"),
    "no Prometheus": (PROMETHEUS | {"keda": {"trigger": "prometheus"}}, "keda.prometheusAddress"),
    "nobody inspects": (PROMETHEUS | {"workers": INSPECTS_AND_SLEEPS}, "minReplicas"),
}

# In a process of its own, because it loads the runtime of Go.
RENDER = """
import json, sys
import helm_python as helm
answers = {}
with helm.Chart.load(sys.argv[1]) as chart:
    for name, values in json.load(sys.stdin).items():
        try:
            chart.validate_schema(chart.merge_values(values))
            answers[name] = list(chart.render(values, name="lit", namespace="ml").items())
        except helm.HelmError as refused:
            answers[name] = str(refused)
lint = helm.lint(sys.argv[1], json.loads(sys.argv[2]), strict=True)
json.dump({"answers": answers, "lint": lint}, sys.stdout)
"""

Object = dict[str, Any]


@pytest.fixture(scope="module")
def helm() -> dict[str, Any]:
    asked = RENDERED | {name: values for name, (values, _) in REFUSED.items()}
    done = subprocess.run(
        [sys.executable, "-c", RENDER, str(CHART), json.dumps(EXTERNAL)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def rendered(helm: dict[str, Any]) -> dict[str, list[Object]]:
    """The Kubernetes objects of each of `RENDERED`."""
    yaml = YAML(typ="safe")
    found: dict[str, list[Object]] = {}
    for name in RENDERED:
        files = helm["answers"][name]
        assert not isinstance(files, str), files
        found[name] = [
            made for path, content in files if path.endswith(".yaml") for made in yaml.load_all(content) if made
        ]
    return found


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    return {made["metadata"]["name"]: made for made in objects if made["kind"] == kind}


def pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    for made in objects:
        if made["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield made, made["spec"]["template"]["spec"]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def test_helm_finds_nothing_wrong(helm: dict[str, Any]) -> None:
    assert helm["lint"]["errors"] == []
    assert [entry["error"] for entry in helm["lint"]["messages"] if entry["severity"] > 1] == []


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_make_no_sense_are_refused_by_name(helm: dict[str, Any], case: str) -> None:
    answer = helm["answers"][case]
    assert isinstance(answer, str)
    assert REFUSED[case][1] in answer


@pytest.mark.parametrize("case", RENDERED)
def test_kubernetes_accepts_every_object(rendered: dict[str, list[Object]], case: str) -> None:
    from kubernetes_validate import validate

    names = [(made["kind"], made["metadata"]["name"]) for made in rendered[case]]
    assert len(names) == len(set(names))
    for made in rendered[case]:
        if made["apiVersion"].startswith(("keda.sh/", "monitoring.coreos.com/")):
            continue
        for version in (OLDEST, NEWEST):
            validate(made, version, strict=True)


@pytest.mark.parametrize("case", RENDERED)
def test_a_container_has_no_more_rights_than_it_needs(rendered: dict[str, list[Object]], case: str) -> None:
    user = re.search(r"^USER (\d+):", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    for made, pod in pods(rendered[case]):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        if made["kind"] != "StatefulSet":
            assert pod["securityContext"]["runAsUser"] == int(user[1])
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            # Nothing secret outside Secrets.
            assert "hidden" not in json.dumps(container)
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            claimed = {claim["metadata"]["name"] for claim in made["spec"].get("volumeClaimTemplates", [])}
            assert mounted <= {volume["name"] for volume in pod["volumes"]} | claimed


@pytest.mark.parametrize("case", RENDERED)
def test_selectors_find_their_pods(rendered: dict[str, list[Object]], case: str) -> None:
    labels = [
        made["spec"]["template"]["metadata"]["labels"]
        for made in rendered[case]
        if made["kind"] in {"Deployment", "StatefulSet"}
    ]
    for made in rendered[case]:
        spec = made.get("spec", {})
        selector = spec.get("selector") if made["kind"] in {"Service", "PodDisruptionBudget"} else None
        if selector:
            wanted = selector.get("matchLabels", selector)
            assert sum(wanted.items() <= one.items() for one in labels) == 1, made["metadata"]["name"]


def test_commands_and_variables_are_those_of_the_code(rendered: dict[str, list[Object]]) -> None:
    known = {f"LIT_{name.upper()}" for name in Settings.model_fields}
    for objects in rendered.values():
        for _, pod in pods(objects):
            for container in containers(pod):
                if "args" in container:
                    assert container["args"][0] in SUMMARIES
                for variable in container.get("env", []):
                    assert variable["name"] in known | {"DATABASE_URL", "POSTGRES_USER", "POSTGRES_DB"} | {
                        "POSTGRES_PASSWORD",
                        "REDISCLI_AUTH",
                    }
        for made in of_kind(objects, "ConfigMap").values():
            # Where objects are stored is a setting of its own.
            assert made["data"].keys() - {"TMPDIR", "LIT_STORAGE_URL"} <= known


def test_workers_have_time_to_write_a_checkpoint_and_no_liveness_probe(rendered: dict[str, list[Object]]) -> None:
    workers = {name: made for name, made in of_kind(rendered["everything"], "Deployment").items() if "-worker-" in name}
    assert workers.keys() == {"lit-worker-cpu", "lit-worker-gpu", "lit-worker-any"}
    for made in workers.values():
        pod = made["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > SECONDS_TO_STOP
        assert pod["shareProcessNamespace"]  # for what a trainer leaves behind
        [container] = pod["containers"]
        assert "livenessProbe" not in container
        assert {"name": "datasets", "mountPath": "/datasets", "readOnly": True} in container["volumeMounts"]
    gpu = workers["lit-worker-gpu"]["spec"]["template"]["spec"]
    assert gpu["containers"][0]["args"] == ["worker", "--devices", "cuda", "--no-with-inspect"]
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert (gpu["runtimeClassName"], gpu["nodeSelector"]) == ("nvidia", {"accelerator": "h200"})
    for made in workers.values():
        [container] = made["spec"]["template"]["spec"]["containers"]
        env = {entry["name"]: entry for entry in container["env"]}
        assert env["LIT_NODE_ADDRESS"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
        # What is set for all is not overridden by what pools may leave out.
        assert "LIT_DATA_STORE_BYTES" not in env
        assert env["LIT_TEACHER_CACHE_BYTES"]["value"] == "10737418240"
    # KEDA decides how many there are.
    assert "replicas" not in workers["lit-worker-gpu"]["spec"]
    assert workers["lit-worker-cpu"]["spec"]["replicas"] == 2


def test_the_schema_is_migrated_before_what_needs_it(rendered: dict[str, list[Object]]) -> None:
    [job] = of_kind(rendered["external"], "Job").values()
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    secret = of_kind(rendered["external"], "Secret")["lit-migrate"]
    weights = [int(made["metadata"]["annotations"]["helm.sh/hook-weight"]) for made in (secret, job)]
    assert weights == sorted(weights)
    assert secret["stringData"]["DATABASE_URL"] == EXTERNAL["secret"]["databaseUrl"]
    [reference] = job["spec"]["template"]["spec"]["containers"][0]["env"]
    assert reference["valueFrom"]["secretKeyRef"] == {"name": "lit-migrate", "key": "DATABASE_URL"}
    # A hook before install would wait for the bundled database for ever.
    assert of_kind(rendered["bundled"], "Job") == {}
    first, second = of_kind(rendered["bundled"], "Deployment")["lit-api"]["spec"]["template"]["spec"]["initContainers"]
    assert (first["name"], second["name"]) == ("migrate", "wait-for-key")


def test_the_api_waits_until_there_is_a_key(bench: Bench, rendered: dict[str, list[Object]]) -> None:
    [wait] = of_kind(rendered["external"], "Deployment")["lit-api"]["spec"]["template"]["spec"]["initContainers"]
    shell, option, command = wait["command"]
    looks = re.fullmatch(r"until (.+); do sleep 3; done", command)
    assert looks is not None
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "DATABASE_URL": bench.settings.database_url or ""}

    def found() -> int:
        return subprocess.run([shell, option, looks[1]], cwd=ROOT, env=given, check=False, timeout=60).returncode

    assert found() == 1
    with bench.database.session() as session:
        keys.create(session, "ci")
    assert found() == 0


def test_prometheus_finds_the_port_and_the_token(rendered: dict[str, list[Object]]) -> None:
    [monitor] = of_kind(rendered["everything"], "ServiceMonitor").values()
    [endpoint] = monitor["spec"]["endpoints"]
    [service] = of_kind(rendered["everything"], "Service").values()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["authorization"]["credentials"] == {"name": "lit-secret", "key": "LIT_METRICS_TOKEN"}


def test_storage_is_shared_and_stays(rendered: dict[str, list[Object]]) -> None:
    claim = of_kind(rendered["external"], "PersistentVolumeClaim")["lit-storage"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert of_kind(rendered["everything"], "PersistentVolumeClaim") == {}
    assert of_kind(rendered["everything"], "ConfigMap")["lit"]["data"]["LIT_STORAGE_URL"] == "s3://bucket/lit"


def test_keda_scales_what_is_there(rendered: dict[str, list[Object]]) -> None:
    for case in ("everything", "prometheus"):
        deployments = of_kind(rendered[case], "Deployment")
        for name, scaled in of_kind(rendered[case], "ScaledObject").items():
            spec = scaled["spec"]
            assert spec["scaleTargetRef"]["name"] in deployments
            assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 8)
            for trigger in spec["triggers"]:
                assert all(isinstance(value, str) for value in trigger["metadata"].values()), name
                if trigger["type"] == "postgresql":
                    assert trigger["authenticationRef"]["name"] in of_kind(rendered[case], "TriggerAuthentication")
    query = of_kind(rendered["prometheus"], "ScaledObject")["lit-worker-gpu"]["spec"]["triggers"][0]["metadata"]
    assert query["query"] == (
        'sum(max by (state, device) (lit_job_nodes{state=~"queued|running",device=~"auto|cuda"}))'
    )


def test_the_queries_of_keda_count_jobs_and_inspections(bench: Bench, rendered: dict[str, list[Object]]) -> None:
    scaled = of_kind(rendered["everything"], "ScaledObject")

    def wanted(pool: str) -> list[int]:
        queries = [trigger["metadata"]["query"] for trigger in scaled[f"lit-worker-{pool}"]["spec"]["triggers"]]
        with bench.database.session() as session:
            return [session.scalars(text(query)).one() for query in queries]

    assert (wanted("gpu"), wanted("any")) == ([0], [0, 0])
    teacher = bench.teacher()
    for device in ("cpu", "cuda", "auto"):
        bench.job(teacher=teacher, device=device)
    assert (wanted("gpu"), wanted("any")) == ([2], [3, 0])
    with bench.database.session() as session:
        # A job that runs keeps its worker.
        assert attempts.claim(session, "w", ["cuda"], [SPEC_VERSION], 60)
        uploads.inspect_again(session, uploads.get(session, "local", teacher))
    assert (wanted("gpu"), wanted("any")) == ([2], [3, 1])
    bench.job(teacher=bench.teacher(), device="cuda", nodes=4)
    assert (wanted("gpu"), wanted("any")) == ([6], [7, 1])


def test_nobody_but_the_release_reaches_the_bundled_servers(rendered: dict[str, list[Object]]) -> None:
    policies = of_kind(rendered["bundled"], "NetworkPolicy")
    servers = policies["lit-bundled"]["spec"]
    assert servers["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in servers
    assert policies["lit"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policies["lit"]["spec"]
    between = policies["lit-workers"]["spec"]
    assert between["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "worker"
    assert between["ingress"][0]["from"] == between["egress"][0]["to"] == [{"podSelector": between["podSelector"]}]
    given = EVERYTHING["networkPolicy"]
    assert isinstance(given, dict)
    assert of_kind(rendered["everything"], "NetworkPolicy")["lit-api"]["spec"]["ingress"][0]["from"] == given["apiFrom"]
