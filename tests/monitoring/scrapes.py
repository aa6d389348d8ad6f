"""Real scrapes of all three processes, after a job has run: what dashboards, alerts and docs/monitoring.md may name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastapi.testclient import TestClient
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from jobs.exposition import DiskCollector, exposition
from tests.worker.bench import Bench, child
from worker.inspecting.metrics import InspectionMetrics
from worker.training.metrics import TrainingMetrics

DOCS = Path(__file__).parents[2] / "docs/monitoring.md"
BEGIN, END = "<!-- metrics -->\n", "<!-- /metrics -->\n"
TITLES = {
    "process": "Of each API process",
    "ledger": "Of the ledger, from each API process",
    "training": "Of each training worker",
    "inspecting": "Of each inspecting worker",
    "all": "Of every process",
}


@dataclass(frozen=True)
class Scrapes:
    families: dict[str, dict[str, Metric]]
    """By the keys of TITLES and by name; a metric of several processes is under `all`."""

    @property
    def samples(self) -> dict[str, set[str]]:
        """Names of samples, as queries use them, with their labels."""
        found: dict[str, set[str]] = {}
        for families in self.families.values():
            for family in families.values():
                for sample in family.samples:
                    found.setdefault(sample.name, set()).update(sample.labels)
        return found


def scrape(bench: Bench) -> Scrapes:
    training, inspecting = TrainingMetrics(), InspectionMetrics()
    bench.job()
    with bench.supervisor(child("succeed"), metrics=training) as supervisor:
        supervisor.work()
    with TestClient(create_app(bench.settings, keyless=True), base_url="http://127.0.0.1") as api:
        api.get("/v1/jobs")
        context = api.app.state.context  # type: ignore[attr-defined]
        api_text = api.get("/metrics").text
        ledger = {family.name for family in context.metrics.ledger.collect()}
    texts = {}
    for name, registry in (("training", training.registry), ("inspecting", inspecting.registry)):
        # As `serve_metrics` does.
        registry.register(DiskCollector({"work": bench.folder}))
        texts[name] = exposition(registry, "")[0].decode()
    parsed = {name: _parse(text) for name, text in {"api": api_text, **texts}.items()}
    shared = parsed["api"].keys() & parsed["training"].keys() & parsed["inspecting"].keys()
    own = {
        name: {key: found for key, found in families.items() if key not in shared} for name, families in parsed.items()
    }
    return Scrapes(
        {
            "process": {key: found for key, found in own["api"].items() if key not in ledger},
            "ledger": {key: found for key, found in own["api"].items() if key in ledger},
            "training": own["training"],
            "inspecting": own["inspecting"],
            "all": {key: parsed["api"][key] for key in sorted(shared)},
        }
    )


def _parse(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def tables(scrapes: Scrapes) -> str:
    """The part of docs/monitoring.md that lists all metrics."""
    parts = []
    for key, title in TITLES.items():
        rows = [_row(family) for family in scrapes.families[key].values()]
        parts.append("\n".join([f"### {title}\n", "| Metric | Type | Labels | Meaning |", "|---|---|---|---|", *rows]))
    return "\n" + "\n\n".join(parts) + "\n\n"


def _row(family: Metric) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
    shown = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {family.type} | {shown} | {family.documentation} |"


def with_tables(page: str, scrapes: Scrapes) -> str:
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{tables(scrapes)}{END}{after}"
