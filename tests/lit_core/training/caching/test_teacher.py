"""The cached teacher teaches what the teacher does, rounded: whatever is there, whoever wrote it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lit_core.data.augmentation import augment
from lit_core.data.labels import NO_LABEL
from lit_core.data.views import SHARED_SEED, SampleViews
from lit_core.networks.families.resnet_cifar import ResNet
from lit_core.networks.layout import Layout
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.batch import Batch
from lit_core.training.caching import teacher as teacher_module
from lit_core.training.caching.folder import CacheFolder
from lit_core.training.caching.pieces import NotCacheable, layout_of
from lit_core.training.caching.teacher import TeacherCache, opened_cache
from lit_core.training.objectives import objective_of
from lit_core.training.taught import LiveTeacher, Needs, Taught
from lit_spec import Augmentation, CachedType, Feed, Hyperparameters, Method, Part, Phase, Precision
from lit_spec.requests.resolve import resolve_schedule
from lit_spec.trainer.report import CachePlan

SAMPLES, VIEWS = 12, 3
AUGMENTATION = Augmentation(shift=1, flip=True, rotate=10, noise=0.1)
PIXELS = torch.randn(SAMPLES, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def resnet(blocks: list[int]) -> SectionedNetwork:
    torch.manual_seed(len(blocks) + sum(blocks))
    network = ResNet(blocks, 4, 1, 3, "A", "fc", "downsample")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.1 * torch.randn_like(module.running_mean)
            module.running_var = torch.rand_like(module.running_var) + 0.5
    paths = tuple(tuple(f"layer{n + 1}.{place}" for place in range(count)) for n, count in enumerate(blocks))
    return SectionedNetwork(network, Layout(("conv1", "bn1"), paths, ("fc",)))


@pytest.fixture(scope="module")
def teacher() -> SectionedNetwork:
    found = resnet([2, 2, 2])
    found.freeze()
    return found


def batch_of(rows: list[int], views: list[int]) -> Batch:
    samples = SampleViews(torch.tensor(rows), torch.tensor(views), SHARED_SEED)
    x = augment(PIXELS[samples.rows], AUGMENTATION, samples)
    labels = torch.full((len(rows),), NO_LABEL)
    return Batch((x,), labels, 0.3, torch.Generator().manual_seed(4), samples)


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache", 1 << 24, 1 << 24)


def plan(dtype: CachedType = CachedType.FLOAT16) -> CachePlan:
    return CachePlan(views=VIEWS, dtype=dtype, bytes_per_view=1)


@pytest.fixture
def cache(folder: CacheFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[TeacherCache]:
    # The teachers here take no longer than reading does.
    monkeypatch.setattr(teacher_module, "MEASURED_BATCHES", 10**9)
    with opened_cache(folder, "one", SAMPLES, plan()) as found:
        yield found


class Counted(LiveTeacher):
    """Counts how often it runs, apart from the first time, when the shapes are looked at."""

    runs = -1

    def __call__(self, batch: Batch) -> Taught:
        self.runs += 1
        return super().__call__(batch)


def rounded_by_hand(taught: Taught, dtype: torch.dtype, stem_output: Tensor) -> Taught:
    """All that is kept, rounded; the first section's input is made anew by the teacher's own stem."""

    def round_(x: Tensor) -> Tensor:
        return x.to(dtype).to(x.dtype)

    features = None if taught.read_features is None else round_(taught.read_features)
    if taught.representations is None:
        return Taught(round_(taught.output), None, features)
    trace = taught.trace
    outputs = [round_(x) for x in trace.outputs]
    return Taught(
        round_(taught.output),
        replace(trace, output=round_(trace.output), inputs=[stem_output, *outputs[:-1]], outputs=outputs),
        features,
    )


OBJECTIVES = {
    "lit": {"beta": 0.5, "feed": Feed.TEACHER},
    "lit, trained stem": {"beta": 0.5, "feed": Feed.TEACHER, "schedule": {"lit": {"frozen": []}}},
    "lit, scheduled": {"beta": 0.5, "feed": Feed.SCHEDULED},
    "ir alone": {"beta": 0.0, "feed": Feed.TEACHER},
    "few": {"beta": 0.0, "feed": Feed.STUDENT, "ir_relative": True, "feature_weight": 1.0},
    "noise": {"beta": 0.5, "feed": Feed.TEACHER, "noise": 0.2},
    "kd": {"method": Method.KD},
    "at": {"method": Method.AT},
    "mimic": {"method": Method.MIMIC},
}


def hyperparameters(name: str) -> Hyperparameters:
    given = Hyperparameters.model_validate({"alpha": 0.0, **OBJECTIVES[name]})
    return given.model_copy(update={"schedule": resolve_schedule(given.schedule, given.method)})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradients_are_those_of_the_rounded_teacher(
    cache: TeacherCache, teacher: SectionedNetwork, name: str
) -> None:
    spec, student = hyperparameters(name), resnet([1, 1, 1])
    objective = objective_of(spec, Phase.LIT, 3)
    student.train([Part(part) for part in spec.schedule.lit.frozen or []])
    student.network.conv1.load_state_dict(teacher.network.conv1.state_dict())
    student.network.bn1.load_state_dict(teacher.network.bn1.state_dict())
    live = Counted(teacher, objective.needs)
    cached = cache.around(live)

    def gradients(taught: Taught, batch: Batch) -> list[Tensor]:
        student.network.zero_grad()
        losses = objective(taught, student, batch)
        losses.total.backward()
        found = [p.grad for p in student.network.parameters() if p.grad is not None]
        return [losses.total.detach(), *(part.detach() for part in losses.parts.values()), *found]

    for runs in (1, 1):  # taught and written, then read
        batch = batch_of([3, 7, 0, 11], [0, 0, 0, 0])
        wanted = gradients(
            rounded_by_hand(
                LiveTeacher(teacher, objective.needs)(batch),
                torch.float16,
                LiveTeacher(teacher, objective.needs).stem_output(batch),
            ),
            batch_of([3, 7, 0, 11], [0, 0, 0, 0]),
        )
        got = gradients(cached(batch), batch)
        assert live.runs == runs
        assert len(got) == len(wanted) > 5
        assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
    assert (cache.hits, cache.misses) == (4, 4)


def test_float32_changes_nothing(folder: CacheFolder, teacher: SectionedNetwork) -> None:
    needs, batch = Needs(trace=True, inputs=True, first_input=True), batch_of([1, 2, 5], [2, 0, 1])
    live = LiveTeacher(teacher, needs)
    with opened_cache(folder, "exact", SAMPLES, plan(CachedType.FLOAT32)) as cache:
        for _ in range(2):
            got, wanted = cache.around(live)(batch).trace, live(batch).trace
            pairs = zip(
                [got.output, *got.inputs[1:], *got.outputs],
                [wanted.output, *wanted.inputs[1:], *wanted.outputs],
                strict=True,
            )
            torch.testing.assert_close(got.inputs[0], wanted.inputs[0])
            assert all(torch.equal(one, other) for one, other in pairs)
    assert cache.hits == 3


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("lit", {"output", "output_of_section_1", "output_of_section_2", "output_of_section_3"}),
        ("ir alone", {"output_of_section_1", "output_of_section_2", "output_of_section_3"}),
        ("few", {"features", "output_of_section_1", "output_of_section_2", "output_of_section_3"}),
        ("kd", {"output"}),
        ("mimic", {"features"}),
    ],
)
def test_only_what_the_objective_uses_is_kept(
    cache: TeacherCache, teacher: SectionedNetwork, name: str, kept: set[str]
) -> None:
    objective = objective_of(hyperparameters(name), Phase.LIT, 3)
    cache.around(LiveTeacher(teacher, objective.needs))(batch_of([1, 2], [1, 1]))
    assert {path.name for path in cache.entry.path.iterdir()} == {"used", "boot", "writing"} | {
        f"{piece}-1" for piece in kept
    }


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.lists(
            st.tuples(st.integers(0, SAMPLES - 1), st.integers(0, VIEWS - 1)), min_size=2, max_size=6, unique=True
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_read_was_made_of_the_students_very_input(
    tmp_path_factory: pytest.TempPathFactory, teacher: SectionedNetwork, batches: list[list[tuple[int, int]]]
) -> None:
    """In whatever batches and orders samples come: each answer was made of the input that it is used with."""
    folder = CacheFolder(tmp_path_factory.mktemp("cache"), 1 << 24, 1 << 24)
    made_of: dict[tuple[int, int], str] = {}

    class Recorded(LiveTeacher):
        def __call__(self, batch: Batch) -> Taught:
            if batch.samples is not None:
                record(batch)
            return super().__call__(batch)

    def record(batch: Batch) -> None:
        assert batch.samples is not None
        names = zip(batch.samples.rows.tolist(), batch.samples.views.tolist(), strict=True)
        for name, x in zip(names, batch.inputs[0], strict=True):
            made_of.setdefault(name, hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest())

    needs = Needs(trace=True)
    with opened_cache(folder, "one", SAMPLES, plan()) as cache:
        cached = cache.around(Recorded(teacher, needs))
        for places in [*batches, *batches[::-1]]:
            batch = batch_of(*(list(numbers) for numbers in zip(*places, strict=True)))
            got = cached(batch)
            assert batch.samples is not None
            for number, name in enumerate(places):
                x = batch.inputs[0][number]
                assert made_of[name] == hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()
            wanted = rounded_by_hand(LiveTeacher(teacher, needs)(batch), torch.float16, torch.empty(0))
            # The same up to rounding, because the teacher may have seen them in another batch.
            torch.testing.assert_close(got.output, wanted.output, atol=2e-3, rtol=2e-3)
            for one, other in zip(got.trace.outputs, wanted.trace.outputs, strict=True):
                torch.testing.assert_close(one, other, atol=5e-3, rtol=2e-3)


def test_a_row_without_its_mark_is_made_again_and_the_others_stay(
    cache: TeacherCache, teacher: SectionedNetwork
) -> None:
    """As after a kill between writing values and marking them."""
    needs, batch = Needs(trace=True, inputs=True), batch_of([0, 1, 2], [0, 0, 0])
    live = Counted(teacher, needs)
    first = cache.around(live)(batch)
    layout = layout_of(LiveTeacher(teacher, needs), batch)
    file = cache.entry.file(layout.pieces[-1], 0)
    file.written[1] = 0
    file.values[1] = 77.0
    runs = live.runs
    again = cache.around(live)(batch)
    assert live.runs > runs
    assert bool(file.written[:3].all())
    for one, other in zip(again.trace.outputs, first.trace.outputs, strict=True):
        assert torch.equal(one, other)


def test_two_jobs_share_what_either_has_written(folder: CacheFolder, teacher: SectionedNetwork) -> None:
    needs = Needs(trace=True)
    with opened_cache(folder, "one", SAMPLES, plan()) as mine, opened_cache(folder, "one", SAMPLES, plan()) as other:
        own, its = Counted(teacher, needs), Counted(teacher, needs)
        first = mine.around(own)(batch_of([0, 1, 2, 3], [0] * 4))
        second = other.around(its)(batch_of([3, 1], [0] * 2))
        assert (own.runs, its.runs) == (1, 0)
        assert torch.equal(second.output, first.output[[3, 1]])
        # It may run other methods, which need less.
        answers = other.around(LiveTeacher(teacher, Needs()))(batch_of([2, 0], [0] * 2))
        assert torch.equal(answers.output, first.output[[2, 0]])
        assert (other.hits, other.misses) == (4, 0)


def test_without_room_the_teacher_is_run_and_rounded_all_the_same(
    tmp_path: Path, teacher: SectionedNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    needs = Needs()
    per_view = SAMPLES * (2 * 3 + 1)
    folder = CacheFolder(tmp_path / "cache", 1 << 20, per_view + 100)
    with opened_cache(folder, "one", SAMPLES, plan()) as cache:
        cached = cache.around(LiveTeacher(teacher, needs))
        for _ in range(2):
            for view in (0, 1):
                batch = batch_of([0, 1], [view, view])
                wanted = LiveTeacher(teacher, needs)(batch).output.half().float()
                assert torch.equal(cached(batch).output, wanted)
        assert (cache.hits, cache.misses) == (2, 6)
        report = cache.report()
        assert report.used
        assert report.reason is not None
        assert report.reason.startswith("view 1 has no room in the cache")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_cache_that_is_slower_than_the_teacher_is_left_and_the_numbers_stay(
    folder: CacheFolder, teacher: SectionedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    # Three looks at the clock while a batch is written: two around the teacher, and one that comes late.
    monkeypatch.setattr(teacher_module, "_now", lambda _batch: next(clock) ** 2)
    monkeypatch.setattr(teacher_module, "MEASURED_BATCHES", 2)
    needs = Needs()
    with opened_cache(folder, "one", SAMPLES, plan()) as cache:
        cached = cache.around(LiveTeacher(teacher, needs))
        for rows in ([0, 1], [2, 3], [0, 1], [4, 5], [4, 5]):
            batch = batch_of(rows, [0, 0])
            assert torch.equal(cached(batch).output, LiveTeacher(teacher, needs)(batch).output.half().float())
        assert (cache.hits, cache.misses) == (0, 10)
        assert "reading takes" in (cache.reason or "")


def test_what_is_slow_for_one_objective_is_kept_for_another(
    folder: CacheFolder, teacher: SectionedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(teacher_module, "_now", lambda _batch: next(clock) ** 2)
    monkeypatch.setattr(teacher_module, "MEASURED_BATCHES", 2)
    with opened_cache(folder, "one", SAMPLES, plan()) as cache:
        slow, other = (cache.around(LiveTeacher(teacher, Needs())) for _ in range(2))
        for rows in ([0, 1], [2, 3]):
            slow(batch_of(rows, [0, 0]))
        slow(batch_of([0, 1], [0, 0]))
        assert (cache.hits, cache.misses) == (0, 6)
        other(batch_of([0, 1], [0, 0]))
        assert (cache.hits, cache.misses) == (2, 6)


def test_a_short_batch_is_taught_as_a_whole_one(cache: TeacherCache, teacher: SectionedNetwork) -> None:
    """Else what is kept would depend on the batch in which a sample was first seen."""
    sizes = []

    class Recorded(LiveTeacher):
        def __call__(self, batch: Batch) -> Taught:
            sizes.append(len(batch.inputs[0]))
            return super().__call__(batch)

    batch = batch_of([0, 1, 2], [0, 0, 0])
    taught = cache.around(Recorded(teacher, Needs()), batch_size=8)(batch)
    assert sizes[1:] == [8]  # after the look at the shapes
    torch.testing.assert_close(taught.output, LiveTeacher(teacher, Needs())(batch).output.half().float())


def test_the_stem_is_run_in_the_teachers_precision(cache: TeacherCache, teacher: SectionedNetwork) -> None:
    needs = Needs(trace=True, inputs=True, first_input=True)
    cached = cache.around(LiveTeacher(teacher, needs, Precision.BFLOAT16))
    batch = batch_of([0, 1], [0, 0])
    wanted = LiveTeacher(teacher, needs, Precision.BFLOAT16)(batch).trace.inputs[0]
    for _ in range(2):
        got = cached(batch).trace.inputs[0]
        assert got.dtype == torch.float32
        assert torch.equal(got, wanted)


def test_a_training_goes_on_and_reports_although_its_cache_was_removed(
    cache: TeacherCache, folder: CacheFolder, teacher: SectionedNetwork
) -> None:
    """As by an operator who needs room. What is mapped is still there."""
    cached, identity = cache.around(LiveTeacher(teacher, Needs())), cache.environment()
    first = cached(batch_of([0, 1], [0, 0])).output
    shutil.rmtree(folder.root)
    assert torch.equal(cached(batch_of([0, 1], [0, 0])).output, first)
    wanted = LiveTeacher(teacher, Needs())(batch_of([2, 3], [1, 1])).output.half().float()
    assert torch.equal(cached(batch_of([2, 3], [1, 1])).output, wanted)
    assert cache.environment() == identity
    report = cache.report()
    assert (report.bytes, report.hit_rate) == (0, round(2 / 6, 4))
    assert report.reason is not None
    assert report.reason.startswith("view 1 has no room in the cache")


def test_values_beyond_the_type_become_its_largest(folder: CacheFolder, teacher: SectionedNetwork) -> None:
    class Loud(LiveTeacher):
        def __call__(self, batch: Batch) -> Taught:
            return Taught(1e9 * torch.sign(super().__call__(batch).output))

    with opened_cache(folder, "one", SAMPLES, plan()) as cache:
        for _ in range(2):
            got = cache.around(Loud(teacher, Needs()))(batch_of([0, 1], [0, 0])).output
            assert set(got.abs().flatten().tolist()) == {65504.0}


class Masked(nn.Module):
    """A block that gets a mask beside the representation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        made: Tensor = self.linear(x)
        return made if mask is None else made * mask


