"""The student in other formats: each is run and compared before it is given out."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
import torch
import torchvision
from torch import Tensor, nn

from lit_core.bundle import write_bundle
from lit_core.exports import write_exports
from lit_core.families.stargan import Generator
from lit_core.families.vdcnn import VDCNN
from lit_core.spec import Export

Batch = tuple[tuple[Tensor, ...], Tensor]


def test_onnx_program_and_int8_of_a_cnn_at_any_batch_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.shufflenet_v2_x0_5(num_classes=7).train()
    x, y = torch.randn(5, 3, 32, 32), torch.tensor([0, 1, 2, -1, -1])

    def batches() -> Iterator[Batch]:
        yield (x[:3],), y[:3]
        yield (x[3:4],), y[3:4]
        yield (x,), y

    reports = write_exports(network, list(Export), tmp_path, batches=batches, calibration=lambda: [(x,)])
    by_kind = {report.kind: report for report in reports}
    assert {kind: report.error for kind, report in by_kind.items()} == dict.fromkeys(Export)
    for kind in (Export.ONNX, Export.PT2):
        assert by_kind[kind].max_abs_difference == pytest.approx(0, abs=1e-4)
        assert by_kind[kind].top1_agreement == 100
    assert by_kind[Export.INT8].max_abs_difference > 0  # type: ignore[operator]
    assert {report.samples for report in reports} == {9}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.int8.onnx", "model.onnx", "model.pt2"]
    assert by_kind[Export.INT8].size < by_kind[Export.ONNX].size / 2  # type: ignore[operator]
    assert network.training
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(one.name, one.shape[1:]) for one in session.get_inputs()] == [("input", [3, 32, 32])]


def test_a_network_of_texts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = VDCNN([1, 1, 1, 1], 2, widths=(4, 4, 6, 6, 8), k=2, hidden=(8, 8), vocabulary_size=20)
    x, y = torch.randint(0, 20, (4, 64)), torch.tensor([0, 1, 1, 0])
    (report,) = write_exports(network, [Export.PT2], tmp_path, batches=lambda: [((x,), y)], calibration=lambda: [(x,)])
    assert report.error is None
    assert report.accuracy is not None


def test_a_generator_of_two_inputs_has_no_answers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Generator(conv_dim=4, domains=2, channels=3, blocks=1, names="main", running_statistics=True)
    given = (torch.randn(3, 3, 16, 16), torch.eye(3, 2))
    (report,) = write_exports(
        network,
        [Export.ONNX],
        tmp_path,
        batches=lambda: [(given, given[1])],
        calibration=lambda: [given],
        classifier=False,
    )
    assert (report.error, report.top1_agreement, report.accuracy) == (None, None, None)


class Fickle(nn.Module):
    """No exporter can follow what depends on the data so."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class Forgetful(nn.Module):
    """Not the same twice, so no file can do as it does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize("network", [Fickle(), Forgetful()])
def test_an_export_that_fails_says_why_and_leaves_no_file(network: nn.Module, tmp_path: Path) -> None:
    x = torch.ones(4, 3)
    (report,) = write_exports(
        network, [Export.PT2], tmp_path, batches=lambda: [((x,), torch.zeros(4).long())] * 2, calibration=lambda: []
    )
    assert report.error
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_holds_all_and_is_the_same_again(tmp_path: Path) -> None:
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface/README.md").write_text("card")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = write_bundle(tmp_path).read_bytes()
    assert write_bundle(tmp_path).read_bytes() == first
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        assert archive.namelist() == ["huggingface/README.md", "model.safetensors"]
        assert archive.read("model.safetensors") == b"weights"
