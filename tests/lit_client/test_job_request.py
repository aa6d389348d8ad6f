"""From words on a command line to a request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lit_client.command.job_request import (
    BadRequest,
    build_body,
    check_body,
    check_student,
    dataset_options,
    image_options,
    parse_architecture,
    parse_blocks,
    parse_changes,
    parse_columns,
    target_option,
    tracking_options,
)
from lit_client.models import Inspection
from lit_spec import Constants
from lit_spec.base import READING_ANSWER
from lit_spec.requests.job import STUDENT_FORMS
from lit_spec.requests.target import TARGETS

GOOD = {"dataset": {"builtin": "digits"}, "student": {"depth": 14}}
INSPECTION = {
    "format": "pt",
    "architecture": {"family": "cifar-resnet", "depth": 20, "blocks": [3, 3, 3], "channels": 1, "classes": 10},
    "parameters": 100,
    "students": [
        {"depth": 14, "blocks": [2, 2, 2], "parameters": 60, "parameters_ratio": 1.6},
        {"depth": 20, "blocks": [3, 3, 3], "parameters": 100, "parameters_ratio": 1.0},
    ],
    "of_tomorrow": True,
}


def test_settings_beat_options_beat_the_file(tmp_path):
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"alpha": 0.1, "beta": 0.1, "tau": 1, "schedule": {"batch_size": 8}}))
    options = {"beta": 0.2, "tau": 2, "schedule.lit.epochs": 3, "seed": None}
    body = build_body(file, options, ["tau=3", "schedule.lit.frozen=[]", "ir_loss=l1", 'name="a b"'])
    assert body == {
        "alpha": 0.1,
        "beta": 0.2,
        "tau": 3,
        "schedule": {"batch_size": 8, "lit": {"epochs": 3, "frozen": []}},
        "ir_loss": "l1",
        "name": "a b",
    }


def test_where_a_job_is_tracked_and_a_data_set_in_a_store():
    options = {**tracking_options("digits", False, True), **dataset_options("s3://bucket/data/"), "register": "student"}
    checked = check_body(build_body(None, {**options, "student.depth": 14}, []))
    assert checked.track is not None
    assert checked.track.mlflow
    assert (checked.track.mlflow.experiment, checked.registered_model, checked.tensorboard) == (
        "digits",
        "student",
        True,
    )
    assert (checked.dataset.url, checked.dataset.builtin) == ("s3://bucket/data/", None)
    assert build_body(None, tracking_options(None, True), []) == {"track": {"mlflow": False}}
    assert build_body(None, {**tracking_options(None, False), **dataset_options("data.npz")}, []) == {}
    with pytest.raises(BadRequest, match="--track-experiment and --no-track"):
        tracking_options("digits", True)
    with pytest.raises(BadRequest, match=r"dataset\.url.*is not the URL of a data set"):
        check_body(build_body(None, {**dataset_options("gs://bucket"), "student.depth": 14}, []))


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("text=review,label=stars", {"text": "review", "label": "stars"}),
        ("text=title,label=stars,text=the review", {"text": ["title", "the review"], "label": "stars"}),
        ("image=photo=1", {"image": "photo=1"}),
    ],
)
def test_columns(text: str, columns: Any) -> None:
    assert parse_columns(text) == columns
    body = build_body(None, {"dataset.columns": parse_columns(text), "student.depth": 14}, [])
    checked = check_body(body).dataset.columns
    assert checked is not None
    assert checked.model_dump(exclude_none=True) == columns


@pytest.mark.parametrize("text", ["", "review", "texts=review", "label=a,label=b", "text=a,"])
def test_columns_that_are_not_fields_and_names(text: str) -> None:
    with pytest.raises(BadRequest, match="write FIELD=NAME with each of text, image, label once"):
        parse_columns(text)


def test_blocks_take_back_the_files_depth(tmp_path):
    file = tmp_path / "request.json"
    file.write_text(json.dumps(GOOD))
    assert build_body(file, {"student.blocks": [1, 2, 3]}, [])["student"] == {"blocks": [1, 2, 3]}
    assert build_body(file, target_option("size_mb=5"), [])["student"] == {"target": {"size_mb": 5}}
    assert build_body(file, {}, ["dataset.upload=upl_x"])["dataset"] == {"upload": "upl_x"}


def test_one_target_takes_back_another(tmp_path):
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"student": {"target": {"latency_ms": 3, "batch": 8}}}))
    settings = ["student.target.latency_ratio=1.5"]
    assert build_body(file, {}, settings)["student"] == {"target": {"latency_ratio": 1.5, "batch": 8}}
    assert build_body(file, {"student.depth": 14}, [])["student"] == {"depth": 14}


@pytest.mark.parametrize("text", ["size=5", "size_mb", "size_mb=small", "size_mb:5"])
def test_an_unknown_target_is_named_with_an_example(text):
    with pytest.raises(BadRequest, match=r"--target .*size_mb=5"):
        target_option(text)


def test_one_source_of_data_takes_back_the_others(tmp_path):
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"dataset": {"mounted": "cifar10", "mean": [0.5]}}))
    assert build_body(file, {"dataset.builtin": "digits"}, [])["dataset"] == {"builtin": "digits", "mean": [0.5]}
    assert check_body(build_body(file, {}, []) | {"student": {"depth": 14}}).dataset.mounted == "cifar10"


def only(form: str, value: Any) -> dict[str, Any]:
    """A student in one of its forms, without all others."""
    return dict.fromkeys(STUDENT_FORMS) | {form: value}


@pytest.mark.parametrize(
    ("settings", "patch"),
    [
        (
            ["student.blocks=[2,2,2]"],
            {
                "student": {
                    "blocks": [2, 2, 2],
                    "depth": None,
                    "kept": None,
                    "ratio": None,
                    "target": None,
                    "plan": None,
                }
            },
        ),
        (
            ["student.depth=14", "seed=1"],
            {
                "student": {"depth": 14, "blocks": None, "kept": None, "ratio": None, "target": None, "plan": None},
                "seed": 1,
            },
        ),
        (
            ["student.kept=[[0],[0,2]]"],
            {"student": {**only("kept", [[0], [0, 2]]), "select": None}},
        ),
        (["student.select=first"], {"student": {"select": "first", "kept": None}}),
        (
            ["student.target.size_mb=5"],
            {
                "student": {
                    "target": dict.fromkeys([*TARGETS, "batch"]) | {"size_mb": 5},
                    **dict.fromkeys(["depth", "blocks", "kept", "ratio", "plan"]),
                }
            },
        ),
        (
            ['student.target={"size_mb": 5}'],
            {
                "student": {
                    "target": dict.fromkeys([*TARGETS, "batch"]) | {"size_mb": 5},
                    **dict.fromkeys(name for name in STUDENT_FORMS if name != "target"),
                }
            },
        ),
        (
            ["student.target.latency_ms=8"],
            {
                "student": {
                    "target": dict.fromkeys(TARGETS) | {"latency_ms": 8},
                    **dict.fromkeys(name for name in STUDENT_FORMS if name != "target"),
                }
            },
        ),
        (["student.plan={}"], {"student": only("plan", {})}),
        (["dataset.upload=upl_x"], {"dataset": {"upload": "upl_x", **dict.fromkeys(("builtin", "mounted", "url"))}}),
        (["dataset.mounted=svhn"], {"dataset": {"mounted": "svhn", **dict.fromkeys(("upload", "builtin", "url"))}}),
        (
            ["student.blocks=[2]", "student.depth=null"],
            {"student": only("blocks", [2])},
        ),
        (["accept=null", "student.init=random"], {"accept": None, "student": {"init": "random"}}),
    ],
)
def test_changes_remove_what_can_not_stand_beside_them(settings, patch):
    assert parse_changes(settings) == patch


@pytest.mark.parametrize("setting", ["alpha", "=1", "a..b=1", "mean=[1,", 'name="x'])
def test_settings_that_are_none_are_quoted_back(setting):
    with pytest.raises(BadRequest) as caught:
        build_body(None, {}, [setting])
    assert repr(setting) in str(caught.value)


def test_setting_below_a_plain_value_is_refused():
    with pytest.raises(BadRequest, match=r"alpha\.x can't be set"):
        build_body(None, {"alpha": 0.5}, ["alpha.x=1"])


def test_request_file_must_hold_an_object(tmp_path):
    file = tmp_path / "request.json"
    for text in ("[1]", "{"):
        file.write_text(text)
        with pytest.raises(BadRequest, match=r"request\.json"):
            build_body(file, {}, [])


def test_good_requests_pass_before_their_uploads_exist():
    assert check_body(GOOD).student.depth == 14
    assert check_body({"student": {"depth": 14}}).dataset.upload is not None
    assert check_body({**GOOD, "dataset": {"mounted": "cifar10"}}).dataset.upload is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"alpha": 2}, "alpha"),
        ({"tau": 0}, "tau"),
        ({"betta": 0.5}, "betta"),
        ({"student": {"depth": 14, "blocks": [2, 2, 2]}}, "student"),
        ({"schedule": {"lit": {"epochs": -1}}}, "schedule.lit.epochs"),
        ({"dataset": {"builtin": "digits", "mean": [0.5, "x"]}}, "dataset.mean"),
        ({"dataset": 5}, "dataset"),
    ],
)
def test_bad_requests_name_the_field(change, field):
    with pytest.raises(BadRequest) as caught:
        check_body(GOOD | change)
    assert any(line.startswith(f"  {field}") for line in str(caught.value).splitlines()), caught.value


def read(inspection: dict[str, Any]) -> Inspection:
    """As a client reads it from an answer."""
    return Inspection.model_validate(inspection, extra="ignore", context=READING_ANSWER)


def test_student_is_checked_against_the_inspected_teacher():
    inspection = read(INSPECTION)
    check_student(check_body(GOOD), inspection)
    with pytest.raises(BadRequest, match=r"student\.depth.*choose one of \[14\]"):
        check_student(check_body(GOOD | {"student": {"depth": 15}}), inspection)


def test_format_that_this_client_does_not_know_is_left_to_the_service():
    inspection = read(INSPECTION | {"format": "of-tomorrow"})
    check_student(check_body(GOOD | {"student": {"depth": 15}}), inspection)


def test_blocks_are_numbers():
    assert parse_blocks("2,2, 2") == [2, 2, 2]
    with pytest.raises(BadRequest, match="2,x"):
        parse_blocks("2,x")


def test_an_architecture_is_a_name_or_the_whole_object() -> None:
    assert parse_architecture("timm/resnet50.a1_in1k") == {"library": "timm", "name": "resnet50.a1_in1k"}
    whole = '{"library": "timm", "name": "resnet50", "kwargs": {"in_chans": 1}, "sections": ["layer1"]}'
    assert parse_architecture(whole)["kwargs"] == {"in_chans": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resnet50", "write torchvision/NAME or timm/NAME"),
        ("/resnet50", "write torchvision/NAME"),
        ("keras/resnet50", "write torchvision/NAME"),
        ('{"library": "timm"', "is not valid JSON"),
        ('{"library": "timm"}', "name: "),
        ('{"library": "timm", "name": "x", "kwargs": {"weights": "a"}}', "kwargs: .*leave it out"),
    ],
)
def test_what_is_no_architecture_is_told(text: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        parse_architecture(text)


def test_images_by_options() -> None:
    given = image_options("224", Constants.IMAGENET, 91.0)
    request = check_body(build_body(None, {**given, "dataset.builtin": "digits", "student.depth": 8}, []))
    assert (request.dataset.size, request.dataset.mean, request.dataset.std) == ([224, 224], "imagenet", "imagenet")
    assert request.teacher_accuracy == 91
    assert image_options("224,160", None, None)["dataset.size"] == [224, 160]
    for wrong in ("big", "1,2,3", ""):
        with pytest.raises(BadRequest, match="write 224"):
            image_options(wrong, None, None)
