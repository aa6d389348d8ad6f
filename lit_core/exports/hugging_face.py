"""A folder for the Hugging Face hub: weights, configuration, and a model card with the measurements."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lit_core.data import ImagePreprocessing
from lit_core.model import ModelConfig
from lit_spec import Method, Modality, Split, Task
from lit_spec.trainer.folder import CONFIG_FILE, WEIGHTS_FILE
from lit_spec.trainer.report import ExportReport, LatencyReport, NetworkSummary, OperationReport, Report

FOLDER = "huggingface"
CARD_FILE = "README.md"
PLOT_FILE = "training.png"
TRAITS = ("first_conv", "classifier", "fixed_input_size")
"""What timm knows about a network apart from its published weights."""
LATENCIES = {"latency p50, batch 1 (ms)": "batch_1", "latency p50, batch 32 (ms)": "batch_32"}
ABSENT = "–"


def write_hugging_face(
    folder: Path, *, report: Report, config: ModelConfig, weights: Path, timm_config: dict[str, Any] | None
) -> Path:
    """`huggingface/` in `folder`, and its path: card, weights, configuration, and a plot of the training's epochs.

    With `timm_config`, from the function of that name, timm loads the folder; without it `lit_core.load` does. Raises
    ValueError, and leaves no folder, if timm can't load it.
    """
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, target / WEIGHTS_FILE)
    written = config.model_dump_json(indent=2) if timm_config is None else json.dumps(timm_config, indent=2)
    (target / CONFIG_FILE).write_text(written + "\n")
    if timm_config is not None:
        _check_loads(target)
    plotted = bool(report.epochs)
    if plotted:
        # Imported here, because it loads matplotlib.
        from lit_core.exports.training_figure import training_figure

        (target / PLOT_FILE).write_bytes(training_figure(report.epochs).as_png())
    (target / CARD_FILE).write_text(_card(report, config, by_timm=timm_config is not None, plotted=plotted))
    return target


def timm_config(
    name: str, model_args: Mapping[str, Any], network: nn.Module, preprocessing: ImagePreprocessing
) -> dict[str, Any]:
    """`config.json` as `timm.models.save_config_for_hf` writes it.

    `name` and `model_args` make a network of the shape of `network`, which is a timm network. Raises ValueError for
    preprocessing that timm doesn't have.
    """
    own: Mapping[str, Any] = getattr(network, "pretrained_cfg", {})
    classes = len(preprocessing.class_order)
    config: dict[str, Any] = {
        "architecture": name.partition(".")[0],
        "num_classes": classes,
        "num_features": getattr(network, "num_features", None),
        "global_pool": _global_pool(network),
        "label_names": preprocessing.class_order,
        "model_args": {"num_classes": classes, "in_chans": preprocessing.channels, **model_args},
        "pretrained_cfg": {
            **{trait: own[trait] for trait in TRAITS if trait in own},
            "num_classes": classes,
            "input_size": [preprocessing.channels, *preprocessing.size],
            **timm_cropping(preprocessing),
            "interpolation": preprocessing.resampling.value,
            "mean": preprocessing.mean,
            "std": preprocessing.std,
            "custom_load": False,
        },
    }
    return {key: value for key, value in config.items() if value is not None}


def timm_cropping(preprocessing: ImagePreprocessing) -> dict[str, float | str]:
    """`crop_pct` and `crop_mode`. Raises ValueError for what timm can't do."""
    size, resize = preprocessing.size, preprocessing.resize
    if preprocessing.crop is not None:
        raise ValueError("timm can't crop an image before it resizes it, as dataset.crop does: leave dataset.crop out")
    if resize is None:
        return {"crop_pct": 1.0, "crop_mode": "squash"}  # resized without keeping the aspect ratio
    whole = [resize] * 2 if isinstance(resize, int) else resize
    share = size[0] / whole[0]
    # timm rounds down.
    if math.floor(size[0] / share) < whole[0]:
        share = math.nextafter(share, 0)
    if size[0] != size[1] or [math.floor(side / share) for side in size] != whole:
        raise ValueError(
            f"timm can't resize an image to {resize} and cut {size} from it: give a square dataset.size, and one "
            "number in dataset.resize"
        )
    return {"crop_pct": share, "crop_mode": "center" if isinstance(resize, int) else "squash"}


def _global_pool(network: nn.Module) -> str | None:
    """Its name. Some networks have it as a module, and some do not have it."""
    pool = getattr(network, "global_pool", None)
    name = getattr(pool, "pool_type", pool)
    return name if isinstance(name, str) else None


def _check_loads(target: Path) -> None:
    import timm

    try:
        timm.create_model(f"local-dir:{target}", pretrained=True)
    except Exception as failure:
        shutil.rmtree(target)
        raise ValueError(f"timm can't load the network by its configuration: {failure}") from failure


