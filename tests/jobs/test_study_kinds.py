"""What a study does next, for any order in which its trials end and whatever they reach; without a ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.studies.kinds.search import Stage
from jobs.studies.kinds.table import make_table
from jobs.studies.kinds.trials import Key, Kind, NextSteps, Trial, TrialStopReason
from lit_spec import JobRequest, SpecError, resolve
from lit_spec.errors import StudyErrorType
from lit_spec.requests.study import DEFAULT_ALPHAS, DEFAULT_BETAS, DEFAULT_TAUS
from lit_spec.states import JobState
from tests.jobs.study_specs import DEPTHS, TEACHER, make_kind, make_outcome, make_plan, succeeded
from tests.worker.bench import INSPECTION

Reached = Callable[[Key], float | None]
"""What a trial reaches on the validation split; None: it fails."""


@dataclass
class Run:
    """Workers that take what the kind wants and end it in any order."""

    kind: Kind[Any]
    reached: Reached
    draw: Callable[[int], int]
    """A number below the given one."""
    width: int = 2
    trials: dict[Key, Trial] = field(default_factory=dict)
    made: list[Key] = field(default_factory=list)

    def to_the_end(self) -> NextSteps[Any]:
        for _ in range(4 * self.kind.planned + 4):
            steps = self.kind.next_steps(self.trials, self.width)
            self._stop(steps)
            live = [key for key, trial in self.trials.items() if trial.live]
            if steps.decided and not live:
                return steps
            assert not steps.decided or not steps.new
            # A queue that is shorter than what the kind names: any number may be made.
            for key in steps.new[: 1 + self.draw(self.width + 1)]:
                assert key not in self.made
                JobRequest.model_validate(self.kind.request(key))
                self.made.append(key)
                self.trials[key] = Trial(f"job_{len(self.made)}", JobState.QUEUED)
                live.append(key)
            assert live, "nothing runs and nothing is decided"
            self._end(live[self.draw(len(live))])
        raise AssertionError("the study does not end")

    def _end(self, key: Key) -> None:
        trial, value = self.trials[key], self.reached(key)
        if trial.stopped is not None:
            self.trials[key] = replace(trial, state=JobState.CANCELLED)
        elif value is None:
            self.trials[key] = replace(trial, state=JobState.FAILED)
        else:
            self.trials[key] = replace(trial, state=JobState.SUCCEEDED, result=make_outcome(value))

    def _stop(self, steps: NextSteps[Any]) -> None:
        for key, reason in steps.stop.items():
            assert self.trials[key].live
            self.trials[key] = replace(self.trials[key], stopped=reason)

    def value(self, **wanted: Any) -> float:
        """Mean over the seeds of a point."""
        found = [
            trial.result.validation
            for key, trial in self.trials.items()
            if trial.result is not None and wanted.items() <= key.stored().items()
        ]
        return sum(found) / len(found)


def draws(data: st.DataObject) -> Callable[[int], int]:
    return lambda below: data.draw(st.integers(0, below - 1))


def reaches(data: st.DataObject, *, failures: bool = False) -> Reached:
    """A number for each point, remembered; few different ones, so that some are equal."""
    values = st.sampled_from([90.0, 93.5, 96.0, 97.5])
    known: dict[Key, float | None] = {}

    def reached(key: Key) -> float | None:
        if key not in known:
            known[key] = data.draw(st.none() | values if failures else values)
        return known[key]

    return reached


# --- any kind ---------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "compare": {"methods": ["lit", "kd", {"name": "weak", "beta": 0.9}], "seeds": [0, 1]},
    "search": {"taus": [1, 4], "alphas": [0, 0.5], "betas": [0.25, 0.75, 1], "seeds": [3, 4]},
    "depth": {"max_accuracy_drop": 2, "seeds": [0, 1]},
    "front": {"front": True},
}


def any_kind(name: str) -> Kind[Any]:
    return make_kind("depth" if name == "front" else name, **KINDS[name])


@pytest.mark.parametrize("name", KINDS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_it_ends_repeats_no_trial_and_keeps_to_what_was_planned(name: str, data: st.DataObject) -> None:
    kind = any_kind(name)
    run = Run(kind, reaches(data, failures=True), draws(data), width=data.draw(st.integers(1, 5)))
    steps = run.to_the_end()
    assert len(run.made) == len(set(run.made)) <= kind.planned
    assert (steps.choice is None) != (steps.failure is None)
    if steps.choice is not None and steps.choice.job_id is not None:
        [winner] = [trial for trial in run.trials.values() if trial.job_id == steps.choice.job_id]
        assert winner.state is JobState.SUCCEEDED
    # The same question gets the same answer.
    assert kind.next_steps(dict(reversed(run.trials.items())), run.width) == steps


@pytest.mark.parametrize("name", KINDS)
def test_when_all_trials_fail_the_study_says_so(name: str) -> None:
    run = Run(any_kind(name), lambda _: None, lambda _: 0)
    failure = run.to_the_end().failure
    assert failure is not None
    assert failure.type is StudyErrorType.NO_RESULT
    assert "resume" in failure.detail


@pytest.mark.parametrize("name", KINDS)
def test_every_request_is_one_that_the_service_takes(name: str) -> None:
    kind = any_kind(name)
    for template in kind.templates():
        resolve(JobRequest.model_validate(template.request), INSPECTION)


# --- compare ----------------------------------------------------------------------------------------------


def test_arms_times_inits_times_seeds() -> None:
    kind = make_kind("compare", methods=["lit", "hint"], inits=["inherit", "random"], seeds=[5, 6])
    keys = kind.next_steps({}, 1).new
    assert [key.stored() for key in keys[:5]] == [
        {"arm": "lit-inherit", "seed": 5},
        {"arm": "lit-random", "seed": 5},
        {"arm": "hint-inherit", "seed": 5},
        {"arm": "hint-random", "seed": 5},
        {"arm": "lit-inherit", "seed": 6},
    ]
    assert len(keys) == kind.planned == 8
    request = kind.request(keys[3])
    assert (request["method"], request["feed"], request["seed"]) == ("lit", "student", 5)
    assert request["student"] == {"depth": 14, "init": "random"}


def test_an_arm_is_a_merge_patch_of_the_base_request() -> None:
    arm = {"name": "mine", "tau": 2, "student": {"blocks": [2, 2, 2], "depth": None}, "schedule": {"batch_size": 8}}
    base = {"tau": 6, "alpha": 0.3, "schedule": {"lit": {"epochs": 2}, "batch_size": 32}, "seed": 9}
    kind = make_kind("compare", base, methods=[arm, "born-again-kd"])
    own, again = (kind.request(key) for key in kind.next_steps({}, 1).new)
    assert (own["tau"], own["alpha"], own["student"], own["seed"]) == (2, 0.3, {"blocks": [2, 2, 2]}, 9)
    assert own["schedule"] == {"lit": {"epochs": 2}, "batch_size": 8}
    assert again["student"] == {}
    assert "name" not in own


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_the_best_arm_is_best_on_validation_over_all_seeds(data: st.DataObject) -> None:
    run = Run(any_kind("compare"), reaches(data), draws(data))
    choice = run.to_the_end().choice
    assert choice is not None
    values = {arm: run.value(arm=arm) for arm in ("lit", "kd", "weak")}
    assert values[choice.values["arm"]] == max(values.values())
    best = next(key for key, trial in run.trials.items() if trial.job_id == choice.job_id)
    assert best.stored()["arm"] == choice.values["arm"]


def test_an_arm_with_a_failed_seed_does_not_win() -> None:
    run = Run(any_kind("compare"), lambda key: None if key.stored() == {"arm": "kd", "seed": 1} else 99.0, lambda _: 0)
    run.trials = {
        key: succeeded("job_kd", 100.0) for key in run.kind.next_steps({}, 1).new if key.stored()["arm"] == "kd"
    }
    assert run.to_the_end().choice.values == {"arm": "kd"}  # type: ignore[union-attr]
    run.trials = {}
    run.made = []
    assert run.to_the_end().choice.values == {"arm": "lit"}  # type: ignore[union-attr]


def test_the_table_of_a_comparison() -> None:
    kind = make_kind("compare", methods=["lit", "kd"], seeds=[0, 1, 2])
    tests = {"lit": [96.0, 97.0, 98.0], "kd": [95.0, 96.5, None]}
    trials = {
        key: succeeded(f"job_{key.arm}_{key.seed}", 90.0 + key.seed, test=value, seconds=2.0 + key.seed)
        for key in kind.next_steps({}, 1).new
        if (value := tests[key.arm][key.seed]) is not None
    }
    lit, kd = (row.model_dump() for row in kind.table(trials))
    assert (lit["trials"], lit["succeeded"], kd["succeeded"]) == (3, 3, 2)
    assert (lit["test_mean"], lit["test_std"]) == (97.0, 1.0)
    # Student's t at 2 degrees of freedom: 4.3027 · 1 / √3.
    assert (lit["test_low"], lit["test_high"]) == (pytest.approx(94.5159, abs=1e-3), pytest.approx(99.4841, abs=1e-3))
    assert (lit["seconds"], lit["parameters"], lit["job_id"]) == (3.0, 1000, "job_lit_2")
    assert (lit["pairs"], lit["difference_mean"]) == (0, None)
    # Paired by seed: -1 and -0.5; t at 1 degree of freedom is 12.7062, and s / √2 is 0.25.
    assert (kd["pairs"], kd["difference_mean"]) == (2, -0.75)
    assert kd["difference_low"] == pytest.approx(-0.75 - 12.7062 * 0.25, abs=1e-3)
    assert kd["difference_high"] == pytest.approx(-0.75 + 12.7062 * 0.25, abs=1e-3)
    assert (lit["chosen"], kd["chosen"]) == (True, False)


# --- search -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_tau_then_alpha_then_beta_each_the_best_on_validation(data: st.DataObject) -> None:
    taus, alphas, betas = (
        data.draw(st.lists(st.sampled_from(grid), min_size=2, max_size=4, unique=True))
        for grid in (DEFAULT_TAUS, DEFAULT_ALPHAS, DEFAULT_BETAS)
    )
    kind = make_kind("search", taus=taus, alphas=alphas, betas=betas, seeds=[3, 4])
    run = Run(kind, reaches(data), draws(data), width=data.draw(st.integers(1, 4)))
    choice = run.to_the_end().choice
    assert choice is not None
    tau, alpha, beta = choice.values["tau"], choice.values["alpha"], choice.values["beta"]

    # Of the values of each stage that no other one beats, the job's own or else the first, the others as fixed before.
    found = {value: run.value(method="kd", tau=value, alpha=0.5) for value in taus}
    assert tau == max(taus, key=lambda value: (found[value], value == 4))
    found = {value: run.value(method="kd", tau=tau, alpha=value) for value in alphas}
    assert alpha == max(alphas, key=lambda value: (found[value], value == 0.5))
    found = {value: run.value(method="lit", tau=tau, alpha=alpha, beta=value) for value in betas}
    assert beta == max(betas, key=lambda value: (found[value], value == 0.5))

    stages = [stage_of(key.stored()) for key in run.made]
    assert stages == sorted(stages, key=["tau", "alpha", "beta"].index)
    assert len(run.made) == kind.planned or 0.5 in alphas
    # Which of its seeds was best, of the chosen point alone.
    [best] = [key for key, trial in run.trials.items() if trial.job_id == choice.job_id]
    assert (best.stored()["beta"], best.stored()["tau"], best.stored()["alpha"]) == (beta, tau, alpha)
    chosen = {row.stage: row for row in kind.table(run.trials) if row.chosen}  # type: ignore[attr-defined]
    assert {stage.value: getattr(row, stage.value) for stage, row in chosen.items()} == choice.values


def test_means_of_the_same_counts_are_equal_whatever_their_order() -> None:
    reached = {0.25: (94.4444, 100.0), 0.75: (95.2778, 99.1667)}  # 340 + 360 and 343 + 357 of 360
    assert sum(reached[0.25]) < sum(reached[0.75])
    kind = make_kind("search", taus=[4], alphas=[0.5], betas=[0.25, 0.75], seeds=[0, 1])
    run = Run(kind, lambda key: reached[key.stored()["beta"]][key.stored()["seed"]], lambda _: 0)
    choice = run.to_the_end().choice
    assert choice is not None
    assert choice.values["beta"] == 0.25


def stage_of(key: dict[str, Any]) -> str:
    """The stage for which a trial was made: those of α have another α than the base."""
    if key["method"] == "lit":
        return "beta"
    return "tau" if key["alpha"] == 0.5 else "alpha"


def test_the_winner_of_tau_is_not_trained_again_for_alpha() -> None:
    kind = make_kind("search", taus=[1, 2], alphas=[0.25, 0.5], betas=[0.5])
    run = Run(kind, lambda key: 90.0 + key.stored()["tau"], lambda _: 0)
    run.to_the_end()
    keys = [key.stored() for key in run.made]
    assert keys == [
        {"method": "kd", "tau": 1.0, "alpha": 0.5, "seed": 0},
        {"method": "kd", "tau": 2.0, "alpha": 0.5, "seed": 0},
        {"method": "kd", "tau": 2.0, "alpha": 0.25, "seed": 0},
        # Both alphas reach the same, and 0.5 is what the job has without a search.
        {"method": "lit", "tau": 2.0, "alpha": 0.5, "beta": 0.5, "seed": 0},
    ]
    assert kind.planned == 4


def test_a_grid_of_one_is_no_search_and_the_preset_says_the_alpha() -> None:
    base = {"preset": "paper", "method": "born-again-lit", "student": {}}
    kind = make_kind("search", base, taus=[3], alphas=[0.5, 1], betas=[0])
    assert kind.planned == 3
    keys = kind.next_steps({}, 1).new
    assert {(key.tau, key.alpha, key.method) for key in keys} == {
        (3.0, 0.5, "born-again-kd"),
        (3.0, 1.0, "born-again-kd"),
    }
    kind = make_kind("search", {"preset": "paper"}, taus=[3, 4])
    assert {key.alpha for key in kind.next_steps({}, 1).new} == {0.95}
    assert {row.stage for row in kind.table({})} == {Stage.TAU}  # type: ignore[attr-defined]


def test_trials_that_stand_for_a_method_or_a_value_keep_it_in_their_race() -> None:
    """A race of methods would train another one than the table says, so only rates compete."""
    for job, race in [({"preset": "few"}, "rates"), ({"preset": "few", "race": False}, False), ({}, False)]:
        search = make_kind("search", job, taus=[1, 2])
        assert {search.request(key)["race"] for key in search.next_steps({}, 1).new} == {race}
    with pytest.raises(SpecError) as failure:
        make_kind("search", {"preset": "few", "race": True}, taus=[1, 2])
    assert failure.value.field == "job.race"
    arms = [
        "kd",
        "scratch",
        {"name": "slow", "method": "lit", "race": True},
        {"name": "paper", "method": "lit", "preset": "paper"},
        {"name": "few", "preset": "few"},
    ]
    compare = make_kind("compare", {"preset": "few"}, methods=arms)
    races = {key.arm: compare.request(key).get("race") for key in compare.next_steps({}, 1).new}
    assert races == {"kd": "rates", "scratch": False, "slow": True, "paper": False, "few": None}
    compare = make_kind("compare", {"preset": "few", "race": False}, methods=["kd"])
    assert [compare.request(key)["race"] for key in compare.next_steps({}, 1).new] == [False]


def test_a_value_with_a_failed_trial_is_passed_over() -> None:
    kind = make_kind("search", taus=[1, 2, 4], alphas=[0.5], betas=[0.5], seeds=[0, 1])
    broken = {"method": "kd", "tau": 4.0, "alpha": 0.5, "seed": 1}
    choice = (
        Run(kind, lambda key: None if key.stored() == broken else key.stored()["tau"], lambda _: 0).to_the_end().choice
    )
    assert choice is not None
    assert choice.values == {"tau": 2.0, "alpha": 0.5, "beta": 0.5}


# --- depth ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(data=st.data(), bound=st.sampled_from([0.0, 1.0, 2.5]), width=st.integers(1, 6))
def test_the_shallowest_that_keeps_to_the_bound(data: st.DataObject, bound: float, width: int) -> None:
    values = sorted(data.draw(st.lists(st.floats(90, 99), min_size=5, max_size=5)))
    by_depth = dict(zip(DEPTHS, values, strict=True))
    kind = make_kind("depth", max_accuracy_drop=bound)
    run = Run(kind, lambda key: by_depth[key.stored()["depth"]], draws(data), width)
    choice = run.to_the_end().choice
    assert choice is not None
    right = next((depth for depth in DEPTHS if round(TEACHER - by_depth[depth], 4) <= bound), None)
    assert choice.values == {"depth": right}
    assert (choice.job_id is None) == (right is None)
    if width == 1:
        assert len(run.made) <= 3  # bisection of five
    rows = kind.table(run.trials)
    assert [row.depth for row in rows if row.chosen] == ([] if right is None else [right])  # type: ignore[attr-defined]


def test_a_bisection_keeps_all_workers_busy() -> None:
    kind = make_kind("depth", max_accuracy_drop=1)
    assert [key.depth for key in kind.next_steps({}, 1).new] == [20]
    assert [key.depth for key in kind.next_steps({}, 2).new] == [20, 8]
    assert sorted(key.depth for key in kind.next_steps({}, 9).new) == DEPTHS
    assert len(make_kind("depth", max_accuracy_drop=1, seeds=[0, 1]).next_steps({}, 2).new) == 2


def test_what_a_bisection_has_answered_is_stopped() -> None:
    kind = make_kind("depth", max_accuracy_drop=1)
    keys = {key.depth: key for key in kind.next_steps({}, 9).new}
    trials = {key: Trial(f"job_{depth}", JobState.RUNNING) for depth, key in keys.items()}
    trials[keys[20]] = succeeded("job_20", 97.5)
    trials[keys[8]] = succeeded("job_8", 90.0)
    steps = kind.next_steps(trials, 9)
    assert steps.stop == {keys[26]: TrialStopReason.UNNEEDED, keys[32]: TrialStopReason.UNNEEDED}
    assert not steps.decided
    assert steps.new == []


def curve(*values: float) -> dict[tuple[int, int], float]:
    """Two epochs of the first phase, then fine-tuning."""
    return {(0, epoch) if epoch <= 2 else (1, epoch - 2): value for epoch, value in enumerate(values, start=1)}


@pytest.mark.parametrize(
    ("so_far", "stopped"),
    [
        # The completed trial gained 4 from its third epoch on; 97 is needed, so 93 by then.
        (curve(50, 92.9, 92.0), True),
        (curve(50, 93.1, 92.0), False),
        (curve(50, 60), False),  # before half of the epochs nothing is judged
        ({}, False),
    ],
)
def test_a_hopeless_trial_is_stopped_and_counts_as_failed(so_far: dict[Any, float], stopped: bool) -> None:
    kind = make_kind("depth", max_accuracy_drop=1, depths=[8, 14], seeds=[0, 1])
    keys = kind.next_steps({}, 9).new
    done = replace(succeeded("job_done", 97.5), curve=curve(80, 90, 93.5, 97.5, 97.0, 97.0))
    trials: dict[Key, Trial] = {key: done for key in keys if key.depth == 14}
    running, waiting = (key for key in keys if key.depth == 8)
    trials[running] = Trial("job_r", JobState.RUNNING, curve=so_far)
    trials[waiting] = Trial("job_w", JobState.QUEUED)
    steps = kind.next_steps(trials, 9)
    assert set(steps.stop) == ({running, waiting} if stopped else set())
    if stopped:
        assert set(steps.stop.values()) == {TrialStopReason.HOPELESS}
        assert steps.choice is not None
        assert steps.choice.values == {"depth": 14}
        # Later, when their end has come, the answer is the same.
        ended = {
            key: replace(trials[key], state=JobState.CANCELLED, stopped=TrialStopReason.HOPELESS) for key in steps.stop
        }
        assert kind.next_steps(trials | ended, 9).choice == steps.choice
    lenient = make_kind("depth", max_accuracy_drop=1, depths=[8, 14], seeds=[0, 1], stop_early=False)
    assert lenient.next_steps(trials, 9).stop == {}


def test_the_front_is_what_no_other_depth_beats_in_both() -> None:
    kind = make_kind("depth", front=True, max_accuracy_drop=2, depths=[32, 8, 14, 20])
    keys = {key.depth: key for key in kind.next_steps({}, 1).new}
    assert sorted(keys) == [8, 14, 20, 32]
    reached = {8: (93.0, 0.5), 14: (96.5, 1.0), 20: (96.0, 1.5), 32: (97.5, 2.0)}
    trials = {
        keys[depth]: succeeded(f"job_{depth}", value, latency_ms=latency) for depth, (value, latency) in reached.items()
    }
    choice = kind.next_steps(trials, 1).choice
    assert choice is not None
    assert choice.values == {"depth": 14, "front": [8, 14, 32]}
    assert choice.job_id == "job_14"
    rows = {row.depth: row for row in kind.table(trials)}  # type: ignore[attr-defined]
    assert [rows[depth].front for depth in (8, 14, 20, 32)] == [True, True, False, True]
    assert [rows[depth].within for depth in (8, 14, 20, 32)] == [False, True, True, True]
    assert (rows[8].speedup, rows[8].validation_drop, rows[8].latency_ms) == (6.0, 5.0, 0.5)
    alone = make_kind("depth", front=True, depths=[32, 8, 14, 20]).next_steps(trials, 1).choice
    assert alone is not None
    assert (alone.values, alone.job_id) == ({"front": [8, 14, 32]}, "job_32")


def test_on_the_way_to_a_front_a_depth_that_a_shallower_one_beats_is_stopped() -> None:
    kind = make_kind("depth", front=True, depths=[8, 14, 20])
    keys = {key.depth: key for key in kind.next_steps({}, 1).new}
    trials: dict[Key, Trial] = {keys[14]: replace(succeeded("job_14", 96.0), curve=curve(80, 90, 95, 96))}
    slow = curve(60, 70, 80)
    trials |= {keys[depth]: Trial(f"job_{depth}", JobState.RUNNING, curve=slow) for depth in (8, 20)}
    # The shallower one is fast whatever it reaches.
    assert kind.next_steps(trials, 1).stop == {keys[20]: TrialStopReason.HOPELESS}


def test_without_labels_agreement_takes_the_place_of_accuracy() -> None:
    kind = make_kind("depth", {"alpha": 0}, max_accuracy_drop=3, depths=[8, 14])
    trials = {
        key: succeeded(
            f"job_{key.depth}", 96.0 + key.depth / 8, validation_metric="agreement", teacher_validation=100.0
        )
        for key in kind.next_steps({}, 9).new
    }
    assert [row.validation_drop for row in kind.table(trials)] == [3.0, 2.25]  # type: ignore[attr-defined]
    assert kind.next_steps(trials, 9).choice.values == {"depth": 8}  # type: ignore[union-attr]


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "job", "fields", "field", "said"),
    [
        ("compare", {}, {"methods": ["lit", {"name": "lit", "beta": 1}]}, "methods.1.name", "another"),
        ("compare", {}, {"methods": [{"name": "x", "seed": 1}]}, "methods.0.seed", "same for all"),
        ("compare", {}, {"methods": [{"name": "x", "teacher": "upl_b"}]}, "methods.0.teacher", "same for all"),
        (
            "compare",
            {},
            {"methods": [{"name": "x", "dataset": {"upload": "u"}}]},
            "methods.0.dataset",
            "must be the study's data set",
        ),
        (
            "compare",
            {"student": {"depth": 8, "init": "random"}},
            {"methods": ["lit"], "inits": ["random"]},
            "job.student.init",
            "inits",
        ),
        (
            "compare",
            {},
            {"methods": ["kd", {"name": "x", "student": {"init": "random"}}], "inits": ["inherit"]},
            "methods.1.student.init",
            "inits",
        ),
        ("search", {"method": "kd"}, {}, "job.method", "no beta"),
        ("search", {"tau": 3}, {}, "job.tau", "`taus`"),
        ("search", {"preset": "nonsense"}, {}, None, ""),
        ("depth", {"student": {"depth": 8}}, {"front": True}, "job.student.depth", "varies"),
        ("depth", {"student": {"kept": [[0]] * 3}}, {"front": True}, "job.student.kept", "varies"),
        ("depth", {"method": "born-again-kd"}, {"front": True}, "job.method", "depth"),
    ],
)
def test_what_can_not_be_studied_is_told_by_field(
    kind: str, job: dict[str, Any], fields: dict[str, Any], field: str | None, said: str
) -> None:
    if field is None:
        with pytest.raises(ValueError, match="preset"):
            make_kind(kind, job, **fields)
        return
    with pytest.raises(SpecError) as refused:
        make_kind(kind, job, **fields)
    assert refused.value.field == field
    assert said in refused.value.message


def test_a_field_of_a_job_is_traced_to_that_of_the_study() -> None:
    base = {"student": {"depth": 14}, "schedule": {"batch_size": 2}}
    arms = ["kd", {"name": "x", "beta": 0.5, "schedule": {"lit": {"epochs": 3}}}]
    kind = make_kind("compare", base, methods=arms, inits=["random"])
    _, own = kind.templates()
    assert own.blame("beta") == "methods.1.beta"
    assert own.blame("schedule.lit.epochs") == "methods.1.schedule.lit.epochs"
    assert own.blame("schedule.batch_size") == "job.schedule.batch_size"
    assert own.blame("schedule.lit.learning_rate") == "methods.1.schedule.lit.learning_rate"
    assert own.blame("student.init") == "inits.0"
    assert own.blame("student.depth") == "job.student.depth"
    assert own.blame("dataset.mean") == "job.dataset.mean"
    tau, *_, beta = make_kind("search", taus=[1], alphas=[1], betas=[0, 1]).templates()
    assert (tau.blame("tau"), beta.blame("beta"), beta.blame("method")) == ("taus.0", "betas.1", "kind")
    assert [t.blame("student.depth") for t in make_kind("depth", front=True, depths=[20, 8]).templates()] == [
        "depths.0",
        "depths.1",
    ]


# --- plan ---

PLANNED = make_plan([[[0, 1, 2, 3], [0, 1, 2, 3, 4]], [[0, 2], [0, 1]], [[0], [0]]])


def test_a_plan_is_one_job_that_trains_nothing() -> None:
    kind = make_kind("plan", {"seed": 3}, students=4, batch=8)
    [key] = kind.next_steps({}, 9).new
    assert kind.request(key)["student"] == {"plan": {"students": 4, "batch": 8, "repair": False}}
    assert (key.seed, kind.planned) == (3, 1)
    assert kind.next_steps({key: Trial("job_1", JobState.RUNNING)}, 9) == NextSteps()
    assert kind.table({key: Trial("job_1", JobState.RUNNING)}) == []


def test_a_plan_ends_with_its_front() -> None:
    kind = make_kind("plan")
    [key] = kind.next_steps({}, 1).new
    trials = {key: Trial("job_1", JobState.SUCCEEDED, plan=PLANNED)}
    choice = kind.next_steps(trials, 1).choice
    assert choice is not None
    assert (choice.values, choice.job_id) == ({"front": [10, 6]}, "job_1")
    rows = kind.table(trials)
    first = rows[0].model_dump()
    assert first.pop("kept") == [[0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert first == {
        "depth": 20,
        "parameters": 900,
        "parameters_ratio": 1.111,
        "flops": 9000,
        "flops_ratio": 1.111,
        "file_size": 3960,
        "latency_ms": 4.5,
        "speedup": 1.111,
        "damage": 0.25,
        "untrained": 90.0,
        "repaired": None,
        "front": False,
        "chosen": False,
        "job_id": "job_1",
    }
    table = make_table(kind, trials)
    assert table.columns == [
        *("depth", "kept"),
        *(name for name in first if name not in ("depth", "chosen", "job_id")),
        *("chosen", "job_id"),
    ]
    assert (table.validation_metric, table.test_metric) == ("agreement", None)
    assert table.teacher is not None
    assert (table.teacher.validation, table.teacher.parameters, table.teacher.latency_ms) == (100.0, 1000, 5.0)


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_plan_without_its_job_has_no_result(state: JobState) -> None:
    kind = make_kind("plan")
    [key] = kind.next_steps({}, 1).new
    failure = kind.next_steps({key: Trial("job_1", state)}, 1).failure
    assert failure is not None
    assert "resume the study" in failure.detail
