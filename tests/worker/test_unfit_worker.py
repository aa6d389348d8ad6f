"""A worker with a fault of its own: it gives jobs back, paused, and empties no queue."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

import pytest
from sqlalchemy import text

from jobs import backoff
from jobs.backoff import Backoff
from jobs.ledger import attempts, uploads, workers
from jobs.ledger.attempts import Claim
from jobs.storage.folder import FolderStorage
from lit_spec import SPEC_VERSION
from service import worker_process
from tests.small_disks import MIB, files_up_to, fill, mounted
from tests.worker.bench import OWNER, Bench, child, wait_for
from tests.worker.outages import cut_off
from worker.host import registration
from worker.host.startup import open_host
from worker.training import supervisor
from worker.training.job_folder import data_store


@dataclass(frozen=True)
class Ended:
    returncode: object
    stderr: str


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that rest for moments and leave no job to others."""
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "LEFT_TO_OTHERS_SECONDS", 0.0)


def state(bench: Bench, job_id: str) -> tuple[str, int]:
    row = bench.row(job_id)
    return row.state, row.failures


def test_pauses_double_from_one_second_to_five_minutes() -> None:
    pauses = Backoff()
    assert [pauses.next() for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    pauses.reset()
    assert [pauses.next() for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(("revision", "todo"), [("0009", "`litc migrate`"), ("9999", "update this checkout")])
def test_a_worker_starts_on_the_schema_of_its_version_alone(
    bench: Bench, capsys: pytest.CaptureFixture[str], revision: str, todo: str
) -> None:
    with bench.database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    with pytest.raises(SystemExit) as ended:
        open_host(bench.settings)
    assert ended.value.code == os.EX_CONFIG
    assert todo in capsys.readouterr().err


@pytest.mark.usefixtures("impatient")
def test_a_share_that_is_not_mounted_costs_no_job_anything(bench: Bench, tmp_path: Path) -> None:
    waiting = [bench.job(teacher=bench.teacher()) for _ in range(3)]
    mounted, root = tmp_path / "mounted", bench.settings.storage_root
    root.rename(mounted)
    root.mkdir()
    with bench.working(child("succeed")):
        wait_for(lambda: bench.events(waiting[0], "released"))
        [released, *_] = bench.events(waiting[0], "released")
        assert "LIT_STORAGE_DIR" in released["reason"]
        # While it is not there, nothing is claimed, however often the worker looks.
        root.rmdir()
        mounted.rename(root)
        wait_for(lambda: all(bench.row(job).state == "succeeded" for job in waiting), 20)
    assert [state(bench, job) for job in waiting] == [("succeeded", 0)] * 3
    assert [bench.row(job).attempt for job in waiting] == [2, 1, 1]


def test_a_paused_worker_does_not_renew_its_registration(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "RENEWAL_SECONDS", 0.02)
    paused = [False]
    keeper = registration.Registration(
        bench.database, "worker-a", ["cpu"], [SPEC_VERSION], current_job=lambda: None, paused=lambda: paused[0]
    )

    def seen() -> datetime | None:
        with bench.database.session() as session:
            return next((worker.last_seen for worker in workers.live(session)), None)

    keeper.start()
    try:
        wait_for(seen)
        paused[0] = True
        time.sleep(0.2)
        last = seen()
        time.sleep(0.2)
        assert seen() == last
        paused[0] = False
        wait_for(lambda: seen() != last)
    finally:
        keeper.stop()


@pytest.mark.usefixtures("impatient")
def test_a_file_that_storage_has_lost_is_looked_for_again_before_the_job_fails(bench: Bench) -> None:
    teacher = bench.teacher()
    job_id, other = bench.job(teacher=teacher, max_attempts=3), bench.job(max_attempts=3)
    bench.storage.delete_prefix(f"uploads/{teacher}/")
    bench.work("succeed")
    assert state(bench, other) == ("succeeded", 0)
    assert state(bench, job_id) == ("failed", 3)
    error = bench.row(job_id).error
    assert (error["type"], error["field"]) == ("worker-lost", "teacher")
    assert f"storage lacks bytes of the upload {teacher}" in error["detail"]


def cut(bench: Bench, dataset: str) -> None:
    bench.storage.cut(f"uploads/{dataset}/data", 8)


def send_half_again(bench: Bench, dataset: str) -> None:
    with bench.database.session() as session:
        uploads.restart(session, uploads.get(session, OWNER, dataset, lock=True))
        begun = uploads.open_writer(session, OWNER, dataset, 0)
        uploads.record_progress(session, dataset, begun.writer, 8)
    cut(bench, dataset)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("lose", "type", "detail"),
    [
        (cut, "worker-lost", "storage lacks bytes of the upload {dataset}"),
        (send_half_again, "bad-dataset", "{dataset} has only 8 of its 16 bytes: finish the upload"),
    ],
)
def test_no_job_is_trained_on_a_part_of_its_data_set(
    bench: Bench, lose: Callable[[Bench, str], None], type: str, detail: str
) -> None:
    dataset = bench.dataset(b"x,y\n1,2\n3,4\n5,6\n")
    job_id = bench.job(dataset=dataset, max_attempts=2)
    lose(bench, dataset)
    bench.work("succeed")
    # The rest may have come until the next attempt.
    assert state(bench, job_id) == ("failed", 2)
    error = bench.row(job_id).error
    assert (error["type"], error["field"]) == (type, "dataset.upload")
    assert detail.format(dataset=dataset) in error["detail"]


@pytest.mark.usefixtures("impatient")
def test_a_file_that_storage_has_only_in_part_is_not_trained_on(bench: Bench) -> None:
    dataset = bench.dataset(b"a data set")
    job_id = bench.job(dataset=dataset, max_attempts=2)
    bench.storage.cut(f"uploads/{dataset}/data", 4)
    bench.work("succeed")
    assert state(bench, job_id) == ("failed", 2)
    error = bench.row(job_id).error
    assert (error["type"], error["field"]) == ("worker-lost", "dataset.upload")
    assert f"storage lacks bytes of the upload {dataset}" in error["detail"]


@pytest.mark.usefixtures("impatient")
def test_outputs_and_checkpoints_are_not_stored_where_nobody_looks(bench: Bench, tmp_path: Path) -> None:
    job_id = bench.job(max_attempts=1)
    root = bench.settings.storage_root
    with bench.working(child("wait_for_go")) as worker:
        wait_for(lambda: bench.events(job_id, "started"))
        root.rename(tmp_path / "mounted")
        root.mkdir(exist_ok=True)
        [folder] = bench.folder.glob("*/job_*")
        (folder / "go").touch()
        wait_for(lambda: bench.row(job_id).state == "failed")
        worker.drain()
    assert "is not mounted" in bench.row(job_id).error["detail"]
    assert [key for key in bench.storage.list("jobs/") if not key.endswith(".log")] == []


def test_a_full_disk_costs_no_failure_and_holds_up_no_job_that_fits(bench: Bench) -> None:
    large = bench.job(dataset=bench.dataset(bytes(2 * MIB)), max_attempts=1)
    small = bench.job(max_attempts=1)
    with bench.supervisor(child("succeed")) as worker:
        with files_up_to(MIB):
            worker.work()
        assert state(bench, large) == ("queued", 0)
        assert state(bench, small) == ("succeeded", 0)
        [released] = bench.events(large, "released")
        assert "could not prepare the job: [Errno 27] File too large" in released["reason"]
        # For a while the job is left to others.
        assert worker.work() == 0
    bench.work("succeed")
    assert state(bench, large) == ("succeeded", 0)


def host(bench: Bench) -> Claim:
    """Claims a job of two nodes, and offers a seat."""
    with bench.database.session() as session:
        claim = attempts.claim(session, "host", ["cpu"], [SPEC_VERSION], 60, endpoint="127.0.0.1:9")
    assert claim is not None
    return claim


def test_a_joined_worker_with_a_full_disk_costs_no_failure_and_does_not_join_again_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    job_id = bench.job(dataset=bench.dataset(bytes(2 * MIB)), nodes=2, max_attempts=1)
    with bench.supervisor(child("succeed"), name="guest") as guest:
        host(bench)
        with files_up_to(MIB):
            assert guest.work() == 1
        assert state(bench, job_id) == ("queued", 0)
        [released] = bench.events(job_id, "released")
        assert "could not prepare the job: [Errno 27] File too large" in released["reason"]
        host(bench)
        assert guest.work() == 0


def test_a_joined_worker_whose_folder_is_gone_costs_no_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    job_id = bench.job(nodes=2, max_attempts=1)
    host(bench)
    with bench.supervisor(child("succeed"), name="guest") as guest:
        shutil.rmtree(bench.folder)
        guest.work()
    assert state(bench, job_id) == ("queued", 0)


def test_a_limit_that_a_joined_worker_has_fails_the_job_and_is_named(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"trainer_memory_bytes": 1})
    job_id = bench.job(nodes=2, max_attempts=3)
    host(bench)
    with bench.supervisor(child("succeed"), name="guest") as guest:
        assert guest.work() == 1
    assert state(bench, job_id) == ("failed", 0)
    assert bench.row(job_id).error["type"] == "memory-limit"


