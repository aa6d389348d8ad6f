"""Tables, as a pipe gets them."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console, RenderableType
from rich.table import Table

from lit_client.command import display, output
from lit_client.command.display import (
    closing_lines,
    decision_lines,
    exports_table,
    job_table,
    jobs_table,
    operations_table,
    result_table,
)
from lit_client.command.inspection_display import inspection_table
from lit_client.command.progress_bar import JobBar, chosen_line, measured_line
from lit_spec import LibraryPreprocessing, Resampling
from tests.lit_client.made_answers import make_event, make_job, make_upload
from tests.lit_spec.test_translation import discriminator


def lines(table: RenderableType) -> list[str]:
    console = Console(width=200, file=io.StringIO())
    with console.capture() as shown:
        console.print(table)
    return shown.get().splitlines()


def row(table: Table, label: str) -> list[str]:
    """The cells beside a label; empty where there is no such row."""
    return next((line.split("│")[2:-1] for line in lines(table) if f" {label} " in line), [])


def result(**of_student: Any) -> dict[str, Any]:
    return {"teacher": {"accuracy": {"test": 98.5}}, "student": {"accuracy": {"test": 97.0}, **of_student}}


def test_scores_stand_in_rows_where_they_were_measured() -> None:
    measured = {"top5": {"test": 99.25}, "agreement": {"test": 98.0}, "calibration_error": {"test": 1.5}}
    table = result_table(result(**measured))
    assert row(table, "top-5, test (%)")[1].strip() == "99.25"
    assert row(table, "agreement, test (%)")[1].strip() == "98.00"
    assert row(table, "calibration error, test (%)")[1].strip() == "1.50"


def test_the_untrained_student_stands_beside_the_trained_one() -> None:
    table = result_table(result() | {"baselines": {"untrained": {"accuracy": {"test": 41.5}}}})
    cells = [cell.strip() for cell in row(table, "accuracy, test (%)")]
    assert cells == ["98.50", "97.00", "41.50", ""]


def test_scores_that_were_not_measured_have_no_row() -> None:
    table = result_table(result(top5={"val": None, "test": None}))
    assert row(table, "accuracy, test (%)")[1].strip() == "97.00"
    assert row(table, "top-5, test (%)") == []
    assert row(table, "agreement, test (%)") == []


def test_formats_have_a_row_each_and_failures_their_reason() -> None:
    compared = {"max_abs_difference": 4e-6, "top1_agreement": 100.0, "accuracy": 97.5}
    latency = {"batch_1": {"p50_ms": 0.25}, "batch_32": {"p50_ms": 4.0}}
    table = exports_table(
        [
            {"kind": "onnx", "file": "model.onnx", **compared, "latency": latency, "error": None},
            {"kind": "pt2", "file": "model.pt2", "error": "exporting: no"},
            {"kind": "hugging_face", "file": "bundle.zip", "reads": "timm", "error": None},
        ]
    )
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows == [
        ("onnx", "model.onnx", "4e-06", "100.00", "97.50", "0.250"),
        ("pt2", "failed: exporting: no", "", "", "", ""),
        ("hugging_face", "bundle.zip, for timm", "", "", "", ""),
    ]


def test_steps_have_a_row_each_and_failures_their_reason() -> None:
    by_split = {"accuracy": {"test": 96.5}, "agreement": {"test": 97.25}}
    table = operations_table(
        [
            {"step": "prune:0.5", **by_split, "parameters": 50123, "parameters_ratio": 6.31, "file_size": 400_000},
            {"step": "int8", "parameters": 50123, "error": "writing: ValueError: no samples"},
        ]
    )
    assert [cell.strip() for cell in row(table, "prune:0.5")] == ["96.50", "97.25", "50,123", "6.31", "400,000"]
    assert row(table, "int8")[-1].strip() == "failed: writing: ValueError: no samples"


def running(**progress: Any) -> dict[str, Any]:
    told = {"phase": "lit", "epoch": 3, "epochs": 10, "fraction": 0.32} | progress
    return {"state": "running", "progress": told}


def test_the_bar_shows_the_step_in_the_epoch_and_the_time_left() -> None:
    bar = JobBar()
    finish = datetime.now(UTC) + timedelta(seconds=3725, milliseconds=500)
    bar.show_job(make_job(**running(step=120, steps=400), estimated_finish=finish.isoformat()))
    (task,) = bar.progress.tasks
    assert (task.description, task.completed) == ("LIT 3/10, step 120/400", 0.32)
    assert task.fields["left"].startswith("1:02:0")
    bar.show_event(make_event(data={"phase": "lit", "epoch": 4, "epochs": 10, "metrics": {"student_accuracy": 97.5}}))
    bar.show_job(make_job(**running(epoch=4, step=7)))
    assert bar.progress.tasks[0].description == "LIT 4/10, step 7  student 97.50 %"
    assert bar.progress.tasks[0].fields["left"] == ""


def test_an_older_service_tells_neither_steps_nor_the_time_left() -> None:
    bar = JobBar()
    bar.show_job(make_job(**running()))
    assert bar.progress.tasks[0].description == "LIT 3/10"
    assert "time left" not in "\n".join(lines(job_table(make_job(**running()))))


def test_a_job_says_where_its_run_is_and_what_fails_there() -> None:
    run = {"tracking_uri": "http://mlflow:5000", "run_id": None, "experiment_id": None, "url": None, "complete": False}
    begun = make_job(tracking={"mlflow": {**run, "registered": None, "error": "the tracking server answered 503"}})
    shown = "\n".join(lines(job_table(begun)))
    assert "none at http://mlflow:5000 yet (not all is there yet)" in shown
    assert "the tracking server answered 503" in shown
    done = {"run_id": "0f3c", "url": "http://mlflow:5000/#/runs/0f3c", "complete": True, "error": None}
    complete = make_job(tracking={"mlflow": {**run, **done, "registered": {"name": "digits", "version": "3"}}})
    shown = "\n".join(lines(job_table(complete)))
    assert "http://mlflow:5000/#/runs/0f3c │" in shown
    assert "digits, version 3" in shown
    assert "MLflow" not in "\n".join(lines(job_table(make_job())))


def test_phases_without_epochs_have_a_line_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    bar = JobBar()
    for phase in ("measuring_teacher", "measuring_teacher", "lit", "exporting"):
        bar.show_job(make_job(**running(phase=phase, epoch=0, epochs=0)))
    assert capsys.readouterr().err.splitlines() == ["measuring teacher", "exporting"]


def test_the_last_line_says_why_a_student_is_not_accepted() -> None:
    drop = {"accuracy_drop": 3.0, "accuracy_drop_is": "measured", "accuracy_drop_samples": 200, "notes": ["a remark"]}
    accepting = {"accept": {"max_accuracy_drop": 2, "min_psnr": None}}
    lines = closing_lines(make_job(result=drop, spec=accepting, accepted=False))
    assert lines[-1].endswith("3.00 points on 200 test samples, not accepted (the limit is 2 points).")
    useless = drop | {"outcome": "at-chance"}
    assert closing_lines(make_job(result=useless, spec=accepting, accepted=False))[-1] == "Note: a remark."
    assert closing_lines(make_job(result=drop, spec=accepting, accepted=True))[-1] == "Note: a remark."


def test_a_narrow_window_gets_fewer_columns_and_is_told_which() -> None:
    jobs = [make_job(id="job_" + "x" * 26, name="a name", result=result(depth=14))]

    def shown(width: int) -> list[str]:
        console = Console(width=width, file=io.StringIO())
        with console.capture() as capture:
            console.print(jobs_table(jobs))
        return capture.get().splitlines()

    assert "created" in shown(100)[1]
    assert len(shown(100)) == 5
    narrow = shown(72)
    assert all(name not in narrow[1] for name in ("created", "test"))
    assert max(map(len, narrow)) <= 72
    assert len(narrow) == 6, "no row is folded"
    assert " ".join(narrow[5:]) == "Too wide for the window, and left out: created, test. --json has all."


def test_a_student_that_is_still_to_be_chosen_is_shown_by_its_target() -> None:
    target = {"latency_ratio": 1.5, "latency_ms": None, "batch": 8}
    open_job = make_job(spec={"student": {"depth": None, "blocks": None, "target": target}})
    assert any("latency_ratio 1.5" in line for line in lines(jobs_table([open_job])))
    done = make_job(spec=open_job.spec, result=result(depth=14))
    assert any("depth 14" in line for line in lines(jobs_table([done])))


def test_a_chosen_student_is_told_with_what_is_expected_of_it() -> None:
    chosen = {"asked": {"latency_ratio": 1.5}, "unit": "ms", "teacher": 12.3456, "expected": 8.1}
    line = chosen_line({"blocks": [2, 2, 1], "kept": [[0, 1], [0, 1], [0]], "target": chosen})
    assert line == "student for latency_ratio 1.5: blocks 2, 2, 1, expected 8.1 ms (teacher 12.35)"
    line = chosen_line({"depth": 14, "blocks": [4, 1, 1], "kept": [[0, 1, 2, 3], [0], [0]]})
    assert line == "student: depth 14, blocks 4, 1, 1"


def test_a_drop_is_shown_with_what_decided_it() -> None:
    drop = {"accuracy_drop": 1.0, "accuracy_drop_is": "measured", "accuracy_drop_interval": [-0.5, 2.5]}
    result = {**drop, "accuracy_drop_samples": 200}
    line = "Accuracy drop: 1.00 points on 200 test samples (95 % interval -0.50 to 2.50)"
    assert decision_lines(make_job(result=result)) == [f"{line}."]
    accepting = {"accept": {"max_accuracy_drop": 2, "min_psnr": None}}
    assert decision_lines(make_job(result=result, spec=accepting, accepted=True)) == [
        f"{line}, accepted (the limit is 2 points)."
    ]
    bounded = {**result, "accuracy_drop_is": "bounded by agreement"}
    assert decision_lines(make_job(result=bounded, spec=accepting, accepted=False)) == [
        f"{line.replace('1.00', 'at most 1.00')}, not accepted (the limit is 2 points)."
    ]
    generated = {"student": {"psnr": {"test": 27.5}}, "samples": {"test": 40}}
    generator = make_job(result=generated, spec={"accept": {"min_psnr": 25}}, accepted=True)
    assert decision_lines(generator) == [
        "PSNR to the teacher: 27.50 dB on 40 test samples, accepted (the limit is 25 dB)."
    ]
    # Of an older service.
    assert decision_lines(make_job(result={"accuracy_drop": 1.0}, spec=accepting, accepted=True)) == []


def test_the_teacher_is_shown_with_how_certain_its_accuracy_is() -> None:
    data = {"split": "val", "accuracy": 91.25, "chance": 10.0, "interval": [88.1, 93.62], "samples": 400}
    assert measured_line(data) == (
        "teacher on the validation split: accuracy 91.25 (95 % interval 88.1 to 93.62, 400 samples), chance 10"
    )


@pytest.mark.parametrize(
    ("resize", "shown"),
    [
        (256, "resized to a shorter side of 256, 224x224 cut from the centre (bicubic)"),
        ([250, 250], "resized to 250x250, 224x224 cut from the centre (bicubic)"),
        (None, "resized to 224x224 (bicubic)"),
    ],
)
def test_an_inspection_shows_the_librarys_preprocessing(resize: int | list[int] | None, shown: str) -> None:
    library = LibraryPreprocessing(
        weights="in1k", size=[224, 224], resize=resize, resampling=Resampling.BICUBIC, mean=[0.5] * 3, std=[0.25] * 3
    )
    inspection = discriminator().model_copy(update={"preprocessing": library})
    text = " ".join(lines(inspection_table(make_upload(filename="d.pt"), inspection)))
    assert shown in text
    assert "weights in1k" in text
    assert "mean 0.5, 0.5, 0.5, std 0.25" in text


def test_names_of_others_do_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2Ja\x9b\u2028\u202eb"
    display.stdout.print(display.table_of(["name"], [{"name": hostile}]))
    display.stdout.print(hostile, soft_wrap=True)
    output.show_line(None, f"{hostile}\tc", False)
    written = capsys.readouterr().out
    assert written.count("\N{REPLACEMENT CHARACTER}[2J") == 3
    assert not set("\x1b\x9b\u2028\u202e") & set(written)
    assert "\tc\n" in written
