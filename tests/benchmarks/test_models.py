"""`make models` in short: one network that goes, one that is refused, and the page that is written of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.models import page, run
from lit_spec import Library


def test_a_network_passes_and_its_loss_falls() -> None:
    row = run.try_model(Library.TORCHVISION, "shufflenet_v2_x0_5")
    assert row["outcome"] == "passed", row["reason"]
    assert row["blocks"] == [4, 8, 4]
    assert row["student_blocks"] == [2, 4, 2]
    assert row["parameters"][1] < row["parameters"][0]
    assert row["loss"][1] < row["loss"][0]
    assert max(row["differences"].values()) < 1e-3


def test_a_refusal_is_told_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = run.try_model(Library.TORCHVISION, "densenet121")
    assert row["outcome"] == "refused"
    monkeypatch.setattr(page, "PAGE", tmp_path / "models.md")
    (tmp_path / "models.md").write_text(f"before\n{page.START}\nold\n{page.END}\nafter\n")
    page.write_page([row])
    text = (tmp_path / "models.md").read_text()
    assert "torchvision densenet121 | refused: can't be made shallower" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
