"""Resolves a request with the inspection of its teacher into a specification, in which every value is explicit."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from lit_spec.base import SpecError
from lit_spec.dataset_inspection import DatasetInspection
from lit_spec.mistakes import WHOLE, mistakes
from lit_spec.networks.architecture import Architecture, Inspection, Modality, Task
from lit_spec.requests.contents import check_contents, check_test_contents
from lit_spec.requests.dataset import VDCNN_VOCABULARY, DatasetRequest
from lit_spec.requests.exports import DEFAULT_EXPORTS, Export
from lit_spec.requests.job import JobRequest, JobSpec, TeacherSpec
from lit_spec.requests.preprocessing import refused_resize, with_library_defaults
from lit_spec.requests.presets import PRESETS, Values, merged, preset_values, suited, with_rates
from lit_spec.requests.student import resolve_student
from lit_spec.requests.then import prune_shares
from lit_spec.requests.training import (
    Acceptance,
    Adversarial,
    Feed,
    Hyperparameters,
    Init,
    Method,
    Optimizer,
    Output,
    Part,
    Precision,
    Schedule,
    TeacherCacheOptions,
    TeacherCaching,
)


def resolve(
    request: JobRequest,
    inspection: Inspection,
    discriminator: Inspection | None = None,
    contents: DatasetInspection | None = None,
    test: DatasetInspection | None = None,
) -> JobSpec:
    """Make every value explicit. Raises SpecError if the request does not fit its teacher, the `contents` of its data
    set, or those of its `test` upload.
    """
    teacher = _with_options(inspection.architecture, request.teacher_options)
    if teacher.task == Task.DISCRIMINATION:
        raise SpecError(
            "teacher", "is a discriminator: give the generator as `teacher`, and this upload as `discriminator`"
        )
    requested, inspected = request.architecture, teacher.network
    if requested is not None and (
        inspected is None or (requested.library, requested.name) != (teacher.family, inspected.name)
    ):
        raise SpecError("architecture", "is not the network as which the teacher was inspected: send the request again")
    if request.teacher_weights is not None and request.teacher_weights != inspection.weights:
        raise SpecError("teacher_weights", "is not what the teacher was inspected with: send the request again")
    request = with_preset(request, teacher)
    dataset = with_library_defaults(request.dataset, teacher, inspection.preprocessing)
    _check_preprocessing(dataset, teacher)
    _check_task(request, teacher)
    _check_processes(request)
    if request.student.plan is not None:
        _check_plan(request)
    if request.shard_teacher:
        _check_sharding(request, teacher)
    exports = _exports(request)
    if request.registered_model is not None and Export.ONNX not in exports:
        raise SpecError("register", 'registers the ONNX file, which the job does not write: add "onnx" to exports')
    shared: dict[str, Any] = {name: getattr(request, name) for name in Hyperparameters.model_fields}
    shared["schedule"] = resolve_schedule(request.schedule, request.method)
    shared["teacher_cache"] = _resolve_cache(request, teacher)
    discriminator_spec = _resolve_discriminator(request, teacher, discriminator)
    if discriminator_spec is not None:
        shared["adversarial"] = request.adversarial or Adversarial()
    elif teacher.task == Task.TRANSLATION:
        shared["schedule"] = _without_fine_tuning(shared["schedule"])
    if contents is not None:
        check_contents(dataset, request, teacher, contents)
    if test is not None:
        check_test_contents(dataset, teacher, test, contents)
    return JobSpec(
        teacher=TeacherSpec(
            upload=request.teacher,
            sha256=inspection.sha256,
            architecture=teacher,
            preprocessing=inspection.preprocessing,
        ),
        discriminator=discriminator_spec,
        dataset=dataset,
        student=resolve_student(request.student, request.method, inspection, dataset, sharded=request.shard_teacher),
        augmentation=request.augmentation,
        teacher_accuracy=request.teacher_accuracy,
        exports=exports,
        tensorboard=request.tensorboard,
        preset=request.preset,
        **shared,
    )


def _with_options(teacher: Architecture, options: dict[str, int | str | bool]) -> Architecture:
    """The teacher with the request's options. Raises SpecError for an option or a value that the teacher can't have."""
    for name, value in options.items():
        known = teacher.choices.get(name)
        if known is None:
            names = ", ".join(teacher.choices)
            advice = f"give only {names}" if names else "leave it out"
            raise SpecError(f"teacher_options.{name}", f"can't be chosen for this teacher: {advice}")
        if value not in known:
            allowed = ", ".join(json.dumps(choice) for choice in known)
            raise SpecError(f"teacher_options.{name}", f"is {json.dumps(value)}: choose one of {allowed}")
    return teacher.model_copy(update={"options": teacher.options | options})


def with_preset(request: JobRequest, teacher: Architecture) -> JobRequest:
    """The request with the fields that it does not set filled from its preset, or from the family's defaults."""
    known = PRESETS.get(teacher.family, {None: {}})
    if request.preset not in known:
        names = ", ".join(preset.value for preset in known if preset is not None) or "none"
        raise SpecError("preset", f"{request.preset} is not a preset of family {teacher.family}: use one of {names}")
    values = preset_values(request.preset, teacher.family) if teacher.family in PRESETS else {}
    if request.student.plan is not None:
        # How a preset's student begins is of no use to a plan.
        values = {name: value for name, value in values.items() if name != "student"}
    asked = request.model_dump(exclude_unset=True)
    values = with_rates(values, asked, batch_norm=teacher.options.get("normalisation") != "other")
    values = suited(values, request.method, inherits=_inherits(request, values))
    completed = merged(values, asked)
    try:
        return JobRequest.model_validate(completed)
    except ValidationError as failure:
        # A value of the request may not be allowed together with one of the preset.
        first = mistakes(JobRequest, completed, failure)[0]
        field = "preset" if first.field == WHOLE else first.field
        origin = f"the preset {request.preset}" if request.preset else f"the defaults of the family {teacher.family}"
        raise SpecError(field, f"{first.message} (together with {origin})") from failure


