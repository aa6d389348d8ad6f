"""The notebooks run from top to bottom, and are committed without outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the package nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="the package nbclient is not installed")
pytest.importorskip("ipykernel", reason="the package ipykernel is not installed")
pytest.importorskip("tqdm", reason="the package tqdm is not installed")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/notebooks/digits.ipynb"


def test_the_notebook_has_nothing_of_a_run_or_a_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert dict(notebook.metadata.language_info) == {"name": "python"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None and not cell.metadata for cell in code)


@pytest.mark.timeout(180)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

    # The kernel is this Python, whatever kernels the machine has, and finds the code where the tests do.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda *_: KernelSpec(argv=start, language="python"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=150, kernel_name="python3", resources=folder).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    streams = [output.text for cell in outputs for output in cell if output.output_type == "stream"]
    assert any("fine_tune 1/1" in text and "3/3" in text for text in streams), "the bar of tqdm"
    data = [output.data for cell in outputs for output in cell if "data" in output]
    assert any("<table>" in one.get("text/html", "") for one in data)
    assert any("image/png" in one for one in data)
    accuracy = next(
        float(one["text/plain"].strip("'").split()[0]) for one in data if "of the test" in one["text/plain"]
    )
    assert accuracy > 80
    # ONNX Runtime and torch give the same answers.
    classified, read = data[-3]["text/plain"], data[-1]["text/plain"]
    assert all(f"name={name.strip()}" in classified for name in read.strip("[]").split(","))
