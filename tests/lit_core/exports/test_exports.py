"""The student in other formats: each is run and compared before it is given out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lit_core import load
from lit_core.data import ImagePreprocessing
from lit_core.exports import Details, write_exports
from lit_core.exports.bundle import write_bundle
from lit_core.exports.hugging_face import timm_config, write_hugging_face
from lit_core.exports.openvino_file import is_installed
from lit_core.exports.verify import Unfaithful, check, compare
from lit_core.model import ModelConfig, save
from lit_core.networks.families import family_of
from lit_core.networks.families.stargan import Generator
from lit_core.networks.families.vdcnn import VDCNN
from lit_spec import Architecture, Export, JobSpec, Method, Phase
from lit_spec.trainer.report import BySplit, EpochReport, ExportReport, LatencyReport, NetworkReport, Report

Batch = tuple[tuple[Tensor, ...], Tensor]
OPENVINO = [Export.OPENVINO] if is_installed() else []
FORMATS = [Export.ONNX, Export.PT2, Export.INT8]
FLOATS = [Export.ONNX, Export.PT2]
METADATA = {"lit.classes": '["a", "é"]', "lit.version": '"0"'}
CLASSES = 7
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 2}


def images(samples: int, channels: int = 3, side: int = 32) -> Tensor:
    return torch.randn(samples, channels, side, side, generator=torch.Generator().manual_seed(0))


def batches_of(*inputs: Tensor, labels: Tensor | None = None) -> Callable[[], Iterator[Batch]]:
    """All samples in batches of three and a rest."""
    y = torch.arange(len(inputs[0])) % CLASSES if labels is None else labels

    def batches() -> Iterator[Batch]:
        for start in range(0, len(y), 3):
            part = slice(start, start + 3)
            yield tuple(x[part] for x in inputs), y[part]

    return batches


def export(
    network: nn.Module, kinds: list[Export], folder: Path, *inputs: Tensor, **options: Any
) -> dict[Export, ExportReport]:
    batches = batches_of(*inputs, labels=options.pop("labels", None))
    reports = write_exports(
        network, kinds, folder, batches=batches, details=Details(METADATA, lambda: [inputs]), **options
    )
    return {report.kind: report for report in reports}


def no_errors(reports: dict[Export, ExportReport]) -> bool:
    return {report.error for report in reports.values()} == {None}


def cifar_architecture() -> Architecture:
    options: dict[str, int | str | bool] = {
        "width": 4,
        "shortcut": "A",
        "head": "fc",
        "projection": "downsample",
    }
    return Architecture(family="resnet_cifar", depth=8, blocks=[1, 1, 1], channels=3, classes=CLASSES, options=options)


def cifar_network() -> nn.Module:
    torch.manual_seed(0)
    return family_of(cifar_architecture()).build(cifar_architecture())


def vision_transformer(library: str) -> nn.Module:
    torch.manual_seed(0)
    if library == "timm":
        made: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **VIT)
        head = made.head
    else:
        made = torchvision.models.VisionTransformer(32, 8, 2, 3, 48, 96, num_classes=CLASSES)
        head = made.heads.head
    # Both begin with heads near zero, and then all files would answer alike.
    nn.init.normal_(head.weight)
    return made


def text_network(*, ties: bool) -> VDCNN:
    torch.manual_seed(0)
    made = VDCNN([1, 1, 1, 1], 2, widths=(4, 4, 6, 6, 8), k=2, hidden=(8, 8), vocabulary_size=20)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d) and not ties:
            # Above zero, where ReLU makes no two values the same.
            nn.init.constant_(module.bias, 20.0)
    return made


# --- Formats ------------------------------------------------------------------------------------------------


@dataclass
class Exported:
    """A network and the files in `folder`; `training` says whether it was left in the mode of before, training."""

    network: nn.Module
    folder: Path
    reports: dict[Export, ExportReport]
    training: bool

    @classmethod
    def of(cls, network: nn.Module, kinds: list[Export], folder: Path) -> Exported:
        reports = export(network.train(), kinds, folder, images(8), labels=torch.tensor([0, 1, 2, 3, -1, -1, -1, -1]))
        return cls(network, folder, reports, network.training)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """All formats of `cifar_network`."""
    return Exported.of(cifar_network(), FORMATS + OPENVINO, tmp_path_factory.mktemp("cifar"))


@pytest.fixture(scope="module")
def timm_vit(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported.of(vision_transformer("timm"), FORMATS, tmp_path_factory.mktemp("timm"))


@pytest.fixture(scope="module")
def torchvision_vit(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported.of(vision_transformer("torchvision"), FORMATS, tmp_path_factory.mktemp("torchvision"))


@pytest.fixture
def cifar_files(cifar: Exported) -> Path:
    return cifar.folder


@pytest.mark.parametrize("name", ["cifar", "timm_vit", "torchvision_vit"])
def test_all_formats_of_classifiers_of_images(name: str, request: pytest.FixtureRequest) -> None:
    made: Exported = request.getfixturevalue(name)
    reports = made.reports
    assert reports.keys() >= set(FORMATS)
    assert no_errors(reports)
    assert made.training
    assert sorted(path.name for path in made.folder.iterdir()) == sorted(report.file for report in reports.values())
    for kind in reports.keys() - {Export.INT8}:
        report = reports[kind]
        assert report.max_abs_difference == pytest.approx(0, abs=1e-4)
        assert (report.top1_agreement, report.samples) == (100, 8)
    with torch.no_grad():
        answers = made.network.eval()(images(8)).argmax(dim=1)
    expected = 100 * float((answers[:4] == torch.arange(4)).float().mean())
    assert reports[Export.ONNX].accuracy == reports[Export.PT2].accuracy == pytest.approx(expected)
    difference = reports[Export.INT8].max_abs_difference
    assert difference is not None
    assert difference > 1e-4
    for report in reports.values():
        assert report.latency is not None
        assert all(report.latency[name].p50_ms > 0 for name in ("batch_1", "batch_32"))
    sizes = {kind: (made.folder / report.file).stat().st_size for kind, report in reports.items()}
    assert sizes == {kind: report.size for kind, report in reports.items()}


def test_files_take_any_batch_size(cifar_files: Path) -> None:
    network = cifar_network()
    program = torch.export.load(cifar_files / "model.pt2").module()
    session, eight = (
        onnxruntime.InferenceSession(cifar_files / file, providers=["CPUExecutionProvider"])
        for file in ("model.onnx", "model.int8.onnx")
    )
    for opened in (session, eight):
        assert [(one.name, one.shape) for one in opened.get_inputs()] == [("input", ["batch", 3, 32, 32])]
        assert [(one.name, one.shape) for one in opened.get_outputs()] == [("logits", ["batch", CLASSES])]
    for samples in (1, 2, 3, 17):
        x = images(samples)
        with torch.no_grad():
            wanted = network.eval()(x)
        torch.testing.assert_close(program(x), wanted)
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), wanted)
        assert eight.run(None, {"input": x.numpy()})[0].shape == wanted.shape


def test_files_say_what_they_are(cifar_files: Path) -> None:
    for name in ("model.onnx", "model.int8.onnx"):
        session = onnxruntime.InferenceSession(cifar_files / name, providers=["CPUExecutionProvider"])
        assert session.get_modelmeta().custom_metadata_map == METADATA
    read = dict.fromkeys(METADATA, "")
    torch.export.load(cifar_files / "model.pt2", extra_files=read)
    assert {key: value.encode() if isinstance(value, str) else value for key, value in read.items()} == {
        key: value.encode() for key, value in METADATA.items()
    }
    told = {key: json.loads(value) for key, value in config_of(cifar_architecture()).metadata.items()}
    assert told["lit.classes"] == [f"class {n}" for n in range(CLASSES)]
    assert (told["lit.mean"], told["lit.std"], told["lit.scale"]) == ([0.5, 0.4, 0.3], [0.2, 0.3, 0.1], 255)
    assert (told["lit.layout"], told["lit.channels"], told["lit.size"]) == ("NCHW", 3, [32, 32])
    assert (told["lit.task"], told["lit.version"]) == ("classification", version("lit-compress"))


@pytest.mark.skipif(not OPENVINO, reason="the package openvino is not installed")
def test_openvino_reads_the_files_of_the_archive(cifar_files: Path, tmp_path: Path) -> None:
    import openvino

    with zipfile.ZipFile(cifar_files / "model.openvino.zip") as archive:
        assert archive.namelist() == ["model.bin", "model.xml"]
        archive.extractall(tmp_path)
    model = openvino.Core().read_model(tmp_path / "model.xml")
    assert model.get_rt_info(["lit", "classes"]).astype(str) == METADATA["lit.classes"]
    assert model.input("input").partial_shape.to_string() == "[?,3,32,32]"
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for samples in (1, 17):
        x = images(samples)
        with torch.no_grad():
            wanted = cifar_network().eval()(x)
        found = torch.from_numpy(compiled({"input": x.numpy()})["logits"])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_onnx_file_holds_its_weights_and_passes_its_checker(cifar_files: Path) -> None:
    model = onnx.load(cifar_files / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 20
    assert all(not tensor.external_data for tensor in model.graph.initializer)


@pytest.mark.parametrize("name", ["cifar", "timm_vit"])
def test_int8_has_its_weights_in_eight_bits_with_a_scale_for_each_channel(
    name: str, request: pytest.FixtureRequest
) -> None:
    made: Exported = request.getfixturevalue(name)
    graph = onnx.load(made.folder / "model.int8.onnx").graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weights = [
        tensor for tensor in tensors.values() if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    scales = {node.input[0]: node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert len(weights) >= 8
    assert all(np.prod(tensors[scales[weight.name]].dims) in weight.dims for weight in weights)


def test_a_network_of_texts(tmp_path: Path) -> None:
    x = torch.randint(0, 20, (6, 64), generator=torch.Generator().manual_seed(0))
    reports = export(text_network(ties=False), FORMATS + OPENVINO, tmp_path, x, labels=torch.tensor([0, 1, 1, 0, 1, 0]))
    assert no_errors(reports)
    assert reports[Export.PT2].accuracy == reports[Export.ONNX].accuracy
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [one.type for one in session.get_inputs()] == ["tensor(int64)"]


def test_among_equal_values_onnx_takes_others_than_torch_which_is_found(tmp_path: Path) -> None:
    """k-max pooling of zeros: torch's topk promises no order, so an ONNX file of such a network is refused."""
    x = torch.randint(0, 20, (200, 64), generator=torch.Generator().manual_seed(0))
    reports = export(text_network(ties=True), FLOATS, tmp_path, x, labels=torch.zeros(200, dtype=torch.int64))
    assert reports[Export.PT2].error is None
    assert str(reports[Export.ONNX].error).startswith("comparing: Unfaithful: outputs differ")


