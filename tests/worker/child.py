"""A small trainer for tests: a real process that speaks the trainer's protocol and misbehaves on request.

`python child.py BEHAVIOUR`, started in a job folder. Nothing is imported but the standard library, so it starts fast.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

stop = threading.Event()


def emit(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def epoch(number: int, epochs: int = 3, **more: float) -> None:
    metrics = {"loss": 1.0 / number, "student_accuracy": 50.0 + number, **more}
    emit(
        {
            "type": "epoch",
            "phase": "lit",
            "epoch": number,
            "epochs": epochs,
            "fraction": number / epochs,
            "metrics": metrics,
            "steps": 40,
        }
    )


def checkpoint(number: int) -> None:
    Path("checkpoint.tmp").write_text(f"epoch {number}")
    Path("checkpoint.tmp").rename("checkpoint.pt")
    emit({"type": "checkpoint", "phase": "lit", "epoch": number, "step": 0})


def output() -> None:
    Path("output").mkdir()
    for name in ("model.safetensors", "config.json", "report.json"):
        (Path("output") / name).write_text(name)


def network(accuracy: float) -> dict[str, Any]:
    latency = {"p50_ms": 1.0, "p95_ms": 1.5}
    return {
        "depth": 8,
        "blocks": [1, 1, 1],
        "accuracy": {"val": accuracy + 1, "test": accuracy},
        "parameters": 1000,
        "flops": 2000,
        "file_size": 4000,
        "latency": {"batch_1": latency, "batch_32": latency},
    }


def result() -> dict[str, Any]:
    """A summary of a report, in which the student's accuracy on the test split is 53 %."""
    ratio_names = ("parameters", "flops", "file_size", "latency_batch_1", "latency_batch_32")
    return {
        "method": "lit",
        "teacher": network(94.0),
        "student": network(53.0),
        "baselines": {"untrained": {"accuracy": {"val": 41.0, "test": 40.0}}},
        "outcome": "better-than-untrained",
        "ratios": dict.fromkeys(ratio_names, 1.0),
        "accepted": None,
        "selection": {"select": "even", "kept": [[0], [0], [0]], "importance": None},
        "selected": {
            "phase": "lit",
            "epoch": 1,
            "by": "accuracy on the validation split",
            "metric": "accuracy",
            "value": 54.0,
        },
        "exports": [],
        "then": [],
        "samples": {"train": 3, "val": 2, "test": 1},
        "labels": {"train": 3, "val": 2, "test": 1},
        "classes": ["0", "1"],
        "augmentation": {},
        "preprocessing": {},
        "seed": 0,
        "environment": {},
        "versions": {},
        "seconds": 1.5,
        "resumes": [],
        "setbacks": [],
    }


def finish() -> None:
    output()
    emit({"type": "finished", "result": result()})


def obey_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda *_: stop.set())


def wait_for_sigterm(seconds: float = 60) -> None:
    """Drains as the real trainer does."""
    if stop.wait(seconds):
        checkpoint(9)
        emit({"type": "drained"})
        sys.exit(0)


def watch_deadlines() -> None:
    """Keep the received deadlines in a file, and end by them as the real trainer does."""
    latest = [time.clock_gettime(time.CLOCK_BOOTTIME) + 30]

    def read() -> None:
        with Path("deadlines").open("a") as file:
            for line in sys.stdin:
                latest[0] = json.loads(line)["deadline"]
                file.write(f"{time.clock_gettime(time.CLOCK_BOOTTIME)} {latest[0]}\n")
                file.flush()
        os._exit(75)

    def watch() -> None:
        while time.clock_gettime(time.CLOCK_BOOTTIME) < latest[0]:
            time.sleep(0.05)
        os._exit(75)

    threading.Thread(target=read, daemon=True).start()
    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    behaviour = sys.argv[1]
    obey_sigterm()
    log(f"behaviour {behaviour}, environment {sorted(os.environ)}")
    folder = sorted(path.name for path in Path().iterdir())
    emit({"type": "started", "data": {"folder": folder, "environment": {"device": "cpu"}}})
    return int(globals()[f"do_{behaviour}"]() or 0)


def do_succeed() -> None:
    if Path("checkpoint.pt").exists():
        log(f"resumed from {Path('checkpoint.pt').read_text()}")
    for number in (1, 2, 3):
        epoch(number)
        checkpoint(number)
    finish()


def do_succeed_with_times() -> None:
    for number in (1, 2, 3):
        epoch(number, seconds=2.0)
        checkpoint(number)
    finish()