def _card(report: Report, config: ModelConfig, *, by_timm: bool, plotted: bool) -> str:
    parts = [
        _front_matter(config, by_timm=by_timm),
        f"# {_name(config)}, {sum(report.teacher.blocks)} blocks reduced to {sum(report.student.blocks)}",
        _described(report),
        "## Teacher and student\n\nOn the test split.\n\n" + _networks_table(report),
        _preprocessing(config),
        "## Loading\n\n" + _loading(config, by_timm=by_timm),
        *(["## Other formats\n\n" + _exports_table(report.exports)] if report.exports else []),
        *(["## Made even smaller\n\n" + _operations_table(report.then)] if report.then else []),
        *([f"## Training\n\n![Loss and validation metrics of each epoch]({PLOT_FILE})"] if plotted else []),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: ModelConfig, *, by_timm: bool) -> str:
    """YAML. JSON strings are valid YAML."""
    pipeline = _pipeline(config)
    fields: dict[str, str | list[str]] = {
        "library_name": "timm" if by_timm else "lit-compress",
        "pipeline_tag": pipeline,
        "tags": [pipeline, "lit", "knowledge-distillation", "model-compression", *(["timm"] if by_timm else [])],
    }
    if config.architecture.task == Task.CLASSIFICATION:
        fields["metrics"] = ["accuracy"]
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _pipeline(config: ModelConfig) -> str:
    if config.architecture.task == Task.TRANSLATION:
        return "image-to-image"
    return "text-classification" if config.architecture.modality == Modality.TEXT else "image-classification"


def _name(config: ModelConfig) -> str:
    network = config.architecture.network
    return config.architecture.family if network is None else network.name


def _described(report: Report) -> str:
    spec, method = report.specification, report.method if report.race is None else report.race.method
    weights = (
        ""
        if method == Method.MIMIC
        else f", with α = {spec.alpha:g}, β = {spec.beta:g} and τ = {spec.tau:g}: α weighs the labels against the "
        "teacher's softened output, β the output against the intermediate representations, τ is the temperature"
    )
    return (
        f"Compressed from a deeper network by LIT-Compress, method `{method}`{weights}. Blocks per section: "
        f"{report.teacher.blocks} of the teacher, {report.student.blocks} of the student."
    )


def _networks_table(report: Report) -> str:
    networks: tuple[NetworkSummary, NetworkSummary] = report.teacher, report.student
    rows = []
    if report.teacher.accuracy is not None:
        rows.append(("accuracy (%)", *(_number(network.score("accuracy", Split.TEST)) for network in networks)))
    rows.append(("parameters", *(_number(network.parameters) for network in networks)))
    rows.append(("FLOPs", *(_number(network.flops) for network in networks)))
    rows.append(("file size (bytes)", *(_number(network.file_size) for network in networks)))
    for title, batch in LATENCIES.items():
        rows.append((title, *(_latency(network.latency, batch) for network in networks)))
    return _table(("", "teacher", "student"), rows)


def _exports_table(exports: Sequence[ExportReport]) -> str:
    header = ("file", "size (bytes)", "largest difference", "same answers (%)", "accuracy (%)", *LATENCIES, "")
    about = "Beside this folder in the job's output, each compared with the network itself, and run on the CPU.\n\n"
    return about + _table(
        header,
        (
            (
                f"`{export.file}`",
                _number(export.size),
                ABSENT if export.max_abs_difference is None else f"{export.max_abs_difference:.2g}",
                _number(export.top1_agreement),
                _number(export.accuracy),
                *(_latency(export.latency or {}, batch) for batch in LATENCIES.values()),
                "" if export.error is None else f"failed: {export.error}",
            )
            for export in exports
        ),
    )


def _operations_table(operations: Sequence[OperationReport]) -> str:
    header = ("step", "file", "size (bytes)", "parameters", "accuracy (%)", "agreement with the teacher (%)", "")
    return "Each operation was applied to the result of the one before it. On the test split.\n\n" + _table(
        header,
        (
            (
                f"`{operation.step}`",
                f"`{operation.file}`",
                _number(operation.file_size),
                _number(operation.parameters),
                _number(operation.accuracy.test),
                _number(operation.agreement.test),
                "" if operation.error is None else f"failed: {operation.error}",
            )
            for operation in operations
        ),
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _latency(latencies: Mapping[str, LatencyReport], batch: str) -> str:
    found = latencies.get(batch)
    return _number(None if found is None else found.p50_ms)


def _number(value: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _preprocessing(config: ModelConfig) -> str:
    shown = config.preprocessing.model_dump(mode="json", exclude={"class_order", "kind"})
    lines = [f"- {name}: `{json.dumps(value, ensure_ascii=False)}`" for name, value in shown.items()]
    return "\n".join(["## Input", "", *lines])


def _loading(config: ModelConfig, *, by_timm: bool) -> str:
    """Code that loads the folder from disk; timm also loads it from the hub."""
    if by_timm:
        lines = [
            "import timm",
            "",
            f'model = timm.create_model("local-dir:{FOLDER}", pretrained=True).eval()  # or "hf-hub:<owner>/<name>"',
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        ]
    else:
        call = "translate(images, domain)" if config.architecture.task == Task.TRANSLATION else "classify(samples)"
        lines = ["from lit_core import load", "", f'model = load("{FOLDER}")', f"model.{call}"]
    return "\n".join(["```python", *lines, "```"])
