"""A scripted inspection: `python reader.py BEHAVIOUR FILE FOLDER …`. The test's folder has what it is to find."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

behaviour, output = sys.argv[1], Path(sys.argv[3])
# In the test's folder lie the worker's, of this inspector, of this upload, and that.
place = output.parents[3]


def find() -> None:
    (output / "teacher.safetensors").write_bytes(b"a teacher")
    (output / "inspection.json").write_text((place / "found.json").read_text())


match behaviour:
    case "find":
        find()
    case "tell":
        (place / "arguments").write_text(" ".join(sys.argv[4:]))
        find()
    case "hang":
        (place / "pid").write_text(str(os.getpid()))
        while not (place / "go").exists():
            time.sleep(0.02)
        find()
    case "leave_no_teacher":
        find()
        (output / "teacher.safetensors").unlink()
    case "leave_a_link":
        find()
        (output / "teacher.safetensors").unlink()
        (output / "teacher.safetensors").symlink_to("/etc/hostname")
    case "refuse":
        sys.stdout.write(json.dumps({"type": "bad-teacher", "detail": "no network that we know"}) + "\n")
        sys.exit(1)
    case "refuse_nothing":
        sys.exit(1)
