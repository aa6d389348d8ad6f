"""The whole service at work on a real network: `python examples/digits/demo.py`, or `make demo`.

Starts the service on a free port with a temporary folder, compresses the resnet38 beside this file to a resnet14
over HTTP, fetches the student, classifies the test split with it here, and compares with what the service reports.
The last line is one JSON object. The exit code is 0 only when every check holds.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

# A script's own folder is on the path, but the service's code lies in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.digits.screenshots import NoBrowser, picture_of_job
from lit_client import Client, LitError
from lit_client.command.display import result_table
from lit_client.models import Job
from lit_client.progress import epoch_line
from service.running import RunningService, ServiceNotStarted, running_service

PICTURE = Path(tempfile.gettempdir()) / "lit-demo-page.png"
TEACHER = Path(__file__).with_name("teacher.safetensors")

REQUEST: dict[str, Any] = {
    "name": "digits demo",
    "dataset": {"builtin": "digits"},
    "student": {"depth": 14},
    "alpha": 0.5,
    "beta": 0.5,
    "tau": 4,
    "schedule": {
        "lit": {"epochs": 10, "learning_rate": 0.1},
        "fine_tune": {"epochs": 2, "learning_rate": 0.01},
        "batch_size": 32,
    },
    "seed": 0,
    "accept": {"max_accuracy_drop": 1.5},
}

LEAST_ACCURACY = 96.0
LARGEST_DROP = 1.5
LEAST_RATIO = 2.3

LOG_LINES_SHOWN = 40

console = Console(highlight=False, markup=False)


class DemoFailed(Exception):
    """A check that did not hold, or a job that did not succeed."""


def main() -> int:
    began = time.monotonic()
    # A SIGTERM unwinds as Ctrl-C does, so that the service is stopped in any case.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="lit-demo-") as folder, own_service(Path(folder)) as service:
            console.print(f"Service ready at {service.url} after {time.monotonic() - began:.1f} s.")
            with Client(service.url) as client:
                summary, problems = compress_and_check(client, service.url, Path(folder) / "student")
    except (DemoFailed, LitError, ServiceNotStarted) as failure:
        console.print(f"The demo failed: {failure}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; everything is stopped.")
        return 130
    for problem in problems:
        console.print(f"Check failed: {problem}", soft_wrap=True)
    print(json.dumps({**summary, "seconds": round(time.monotonic() - began, 1)}), flush=True)
    return 1 if problems else 0


@contextmanager
def own_service(folder: Path) -> Iterator[RunningService]:
    """A running service with its data under `folder`; the end of its log is shown when something fails."""
    with running_service(folder) as service:
        try:
            yield service
        except (DemoFailed, LitError):
            console.print("The end of the service's log:")
            console.print(service.end_of_log(), soft_wrap=True)
            raise
        finally:
            # A second Ctrl-C must not leave the service running.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)


def compress_and_check(client: Client, url: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """One job from upload to a checked student: what to say of it, and what is wrong with it."""
    teacher = client.wait_inspection(client.upload(TEACHER, "teacher").id)
    job = client.create_job(REQUEST | {"teacher": teacher.id})
    console.print(f"Job {job.id}: depth {_teacher_depth(job)} to {job.spec['student']['depth']}.")
    console.print(f"Its web page, while the demo runs: {url}/#/jobs/{job.id}", soft_wrap=True)
    for event in client.follow(job.id):
        if event.type == "epoch":
            console.print(f"  {epoch_line(event.data)}")
    job = client.job(job.id)
    if job.state != "succeeded" or job.result is None:
        console.print("\n".join(client.log(job.id).splitlines()[-LOG_LINES_SHOWN:]), soft_wrap=True)
        raise DemoFailed(f"The job is {job.state}: {job.error}")

    sha256_ok = fetch_and_verify(client, job, folder)
    own_accuracy, images = classify_test_split(folder)
    console.print(f"Classified the {images} images of the test split here: {own_accuracy:.2f} % right.")
    console.print(result_table(job.result, title="resnet38 to resnet14 on digits"))
    show_page(url, job)
    summary = summarize(job.result, sha256_ok)
    return summary, check(summary, own_accuracy, images)


def show_page(url: str, job: Job) -> None:
    """A picture of the job's web page, which is gone when the demo ends."""
    try:
        picture_of_job(url, job.id, PICTURE)
    except NoBrowser as missing:
        console.print(f"No picture of the job's web page: {missing}.", soft_wrap=True)
    else:
        console.print(f"A picture of the job's web page: {PICTURE}", soft_wrap=True)


def fetch_and_verify(client: Client, job: Job, folder: Path) -> bool:
    """Download the files; whether each one's sha256, computed once more here, is the manifest's."""
    manifest = {artifact.name: artifact.sha256 for artifact in client.artifacts(job.id)}
    return all(
        hashlib.sha256(file.path.read_bytes()).hexdigest() == manifest[file.path.name]
        for file in client.download(job.id, folder)
    )


def classify_test_split(folder: Path) -> tuple[float, int]:
    """Percent of the test split that the downloaded student names rightly, and how many images that is."""
    import lit_core
    from lit_core.data import Interface, load_dataset
    from lit_spec import DatasetRequest, Split

    model = lit_core.load(folder)
    digits = load_dataset(DatasetRequest(builtin="digits"), None, None, Interface(1, 10))
    test = digits.splits[Split.TEST]
    expected = [digits.classes[label] for label in test.y.tolist()]
    right = sum(found == name for found, name in zip(model.classify(test.x), expected, strict=True))
    return 100 * right / len(expected), len(expected)


def summarize(result: dict[str, Any], sha256_ok: bool) -> dict[str, Any]:
    """The last line's object, but for the time."""
    ratios = result["ratios"]
    return {
        "teacher_accuracy": result["teacher"]["accuracy"]["test"],
        "student_accuracy": result["student"]["accuracy"]["test"],
        "parameters_ratio": ratios["parameters"],
        "flops_ratio": ratios["flops"],
        "latency_ratio": ratios["latency_batch_1"],
        "sha256_ok": sha256_ok,
    }


def check(summary: dict[str, Any], own_accuracy: float, images: int) -> list[str]:
    """What the demo promises and this run did not keep."""
    teacher, student = summary["teacher_accuracy"], summary["student_accuracy"]
    # One image may fall differently: another device, or another number of threads, rounds differently.
    one_image = 100 / images
    promises = {
        f"the report says {student} %, but {own_accuracy:.2f} % were found": abs(student - own_accuracy)
        <= one_image + 1e-3,
        f"student accuracy {student} % is below {LEAST_ACCURACY} %": student >= LEAST_ACCURACY,
        f"student {student} % is more than {LARGEST_DROP} below {teacher} %": teacher - student <= LARGEST_DROP,
        f"parameters ratio is below {LEAST_RATIO}": summary["parameters_ratio"] >= LEAST_RATIO,
        f"FLOPs ratio is below {LEAST_RATIO}": summary["flops_ratio"] >= LEAST_RATIO,
        "a file's sha256 is not the manifest's": summary["sha256_ok"],
    }
    return [problem for problem, kept in promises.items() if not kept]


def _teacher_depth(job: Job) -> int:
    return int(job.spec["teacher"]["architecture"]["depth"])


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
