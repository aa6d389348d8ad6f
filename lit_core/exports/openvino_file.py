"""`model.openvino.zip`: the network as OpenVINO's `model.xml` and `model.bin`, in float32."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from lit_core.exports.bundle import write_archive
from lit_core.exports.onnx_file import write_onnx
from lit_core.exports.traced import Traced
from lit_core.exports.verify import Details, Inputs, Run

XML_FILE = "model.xml"
"""The weights lie beside it in `model.bin`."""
RUNTIME_INFO = "lit"


def is_installed() -> bool:
    return find_spec("openvino") is not None


def write_openvino(traced: Traced, path: Path, details: Details) -> None:
    """The file has the input names of `write_onnx`, and takes any number of samples.

    Raises what `write_onnx` raises, and what OpenVINO raises for an ONNX operator that it does not support.
    """
    import openvino

    with TemporaryDirectory(dir=path.parent) as scratch, TemporaryDirectory(dir=path.parent) as written:
        full = Path(scratch) / "full.onnx"
        write_onnx(traced, full, Details())
        # Not by convert_model, which may send statistics about its use.
        model = openvino.Core().read_model(full)
        for key, value in details.metadata.items():
            model.set_rt_info(value, [RUNTIME_INFO, key.removeprefix(f"{RUNTIME_INFO}.")])
        openvino.save_model(model, Path(written) / XML_FILE, compress_to_fp16=False)
        # Its weights may still be mapped from the file.
        del model
        write_archive(Path(written), path)


def openvino_runner(path: Path) -> Run:
    """Runs the file on the CPU in float32, with as many threads as torch has."""
    import openvino

    # Without the hint, processors with bfloat16 compute in that.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    with TemporaryDirectory(dir=path.parent) as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        compiled = openvino.Core().compile_model(Path(folder) / XML_FILE, "CPU", options)

    def run(inputs: Inputs) -> Tensor:
        # A copy, because the next run writes its output to the same place.
        return torch.from_numpy(np.array(compiled([x.detach().cpu().numpy() for x in inputs])[0]))

    return run
