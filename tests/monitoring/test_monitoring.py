"""deploy/monitoring and docs/monitoring.md against real scrapes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.monitoring.scrapes import DOCS, Scrapes, scrape, with_tables
from tests.worker.bench import make_bench
from tests.worker.databases import LedgerPool

FOLDER = Path(__file__).parents[2] / "deploy/monitoring"
METRIC = re.compile(r"\blit_[a-z_]+")
SELECTOR = re.compile(r"\b(?P<name>lit_[a-z_]+)\{(?P<matchers>[^}]*(?:\{[^}]*\}[^}]*)*?)\}")
LABEL = re.compile(r'([a-z_]+)\s*(?:=~|!~|!=|=)\s*"')
TARGET_LABELS = {"instance", "job"}

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


@pytest.fixture(scope="module")
def scrapes(
    ledgers: LedgerPool, service_urls: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scrapes]:
    with ledgers.ledger() as database:
        url = database.engine.url.render_as_string(hide_password=False)
        yield scrape(make_bench(database, url, service_urls[1], tmp_path_factory.mktemp("scrapes")))


def rules() -> list[dict[str, Any]]:
    groups = YAML(typ="safe").load(FOLDER / "alerts.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return parsed


def targets() -> list[dict[str, Any]]:
    return [target for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [target["expr"] for target in targets()]


def test_every_metric_and_label_that_is_used_exists(scrapes: Scrapes) -> None:
    samples = scrapes.samples
    # Labels of the trainer's device come with the job that the scrapes ran.
    for expression in expressions():
        for name in METRIC.findall(expression):
            assert name in samples, f"{name} in {expression}"
        for found in SELECTOR.finditer(expression):
            for label in LABEL.findall(found["matchers"]):
                assert label in samples[found["name"]], f"{label} of {found['name']} in {expression}"
        used = METRIC.findall(expression)
        labels = {label for name in used for label in samples[name]} | TARGET_LABELS
        for clause in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
            for label in filter(None, re.split(r"\s*,\s*", clause)):
                assert label in labels, f"{label} in {expression}"


def test_the_ledgers_numbers_are_never_summed_over_processes(scrapes: Scrapes) -> None:
    ledger = {sample.name for family in scrapes.families["ledger"].values() for sample in family.samples}
    for expression in expressions():
        for found in re.finditer(
            r"\bsum\s*(?:by\s*\([^)]*\)\s*)?\(\s*(?:rate\(|increase\()?\s*(lit_[a-z_]+)", expression
        ):
            assert found[1] not in ledger, expression


def test_names_and_labels_keep_to_the_rules(scrapes: Scrapes) -> None:
    bounded = 60
    for families in scrapes.families.values():
        for family in families.values():
            assert family.name.startswith("lit_")
            assert family.documentation.endswith(".") or family.name.startswith("lit_process_")
            assert not re.search(r"(milliseconds|_ms|minutes|kilobytes|megabytes|percent)", family.name)
            for label in {label for sample in family.samples for label in sample.labels} - {"le"}:
                assert label not in {"job", "job_id", "owner", "upload", "instance"}, family.name
                assert len({sample.labels.get(label) for sample in family.samples}) < bounded


def test_the_page_lists_all_metrics(scrapes: Scrapes) -> None:
    """`python -m tests.monitoring.page` writes it."""
    page = DOCS.read_text()
    assert with_tables(page, scrapes) == page


def test_the_page_lists_all_alerts() -> None:
    page = DOCS.read_text()
    listed = re.findall(r"^\| `(Lit\w+)` \|", page, re.MULTILINE)
    assert listed == [rule["alert"] for rule in rules()]


def test_alerts_are_whole() -> None:
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        for opening, closing in ("()", "{}", "[]"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing)


def test_the_dashboard_is_whole() -> None:
    whole = dashboard()
    assert whole["uid"]
    assert whole["schemaVersion"] >= 36
    [variable] = whole["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    panels = whole["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert [target["refId"] for target in panel["targets"]] == list("ABCDEF")[: len(panel["targets"])]


def test_the_example_scrapes_both_kinds_of_processes_with_the_token() -> None:
    example = YAML(typ="safe").load(FOLDER / "prometheus.yml")
    assert example["rule_files"] == ["alerts.yml"]
    jobs = {job["job_name"]: job for job in example["scrape_configs"]}
    assert set(jobs) == {"lit-api", "lit-worker"}
    assert all(job["authorization"]["credentials_file"] for job in jobs.values())


@promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "--lint-fatal", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ],
    ids=lambda arguments: arguments[-1],
)
def test_promtool_finds_nothing(arguments: list[str]) -> None:
    checked = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@promtool
def test_promtool_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """As recording rules, with Grafana's variables replaced."""
    queries = [target["expr"].replace("$__rate_interval", "5m") for target in targets()]
    made = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": made}]}))
    checked = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "queries.yml")], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
