"""`make bench-views` in short: its jobs are taken, its cells are runs of the trainer, and seeds are paired."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.views.run import Cell, main, table
from benchmarks.views.settings import RECIPES_IN_SHORT, SETTINGS, Setting
from lit_core.networks.families.resnet_cifar import ResNet
from lit_spec import JobRequest, TeacherCacheOptions, TeacherCaching, resolve
from tests.benchmarks.test_evidence import inspection_of
from tests.lit_core.trainer.test_training import stripes, teach, write_dataset

SHORT = Setting(
    "stripes",
    "stripes",
    {
        "augmentation": {"shift": 1, "noise": 0.1},
        "schedule": {"steps_per_epoch": 10, "lit": {"epochs": 2, "learning_rate": 0.02}, "fine_tune": {"epochs": 1}},
    },
)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_all_arms_of_a_setting_differ_only_in_their_cache(setting: Setting) -> None:
    inspection = inspection_of(RECIPES_IN_SHORT[setting.dataset].architecture)
    specs = [resolve(JobRequest.model_validate(setting.arm(views, 1)), inspection) for views in (None, 1, 16)]
    assert [spec.teacher_cache for spec in specs] == [
        TeacherCaching.OFF,
        TeacherCacheOptions(views=1),
        TeacherCacheOptions(views=16),
    ]
    assert len({spec.model_copy(update={"teacher_cache": TeacherCaching.OFF}).model_dump_json() for spec in specs}) == 1


def made_folder(folder: Path) -> Path:
    """With the data and a teacher that knows them, where the command looks for them."""
    (folder / "data").mkdir(parents=True)
    (folder / "teachers").mkdir()
    x, y = stripes()
    write_dataset(folder / "data/stripes", x=x, y=y)
    torch.manual_seed(0)
    network = ResNet([3, 3, 3], 4, 1, 3, "A", "fc", "downsample")
    inputs = torch.from_numpy(x).float()[:, None] / 255
    teach(network, (inputs - inputs.mean()) / inputs.std(), torch.from_numpy(y), epochs=6)
    save_file(network.state_dict(), folder / "teachers/stripes.safetensors")
    return folder


def measured(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    main(["--folder", str(folder), "--views", "2", *arguments], {"stripes": SHORT})
    *_, last = capsys.readouterr().out.splitlines()
    found: dict[str, Any] = json.loads(last)
    return found


def test_the_short_form_trains_each_cell_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made_folder(tmp_path / "views")
    found = measured(folder, capsys, "--seeds", "1")
    assert found["bench"] == "views"
    new, two = found["cells"]
    assert [(cell["setting"], cell["views"], cell["seed"]) for cell in (new, two)] == [
        ("stripes", None, 0),
        ("stripes", 2, 0),
    ]
    # 960 samples of which 240 * 0.8 are the training split: five passes, of which two fill the cache.
    assert (new["hit_rate"], new["bytes"]) == (0.0, 0)
    assert two["hit_rate"] > 0.4
    assert two["bytes"] > 0
    for cell in (new, two):
        assert cell["cpu_seconds"] > 0
        assert cell["agreement"] > 50
    # What is there is not run again: the seconds are the same.
    assert measured(folder, capsys, "--seeds", "1")["cells"] == found["cells"]


def test_the_table_pairs_cells_by_their_seeds() -> None:
    new = Cell("hard", None, 0, 90.0, 95.0, 94.0, 0.0, 0, None, 10.0)
    cells = [new, replace(new, seed=1, accuracy=92.0)]
    cells += [replace(new, views=4, seed=seed, accuracy=90.5, hit_rate=0.75) for seed in (1, 0)]
    lines = table(cells).splitlines()
    assert lines[2] == "| new | 91.00 ± 1.41 |  | 95.00 ± 0.00 |  | 10.0 | 0 % |"
    # Differences of -1.5 and 0.5.
    assert lines[3] == "| 4 | 90.50 ± 0.00 | -0.50 ± 1.00 | 95.00 ± 0.00 | +0.00 ± 0.00 | 10.0 | 75 % |"
