"""`model.int8.onnx`: ONNX with weights and activations in eight bits, scaled with calibration samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lit_core.exports.onnx_file import feed, write_onnx
from lit_core.exports.traced import Traced
from lit_core.exports.verify import Calibration, Details, Inputs

ATTENTION = ("LayerNormalization", "Softmax")
PRODUCTS = ["Conv", "Gemm", "MatMul"]


def write_int8(traced: Traced, path: Path, details: Details) -> None:
    """The file has the input names and the metadata of `write_onnx`, and takes any number of samples.

    Raises what `write_onnx` raises, and ValueError if `details.calibration` gives no samples.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory(dir=path.parent) as folder:
        full, prepared = Path(folder) / "full.onnx", Path(folder) / "prepared.onnx"
        write_onnx(traced, full, Details())
        # ONNX's own shape inference knows everything that torch exports; the symbolic one fails at TopK.
        quant_pre_process(full, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            _reader(details.calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_quantised(prepared),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Seven bits for weights: with eight, sums saturate on processors without VNNI, and the accuracy there would
            # differ from the one measured here.
            reduce_range=True,
        )
    written = onnx.load(path)
    onnx.helper.set_model_props(written, dict(details.metadata))
    onnx.save(written, path)


def _quantised(path: Path) -> list[str] | None:
    """The types of nodes to quantise; None for all that can be.

    In networks with attention the values between matrix products have outliers. With these in floating point, the
    outputs of a small ViT changed half as much.
    """
    import onnx

    types = {node.op_type for node in onnx.load(path).graph.node}
    return PRODUCTS if types.intersection(ATTENTION) else None


def _reader(calibration: Calibration) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Inputs] = iter(calibration())

        def get_next(self) -> dict[str, Any] | None:
            inputs = next(self.batches, None)
            return None if inputs is None else feed(inputs)

    return Reader()
