"""Scores of a generator's images, with feature networks so small that the numbers are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_core.measuring.gan_scores import distribution_scores, load_feature_network


class Means(nn.Module):
    """The mean of each channel: (B, 3, H, W) uint8 to (B, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean(dim=(2, 3))


class Brightest(nn.Module):
    """Logits that are certain of the channel that is the brightest."""

    def forward(self, x: Tensor) -> Tensor:
        return 100 * x.float().mean(dim=(2, 3))


def images(count: int = 60, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)


def coloured(channels: list[int]) -> Tensor:
    made = torch.zeros(len(channels), 3, 4, 4, dtype=torch.uint8)
    made[torch.arange(len(channels)), torch.tensor(channels)] = 255
    return made


def test_the_same_images_are_at_no_distance() -> None:
    x = images()
    assert distribution_scores([x], [x.flip(0)], Means())["fid"] == pytest.approx(0, abs=1e-6)


def test_a_shift_is_at_the_square_of_its_length() -> None:
    x = images()
    shifted = x + torch.tensor([3, 0, 4], dtype=torch.uint8)[:, None, None]
    assert distribution_scores(x.split(7), shifted.split(25), Means())["fid"] == pytest.approx(25, abs=1e-5)


def test_the_distance_is_that_of_two_gaussians() -> None:
    """‖μ - ν‖² + tr(Σ + T - 2 (ΣT)^½), with features whose covariances are diagonal to the eye."""
    x, y = images(400), images(400, seed=1)
    y[:, 1] //= 2
    found = distribution_scores([x], [y], Means())["fid"]
    a, b = (Means()(z).double() for z in (x, y))
    roots = torch.linalg.eigvals(a.T.cov() @ b.T.cov()).sqrt().real.sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (a.T.cov() + b.T.cov()).trace() - 2 * roots
    assert found == pytest.approx(float(expected), rel=1e-6)
    assert found > 1


def test_certain_and_even_answers_have_the_greatest_inception_score() -> None:
    even = distribution_scores([images()], [coloured([0, 1, 2] * 200)], Brightest())["inception_score"]
    assert even == pytest.approx(3, rel=0.05)
    one = distribution_scores([images()], [coloured([1] * 60)], Brightest())["inception_score"]
    assert one == pytest.approx(1)


def test_scores_are_the_same_again_and_leave_the_generator_alone() -> None:
    x, y = images(), images(seed=1)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = distribution_scores([x], [y], Means())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert distribution_scores([x], [y], Means()) == first


def test_every_image_goes_through_the_network_once() -> None:
    seen = 0

    class Counting(Means):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal seen
            seen += len(x)
            return super().forward(x)

    def batches() -> Iterator[Tensor]:
        yield from images().split(8)

    distribution_scores(batches(), batches(), Counting())
    assert seen == 120


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([images().float()], "of torch.float32: give (B, 3, H, W) of uint8"),
        ([images()[:, :1]], "made has a batch (60, 1, 4, 4)"),
        ([images()[:1]], "made has 1 images"),
        ([], "made has 0 images"),
    ],
)
def test_other_images_are_named(made: list[Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        distribution_scores([images()], made, Means())
    assert said in str(caught.value)


def test_other_features_are_named() -> None:
    with pytest.raises(ValueError, match=r"it must give \(B, D\)"):
        distribution_scores([images()], [images()], nn.Identity())

    class Infinite(Means):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 0

    with pytest.raises(ValueError, match="not finite"):
        distribution_scores([images()], [images()], Infinite())


@pytest.mark.parametrize("name", ["features.pt", "features.pt2"])
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_the_network_comes_from_a_file(tmp_path: Path, name: str) -> None:
    path, x = tmp_path / name, images()
    if path.suffix == ".pt2":
        batch = torch.export.Dim("batch")
        torch.export.save(torch.export.export(Means(), (x,), dynamic_shapes=({0: batch},)), path)
    else:
        torch.jit.script(Means()).save(path)
    loaded = load_feature_network(path)
    assert torch.equal(loaded(x[:5]), Means()(x[:5]))
    assert distribution_scores([x], [images(seed=1)], loaded) == distribution_scores([x], [images(seed=1)], Means())


@pytest.mark.parametrize("name", ["features.pt", "features.pt2"])
def test_a_file_that_is_no_network_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(ValueError, match=name):
        load_feature_network(path)
    path.write_bytes(b"weights")
    with pytest.raises(ValueError, match=name):
        load_feature_network(path)