def do_tell_its_run() -> None:
    emit({"type": "started", "data": {"run": json.loads(Path("run.json").read_text())}})
    finish()


def do_finish_without_output() -> None:
    emit({"type": "finished", "result": result()})


def do_fail() -> int:
    emit({"type": "failed", "error": {"type": "diverged", "detail": "the loss is no longer finite"}})
    return 1


def do_find_no_device() -> int:
    emit({"type": "failed", "error": {"type": "device-unavailable", "detail": "no usable GPU", "field": "device"}})
    return 1


def do_find_no_device_at_first() -> int | None:
    """The device is there once the test has made the file `mended` in its own folder, three above the job's."""
    return do_succeed() if (Path.cwd().parents[2] / "mended").exists() else do_find_no_device()


def do_wait_for_go() -> None:
    """Trains until someone makes the file `go`."""
    while not Path("go").exists():
        time.sleep(0.02)
    do_succeed()


def do_crash() -> int:
    epoch(1)
    checkpoint(1)
    log("Traceback: everything is broken")
    return 3


def do_fill_the_disk() -> None:
    with Path("large").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))


def do_quit_silently() -> None:
    epoch(1)


def do_be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def do_kill_once() -> None:
    """Dies of SIGKILL after a checkpoint; resumed from it, succeeds."""
    if Path("checkpoint.pt").exists():
        return do_succeed()
    epoch(1)
    checkpoint(1)
    return do_be_killed()


def do_garbage() -> None:
    print("no JSON at all")
    print('{"type": "epoch"}')
    print('{"type": "epoch", "phase": "lit", "epoch": 1, "epochs": 1, "fraction": 1, "metrics": {"loss": NaN}}')
    print('{"type": "epoch", "phase": "lit", "epoch": 1, "epochs": 1, "fraction": 1, "metrics": {"loss": 1e999}}')
    print('{"type": "started", "data": {"text": "\\u0000"}}')
    print('{"type": "started", "data": {"text": "\\ud800"}}')
    print("[" * 100_000)
    print("x" * 3_000_000)
    sys.stdout.buffer.write(b"\xff\xfe\x00 bytes\n")
    sys.stdout.flush()
    epoch(1)
    finish()
    sys.stdout.write("no newline at the end")


def do_lose_its_log() -> None:
    """Nothing more can be written to the log, as on a full disk."""
    Path("trainer.log").rename("old.log")
    Path("trainer.log").mkdir()
    print("no JSON at all", flush=True)
    time.sleep(0.2)
    do_succeed()


def do_flood() -> None:
    """More events than the worker keeps in memory, then the end at once."""
    for number in range(1, 3001):
        epoch(number, 3000)
    finish()


def do_run() -> None:
    """Trains until told to stop, as the real trainer does."""
    watch_deadlines()
    epoch(1)
    checkpoint(1)
    wait_for_sigterm()


def do_step() -> None:
    """Trains step by step, and goes on only when the last step was told: until told to stop."""
    emit({"type": "progress", "phase": "loading"})
    emit({"type": "progress", "phase": "lit", "epoch": 0, "epochs": 2, "step": 0, "steps": 50})
    for number in range(1, 50):
        told = {"phase": "lit", "epoch": 0, "epochs": 2, "step": number, "steps": 50, "fraction": number / 100}
        emit({"type": "progress", **told})
        if stop.wait(0.05):
            break
    wait_for_sigterm()


def do_allocate() -> int:
    """Asks for memory until there is none, and says so as the real trainer does."""
    kept = []
    try:
        while True:
            kept.append(bytearray(50 << 20))
    except MemoryError:
        kept.clear()
        emit({"type": "failed", "error": {"type": "out-of-memory", "detail": "too little memory"}})
    return 1


def do_allocate_in_child() -> None:
    """Uses little memory itself."""
    code = "import os, time; b = bytearray(os.urandom(400 << 20)); time.sleep(300)"
    subprocess.run([sys.executable, "-c", code], check=False)


def do_hang() -> None:
    """Deaf to SIGTERM, and so is its child."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    emit({"type": "started", "data": {"pids": [os.getpid(), child.pid]}})
    time.sleep(300)


def do_leave_child() -> None:
    """Succeeds, but leaves a process behind that holds its pipes open."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    emit({"type": "started", "data": {"pids": [child.pid]}})
    finish()


if __name__ == "__main__":
    sys.exit(main())
