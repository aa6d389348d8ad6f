"""The trainer with a VDCNN and texts: all that images have, and what only texts need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_core.data.text_preprocessing import TextPreprocessing
from lit_core.measuring.cost import count_parameters, flops
from lit_core.networks.families.vdcnn import VDCNN, Downsampling
from lit_core.networks.teacher import inspect_teacher, read_teacher
from lit_core.trainer.__main__ import run as run_trainer
from lit_core.trainer.supervision import DeadlineWatch
from lit_core.training.pruning import prune_to
from lit_spec import JobRequest, Pruning, resolve
from lit_spec.requests.dataset import VDCNN_VOCABULARY
from tests.lit_core.trainer.test_training import KeptMessages, teach

LENGTH = 32
LABELS = ("calm", "loud")


def sentences(samples: int = 240) -> list[tuple[str, str]]:
    """(label, text): loud ones have exclamation marks, calm ones full stops, somewhere."""
    rng = np.random.default_rng(0)
    found = []
    for sample in range(samples):
        letters = rng.choice(list("abcdefgh "), LENGTH - 4)
        place = int(rng.integers(0, len(letters)))
        found.append((LABELS[sample % 2], "".join(letters[:place]) + ".!"[sample % 2] * 3 + "".join(letters[place:])))
    return found


def network() -> VDCNN:
    return VDCNN([2, 1, 1, 1], 2, widths=(4, 4, 6, 8, 10), k=4, hidden=(8, 8), downsampling=Downsampling.KMAXPOOL)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = network()
    preprocessing = TextPreprocessing(
        length=LENGTH, vocabulary=VDCNN_VOCABULARY, lowercase=True, class_order=list(LABELS)
    )
    labels, texts = zip(*sentences(), strict=True)
    x, y = preprocessing.apply(preprocessing.from_texts(texts)), torch.tensor([LABELS.index(name) for name in labels])
    teach(made, x, y, epochs=12)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(made.state_dict(), path)
    return path


def run(folder: Path, teacher_file: Path, data: list[tuple[str, str]], **changes: Any) -> dict[str, Any]:
    """The job's last event."""
    (folder / "teacher.safetensors").write_bytes(teacher_file.read_bytes())
    (folder / "dataset").write_text("".join(f"{label},{text}\n" for label, text in data))
    request = {
        "teacher": "upl_t",
        "teacher_options": {"downsampling": "kmaxpool"},
        "dataset": {"upload": "upl_d", "length": LENGTH},
        "student": {"depth": 9, "select": "even"},
        "schedule": {"lit": {"epochs": 1, "learning_rate": 0.02}, "fine_tune": {"epochs": 1, "learning_rate": 0.02}},
        "exports": [],
        **changes,
    }
    spec = resolve(JobRequest.model_validate(request), inspect_teacher(read_teacher(teacher_file)))
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "run.json").write_text(json.dumps({"device": "cpu", "threads": 1, "attempt": 1}))
    kept = KeptMessages()
    run_trainer(folder, kept, DeadlineWatch())
    last: dict[str, Any] = json.loads(kept.messages[-1].as_line())
    return last


def test_a_pruned_vdcnn_has_as_many_weights_as_the_student(tmp_path: Path, teacher_file: Path) -> None:
    last = run(tmp_path, teacher_file, sentences(), method="prune", augmentation={"mask": 0.05})
    assert last["type"] == "finished", last
    result = last["result"]
    assert result["teacher"]["accuracy"]["test"] >= 90
    assert result["student"]["depth"] == 9
    shallow = count_parameters(VDCNN([1, 1, 1, 1], 2, widths=(4, 4, 6, 8, 10), k=4, hidden=(8, 8)))
    assert result["student"]["parameters"] == shallow < result["teacher"]["parameters"]
    state = load_file(tmp_path / "output" / "model.safetensors")
    assert int((state["character_embedding.weight"] == 0).sum()) > 0
    config = json.loads((tmp_path / "output" / "config.json").read_text())
    assert config["architecture"]["options"]["downsampling"] == "kmaxpool"
    assert config["preprocessing"]["vocabulary"] == VDCNN_VOCABULARY
    assert result["student"]["latency"]["batch_32"]["p50_ms"] > 0
    assert result["student"]["flops"] == result["teacher"]["flops"] == flops_by_hand([2, 1, 1, 1])


def flops_by_hand(blocks: list[int]) -> int:
    """Two a multiply-add; a section's convolutions run at the length that its first block pools to."""
    widths, length, total = (4, 4, 6, 8, 10), LENGTH, 2 * 16 * 4 * 3 * LENGTH
    for count, before, width in zip(blocks, widths, widths[1:], strict=False):
        length = length // 2 if width > before else length
        total += 2 * 3 * length * (before * width + (2 * count - 1) * width * width)
    return total + 2 * (10 * 4 * 8 + 8 * 8 + 8 * 2)


def test_flops_of_texts_are_counted() -> None:
    assert flops(network(), (torch.zeros(1, LENGTH, dtype=torch.int64),)) == flops_by_hand([2, 1, 1, 1])


def test_pruning_takes_the_smallest_weights_of_embedding_convolutions_and_head() -> None:
    made = network()
    masks = prune_to(made, 600)
    kept = {"character_embedding.weight", "conv1.weight", "fc3.weight"}
    assert kept <= masks.keys()
    left = count_parameters(made) - sum(int((mask == 0).sum()) for mask in masks.values())
    assert left == 600


def test_pruning_filters_takes_the_smallest_of_each_layer_by_the_same_share_and_never_the_outputs() -> None:
    made = network()
    before = {
        name: module.weight.detach().clone() for name, module in made.named_modules() if hasattr(module, "weight")
    }
    total = count_parameters(made)
    masks = prune_to(made, total // 2, Pruning.FILTERS, [made.get_parameter("fc3.weight")])
    left = total - sum(int((mask == 0).sum()) for mask in masks.values())
    assert "fc3.weight" not in masks
    assert "character_embedding.weight" not in masks
    largest, least, most = 0, [], []
    for name, mask in masks.items():
        rows = mask.flatten(1)
        assert all(len(row.unique()) == 1 for row in rows)
        kept = rows[:, 0].bool()
        norms = before[name.removesuffix(".weight")].flatten(1).abs().sum(1)
        assert norms[kept].min() >= norms[~kept].max()
        least.append((len(rows) - int(kept.sum())) / len(rows))
        most.append((len(rows) - int(kept.sum()) + 1) / len(rows))
        largest += rows.shape[1]
    # There is a share that rounds down to what went from each layer.
    assert max(least) < min(most)
    # One step of the share takes at most one filter of each layer.
    assert total // 2 - largest <= left <= total // 2
    with pytest.raises(ValueError, match="one filter of each layer must stay"):
        prune_to(network(), 100, Pruning.FILTERS)


def test_a_teacher_near_chance_is_told_what_its_tensors_leave_open(tmp_path: Path, teacher_file: Path) -> None:
    data = sentences()
    order = sorted({label for label, _ in data})
    shuffled = [(order[order.index(label) - 1], text) for label, text in data]
    last = run(tmp_path, teacher_file, shuffled, teacher_options={})
    assert last["type"] == "failed"
    assert last["error"]["type"] == "teacher-near-chance"
    for said in (
        "assumed to be maxpool, one of maxpool, conv, kmaxpool",
        "teacher_options.downsampling",
        "dataset.vocabulary",
    ):
        assert said in last["error"]["detail"]
