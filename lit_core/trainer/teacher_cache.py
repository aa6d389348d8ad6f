"""The teacher's cache of one job: what is decided about it, and where it lies on the worker's disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_core import seeding
from lit_core.data import Dataset
from lit_core.data.augmentation import varies
from lit_core.data.labels import NO_LABEL
from lit_core.data.store.disk import most_bytes_of_file
from lit_core.data.views import SHARED_SEED
from lit_core.networks.sections import SectionedNetwork
from lit_core.report import versions
from lit_core.trainer.environment import environment_of
from lit_core.training.batch import Batch
from lit_core.training.caching.folder import CacheFolder, NoRoom
from lit_core.training.caching.pieces import NotCacheable, Piece, layout_of
from lit_core.training.caching.plan import Room, Workload, planned, type_of
from lit_core.training.caching.teacher import TeacherCache, opened_cache
from lit_core.training.group import ALONE
from lit_core.training.objectives import objective_of
from lit_core.training.recipe import RIVALS
from lit_core.training.steps import passes_over
from lit_core.training.taught import LiveTeacher, Needs
from lit_spec import CachedType, JobSpec, Phase, Precision, Split, TeacherCaching
from lit_spec.requests.then import prune_shares
from lit_spec.trainer.report import CachePlan
from lit_spec.trainer.run import TrainerRun

FORMAT = 1
"""Of the files. Others are not read."""
CODE = ("data", "networks", "tasks", "training")
"""Folders of lit_core whose code makes the samples and the teacher's numbers."""
NO_FOLDER = "this worker caches no teachers (LIT_TEACHER_CACHE_BYTES is 0)"

log = logging.getLogger("trainer")