def _inherits(request: JobRequest, values: Values) -> bool:
    """Whether the student's blocks begin with the teacher's weights."""
    init = request.student.init or values.get("student", {}).get("init")
    fresh = request.method == Method.SCRATCH or request.method.born_again
    return not fresh if init is None else init == Init.INHERIT


def _check_preprocessing(dataset: DatasetRequest, teacher: Architecture) -> None:
    given = dataset.model_fields_set
    unfit = None if dataset.columns is None else dataset.columns.of_another_modality(teacher.modality)
    if unfit is not None:
        raise SpecError(
            f"dataset.columns.{unfit}", f"is given, but the teacher takes {teacher.modality}s: leave it out"
        )
    _check_names(dataset, teacher)
    if teacher.modality == Modality.TEXT:
        for name in ("size", "crop", "resize", "resampling", "mean", "std", "attributes"):
            if name in given and getattr(dataset, name) is not None:
                raise SpecError(f"dataset.{name}", "is for images, but the teacher takes texts: leave it out")
        _check_vocabulary(dataset, teacher)
        _check_length(dataset, teacher)
    else:
        for name in ("length", "vocabulary", "lowercase"):
            if name in given:
                raise SpecError(f"dataset.{name}", "is for texts, but the teacher takes images: leave it out")
        _check_image_preprocessing(dataset, teacher)


def _check_names(dataset: DatasetRequest, teacher: Architecture) -> None:
    if dataset.attributes is not None and teacher.task != Task.TRANSLATION:
        raise SpecError(
            "dataset.attributes", "are the domains of a generator, but the teacher is not a generator: leave it out"
        )
    for name, names in (("class_order", dataset.class_order), ("attributes", dataset.attributes)):
        what = "domains" if teacher.task == Task.TRANSLATION else "classes"
        if names is not None and len(names) != teacher.classes:
            raise SpecError(
                f"dataset.{name}",
                f"has {len(names)} names, but the teacher has {teacher.classes} {what}: give one name for each",
            )
        if names is not None and len(set(names)) != len(names):
            raise SpecError(f"dataset.{name}", "has a name twice: give each name once")


def _check_image_preprocessing(dataset: DatasetRequest, teacher: Architecture) -> None:
    for name, value in (("mean", dataset.mean), ("std", dataset.std)):
        if not isinstance(value, str) and len(value) != teacher.channels:
            raise SpecError(
                f"dataset.{name}",
                f"has {len(value)} values, but the teacher takes {teacher.channels} input channels: "
                "give one per channel",
            )
    if (wrong := refused_resize(dataset)) is not None:
        raise SpecError("dataset.resize", wrong)


def _check_vocabulary(dataset: DatasetRequest, teacher: Architecture) -> None:
    vocabulary = VDCNN_VOCABULARY if dataset.vocabulary is None else dataset.vocabulary
    if len(set(vocabulary)) != len(vocabulary):
        raise SpecError("dataset.vocabulary", "has a character twice: give each character once")
    rows = int(teacher.options["vocabulary_size"])
    if len(vocabulary) + 2 > rows:
        raise SpecError(
            "dataset.vocabulary",
            f"has {len(vocabulary)} characters{' by default' if dataset.vocabulary is None else ''}, but the "
            f"teacher's embedding has {rows} rows, two for padding and unknown characters: give at most {rows - 2}",
        )


