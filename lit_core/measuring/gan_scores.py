"""How close a generator's images are to real ones, measured with a feature network."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_core.seeding import seeded

EXPORTED = ".pt2"
LEAST_LOGARITHM = -700.0


def load_feature_network(path: Path) -> nn.Module:
    """The operator's feature network, from a file of torch.export (.pt2) or TorchScript (any other name), on the CPU.

    It maps images (B, 3, H, W) uint8 to features (B, D). The file is code and is trusted. Raises ValueError if it can't
    be read.
    """
    try:
        if path.suffix == EXPORTED:
            return torch.export.load(path).module()
        network: nn.Module = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
        return network
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as failure:
        detail = f"{path} is not a feature network: give a file of torch.export (named *.pt2) or of TorchScript"
        raise ValueError(detail) from failure


def distribution_scores(real: Iterable[Tensor], made: Iterable[Tensor], feature: nn.Module) -> dict[str, float]:
    """Fréchet distance ("fid") and Inception Score ("inception_score") of generated images.

    `real` and `made` are batches (B, 3, H, W) uint8; `feature` maps such a batch to features (B, D). The Fréchet
    distance (Heusel et al., NeurIPS 2017, eq. 6) compares their means and covariances. The Inception Score (Salimans
    et al., NeurIPS 2016, section 4) takes them for logits, in ten parts drawn with a fixed seed, and is
    meaningful only if they are. The numbers are comparable with published ones only with the same feature network.

    Raises ValueError for images or features of another kind, and for fewer than 2 images on either side.
    """
    # Here, because they take seconds to import and few jobs have a feature network.
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore

    real_features, made_features = _features(real, feature, "real"), _features(made, feature, "made")
    distance = FrechetInceptionDistance(feature=_PrecomputedFeatures(made_features.shape[1]))
    distance.update(real_features, real=True)
    distance.update(made_features, real=False)
    score = InceptionScore(feature=_PrecomputedFeatures(made_features.shape[1]))
    # The softmax of log-probabilities is the same. No probability may be 0 in float64, which would give NaN.
    score.update(made_features.log_softmax(dim=1).clamp(min=LEAST_LOGARITHM))
    with seeded(0):
        mean, _ = score.compute()
    return {"fid": float(distance.compute()), "inception_score": float(mean)}


class _PrecomputedFeatures(nn.Identity):
    """Replaces torchmetrics' own network: its inputs are features already, so that each image is processed once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


@torch.no_grad()
def _features(images: Iterable[Tensor], feature: nn.Module, name: str) -> Tensor:
    """Of all images, (N, D) float64 on the CPU."""
    device = _device(feature)
    found = [_checked(feature(batch.to(device)), batch) for batch in _batches(images, name)]
    count = sum(len(features) for features in found)
    if count < 2:
        raise ValueError(f"{name} has {count} images: a distribution needs at least 2")
    return torch.cat(found)


def _batches(images: Iterable[Tensor], name: str) -> Iterator[Tensor]:
    for batch in images:
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[1] != 3:
            raise ValueError(f"{name} has a batch {tuple(batch.shape)} of {batch.dtype}: give (B, 3, H, W) of uint8")
        yield batch


def _checked(features: Tensor, batch: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) != len(batch):
        raise ValueError(
            f"the feature network maps {tuple(batch.shape)} to {tuple(features.shape)}: it must give (B, D)"
        )
    if not bool(torch.isfinite(features).all()):
        raise ValueError("the feature network gives numbers that are not finite")
    return features.double().cpu()


def _device(network: nn.Module) -> torch.device:
    return next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))
