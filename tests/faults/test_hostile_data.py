"""A data set that no library can read fails its job at the first attempt of a real trainer."""

from __future__ import annotations

from tests.faults.machines import Machines
from tests.lit_core.data.broken_files import npz_with
from tests.worker.bench import Bench
from worker.training.launching import TRAINER


def test_a_header_that_numpy_cannot_parse_is_bad_data_and_not_tried_again(bench: Bench, machines: Machines) -> None:
    job_id = bench.job(teacher=machines.teacher(), dataset=bench.dataset(npz_with(b"((((")), student={"depth": 8})
    with bench.supervisor(TRAINER) as supervisor:
        assert supervisor.work() == 1
    job = bench.row(job_id)
    assert (job.state, job.attempt, job.failures) == ("failed", 1, 0), job.error
    assert job.error is not None
    assert (job.error["type"], job.error["member"]) == ("bad-dataset", "x.npy")
    assert "pack it again" in job.error["detail"]
    # The job's log has the library's own words.
    assert "TokenError" in bench.text(job_id, 1, "trainer.log")