def _check_length(dataset: DatasetRequest, teacher: Architecture) -> None:
    least = int(teacher.options.get("least_length", 0))
    if dataset.length < least:
        raise SpecError(
            "dataset.length", f"is {dataset.length}, but the teacher needs {least} characters: give at least {least}"
        )


def _check_task(request: JobRequest, teacher: Architecture) -> None:
    if request.noise > 0 and request.feed == Feed.STUDENT:
        raise SpecError(
            "noise", "is added to the teacher's representations, which feed student does not use: leave it out"
        )
    if request.accept is not None:
        _check_acceptance(request.accept, teacher)
    if request.teacher_accuracy is not None and teacher.task == Task.TRANSLATION:
        raise SpecError("teacher_accuracy", "is for classifiers, but the teacher is a generator: leave it out")
    if request.method == Method.PRUNE and prune_shares(request.then):
        raise SpecError("then", "prunes again what method prune has pruned: leave those operations out")
    if request.output == Output.EMBEDDING:
        raise SpecError(
            "output", "is embedding, but the service trains classifiers and generators: use lit_core.compress"
        )
    if teacher.task != Task.TRANSLATION:
        if request.schedule.batch_size < 2:
            raise SpecError("schedule.batch_size", "is 1, but BatchNorm needs at least 2 samples: give 2 or more")
        if request.adversarial is not None:
            raise SpecError("adversarial", "is for GANs, but the teacher is a classifier: leave it out")
        _check_recipe(request, teacher)
    else:
        _check_generator(request)


def _check_processes(request: JobRequest) -> None:
    size = request.schedule.batch_size
    if request.processes > size:
        field = "nodes" if request.devices <= size else "devices"
        raise SpecError(
            field,
            f"asks for {request.processes} processes in all, but a batch has only {size} samples to divide among "
            "them: ask for fewer, or raise schedule.batch_size",
        )


def _check_sharding(request: JobRequest, teacher: Architecture) -> None:
    if teacher.task == Task.TRANSLATION:
        raise SpecError("shard_teacher", "is for classifiers, but the teacher is a generator: leave it out")
    if request.method == Method.PRUNE:
        raise SpecError("shard_teacher", "is true, but method prune begins with the whole teacher: leave it out")
    if request.processes == 1:
        raise SpecError(
            "shard_teacher",
            "is true, but the job trains in one process: give devices or nodes above 1, or leave it out",
        )


def _check_plan(request: JobRequest) -> None:
    for name in ("devices", "nodes"):
        if getattr(request, name) > 1:
            raise SpecError(name, "is for a training, but student.plan trains none: leave it out")
    names = ("exports", "then", "accept", "tensorboard", "shard_teacher")
    asked = {name: getattr(request, name) for name in names} | {"register": request.registered_model}
    for name, value in asked.items():
        if value:
            raise SpecError(name, "is for a trained student, but student.plan trains none: leave it out")


def _exports(request: JobRequest) -> list[Export]:
    if request.student.plan is not None:
        return []
    return list(DEFAULT_EXPORTS) if request.exports is None else list(dict.fromkeys(request.exports))


def _check_generator(request: JobRequest) -> None:
    if request.method not in (Method.LIT, Method.BORN_AGAIN_LIT):
        raise SpecError("method", f"{request.method} needs a classifier, but the teacher is a generator: use lit")
    if request.beta != 0:
        raise SpecError("beta", f"is {request.beta:g}, but a generator has no KD loss: leave it out, or give 0")
    if request.then:
        raise SpecError("then", "is for classifiers, but the teacher is a generator: leave it out")
    if request.n_random != 0:
        raise SpecError("n_random", "is for classifiers, but the teacher is a generator: leave it out")
    for name in ("race", "mixing", "feature_weight"):
        if getattr(request, name):
            raise SpecError(name, "is for classifiers, but the teacher is a generator: leave it out")
    if request.dataset.size is not None:
        _check_image_size(request.dataset.size)


def _check_recipe(request: JobRequest, teacher: Architecture) -> None:
    if request.mixing > 0 and teacher.modality == Modality.TEXT:
        raise SpecError("mixing", "is for images, but the teacher takes texts, which can't be mixed: leave it out")
    if request.mixing > 0 and request.method == Method.SCRATCH:
        raise SpecError("mixing", "makes samples that only a teacher can label, but method is scratch: leave it out")
    if request.teacher_precision is not None and request.method == Method.SCRATCH:
        raise SpecError(
            "teacher_precision",
            "is for a teacher's passes in training steps, but method scratch has none: leave it out",
        )
    if request.race and not request.method.races:
        able = ", ".join(method for method in Method if method.races)
        raise SpecError("race", f"is for the methods {able}, but method is {request.method}: leave it out")