def test_a_generator_of_two_inputs_has_no_answers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Generator(conv_dim=4, domains=2, channels=3, blocks=1, names="main", running_statistics=True)
    x, domains = images(4, side=16), torch.eye(4, 2)
    reports = export(network, FLOATS, tmp_path, x, domains, labels=domains, classifier=False)
    assert no_errors(reports)
    assert {(report.top1_agreement, report.accuracy) for report in reports.values()} == {(None, None)}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["input_1", "input_2"]


# --- Failures -----------------------------------------------------------------------------------------------


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


class InWindows(nn.Module):
    """Attention of five dimensions, as within windows: once with each of `options`, each (B, 48) of the answer."""

    def __init__(self, *options: dict[str, Any]) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        windows = x.reshape(x.shape[0], 2, 2, 3, 4)
        return torch.cat([self.attended(windows, **options).flatten(1) for options in self.options], dim=1)

    def attended(self, windows: Tensor, **options: Any) -> Tensor:
        heads = windows[:, :, :1] if options.get("enable_gqa") else windows
        return nn.functional.scaled_dot_product_attention(windows, heads, heads, **options)


def test_attention_of_five_dimensions(tmp_path: Path) -> None:
    """Plain, masked, with a bias, causal and grouped, in one file: an export takes a second."""
    network = InWindows(
        {},
        {"scale": 0.3, "attn_mask": torch.ones(3, 3, dtype=torch.bool).tril()},
        {"attn_mask": torch.arange(9.0).reshape(3, 3)},
        {"is_causal": True},
        {"enable_gqa": True},
    )
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    reports = export(network, FLOATS, tmp_path, x)
    assert no_errors(reports)
    assert all(report.max_abs_difference == pytest.approx(0, abs=1e-5) for report in reports.values())


