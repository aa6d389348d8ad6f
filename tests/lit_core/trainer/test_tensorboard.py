"""The training as a file of TensorBoard events, read by TensorBoard's own reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lit_core.trainer.tensorboard_file import write_tensorboard
from lit_spec import Architecture, Inspection, JobRequest, Phase, StudentOption, resolve
from lit_spec.networks.architecture import TeacherFormat
from lit_spec.trainer.folder import TENSORBOARD_FILE
from lit_spec.trainer.report import EpochReport

SPEC = resolve(
    JobRequest.model_validate(
        {
            "teacher": "upl_1",
            "dataset": {"builtin": "digits"},
            "student": {"depth": 14},
            "schedule": {"lit": {"epochs": 2}, "fine_tune": {"epochs": 1}},
            "tensorboard": True,
        }
    ),
    Inspection(
        format=TeacherFormat.SAFETENSORS,
        architecture=Architecture(family="resnet_cifar", depth=38, blocks=[6, 6, 6], channels=1, classes=10),
        parameters=300_000,
        students=[StudentOption(depth=14, blocks=[2, 2, 2], parameters=1000, parameters_ratio=3)],
    ),
)
EPOCHS = [
    EpochReport(phase=Phase.LIT, epoch=1, ir_loss_1=2.5, learning_rate=0.1, seconds=2.0),
    EpochReport(phase=Phase.LIT, epoch=2, ir_loss_1=1.5, learning_rate=0.05, seconds=3.0),
    EpochReport(phase=Phase.FINE_TUNE, epoch=1, loss=0.5, learning_rate=0.01, seconds=1.0),
]


def test_tensorboard_reads_every_epoch_and_the_specification(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert SPEC.tensorboard
    assert write_tensorboard(tmp_path, SPEC, EPOCHS) is None
    # The folder, as `tensorboard --logdir` reads it.
    read = EventAccumulator(str(tmp_path)).Reload()
    assert set(read.Tags()["scalars"]) == {
        "lit/ir_loss_1",
        "lit/learning_rate",
        "lit/seconds",
        "fine_tune/loss",
        "fine_tune/learning_rate",
        "fine_tune/seconds",
    }
    losses = read.Scalars("lit/ir_loss_1")
    assert [(point.step, point.value) for point in losses] == [(1, 2.5), (2, 1.5)]
    assert losses[1].wall_time - losses[0].wall_time == pytest.approx(3.0, abs=1e-3)
    assert [(point.step, point.value) for point in read.Scalars("fine_tune/loss")] == [(3, 0.5)]
    assert read.SummaryMetadata("specification").plugin_data.plugin_name == "text"
    assert b'"teacher"' in read.Tensors("specification")[0].tensor_proto.string_val[0]


def test_without_the_package_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    note = write_tensorboard(tmp_path, SPEC, EPOCHS)
    assert note is not None
    assert "tensorboard" in note
    assert not (tmp_path / TENSORBOARD_FILE).exists()


def test_tensorflow_is_not_imported() -> None:
    code = (
        "import sys; import lit_core.trainer.tensorboard_file, tensorboard.summary.writer.record_writer; "
        "import tensorboard.compat.proto.event_pb2; sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
