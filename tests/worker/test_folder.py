"""WorkFolders: what a dead worker left is removed, what a living one uses is not."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.ledger.attempts import Claim
from lit_spec import JobRequest, resolve
from lit_spec.trainer.run import TrainerMachine
from tests.lit_spec.test_translation import discriminator, generator
from tests.worker.bench import Bench
from worker.host.work_folder import WorkFolder
from worker.training.job_folder import UploadMissing, prepare

HOLD = """
import sys, time
from pathlib import Path
from worker.host.work_folder import WorkFolder
folder = WorkFolder(Path(sys.argv[1]), "other")
(folder.path / "job_1-1").mkdir()
print("ready", flush=True)
time.sleep(60)
"""


def test_leftovers_of_the_dead_are_removed_and_the_living_kept(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, cwd=root) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        WorkFolder(tmp_path, "first").close()
        assert (tmp_path / "other" / "job_1-1").exists()
        other.send_signal(signal.SIGKILL)
    WorkFolder(tmp_path, "second").close()
    assert not (tmp_path / "other").exists()


def test_files_of_others_are_neither_removed_nor_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one").write_text("Dear all")
    WorkFolder(tmp_path, "first").close()
    WorkFolder(tmp_path, "second").close()
    assert (tmp_path / "letters" / "one").exists()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_folder_is_removed_also_after_an_error(tmp_path: Path) -> None:
    work_folder = WorkFolder(tmp_path, "one")
    try:
        with work_folder.temporary_folder("job_1-1") as folder:
            (folder / "file").write_text("content")
            raise RuntimeError
    except RuntimeError:
        pass
    assert not (tmp_path / "one" / "job_1-1").exists()
    work_folder.close()


def test_a_folder_gets_the_generator_its_discriminator_and_the_data(bench: Bench, tmp_path: Path) -> None:
    ids = {
        "teacher": bench.teacher(b"G", generator()),
        "discriminator": bench.teacher(b"D", discriminator()),
        "dataset": {"upload": bench.dataset(b"x"), "test_upload": bench.dataset(b"held out")},
    }
    sizes = {ids["dataset"]["upload"]: 1, ids["dataset"]["test_upload"]: 8}
    asked = JobRequest.model_validate({**ids, "student": {"blocks": [2]}})
    spec = resolve(asked, generator(), discriminator())
    claim = Claim("job_1", 1, "local", spec, "cpu", None, 0.0)
    folder = tmp_path / "job"
    folder.mkdir()
    prepare(folder, claim, bench.storage, bench.settings, TrainerMachine(threads=1), lambda: None, sizes.get)
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}
    assert contents == {
        "teacher.safetensors": b"G",
        "discriminator.safetensors": b"D",
        "dataset": b"x",
        "test-dataset": b"held out",
    }

    bench.storage.delete_prefix(f"uploads/{ids['discriminator']}/")
    with pytest.raises(UploadMissing) as failed:
        prepare(folder, claim, bench.storage, bench.settings, TrainerMachine(threads=1), lambda: None, sizes.get)
    assert (failed.value.error.type, failed.value.error.field) == ("bad-teacher", "discriminator")