class Fixed(nn.Module):
    """Takes batches of two only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 3) + 1


class Uncopyable(nn.Module):
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise TypeError("not to be copied")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("network", "error"),
    [(Fickle(), "writing: "), (Fixed(), "writing: "), (Uncopyable(), "copying the network to the CPU: TypeError: not")],
    ids=["fickle", "fixed", "uncopyable"],
)
def test_an_export_that_fails_says_where_and_leaves_no_file(
    network: nn.Module, error: str, kind: Export, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = export(network, [kind], tmp_path, torch.ones(4, 3))[kind]
    assert str(report.error).startswith(error)
    assert (report.size, report.max_abs_difference, report.top1_agreement, report.accuracy) == (None,) * 4
    assert list(tmp_path.iterdir()) == []
    assert any(record.exc_info for record in caplog.records)


def test_an_unfaithful_export_is_taken_back(tmp_path: Path) -> None:
    report = export(Forgetful(), [Export.PT2], tmp_path, torch.ones(4, 3))[Export.PT2]
    assert str(report.error).startswith("comparing: Unfaithful: ")
    assert list(tmp_path.iterdir()) == []


def test_one_failure_does_not_keep_the_other_formats(tmp_path: Path) -> None:
    kinds = [Export.INT8, Export.PT2]
    network, batches = nn.Linear(3, CLASSES), batches_of(torch.randn(4, 3))
    of_int8, of_program = write_exports(
        network, kinds, tmp_path, batches=batches, details=Details(calibration=lambda: iter(()))
    )
    assert str(of_int8.error).startswith("writing: ValueError")
    assert of_program.error is None
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


class CountsTraces(nn.Module):
    """Counts how often an exporter runs its code."""

    traces = 0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            CountsTraces.traces += 1
        return self.linear(x)


def test_all_formats_are_made_of_one_trace(tmp_path: Path) -> None:
    CountsTraces.traces = 0
    network, samples = CountsTraces(), torch.randn(4, 3)
    assert no_errors(export(network, [Export.PT2], tmp_path, samples))
    alone = CountsTraces.traces
    assert alone > 0
    assert no_errors(export(network, [*FORMATS, *OPENVINO], tmp_path, samples))
    assert CountsTraces.traces == 2 * alone
    written = [onnx.load(tmp_path / f"model{suffix}.onnx") for suffix in ("", ".int8")]
    assert [{entry.key: entry.value for entry in model.metadata_props} for model in written] == [METADATA, METADATA]


def test_what_is_compared() -> None:
    network = nn.Identity()
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3000.0, 0.0]])
    batches = batches_of(x, labels=torch.tensor([0, 0, -1]))
    found = compare(network, lambda inputs: inputs[0] + torch.tensor([0.0, 2.0]), batches, classifier=True)
    assert (found.max_abs_difference, found.largest, found.samples) == (2, 3000, 3)
    assert (found.top1_agreement, found.accuracy) == (pytest.approx(66.6667), 0)
    # Within the bound of 3, but with another answer.
    with pytest.raises(Unfaithful, match=r"66\.67 %"):
        check(found)
    with pytest.raises(Unfaithful, match="not finite"):
        compare(network, lambda inputs: inputs[0] * float("nan"), batches, classifier=True)
    with pytest.raises(Unfaithful, match="shape"):
        compare(network, lambda inputs: inputs[0][:, :1], batches, classifier=True)
    with pytest.raises(ValueError, match="no samples"):
        compare(network, lambda inputs: inputs[0], lambda: iter(()), classifier=True)
    with pytest.raises(Unfaithful, match="shape"):
        compare(network, lambda inputs: inputs[0] if len(inputs[0]) > 1 else inputs[0][0], batches, classifier=True)


# --- Hugging Face -------------------------------------------------------------------------------------------


def preprocessing(channels: int = 3, crop: int | None = None) -> ImagePreprocessing:
    return ImagePreprocessing(
        size=[32, 32],
        channels=channels,
        scale=255.0,
        mean=[0.5, 0.4, 0.3][:channels],
        std=[0.2, 0.3, 0.1][:channels],
        class_order=[f"class {n}" for n in range(CLASSES)],
        crop=crop,
    )


def report_of(exports: list[ExportReport]) -> Report:
    def measured(blocks: list[int], accuracy: float) -> NetworkReport:
        return NetworkReport(
            depth=sum(blocks),
            blocks=blocks,
            accuracy=BySplit(val=90.0, test=accuracy),
            parameters=12345,
            flops=678910,
            file_size=49380,
            latency={f"batch_{batch}": LatencyReport(p50_ms=1.5 * batch, p95_ms=2.0 * batch) for batch in (1, 32)},
        )

    epochs = [
        EpochReport(phase=phase, epoch=epoch, loss=1 / epoch, agreement=90.0, student_accuracy=80.0 + epoch)
        for phase in (Phase.LIT, Phase.FINE_TUNE)
        for epoch in (1, 2)
    ]
    # The card reads no more than this of the report.
    specification = JobSpec.model_construct(alpha=0.5, beta=0.25, tau=4.0)
    return Report.model_construct(
        method=Method.LIT,
        teacher=measured([3, 3, 3], 91.25),
        student=measured([1, 1, 1], 90.5),
        exports=exports,
        then=[],
        epochs=epochs,
        specification=specification,
    )


def config_of(architecture: Architecture) -> ModelConfig:
    return ModelConfig(architecture=architecture, preprocessing=preprocessing())


def card(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    found: dict[str, Any] = YAML(typ="safe").load(front)
    return found, text


LOADED = """
import sys, timm, torch
from safetensors.torch import load_file, save_file
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
assert data["input_size"] == (3, 32, 32) and tuple(data["mean"]) == (0.5, 0.4, 0.3) and data["crop_mode"] == "squash"
assert model.pretrained_cfg["label_names"][6] == "class 6"
with torch.no_grad():
    save_file({"logits": model(load_file(sys.argv[2])["x"])}, sys.argv[3])
