"""`training.tfevents`: the training for TensorBoard, in its own format, written without TensorFlow.

Records of TensorBoard's events (tensorboard/compat/proto/event.proto). The file is written after the training, from the
report's epochs: a resumed training has each epoch once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_spec import JobSpec
from lit_spec.trainer.folder import TENSORBOARD_FILE
from lit_spec.trainer.report import EpochReport

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

FILE_VERSION = "brain.Event:2"


def write_tensorboard(folder: Path, spec: JobSpec, epochs: Sequence[EpochReport]) -> str | None:
    """Write the file into `folder`. Returns why that was impossible: the student itself is unharmed."""
    try:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with (folder / TENSORBOARD_FILE).open("wb") as file:
            writer = RecordWriter(file)
            for event in _events(spec, epochs):
                writer.write(event.SerializeToString())
    except ImportError:
        return "training.tfevents was not written: the worker lacks the package tensorboard"
    return None


def _events(spec: JobSpec, epochs: Sequence[EpochReport]) -> Iterator[Event]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    at = time.time() - sum(epoch.metrics.get("seconds", 0.0) for epoch in epochs)
    yield Event(wall_time=at, file_version=FILE_VERSION)
    yield Event(wall_time=at, step=0, summary=Summary(value=[_specification(spec)]))
    for epoch in epochs:
        at += epoch.metrics.get("seconds", 0.0)
        values = [
            Summary.Value(tag=f"{epoch.phase.value}/{name}", simple_value=value)
            for name, value in epoch.metrics.items()
        ]
        step = spec.schedule.epochs_before(epoch.phase) + epoch.epoch
        yield Event(wall_time=at, step=step, summary=Summary(value=values))


def _specification(spec: JobSpec) -> Any:
    """The specification as JSON, for TensorBoard's page of texts, which shows Markdown."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    lines = json.dumps(spec.model_dump(mode="json"), indent=2).splitlines()
    text = "\n".join(f"    {line}" for line in lines)
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    return Summary.Value(
        tag="specification",
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
        tensor=TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=[text.encode()]),
    )
