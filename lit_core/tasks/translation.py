"""Generators that translate images into other domains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lit_core.data import Dataset, DatasetError, ImagePreprocessing, augment
from lit_core.data.pixel_changes import change_pixels, crop_source
from lit_core.data.store.rows import expect
from lit_core.data.views import SampleViews, ViewPlan
from lit_core.measuring import fidelity
from lit_core.measuring.cost import count_parameters
from lit_core.measuring.gan_scores import distribution_scores
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.adversarial import AdversarialUpdater
from lit_core.training.batch import Batch
from lit_core.training.checkpoint import BestEpoch
from lit_core.training.losses import IR_LOSSES
from lit_core.training.outcome import NOT_COMPARABLE, Judgement, Score, judged_by
from lit_core.training.task import Scores
from lit_core.training.updaters import Updater, distillation_updater, frozen_parts
from lit_spec import Adversarial, Hyperparameters, JobSpec, Phase, SpecError, Split
from lit_spec.trainer.folder import PICTURE_FILE
from lit_spec.trainer.report import CachePlan, Comparison, Measures

EVALUATION_BATCH = 64
PICTURED, GAP = 8, 2
"""Images and the white pixels between them."""
LEAST_SIDE, SIDE_MULTIPLE = 8, 4


class Translation:
    """Trains a student to translate images as its teacher does."""

    selection = "psnr"
    held_out, previews = True, False

    def __init__(
        self,
        spec: JobSpec,
        teacher: SectionedNetwork,
        student: SectionedNetwork,
        dataset: Dataset,
        device: torch.device,
        *,
        discriminator: nn.Module | None,
        feature: nn.Module | None = None,
    ) -> None:
        """With a discriminator, fine-tuning is adversarial; without one there is no fine-tuning. With a feature network
        the translations of the test split are compared with its images as distributions.

        Raises DatasetError when one of the networks can't take images of this size.
        """
        _check_images(spec, dataset)
        self.spec, self.teacher, self.student, self.dataset, self.device = spec, teacher, student, dataset, device
        self.discriminator, self.feature = discriminator, feature
        self.train = dataset.splits[Split.TRAIN]
        self.samples = len(self.train.y)
        self.views = ViewPlan(spec.seed)
        self.cache_plan: CachePlan | None = None
        self.exclusive = are_exclusive(torch.cat([arrays.y for arrays in dataset.splits.values()]))
        self.ir_loss = IR_LOSSES[spec.ir_loss]

    def check(self) -> dict[str, Any]:
        measured = self.measure(self.teacher.network, Split.VALIDATION)
        return {"split": Split.VALIDATION.value, **measured, "domains": self._domains()}

    def teacher_accuracy(self) -> None:
        """Generators have none."""

    def supersedes(self, phase: Phase) -> bool:
        """Adversarial fine-tuning moves away from the teacher's output, so closeness to it can't choose the epoch."""
        return phase == Phase.FINE_TUNE

    def updater(self, phase: Phase, hyperparameters: Hyperparameters) -> Updater:
        schedule = hyperparameters.schedule
        if phase == Phase.LIT or self.discriminator is None:
            return distillation_updater(hyperparameters, phase, self.teacher, self.student, masks={})
        weights, frozen = self.spec.adversarial or Adversarial(), frozen_parts(schedule.of(phase))
        return AdversarialUpdater(
            self.student, self.discriminator, weights, schedule, frozen=frozen, exclusive=self.exclusive
        )

    def teacher_cache(self) -> None:
        """The target domains are drawn for each batch, so that nothing can be kept."""

    def divergence(self) -> float:
        """The mean absolute difference between the two generators' images."""
        measured = self.measure(self.student.network, Split.VALIDATION)
        return float(measured["l1"])

    def prune(self, share: float) -> None:
        """Raises SpecError: a pruned student is fine-tuned by KD, which generators do not have."""
        raise SpecError("then", f"prune:{share:g} is for classifiers, but the teacher is a generator: leave it out")

    def batch(self, samples: SampleViews, progress: float, generator: torch.Generator) -> Batch:
        """Each image gets the domains of an image of the batch as its target, drawn without repetition."""
        raw = change_pixels(crop_source(self.train)[samples.rows].to(self.device), self.dataset, samples)
        x = augment(self.dataset.preprocessing.apply(raw), self.dataset.augmentation, samples)
        own = self.train.y[samples.rows]
        target = own[torch.randperm(len(samples), generator=generator)]
        return Batch((x, target.to(self.device)), own.to(self.device), progress, generator)

    def expect(self, rows: Tensor) -> None:
        expect(crop_source(self.train), rows)

    def rewind(self) -> None:
        """The rows of a batch are its order."""

    def preview(self) -> Scores:
        return self.score()

    @torch.no_grad()
    def score(self) -> Scores:
        """Compare with the teacher; each image is translated into one other domain, the same in every epoch."""
        (section,) = self.student.sections
        found = []
        for x, _, target in self._batches(Split.VALIDATION):
            taught = self.teacher.trace(x, target)
            made = self.student.network(x, target)
            ir = self.ir_loss(section(taught.inputs[0]), taught.outputs[0])
            per_image = (fidelity.psnr(made, taught.output), fidelity.l1(made, taught.output), ir.expand(len(x)))
            found.append(torch.stack([values.double() for values in per_image]))
        psnr, l1, ir_loss = torch.cat(found, dim=1).mean(dim=1).tolist()
        return Scores(psnr, {"psnr": psnr, "l1": l1, "validation_ir_loss": ir_loss})

    @torch.no_grad()
    def measure(self, network: nn.Module, split: Split) -> dict[str, Any]:
        """`reconstruction_l1` between images and their translations back. Of the student also `psnr`, `ssim` and `l1`
        against the teacher's output. With a feature network also `fid` and `inception_score` on the test split."""
        is_teacher = network is self.teacher.network
        names = ("reconstruction_l1",) if is_teacher else ("reconstruction_l1", "psnr", "ssim", "l1")
        found = []
        for x, own, target in self._batches(split):
            made = network(x, target)
            per_image = [fidelity.l1(network(made, own), x)]
            if not is_teacher:
                wanted = self.teacher.network(x, target)
                per_image += [compare(made, wanted) for compare in (fidelity.psnr, fidelity.ssim, fidelity.l1)]
            found.append(torch.stack([values.double() for values in per_image]))
        measured = dict(zip(names, torch.cat(found, dim=1).mean(dim=1).tolist(), strict=True))
        return measured | self._distribution(network, split)

    def _distribution(self, network: nn.Module, split: Split) -> dict[str, float | None]:
        preprocessing = self.dataset.preprocessing
        if self.feature is None or not isinstance(preprocessing, ImagePreprocessing):
            return {}
        images = len(self.dataset.splits[split].y)
        # A distribution needs two images.
        if split != Split.TEST or images < 2 or preprocessing.channels not in (1, 3):
            return {"fid": None, "inception_score": None}
        real = (_as_rgb(preprocessing.to_pixels(x)) for x, _, _ in self._batches(split))
        made = (_as_rgb(preprocessing.to_pixels(network(x, target))) for x, _, target in self._batches(split))
        return {**distribution_scores(real, made, self.feature)}

    def compare(self, teacher: Measures, student: Measures) -> Comparison:  # noqa: ARG002
        accept, psnr = self.spec.accept, student.score("psnr", Split.TEST)
        return Comparison(
            accepted=None if accept is None or accept.min_psnr is None or psnr is None else psnr >= accept.min_psnr,
            fine_tuning=self._fine_tuning(),
            domains=self._domains(),
            notes=list(self.dataset.notes),
        )

    def judge(self, teacher: Measures, student: Measures, untrained: Measures, best: BestEpoch) -> Judgement:  # noqa: ARG002
        """By the PSNR against the teacher, from which adversarial fine-tuning moves away."""
        trained, before = student.score("psnr", Split.TEST), untrained.score("psnr", Split.TEST)
        if trained is None or before is None or self.supersedes(best.phase):
            return NOT_COMPARABLE
        return judged_by(Score("PSNR to the teacher", "dB", Split.TEST, fidelity.MOST_PSNR, trained, before), best)

    def parameters(self, network: SectionedNetwork) -> int:
        return count_parameters(network.network)

    def sample(self, batch: int) -> tuple[Tensor, ...]:
        x = self.dataset.preprocessing.sample(batch).to(self.device)
        return x, torch.zeros(batch, len(self.dataset.classes), device=self.device)

    def batches(self, split: Split) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        for x, own, target in self._batches(split):
            yield (x, target), own

    @torch.no_grad()
    def write_pictures(self, folder: Path) -> None:
        """`translations.png`: a column for each of some test images. From the top: the image, then for each domain the
        teacher's translation and under it the student's. No file where images are neither grey nor RGB.

        Where the domains are attributes, a domain's translation is the image with that attribute flipped.
        """
        preprocessing = self.dataset.preprocessing
        if not isinstance(preprocessing, ImagePreprocessing) or preprocessing.channels not in (1, 3):
            return
        arrays = self.dataset.splits[Split.TEST]
        count = min(PICTURED, len(arrays.y))
        # Spread out, because images often lie sorted by their domains.
        shown = torch.arange(count) * len(arrays.y) // count
        x, own = preprocessing.apply(arrays.x[shown].to(self.device)), arrays.y[shown].to(self.device)
        rows = [x]
        for domain in range(own.shape[1]):
            target = into_domains(own, torch.full((len(own),), domain, device=self.device), exclusive=self.exclusive)
            rows += [network.network(x, target) for network in (self.teacher, self.student)]
        _tiled([preprocessing.to_images(row) for row in rows]).save(folder / PICTURE_FILE)

    def _batches(self, split: Split) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images, their own domains and a target, in the data's order."""
        arrays = self.dataset.splits[split]
        targets = fixed_targets(arrays.y, exclusive=self.exclusive)
        for start in range(0, len(arrays.y), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            x = self.dataset.preprocessing.apply(arrays.x[part].to(self.device))
            yield x, arrays.y[part].to(self.device), targets[part].to(self.device)

    def _fine_tuning(self) -> str:
        if self.discriminator is None:
            return "adversarial fine-tuning left out: no discriminator was given"
        if self.spec.schedule.fine_tune.epochs == 0:
            return "adversarial fine-tuning left out: schedule.fine_tune.epochs is 0"
        return "adversarial"

    def _domains(self) -> Literal["exclusive", "attributes"]:
        return "exclusive" if self.exclusive else "attributes"


def are_exclusive(domains: Tensor) -> bool:
    """Whether each sample (N, D) is in exactly one of several domains."""
    return domains.shape[1] > 1 and bool((domains.sum(dim=1) == 1).all())


def fixed_targets(own: Tensor, *, exclusive: bool) -> Tensor:
    """A target (N, D) for each sample with domains (N, D); it depends on the row number only."""
    row = torch.arange(len(own))
    count = own.shape[1]
    chosen = (own.argmax(dim=1) + 1 + row % (count - 1)) % count if exclusive else row % count
    return into_domains(own, chosen, exclusive=exclusive)


def into_domains(own: Tensor, chosen: Tensor, *, exclusive: bool) -> Tensor:
    """The targets (N, D) of a translation into domain `chosen` (N,): that domain only if domains are exclusive, else
    the sample's own attributes with the chosen one flipped."""
    only = F.one_hot(chosen, own.shape[1]).to(own.dtype)
    return only if exclusive else (own - only).abs()


def _as_rgb(pixels: Tensor) -> Tensor:
    return pixels.expand(-1, 3, -1, -1)


def _check_images(spec: JobSpec, dataset: Dataset) -> None:
    height, width = dataset.splits[Split.TRAIN].x.shape[2:]
    if any(side % SIDE_MULTIPLE or side < LEAST_SIDE for side in (height, width)):
        raise DatasetError(
            f"the images have {height}x{width} pixels, but a generator needs sides of at least {LEAST_SIDE} pixels "
            f"that are multiples of {SIDE_MULTIPLE}: set dataset.size",
            field="dataset.size",
        )
    if spec.discriminator is None:
        return
    side = int(spec.discriminator.architecture.options["image_size"])
    if (height, width) != (side, side):
        raise DatasetError(
            f"the images have {height}x{width} pixels, but the discriminator takes {side}x{side}: set dataset.size to "
            f"[{side}, {side}]",
            field="dataset.size",
        )


def _tiled(rows: list[list[Image.Image]]) -> Image.Image:
    width, height = (side + GAP for side in rows[0][0].size)
    sheet = Image.new(rows[0][0].mode, (width * len(rows[0]) - GAP, height * len(rows) - GAP), "white")
    for down, row in enumerate(rows):
        for right, image in enumerate(row):
            sheet.paste(image, (width * right, height * down))
    return sheet