"""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("vit_tiny_patch16_224.augreg_in21k", VIT, id="vit"),
        pytest.param(
            "resnet18", {"channels": (4, 8, 8, 16), "layers": [1, 1, 2, 1]}, marks=pytest.mark.long, id="resnet"
        ),
    ],
)
def test_timm_loads_the_folder_in_another_process(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = timm.create_model(name.partition(".")[0], num_classes=CLASSES, **arguments).eval()
    config = config_of(Architecture(family="timm", depth=2, blocks=[2], channels=3, classes=CLASSES))
    save(network, config, tmp_path)
    target = write_hugging_face(
        tmp_path,
        report=report_of([]),
        config=config,
        weights=tmp_path / "model.safetensors",
        timm_config=timm_config(name, arguments, network, preprocessing()),
    )
    x = images(3)
    save_file({"x": x}, tmp_path / "x.safetensors")
    found = tmp_path / "logits.safetensors"
    subprocess.run(
        [sys.executable, "-c", LOADED, str(target), str(tmp_path / "x.safetensors"), str(found)],
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    with torch.no_grad():
        torch.testing.assert_close(load_file(found)["logits"], network(x), rtol=0, atol=0)
    front, text = card(target)
    assert (front["library_name"], front["pipeline_tag"]) == ("timm", "image-classification")
    assert 'timm.create_model("local-dir:huggingface", pretrained=True)' in text
    written = json.loads((target / "config.json").read_text())
    assert written["architecture"] == name.partition(".")[0]
    assert written["num_classes"] == CLASSES


def test_what_timm_cannot_load_is_refused(tmp_path: Path) -> None:
    network = vision_transformer("timm")
    config = config_of(Architecture(family="timm", depth=2, blocks=[2], channels=3, classes=CLASSES))
    save(network, config, tmp_path)
    deeper = timm_config("vit_tiny_patch16_224", {**VIT, "depth": 3}, network, preprocessing())
    weights = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match="timm can't load"):
        write_hugging_face(tmp_path, report=report_of([]), config=config, weights=weights, timm_config=deeper)
    assert not (tmp_path / "huggingface").exists()
    with pytest.raises(ValueError, match="crop"):
        timm_config("vit_tiny_patch16_224", VIT, network, preprocessing(crop=20))


def test_the_weights_say_what_they_are_in_the_same_bytes(tmp_path: Path) -> None:
    config = config_of(cifar_architecture())
    config.preprocessing.class_order[0] = 'ä "0" \\ \x7f\n'
    for name in ("one", "two", "three"):
        save(cifar_network(), config, tmp_path / name)
    first, *others = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "three"))
    assert [first, first] == others
    with safe_open(tmp_path / "one/model.safetensors", "pt") as file:
        told = file.metadata()
        assert set(told) == {*config.metadata, "lit_architecture"}
        assert json.loads(told["lit.classes"]) == config.preprocessing.class_order
    state = cifar_network().state_dict()
    read = load_file(tmp_path / "one/model.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_a_folder_of_our_own_families(tmp_path: Path) -> None:
    network, config = cifar_network().eval(), config_of(cifar_architecture())
    save(network, config, tmp_path)
    exports = [
        ExportReport(
            kind=Export.ONNX,
            file="model.onnx",
            size=1234,
            max_abs_difference=2e-6,
            top1_agreement=100.0,
            accuracy=90.5,
            latency={name: LatencyReport(p50_ms=1.5, p95_ms=2) for name in ("batch_1", "batch_32")},
            error=None,
        ),
        ExportReport(kind=Export.PT2, file="model.pt2", error="writing: ValueError: a | b"),
    ]
    target = write_hugging_face(
        tmp_path,
        report=report_of(exports),
        config=config,
        weights=tmp_path / "model.safetensors",
        timm_config=None,
    )
    assert sorted(path.name for path in target.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "training.png",
    ]
    model = load(target)
    with torch.no_grad():
        torch.testing.assert_close(model(images(2)), network(images(2)), rtol=0, atol=0)
    front, text = card(target)
    assert front["library_name"] == "lit-compress"
    assert front["metrics"] == ["accuracy"]
    for line in (
        "| accuracy (%) | 91.25 | 90.50 |",
        "| parameters | 12,345 | 12,345 |",
        "| latency p50, batch 32 (ms) | 48.00 | 48.00 |",
        "| `model.onnx` | 1,234 | 2e-06 | 100.00 | 90.50 | 1.50 | 1.50 |  |",
        "| `model.pt2` | – | – | – | – | – | – | failed: writing: ValueError: a \\| b |",
        "α = 0.5, β = 0.25 and τ = 4",
        "- mean: `[0.5, 0.4, 0.3]`",
    ):
        assert line in text
    assert (target / "training.png").read_bytes().startswith(b"\x89PNG")


# --- Bundle -------------------------------------------------------------------------------------------------


def test_a_bundle_holds_all_and_is_the_same_again(tmp_path: Path) -> None:
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface/README.md").write_text("card")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = write_bundle(tmp_path).read_bytes()
    os.utime(tmp_path / "model.safetensors", (0, 0))
    assert write_bundle(tmp_path).read_bytes() == first
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        assert archive.namelist() == ["huggingface/README.md", "model.safetensors"]
        assert archive.read("model.safetensors") == b"weights"