class Network(nn.Module):
    def __init__(self, *, masks: bool) -> None:
        super().__init__()
        self.stem, self.masks = nn.Linear(4, 4), masks
        self.blocks = nn.ModuleList([Masked(), Masked()])
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        mask = (x > 0).float() if self.masks else None
        y = self.blocks[0](y, mask)
        return self.head(self.blocks[1](self.norm(y), mask))  # type: ignore[no-any-return]


def with_two_sections(*, masks: bool) -> SectionedNetwork:
    torch.manual_seed(0)
    found = SectionedNetwork(Network(masks=masks), Layout(("stem",), (("blocks.0",), ("blocks.1",)), ("norm", "head")))
    found.freeze()
    return found


def test_masks_of_blocks_are_not_kept_and_the_reason_is_told() -> None:
    live = LiveTeacher(with_two_sections(masks=True), Needs(trace=True))
    with pytest.raises(NotCacheable, match="masks"):
        layout_of(live, Batch((torch.randn(2, 4),), torch.zeros(2)))


def test_with_layers_between_sections_their_inputs_are_kept_too(folder: CacheFolder) -> None:
    live = LiveTeacher(with_two_sections(masks=False), Needs(trace=True, inputs=True))
    samples = SampleViews(torch.arange(3), torch.zeros(3, dtype=torch.int64), SHARED_SEED)
    batch = Batch((torch.randn(3, 4),), torch.zeros(3), samples=samples)
    with opened_cache(folder, "one", SAMPLES, plan(CachedType.FLOAT32)) as cache:
        for _ in range(2):
            got, wanted = cache.around(live)(batch).trace, live(batch).trace
            assert not got.is_chain
            assert all(torch.equal(a, b) for a, b in zip(got.inputs, wanted.inputs, strict=True))
        assert cache.hits == 3
