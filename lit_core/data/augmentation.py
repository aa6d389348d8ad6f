"""Augmentation by batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_core.spec import Augmentation


def augment(x: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Shift and mirror each image (B, C, H, W) of a preprocessed batch by its own draw, on x's device.

    Zeros move in. They are zeros *after* preprocessing, so the border has the data's mean colour, not black.
    `generator` must live on the CPU: the draws are then the same whatever the device.
    """
    batch, _, height, width = x.shape
    shift = augmentation.shift
    if not shift and not augmentation.flip:
        return x
    rows = torch.arange(height).expand(batch, height)
    columns = torch.arange(width).expand(batch, width)
    if shift:
        down, right = torch.randint(0, 2 * shift + 1, (2, batch, 1), generator=generator)
        rows = rows + down
        columns = columns + right
        x = F.pad(x, (shift, shift, shift, shift))
    if augmentation.flip:
        mirrored = torch.randint(0, 2, (batch, 1), generator=generator).bool()
        columns = torch.where(mirrored, columns.flip(1), columns)
    images = torch.arange(batch)[:, None, None]
    index = [part.to(x.device, non_blocking=True) for part in (images, rows[:, :, None], columns[:, None, :])]
    # The indexed dimensions come first: (B, H, W, C).
    return x.permute(0, 2, 3, 1)[tuple(index)].permute(0, 3, 1, 2).contiguous()