def test_a_joined_worker_writes_its_end_when_an_outage_is_over(bench: Bench) -> None:
    with cut_off(bench.database, "cut_at_the_end") as outage:

        class CutStorage(FolderStorage):
            """The log is the last thing before the end."""

            def put_file(self, key: str, path: Path) -> None:
                super().put_file(key, path)
                outage.lock_out()
                threading.Timer(1.0, outage.let_in).start()

        bench.settings = bench.settings.model_copy(update={"trainer_memory_bytes": 1})
        cut = replace(bench, storage=CutStorage(bench.storage.root))
        job_id = bench.job(nodes=2, max_attempts=3)
        host(bench)
        with cut.supervisor(child("succeed"), database=outage.database, name="guest") as guest:
            assert guest.work() == 1
    assert state(bench, job_id) == ("failed", 0)
    assert bench.row(job_id).error["type"] == "memory-limit"


@pytest.mark.usefixtures("impatient")
def test_a_trainer_that_crashes_on_a_full_disk_costs_no_failure(bench: Bench) -> None:
    job_id = bench.job(max_attempts=1)
    with bench.working(child("crash")):
        with files_up_to(MIB // 2):
            wait_for(lambda: bench.events(job_id, "released"))
            time.sleep(0.2)
            # As long as the disk is full, the worker rests.
            assert bench.row(job_id).attempt == 1
        wait_for(lambda: bench.row(job_id).state == "failed")
    [released] = bench.events(job_id, "released")
    assert "the disk of the worker's folder" in released["reason"]
    assert (bench.row(job_id).attempt, bench.row(job_id).error["type"]) == (2, "trainer-crashed")


@pytest.mark.usefixtures("impatient")
def test_a_job_that_fills_the_disk_itself_fails_in_the_end(bench: Bench, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 8 * MIB) as disk:
        small = replace(bench, folder=disk)
        job_id = small.job(max_attempts=2)
        with small.working(child("fill_the_disk")):
            wait_for(lambda: small.row(job_id).attempt == 3 or small.row(job_id).state == "failed")
    assert state(bench, job_id) == ("failed", 2)
    error = bench.row(job_id).error
    assert error["type"] == "disk-limit"
    assert "the job filled the disk of its worker" in error["detail"]


@pytest.mark.usefixtures("impatient")
def test_a_full_storage_costs_a_job_one_attempt_and_not_all(bench: Bench, tmp_path: Path) -> None:
    # An empty folder, into which the storage moves for this test.
    with mounted(tmp_path / "disk", 4 * MIB) as disk:
        full = replace(bench, storage=FolderStorage(disk))
        full.storage.put_bytes(full.marker(), b"")
        full.storage.check()
        job_id = full.job(max_attempts=3)
        filler = fill(disk)
        with full.working(child("succeed")):
            wait_for(lambda: full.events(job_id, "lost"))
            time.sleep(0.2)
            assert state(full, job_id) == ("queued", 1)
            filler.unlink()
            wait_for(lambda: full.row(job_id).state == "succeeded")
    [lost] = full.events(job_id, "lost")
    assert "could not store the output: [Errno 28] No space left on device" in lost["error"]["detail"]


@pytest.mark.usefixtures("impatient")
def test_decoded_data_that_nobody_uses_is_removed_from_a_full_disk(bench: Bench, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 8 * MIB) as disk:
        small = replace(bench, folder=disk, settings=bench.settings.model_copy(update={"data_dir": disk}))
        old = data_store(small.settings) / "old"
        old.mkdir(parents=True)
        (old / "lock").touch()
        job_id = small.job(max_attempts=1)
        with small.supervisor(child("succeed")) as worker:
            fill(old)
            worker.work()
        assert not old.exists()
    assert state(bench, job_id) == ("succeeded", 0)


def test_a_disk_that_is_gone_costs_no_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    waiting = [bench.job(teacher=bench.teacher(), max_attempts=1) for _ in range(3)]
    with bench.supervisor(child("succeed")) as worker:
        shutil.rmtree(bench.folder)
        worker.work()
    assert [state(bench, job) for job in waiting] == [("queued", 0)] * 3
    assert all("could not make a job folder" in bench.events(job, "released")[0]["reason"] for job in waiting)
    bench.work("succeed")
    assert [state(bench, job) for job in waiting] == [("succeeded", 0)] * 3


def test_a_trainer_that_cannot_be_started_costs_no_failure(bench: Bench) -> None:
    job_id = bench.job(max_attempts=1)
    with bench.supervisor(["/nowhere/python"]) as worker:
        worker.work()
    assert state(bench, job_id) == ("queued", 0)


def test_a_job_whose_worker_lacks_its_device_is_tried_elsewhere(bench: Bench) -> None:
    job_id = bench.job(max_attempts=2)
    with bench.supervisor(child("find_no_device"), name="broken") as broken:
        assert broken.work() == 1
        assert state(bench, job_id) == ("queued", 1)
        [lost] = bench.events(job_id, "lost")
        assert lost["error"]["type"] == "device-unavailable"
        assert broken.work() == 0
        with bench.supervisor(child("succeed"), name="whole") as whole:
            assert whole.work() == 1
    assert state(bench, job_id) == ("succeeded", 1)


TORCH_WITHOUT_GPU = """
from pathlib import Path
class Tensor:
    def sum(self): return self
    def item(self): return 1.0
def ones(size, device):
    Path("{folder}/asked").touch()
    if not Path("{folder}/mended").exists():
        raise RuntimeError("the GPU has fallen off the bus")
    return Tensor()
class cuda:
    def device_count(): return 1
"""


@pytest.mark.usefixtures("impatient")
def test_a_worker_whose_gpu_is_gone_takes_no_further_job(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(TORCH_WITHOUT_GPU.format(folder=tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    first, second = (bench.job(device="cuda", max_attempts=2) for _ in range(2))
    with bench.supervisor(child("find_no_device_at_first"), device="cuda") as worker:
        thread = threading.Thread(target=worker.work)
        thread.start()
        try:
            wait_for((tmp_path / "asked").exists)
            (tmp_path / "asked").unlink()
            wait_for((tmp_path / "asked").exists)
            assert [state(bench, job) for job in (first, second)] == [("queued", 1), ("queued", 0)]
            (tmp_path / "mended").touch()
            wait_for(lambda: bench.row(second).state == "succeeded")
        finally:
            worker.drain()
            thread.join(20)
    assert not thread.is_alive()
    assert [state(bench, job) for job in (first, second)] == [("succeeded", 1), ("succeeded", 0)]


@pytest.mark.usefixtures("impatient")
def test_a_job_that_finds_its_device_nowhere_fails_in_the_end(bench: Bench) -> None:
    job_id = bench.job(max_attempts=2)
    assert bench.work("find_no_device") == 2
    assert state(bench, job_id) == ("failed", 2)
    error = bench.row(job_id).error
    assert (error["type"], error["field"]) == ("device-unavailable", "device")


def start(bench: Bench, *arguments: str, **changes: str) -> Ended:
    """A worker process's program, which is to end by itself: here, because another process would load it all again."""
    environment = {
        "DATABASE_URL": bench.settings.database_url or "",
        "REDIS_URL": bench.settings.redis_url or "",
        "LIT_DATA_DIR": str(bench.settings.data_dir),
        "LIT_STORAGE_DIR": str(bench.settings.storage_root),
        **changes,
    }
    stderr, on_sigterm = io.StringIO(), signal.getsignal(signal.SIGTERM)
    try:
        with (
            patch.dict(os.environ, environment),
            patch.object(sys, "argv", ["worker_process", *arguments]),
            redirect_stderr(stderr),
            pytest.raises(SystemExit) as ended,
        ):
            worker_process.main()
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
    return Ended(ended.value.code, stderr.getvalue())


@pytest.mark.parametrize("mode", ["--devices=cpu", "--inspect"])
def test_no_worker_starts_on_the_storage_of_another_ledger(bench: Bench, tmp_path: Path, mode: str) -> None:
    FolderStorage(tmp_path / "other").put_bytes("markers/of-another-ledger", b"")
    ended = start(bench, mode, LIT_STORAGE_DIR=str(tmp_path / "other"))
    assert ended.returncode == os.EX_CONFIG
    assert f"the storage {tmp_path / 'other'} can't be used" in ended.stderr
    assert "set LIT_STORAGE_DIR" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_worker_starts_where_it_can_store_nothing(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    storage = start(bench, "--devices=cpu", LIT_STORAGE_DIR=str(tmp_path / "file" / "storage"))
    assert (storage.returncode, "Traceback" in storage.stderr) == (os.EX_CONFIG, False)
    assert "can't be used: [Errno 20]" in storage.stderr
    folder = start(bench, "--devices=cpu", LIT_DATA_DIR=str(tmp_path / "file"))
    assert (folder.returncode, "Traceback" in folder.stderr) == (os.EX_CONFIG, False)
    assert "for jobs can't be used: [Errno 20]" in folder.stderr


def test_no_worker_starts_on_a_device_that_torch_cannot_use(bench: Bench) -> None:
    ended = start(bench, "--devices=cpu,cuda", CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == os.EX_CONFIG
    assert "worker devices 'cpu,cuda': torch can't use cuda here: " in ended.stderr
    assert "Traceback" not in ended.stderr
