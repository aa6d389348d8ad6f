"""How long a small job waits for everything but its training: `python -m benchmarks.service.startup`.

Two services with a worker each run the same job in turns: the digits' resnet38 to resnet14. In one of them trainers are
forked from a template that has loaded torch, in the other they are executed. The times are those of the worker's spans
(docs/monitoring.md), and of the client that asks for the job and downloads its student.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.collector import Collector, ReceivedSpan, collecting
from benchmarks.machine import describe
from benchmarks.stopping import exit_on_sigterm
from lit_client import Client
from lit_spec import Phase
from service.running import running_service
from worker.host.checkout import CHECKOUT

TEACHER = CHECKOUT / "examples" / "digits" / "teacher.safetensors"
MODES: dict[str, dict[str, str]] = {"cold": {"LIT_WARM_TRAINER": "false"}, "warm": {}}
TRAINING = [phase.value for phase in Phase]
COMMANDS = {
    "litc --help": ("-m", "lit_client.command", "--help"),
    "import lit_client": ("-c", "import lit_client"),
    "import lit_core.compression": ("-c", "import lit_core.compression"),
    "import api.app": ("-c", "import api.app"),
    "import service.worker_process": ("-c", "import service.worker_process"),
}
SECONDS_FOR_SPANS = 20.0
SECONDS_FOR_JOB = 300.0


@dataclass(frozen=True)
class BenchedService:
    client: Client
    collector: Collector
    teacher: str
    """Id of the inspected upload."""
    ready_seconds: float
    """From the start of `litc serve` until it listens."""
    inspection_seconds: float
    """From the first upload, right after that, until it was inspected."""


def measure(*, short: bool) -> dict[str, Any]:
    """Seconds of each part of a small job by mode and part, and of the commands; prints them as tables.

    Each entry has the `median`, the `low` and the `high` of its runs. `short`: one job of each mode.
    """
    jobs, starts = (1, 1) if short else (5, 5)
    seconds: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lit-bench-")))
        services = {mode: stack.enter_context(_service(folder / mode, MODES[mode])) for mode in MODES}
        for number in range(jobs):
            for mode, service in services.items():
                seconds[mode].append(_seconds_of_job(service, folder / f"{mode}-{number}", short=short))
    found = {mode: _summary(runs) for mode, runs in seconds.items()}
    for mode, service in services.items():
        once = {"serve until ready": service.ready_seconds, "first upload inspected": service.inspection_seconds}
        found[mode] |= _summary([once])
    commands = _summary([_seconds_of_commands() for _ in range(starts)])
    _print_modes(found)
    _print_commands(commands)
    return {"jobs": jobs, "modes": found, "commands": commands}


@contextmanager
def _service(folder: Path, environment: Mapping[str, str]) -> Iterator[BenchedService]:
    with collecting() as collector:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100", **environment}
        began = time.monotonic()
        with running_service(folder, environment=traced) as service, Client(service.url) as client:
            ready = time.monotonic()
            teacher = client.wait_inspection(client.upload(TEACHER, "teacher").id)
            inspected = time.monotonic()
            yield BenchedService(client, collector, teacher.id, ready - began, inspected - ready)


def _seconds_of_job(service: BenchedService, folder: Path, *, short: bool) -> dict[str, float]:
    asked = time.time()
    job = service.client.create_job(_request(service.teacher, short=short))
    job = service.client.wait_job(job.id, timeout=SECONDS_FOR_JOB)
    succeeded = time.time()
    if job.state != "succeeded":
        raise RuntimeError(f"the job is {job.state}: {job.error}")
    files = list(service.client.download(job.id, folder))
    downloaded = time.time()
    spans = _spans_of(service.collector, job.id)
    attempt, first_step = spans["attempt"], spans["first_step"]
    last_step = max(spans[phase].end for phase in TRAINING if phase in spans)
    parts = {name: span.end - span.start for name, span in spans.items() if name not in ("attempt", "trainer")}
    return {
        **parts,
        "request to claim": attempt.start - asked,
        "claim to first step": first_step.end - attempt.start,
        "last step to succeeded": succeeded - last_step,
        "download": downloaded - succeeded,
        "whole job": downloaded - asked,
        "files": len(files),
    }


def _request(teacher: str, *, short: bool) -> dict[str, Any]:
    """A job as that of `make demo`, with fewer epochs; the short one has no exports."""
    return {
        "teacher": teacher,
        "dataset": {"builtin": "digits"},
        "student": {"depth": 14, **({"select": "even", "repair": False} if short else {})},
        "schedule": {
            "lit": {"epochs": 1 if short else 3, "learning_rate": 0.1},
            "fine_tune": {"epochs": 1, "learning_rate": 0.01},
            "batch_size": 32,
        },
        "device": "cpu",
        **({"exports": []} if short else {}),
    }


def _spans_of(collector: Collector, job_id: str) -> dict[str, ReceivedSpan]:
    """The spans of the job's only attempt, by name. They come a moment after what they stand for."""
    end = time.monotonic() + SECONDS_FOR_SPANS
    while time.monotonic() < end:
        for attempt in collector.spans:
            if attempt.name == "attempt" and attempt.attributes["lit.job"] == job_id:
                spans = {span.name: span for span in collector.spans if span.trace == attempt.trace}
                return {name: span for name, span in spans.items() if span.service == "lit-worker"}
        time.sleep(0.05)
    raise RuntimeError(f"the worker sent no spans of {job_id} within {SECONDS_FOR_SPANS:g} s")


def _seconds_of_commands() -> dict[str, float]:
    return {name: _seconds_of_command(arguments) for name, arguments in COMMANDS.items()}


def _seconds_of_command(arguments: Sequence[str]) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, *arguments], cwd=CHECKOUT, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def _summary(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """By name: the median, the low and the high of the runs."""
    columns = {
        name: [run[name] for run in runs if name in run] for name in dict.fromkeys(n for run in runs for n in run)
    }
    return {
        name: {
            "median": round(statistics.median(values), 3),
            "low": round(min(values), 3),
            "high": round(max(values), 3),
        }
        for name, values in columns.items()
    }


def _print_modes(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    names = dict.fromkeys(name for parts in found.values() for name in parts)
    print(f"{'seconds':26}" + "".join(f"{mode:>10}{'low':>8}{'high':>8}" for mode in found))
    for name in names:
        cells = (parts.get(name) for parts in found.values())
        print(f"{name:26}" + "".join(" " * 26 if one is None else _cell(one) for one in cells))


def _print_commands(commands: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{'seconds':36}{'median':>10}{'low':>8}{'high':>8}")
    for name, one in commands.items():
        print(f"{name:36}{_cell(one)}")


def _cell(one: Mapping[str, float]) -> str:
    return f"{one['median']:10.3f}{one['low']:8.3f}{one['high']:8.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one small job of each mode")
    found = measure(short=parser.parse_args().short)
    print(json.dumps({"bench": "startup", **found, "machine": describe()}))
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