@dataclass(frozen=True)
class CachingJob:
    """A job that may cache its teacher."""

    spec: JobSpec
    run: TrainerRun
    teacher: SectionedNetwork
    dataset: Dataset
    device: torch.device

    @property
    def samples(self) -> int:
        return len(self.dataset.splits[Split.TRAIN].y) + self.spec.n_random

    @property
    def _precision(self) -> Precision:
        """In which the teacher computes."""
        return self.spec.teacher_precision or self.spec.precision

    @contextmanager
    def opened(self, decided: CachePlan | None) -> Iterator[tuple[CachePlan | None, TeacherCache | None]]:
        """The plan and the cache, if there is one. `decided` is what an earlier attempt decided."""
        if self.spec.teacher_cache == TeacherCaching.OFF:
            yield None, None
            return
        with ExitStack() as stack:
            plan, cache = self._resumed(decided, stack) if decided is not None else self._begun(stack)
            log.info("teacher cache: %s", plan.as_json())
            yield plan, cache

    def _begun(self, stack: ExitStack) -> tuple[CachePlan, TeacherCache | None]:
        """There is a plan with views only if the first one has room. `stack` closes the cache."""
        if (folder := self._folder()) is None:
            return CachePlan(reason=NO_FOLDER), None
        try:
            with ExitStack() as opened:
                pieces = self._pieces()
                plan = self._plan(folder, pieces)
                if plan.views is None:
                    return plan, None
                cache = opened.enter_context(self._entry(folder, plan))
                cache.reserve(pieces)
                stack.push(opened.pop_all())
        except (NotCacheable, NoRoom) as refusal:
            return CachePlan(reason=str(refusal)), None
        except OSError as failure:
            return CachePlan(reason=_unusable(failure)), None
        return plan, cache

    def _resumed(self, plan: CachePlan, stack: ExitStack) -> tuple[CachePlan, TeacherCache | None]:
        """Without the cache that an earlier attempt had, the student goes on with the same numbers but for rounding."""
        if plan.views is None:
            return plan, None
        if (folder := self._folder()) is None:
            return plan, TeacherCache(plan, None, reason=NO_FOLDER)
        try:
            return plan, stack.enter_context(self._entry(folder, plan))
        except OSError as failure:
            return plan, TeacherCache(plan, None, reason=_unusable(failure))

    def _folder(self) -> CacheFolder | None:
        run = self.run
        if run.teacher_cache is None:
            return None
        return CacheFolder(
            run.teacher_cache, run.teacher_cache_bytes, run.teacher_cache_job_bytes, run.disk_reserve_bytes
        )

    def _entry(self, folder: CacheFolder, plan: CachePlan) -> AbstractContextManager[TeacherCache]:
        return opened_cache(folder, self._name(plan.dtype), self.samples, plan)

    def _plan(self, folder: CacheFolder, pieces: Sequence[Piece]) -> CachePlan:
        """Raises OSError."""
        spec = self.spec
        dtype = type_of(spec.teacher_cache, self._precision)

        def find_room() -> Room:
            return Room(folder.room(self._name(dtype)), most_bytes_of_file())

        return planned(spec.teacher_cache, self._workload(pieces), find_room, dtype)

    def _workload(self, pieces: Sequence[Piece]) -> Workload:
        spec, schedule = self.spec, self.spec.schedule
        epochs = schedule.lit.epochs + schedule.fine_tune.epochs * (1 + len(prune_shares(spec.then)))
        return Workload(
            samples=self.samples,
            passes=passes_over(self.samples, schedule, epochs),
            varies=varies(self.dataset.augmentation) or spec.mixing > 0 or spec.n_random > 0,
            shared=self.run.is_trial,
            pieces=tuple(piece.values for piece in pieces),
        )

    @torch.no_grad()
    def _pieces(self) -> list[Piece]:
        """All that the objectives of all phases need of the teacher. Raises NotCacheable."""
        x = self.dataset.preprocessing.apply(self.dataset.splits[Split.TRAIN].x[:2].to(self.device))
        batch = Batch((x,), torch.full((len(x),), NO_LABEL))
        half = self.spec.precision == Precision.BFLOAT16
        pieces: dict[str, Piece] = {}
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            for needs in self._needs():
                if not needs.nothing:
                    layout = layout_of(LiveTeacher(self.teacher, needs, self.spec.teacher_precision), batch)
                    pieces |= {piece.name: piece for piece in layout.pieces}
        return list(pieces.values())

    def _needs(self) -> list[Needs]:
        spec = self.spec
        methods = {spec.method, *(RIVALS if spec.race is True else ())}
        asked = [spec.model_copy(update={"method": method}) for method in methods]
        return [objective_of(one, phase, len(self.teacher.sections)).needs for one in asked for phase in Phase]

    def _name(self, dtype: CachedType | None) -> str:
        """Of the entry: the same for all jobs whose teacher makes the same numbers of the same samples."""
        spec, arrays = self.spec, self.dataset.splits[Split.TRAIN]
        parts: dict[str, Any] = {
            "format": FORMAT,
            "teacher": _digest_of(self.teacher),
            "architecture": spec.teacher.architecture.model_dump(mode="json"),
            "data": arrays.digest(),
            "preprocessing": self.dataset.preprocessing.model_dump(mode="json", exclude={"class_order"}),
            "augmentation": self.dataset.augmentation.model_dump(mode="json"),
            "mixing": spec.mixing,
            "n_random": spec.n_random,
            "seed": SHARED_SEED,
            "dtype": dtype,
            "precision": self._precision,
            # Another machine or version rounds differently.
            "environment": environment_of(self.run, spec, ALONE),
            "versions": versions(),
            "code": _digest_of_code(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _unusable(failure: OSError) -> str:
    return f"this worker's folder of cached teachers can't be used: {failure}"


def _digest_of(network: SectionedNetwork) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest_of_code() -> str:
    """Checkouts with other code may have the same version."""
    root, digest = Path(seeding.__file__).parent, hashlib.sha256(Path(seeding.__file__).read_bytes())
    for path in sorted(path for folder in CODE for path in (root / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
