"""A student as a model of MLflow: its ONNX file with what `mlflow.pyfunc` and `mlflow.onnx` need to load it.

Written without mlflow.onnx, which would load much more than the `onnx` package. The form is that of MLflow's
documentation (https://mlflow.org/docs/latest/ml/model/, "Storage format").
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODEL_FILE = "model.onnx"
PACKAGES = ("onnx", "onnxruntime")


def write_model_files(folder: Path, run_id: str, metadata: Mapping[str, Any]) -> None:
    """Write `MLmodel` and the files of its environment beside `model.onnx`. Raises ValueError for a broken file."""
    import yaml

    requirements = [f"mlflow=={version('mlflow-skinny')}", *(f"{name}=={version(name)}" for name in PACKAGES)]
    python = platform.python_version()
    inputs, outputs = _signature(folder / MODEL_FILE)
    model = {
        "artifact_path": folder.name,
        "flavors": {
            "onnx": {
                "onnx_version": version("onnx"),
                "data": MODEL_FILE,
                "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
                "onnx_session_options": None,
                "code": None,
            },
            "python_function": {
                "loader_module": "mlflow.onnx",
                "data": MODEL_FILE,
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "python_version": python,
            },
        },
        "metadata": dict(metadata),
        "mlflow_version": version("mlflow-skinny"),
        "model_size_bytes": (folder / MODEL_FILE).stat().st_size,
        "run_id": run_id,
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None},
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": requirements}],
    }
    virtualenv = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    for name, content in (("MLmodel", model), ("conda.yaml", conda), ("python_env.yaml", virtualenv)):
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")


def _signature(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs and outputs as MLflow's tensors, with -1 for sizes that may vary."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path).graph
    except DecodeError as broken:
        raise ValueError(f"{path.name} is not an ONNX file") from broken
    inputs = [_tensor(value) for value in graph.input]
    if len(inputs) == 1:
        # A single tensor without a name can be given as an array, not only as {"input": array}.
        del inputs[0]["name"]
    return inputs, [_tensor(value) for value in graph.output]


def _tensor(value: Any) -> dict[str, Any]:
    import onnx

    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return {"name": value.name, "type": "tensor", "tensor-spec": {"dtype": dtype.name, "shape": shape}}
