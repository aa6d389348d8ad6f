"""The API never loads torch, nor anything of the core but the specification."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys
import api.app, service.commands.api
names = [name for name in sys.modules if name.split(".")[0] in {"torch", "numpy", "lit_spec", "lit_core", "worker"}]
print(json.dumps(sorted(names)))
"""


def test_the_api_loads_the_specification_and_no_torch() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=root, check=True)
    loaded = json.loads(done.stdout)
    assert "lit_spec" in loaded
    assert [name for name in loaded if not f"{name}.".startswith("lit_spec.")] == []
