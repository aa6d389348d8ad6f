"""How a request for a generator's student is resolved."""

from __future__ import annotations

from typing import Any

import pytest

from lit_spec import Architecture, Inspection, JobRequest, JobSpec, SpecError, StudentOption, Task, resolve
from lit_spec.networks.architecture import TeacherFormat


def generator(channels: int = 3, domains: int = 5) -> Inspection:
    arch = Architecture(
        family="stargan",
        task=Task.TRANSLATION,
        depth=18,
        blocks=[6],
        channels=channels,
        classes=domains,
        options={"conv_dim": 64, "names": "main", "running_statistics": True},
    )
    students = [StudentOption(depth=6 + 2 * n, blocks=[n], parameters=n, parameters_ratio=6 / n) for n in range(1, 7)]
    return Inspection(format=TeacherFormat.PT, architecture=arch, parameters=6, students=students)


def discriminator(channels: int = 3, domains: int = 5, image_size: int = 128) -> Inspection:
    arch = Architecture(
        family="stargan_discriminator",
        task=Task.DISCRIMINATION,
        depth=8,
        blocks=[],
        channels=channels,
        classes=domains,
        options={"conv_dim": 64, "layers": 6, "image_size": image_size},
    )
    return Inspection(format=TeacherFormat.PT, architecture=arch, parameters=6, students=[])


def classifier() -> Inspection:
    arch = Architecture(family="resnet_cifar", depth=14, blocks=[2, 2, 2], channels=3, classes=5)
    options = [StudentOption(depth=8, blocks=[1, 1, 1], parameters=1, parameters_ratio=2)]
    return Inspection(format=TeacherFormat.PT, architecture=arch, parameters=2, students=options)


def request(**changes: Any) -> JobRequest:
    smallest = {"teacher": "upl_g", "dataset": {"upload": "upl_d"}, "student": {"blocks": [2]}}
    return JobRequest.model_validate({**smallest, **changes})


def test_without_a_discriminator_the_job_ends_after_the_lit_phase() -> None:
    spec = resolve(request(), generator())
    assert (spec.student.depth, spec.student.blocks) == (10, [2])
    assert (spec.beta, spec.discriminator, spec.adversarial) == (0, None, None)
    assert spec.schedule.lit.epochs > 0
    assert spec.schedule.fine_tune.epochs == 0
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_with_a_discriminator_the_papers_weights_are_written_out() -> None:
    spec = resolve(request(discriminator="upl_e"), generator(), discriminator())
    assert spec.discriminator is not None
    assert spec.discriminator.upload == "upl_e"
    assert spec.adversarial is not None
    assert spec.adversarial.model_dump() == {
        "classification": 1,
        "reconstruction": 10,
        "gradient_penalty": 10,
        "n_critic": 5,
    }
    assert spec.schedule.fine_tune.epochs > 0
    assert (spec.schedule.adam_betas, spec.schedule.fine_tune.learning_rate) == ([0.5, 0.999], 1e-4)


def test_the_paper_preset_is_the_papers() -> None:
    spec = resolve(request(preset="paper", discriminator="upl_e"), generator(), discriminator())
    lit, last = spec.schedule.lit, spec.schedule.fine_tune
    assert (lit.epochs * 1000, last.epochs * 1000, spec.schedule.steps_per_epoch) == (200_000, 200_000, 1000)
    assert (lit.learning_rate, last.learning_rate, spec.schedule.batch_size) == (1e-4, 1e-4, 16)
    assert spec.student.init == "random"


@pytest.mark.parametrize(
    ("dataset", "mean", "std"),
    [
        ({}, [0.5] * 3, [0.5] * 3),
        ({"mean": [0.1, 0.2, 0.3]}, [0.1, 0.2, 0.3], [0.5] * 3),
        ({"mean": "data", "std": "data"}, "data", "data"),
    ],
)
def test_a_generators_images_go_from_minus_one_to_one_unless_told(
    dataset: dict[str, Any], mean: object, std: object
) -> None:
    spec = resolve(request(dataset={"upload": "upl_d", **dataset}), generator())
    assert (spec.dataset.mean, spec.dataset.std) == (mean, std)
    assert resolve(request(student={"depth": 8}), classifier()).dataset.mean == "data"


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"method": "kd"}, "method", "classifier"),
        ({"beta": 0.5}, "beta", "no KD loss"),
        ({"n_random": 10}, "n_random", "classifiers"),
        ({"method": "mimic"}, "method", "classifier"),
        ({"race": True}, "race", "classifiers"),
        ({"mixing": 0.5}, "mixing", "classifiers"),
        ({"feature_weight": 1}, "feature_weight", "classifiers"),
        ({"output": "embedding"}, "output", "lit_core.compress"),
        ({"student": {"blocks": [2], "select": "recover"}}, "student.select", "not for generators"),
        ({"accept": {"max_accuracy_drop": 1}}, "accept.max_accuracy_drop", "min_psnr"),
        ({"adversarial": {"n_critic": 2}}, "adversarial", "discriminator"),
        ({"schedule": {"lit": {"epochs": 0}}}, "schedule.lit.epochs", "discriminator"),
        ({"dataset": {"upload": "d", "size": [30, 32]}}, "dataset.size", "multiples of 4"),
        ({"dataset": {"upload": "d", "size": [32, 4]}}, "dataset.size", "multiples of 4 pixels"),
        ({"dataset": {"upload": "d", "attributes": ["Young"]}}, "dataset.attributes", "5 domains"),
        ({"preset": "few"}, "preset", "paper, quick"),
    ],
)
def test_what_no_generator_can_do_is_refused(changes: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        resolve(request(**changes), generator())
    assert refused.value.field == field
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("changes", "found", "field", "said"),
    [
        ({}, generator(), "discriminator", "is not a discriminator"),
        ({}, None, "discriminator", "is not a discriminator"),
        ({}, discriminator(domains=4), "discriminator", "4 domains"),
        ({}, discriminator(channels=1), "discriminator", "1 image channels"),
        ({"schedule": {"optimizer": "sgd"}}, discriminator(), "schedule.optimizer", "adam"),
        ({"precision": "bfloat16"}, discriminator(), "precision", "float32"),
        ({"dataset": {"upload": "d", "size": [64, 64]}}, discriminator(), "dataset.size", "[128, 128]"),
    ],
)
def test_a_discriminator_must_fit(changes: dict[str, Any], found: Inspection | None, field: str, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        resolve(request(discriminator="upl_e", **changes), generator(), found)
    assert refused.value.field == field
    assert said in refused.value.message


def test_classifiers_have_no_discriminator_and_discriminators_no_students() -> None:
    for changes, field in (
        ({"discriminator": "upl_e"}, "discriminator"),
        ({"accept": {"min_psnr": 20}}, "accept.min_psnr"),
        ({"dataset": {"upload": "d", "attributes": ["a", "b", "c", "d", "e"]}}, "dataset.attributes"),
    ):
        with pytest.raises(SpecError) as refused:
            resolve(request(student={"depth": 8}, **changes), classifier(), discriminator())
        assert refused.value.field == field
    with pytest.raises(SpecError, match="give the generator as"):
        resolve(request(), discriminator())
