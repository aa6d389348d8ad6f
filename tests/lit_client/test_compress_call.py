"""`Client.compress`: from a module and arrays in memory to the loaded student, against the real application."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_client import AsyncClient, Client, JobFailed, MissingCore, in_memory
from lit_core.data import ImagePreprocessing
from lit_core.model import Model, ModelConfig, save
from lit_core.networks.families import family_of
from lit_core.service_files import write_data, write_teacher
from lit_spec import Architecture
from lit_spec.networks.teacher_files import ARCHITECTURE_KEY
from lit_spec.states import JobState
from tests.lit_client.scripted_worker import RESULT, ScriptedWorker
from tests.worker.bench import Bench

OPTIONS = {"width": 4, "shortcut": "A", "head": "fc", "projection": "shortcut"}
ARCHITECTURE = Architecture(family="resnet_cifar", depth=8, blocks=[1, 1, 1], channels=1, classes=10, options=OPTIONS)
X, Y = np.zeros((6, 1, 8, 8), np.uint8), np.arange(6)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return family_of(ARCHITECTURE).build(ARCHITECTURE)


@pytest.fixture(scope="module")
def student(network: nn.Module) -> Model:
    """The teacher itself stands for it: what counts is that the files are read."""
    preprocessing = ImagePreprocessing(
        size=[8, 8], channels=1, scale=255.0, mean=[0.5], std=[0.5], class_order=[str(digit) for digit in range(10)]
    )
    return Model(network, ModelConfig(architecture=ARCHITECTURE, preprocessing=preprocessing))


@pytest.fixture
def trained(worker: ScriptedWorker, student: Model, tmp_path: Path) -> ScriptedWorker:
    """A worker whose jobs leave a real student."""
    save(student.network, student.config, tmp_path / "student")
    worker.files = {path.name: path.read_bytes() for path in (tmp_path / "student").iterdir()} | {"bundle.zip": b"zip"}
    return worker


def uploaded(bench: Bench, upload_id: str) -> bytes:
    with bench.storage.open(f"uploads/{upload_id}/data") as file:
        return file.read()


def test_a_module_and_arrays_become_a_loaded_student(
    client: Client, trained: ScriptedWorker, bench: Bench, network: nn.Module, tmp_path: Path
) -> None:
    told: list[tuple[str, float | None]] = []
    done = client.compress(
        network,
        {"train": (X, Y), "test": (X, Y)},
        depth=14,
        alpha=0.25,
        dataset={"mean": [0.5]},
        folder=tmp_path / "out",
        on_progress=lambda what, part: told.append((what, part)),
    )
    assert (done.job.state, done.job.result) == ("succeeded", RESULT)
    assert sorted(file.path.name for file in done.files) == ["config.json", "model.safetensors"]
    assert isinstance(done.student, Model)
    assert torch.equal(done.student(torch.zeros(1, 1, 8, 8)), network.eval()(torch.zeros(1, 1, 8, 8)))
    request = done.job.request
    assert {name: request[name] for name in ("student", "alpha")} == {"student": {"depth": 14}, "alpha": 0.25}
    assert request["dataset"]["mean"] == [0.5]
    with np.load(io.BytesIO(uploaded(bench, request["dataset"]["upload"]))) as arrays:
        assert {name: arrays[name].tolist() for name in ("y", "split")} == {
            "y": [*Y, *Y],
            "split": [0] * 6 + [2] * 6,
        }
        assert arrays["x"].shape == (12, 1, 8, 8)
    assert ("uploading teacher.safetensors", 1.0) in told
    assert told[-1][0] == "downloading"


def test_the_asynchronous_call_takes_files_and_raises_what_became_of_the_job(
    url: str, worker: ScriptedWorker, teacher: Path, tmp_path: Path
) -> None:
    worker.ends = JobState.FAILED

    async def run() -> None:
        async with AsyncClient(url) as client:
            await client.compress(teacher, "digits", depth=14, folder=tmp_path / "out")

    with pytest.raises(JobFailed, match=r"The loss is no number. \[diverged\]") as failed:
        asyncio.run(run())
    assert failed.value.job.state == "failed"
    assert failed.value.job.request["dataset"] == {"builtin": "digits"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nowhere.pt"}, "nowhere.pt is not a file"),
        ({"depth": None}, "student"),
        ({"alpha": 2}, "alpha"),
        ({"ratio": 2.0}, "student"),
        ({"architecture": "resnet50"}, "architecture"),
        ({"data": {"a": X}}, "give x, y and perhaps split"),
        ({"data": (X, Y[:3])}, "different numbers of samples"),
    ],
)
def test_wrong_arguments_are_named(
    client: Client, worker: ScriptedWorker, teacher: Path, arguments: dict[str, Any], message: str
) -> None:
    given = {"model": teacher, "data": "digits", "depth": 14} | arguments
    with pytest.raises(ValueError, match=message):
        client.compress(given.pop("model"), given.pop("data"), **given)
    assert list(client.jobs()) == []


def test_the_service_is_told_which_network_a_module_is(network: nn.Module, student: Model, tmp_path: Path) -> None:
    from torchvision import models

    file = tmp_path / "t.safetensors"
    assert write_teacher(network, file, None) is None, "its tensors tell"
    assert write_teacher(models.resnet18(num_classes=7), file, None) == {"library": "torchvision", "name": "resnet18"}
    assert write_teacher(student, file, None) is None
    with safe_open(file, "pt") as written:
        assert json.loads(written.metadata()[ARCHITECTURE_KEY])["depth"] == ARCHITECTURE.depth
    with pytest.raises(ValueError, match=r"can't tell which network the model \(Linear\) is.*lit_core.compress"):
        write_teacher(nn.Linear(2, 2), file, None)


def test_data_sets_loaders_and_tensors_are_written_alike(tmp_path: Path) -> None:
    x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    rows = TensorDataset(x, y)
    for data in (
        (x, y),
        (x.numpy(), y.numpy()),
        {"x": x, "y": y},
        rows,
        DataLoader(rows, 4),
        iter(DataLoader(rows, 4)),
    ):
        write_data(data, tmp_path / "d.npz")
        with np.load(tmp_path / "d.npz") as arrays:
            assert (arrays["x"] == x.numpy()).all()
            assert (arrays["y"] == y.numpy()).all()
    write_data(x, tmp_path / "d.npz")
    with np.load(tmp_path / "d.npz") as arrays:
        assert list(arrays) == ["x"]


def test_the_client_loads_no_torch_until_something_in_memory_is_given() -> None:
    code = "import sys, lit_client, lit_client.command.cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_torch_a_model_in_memory_is_refused_and_the_student_stays_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("lit_core")]:
        monkeypatch.delitem(sys.modules, name)
    assert in_memory.load_student(tmp_path) is None
    with pytest.raises(MissingCore, match=r"A model in memory needs torch.*lit-compress\[core\]"):
        in_memory.write_teacher(object(), tmp_path / "t", None)
