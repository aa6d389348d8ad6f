"""`make models`: does the method go with this network? A row for each, in docs/models.md and docs/models.json.

Random weights, a fixed batch, ten LIT steps, and the student's outputs in other formats. A row that passed or was
refused is kept, so that an interrupted run goes on; `--only` runs named ones again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.models.page import write_page
from lit_core.compressed import Compressed
from lit_core.compression import compress
from lit_core.exports import Details, write_exports
from lit_core.networks.families import FAMILIES, Unrecognised
from lit_core.networks.families.library import create, describe
from lit_core.networks.state_dicts import load_state
from lit_core.networks.surgery import DROPS
from lit_spec import Architecture, Export, Library, LibraryRequest

RESULTS = Path(__file__).parents[2] / "docs/models.json"
TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d", "regnet_y_400mf"),
    *("convnext_tiny", "efficientnet_b0", "efficientnet_v2_s", "mobilenet_v2", "mobilenet_v3_large", "densenet121"),
    *("shufflenet_v2_x1_0", "mnasnet1_0", "googlenet", "inception_v3", "vgg11_bn", "swin_t", "vit_b_16", "maxvit_t"),
)
TIMM = (
    *("resnet50", "resnetv2_50", "convnext_nano", "vit_tiny_patch16_224", "deit_tiny_patch16_224"),
    *("swin_tiny_patch4_window7_224", "mixer_s16_224", "efficientnet_lite0", "regnetz_b16"),
    *("eva02_tiny_patch14_336", "hgnetv2_b0", "poolformer_s12", "convmixer_768_32", "mobilenetv4_conv_small"),
    *("regnety_002", "ghostnet_050", "levit_128s", "hiera_tiny_224", "nest_tiny"),
)
MODELS = [(Library.TORCHVISION, name) for name in TORCHVISION] + [(Library.TIMM, name) for name in TIMM]
BATCH, STEPS, LEARNING_RATE = 4, 10, 1e-4
LEAST_SCALE, LAYER_SCALE, WEIGHT_SCALE = 1e-3, 0.1, 0.02

CHANCES = {**DROPS, "Dropout": "p", "Dropout2d": "p"}

Row = dict[str, Any]


def try_model(library: Library, name: str) -> Row:
    """One row: `passed`, `refused` with the reason, or `failed` with the error."""
    row: Row = {"library": library.value, "name": name}
    started = time.monotonic()
    try:
        row |= _tried(library, name)
    except Unrecognised as refusal:
        row |= {"outcome": "refused", "reason": str(refusal)}
    except Exception as failure:  # noqa: BLE001 - told in the row
        traceback.print_exc()
        row |= {"outcome": "failed", "reason": f"{type(failure).__name__}: {failure}"[:300]}
    return {**row, "seconds": round(time.monotonic() - started, 1)}


def _tried(library: Library, name: str) -> Row:
    torch.manual_seed(0)
    network = create(library, name, {})
    architecture = describe(LibraryRequest(library=library, name=name), network)
    found = architecture.network
    if found is None:
        raise AssertionError("describe names the network")
    x = torch.randn(BATCH, 3, *found.size)
    _wake(network, x)
    blocks = [(count + 1) // 2 for count in architecture.blocks]
    # A section that is fed the student's own representation takes another way through the network; it has to run.
    _compressed(network, x, found.sections, blocks, feed="student", steps=1)
    compressed = _compressed(network, x, found.sections, blocks, feed="teacher", steps=STEPS)
    report = compressed.report
    losses = [epoch["loss"] for epoch in report["epochs"]]
    _check_rebuilt(architecture, report["selection"]["kept"], compressed.student, x)
    exports = _exported(compressed.student, x)
    wrong = [f"{kind}: {one['error']}" for kind, one in exports.items() if one["error"]]
    if not losses[-1] < losses[0]:
        wrong.append(f"the loss went from {losses[0]:.4g} to {losses[-1]:.4g}")
    return {
        "outcome": "failed" if wrong else "passed",
        "reason": "; ".join(wrong) or None,
        "size": found.size,
        "blocks": architecture.blocks,
        "student_blocks": blocks,
        "parameters": [report["teacher"]["parameters"], report["student"]["parameters"]],
        "flops": [report["teacher"]["flops"], report["student"]["flops"]],
        "loss": [losses[0], losses[-1]],
        "differences": {kind: one["max_abs_difference"] for kind, one in exports.items()},
    }


def _compressed(
    network: nn.Module, x: Tensor, sections: list[list[str]], blocks: list[int], *, feed: str, steps: int
) -> Compressed:
    return compress(
        network,
        [x],
        blocks=blocks,
        sections=sections,
        alpha=0.0,
        tau=1.0,
        feed=feed,
        schedule={
            "optimizer": "adam",
            "lit": {"epochs": steps, "learning_rate": LEARNING_RATE, "schedule": {"kind": "one_cycle"}},
            "fine_tune": {"epochs": 0},
        },
    )


@torch.no_grad()
def _wake(network: nn.Module, x: Tensor) -> None:
    """As in a trained network: some scales, weights and heads begin so near zero that blocks do nothing, and
    BatchNorm's statistics are not yet those of what it is given, so that in eval mode values may grow without end.
    Nothing is left to chance, which moves the loss of a single batch more than ten steps do."""
    for name, parameter in network.named_parameters():
        is_scale = parameter.squeeze().ndim < 2
        if is_scale and not name.endswith("bias") and float(parameter.abs().max()) < LEAST_SCALE:
            parameter.fill_(LAYER_SCALE)
        elif not is_scale and not parameter.any():
            parameter.normal_(0, WEIGHT_SCALE)
        elif not is_scale and 0 < float(parameter.std()) < LEAST_SCALE:
            parameter.mul_(WEIGHT_SCALE / parameter.std())
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean of all that was seen, which is this batch
        elif (chance := CHANCES.get(type(module).__name__)) is not None:
            setattr(module, chance, 0.0)
    network.train()
    network(x)
    network.eval()


@torch.no_grad()
def _check_rebuilt(architecture: Architecture, kept: list[list[int]], student: nn.Module, x: Tensor) -> None:
    """What `lit_core.load` does: the library's network, its blocks taken out, the student's weights."""
    network = architecture.network and architecture.network.model_copy(update={"kept": kept})
    again = FAMILIES[architecture.family].build(architecture.model_copy(update={"network": network}))
    load_state(again, dict(student.state_dict()))
    if not torch.equal(again.eval()(x), student(x)):
        raise AssertionError("the student that is built anew answers otherwise")


def _exported(student: nn.Module, x: Tensor) -> dict[str, Row]:
    labels = torch.zeros(BATCH, dtype=torch.int64)
    with tempfile.TemporaryDirectory() as folder:
        reports = write_exports(
            student,
            [Export.ONNX, Export.PT2],
            Path(folder),
            batches=lambda: [((x,), labels), ((x[:1],), labels[:1])],
            details=Details(),
        )
    return {report.kind.value: report.as_json() for report in reports}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="library/name, several with commas; others of the libraries as well")
    only = [name for name in parser.parse_args().only.split(",") if name]
    warnings.simplefilter("ignore")
    rows = {f"{row['library']}/{row['name']}": row for row in _stored()}
    asked = [name.partition("/")[::2] for name in only] or [(library.value, name) for library, name in MODELS]
    for library, name in asked:
        key = f"{library}/{name}"
        if not only and rows.get(key, {}).get("outcome") in ("passed", "refused"):
            continue
        rows[key] = try_model(Library(library), name)
        print(json.dumps(rows[key]), flush=True)
        RESULTS.write_text("[\n" + ",\n".join(json.dumps(rows[one]) for one in sorted(rows)) + "\n]\n")
    write_page([rows[one] for one in sorted(rows)])
    outcomes = [row["outcome"] for row in rows.values()]
    counts = {outcome: outcomes.count(outcome) for outcome in ("passed", "refused", "failed")}
    print(json.dumps({"models": len(rows), **counts}))
    return 1 if counts["failed"] else 0


def _stored() -> list[Row]:
    stored: list[Row] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return stored


if __name__ == "__main__":
    sys.exit(main())
