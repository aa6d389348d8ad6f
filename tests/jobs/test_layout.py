"""Keys in storage: stored objects outlive releases, so a key never changes."""

from __future__ import annotations

from jobs.storage import layout


def test_keys_are_those_of_the_documentation() -> None:
    assert layout.upload_data("upl_a") == "uploads/upl_a/data"
    assert layout.inspected_teacher("upl_a", None) == "uploads/upl_a/teacher.safetensors"
    assert layout.inspected_teacher("upl_a", "ab") == "uploads/upl_a/teachers/ab.safetensors"
    assert layout.checkpoint("job_a", 2) == "jobs/job_a/2/checkpoint.pt"
    assert layout.trainer_log("job_a", 2) == "jobs/job_a/2/trainer.log"
    assert layout.output("job_a", 2, "model.safetensors") == "jobs/job_a/2/output/model.safetensors"
    assert layout.marker("a") == "markers/a"


def test_a_prefix_covers_all_keys_of_its_upload_or_job() -> None:
    for key in (
        layout.upload_data("upl_a"),
        layout.inspected_teacher("upl_a", None),
        layout.inspected_teacher("upl_a", "ab"),
    ):
        assert key.startswith(layout.upload_prefix("upl_a"))
    for key in (layout.checkpoint("job_a", 1), layout.trainer_log("job_a", 2), layout.output("job_a", 3, "x")):
        assert key.startswith(layout.job_prefix("job_a"))