def _check_image_size(size: list[int]) -> None:
    if any(side % 4 or side < 8 for side in size):
        raise SpecError(
            "dataset.size", f"is {size}, but a generator needs multiples of 4 pixels: give sides of 8, 12, 16, … pixels"
        )


def _check_acceptance(accept: Acceptance, teacher: Architecture) -> None:
    if teacher.task == Task.TRANSLATION and accept.max_accuracy_drop is not None:
        raise SpecError("accept.max_accuracy_drop", "is for classifiers, but the teacher is a generator: use min_psnr")
    if teacher.task == Task.CLASSIFICATION and accept.min_psnr is not None:
        raise SpecError("accept.min_psnr", "is for generators, but the teacher is a classifier: use max_accuracy_drop")


def resolve_schedule(schedule: Schedule, method: Method) -> Schedule:
    """Make the frozen parts of each phase explicit. Raises SpecError."""
    frozen = [Part.STEM, Part.HEAD] if method.uses_representations else []
    lit = schedule.lit if schedule.lit.frozen is not None else schedule.lit.model_copy(update={"frozen": frozen})
    last = schedule.fine_tune
    last = last if last.frozen is not None else last.model_copy(update={"frozen": []})
    if method == Method.SCRATCH:
        for name, phase in (("lit", lit), ("fine_tune", last)):
            if phase.frozen:
                raise SpecError(f"schedule.{name}.frozen", "freezes parts that scratch has not trained: leave it out")
    return schedule.model_copy(update={"lit": lit, "fine_tune": last})


def _resolve_cache(request: JobRequest, teacher: Architecture) -> TeacherCaching | TeacherCacheOptions:
    """Off where no teacher's answers can be kept. Raises SpecError where the request asks for it all the same."""
    if teacher.task == Task.TRANSLATION:
        fault = "is for classifiers, but the teacher is a generator, whose target domains are drawn for each batch"
    elif request.method == Method.SCRATCH:
        fault = "keeps a teacher's answers, but method scratch has no teacher"
    elif request.processes > 1:
        fault = f"keeps a teacher's answers for one process, but the job trains in {request.processes}"
    else:
        return request.teacher_cache
    if isinstance(request.teacher_cache, TeacherCacheOptions):
        raise SpecError("teacher_cache", f"{fault}: leave it out")
    return TeacherCaching.OFF


def _without_fine_tuning(schedule: Schedule) -> Schedule:
    """The schedule of a generator without a discriminator: only the LIT phase. Raises SpecError if it has no epochs."""
    if schedule.lit.epochs == 0:
        raise SpecError(
            "schedule.lit.epochs", "is 0, but without `discriminator` there is no other phase: give 1 or more"
        )
    return schedule.model_copy(update={"fine_tune": schedule.fine_tune.model_copy(update={"epochs": 0})})


def _resolve_discriminator(
    request: JobRequest, teacher: Architecture, discriminator: Inspection | None
) -> TeacherSpec | None:
    if request.discriminator is None:
        if request.adversarial is not None:
            raise SpecError("adversarial", "needs a `discriminator`: give the upload of the teacher's discriminator")
        return None
    if teacher.task != Task.TRANSLATION:
        raise SpecError("discriminator", "is for GANs, but the teacher is a classifier: leave it out")
    if discriminator is None or discriminator.architecture.task != Task.DISCRIMINATION:
        raise SpecError("discriminator", "is not a discriminator: give the upload of the teacher's discriminator")
    found = discriminator.architecture
    for name, count, wanted in (
        ("domains", found.classes, teacher.classes),
        ("image channels", found.channels, teacher.channels),
    ):
        if count != wanted:
            raise SpecError(
                "discriminator",
                f"has {count} {name}, but the generator has {wanted}: give the discriminator of this generator",
            )
    if request.schedule.optimizer != Optimizer.ADAM:
        raise SpecError(
            "schedule.optimizer", "is not adam, which adversarial fine-tuning needs: leave it out, or give adam"
        )
    if request.precision != Precision.FLOAT32:
        raise SpecError(
            "precision", "is not float32, which the gradient penalty of adversarial fine-tuning needs: leave it out"
        )
    side = int(found.options["image_size"])
    if request.dataset.size not in (None, [side, side]):
        raise SpecError(
            "dataset.size", f"is {request.dataset.size}, but the discriminator needs another: give {[side, side]}"
        )
    return TeacherSpec(upload=request.discriminator, sha256=discriminator.sha256, architecture=found)
