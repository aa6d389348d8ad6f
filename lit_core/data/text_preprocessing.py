"""How texts become a network's input: as vocabulary indices of their characters, cut or padded to one length.

As in the reference, index 0 is padding, index 1 is the unknown character, and the vocabulary follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lit_spec import DatasetRequest, SpecModel
from lit_spec.requests.dataset import VDCNN_VOCABULARY

PADDING, UNKNOWN, OFFSET = 0, 1, 2


class TextPreprocessing(SpecModel):
    """Every value explicit."""

    kind: Literal["text"] = "text"
    length: int
    """Number of characters to which a text is cut or padded."""
    vocabulary: str
    lowercase: bool
    class_order: list[str]
    """The classes in the order of the network's outputs."""

    def apply(self, x: Tensor) -> Tensor:
        """Vocabulary indices (B, L) of any integer type to the network's input, int64. Raises ValueError."""
        if x.ndim != 2 or x.shape[1] != self.length:
            raise ValueError(f"x has the shape {tuple(x.shape)}, not (B, {self.length})")
        return x.to(torch.int64)

    def from_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts as vocabulary indices (N, L), for `apply`."""
        rows = np.full((len(texts), self.length), PADDING, dtype=self._dtype())
        table = {ord(character): place for place, character in enumerate(self.vocabulary, start=OFFSET)}
        for row, text in zip(rows, texts, strict=True):
            cut = (text.lower() if self.lowercase else text)[: self.length]
            row[: len(cut)] = [table.get(ord(character), UNKNOWN) for character in cut]
        return torch.from_numpy(rows)

    def sample(self, batch: int) -> Tensor:
        """An input (B, L) of padding, for counting FLOPs and measuring latency."""
        return torch.zeros(batch, self.length, dtype=torch.int64)

    def random(self, batch: int, generator: torch.Generator) -> Tensor:
        """Inputs of characters drawn uniformly from the vocabulary."""
        top = OFFSET + len(self.vocabulary)
        return torch.randint(OFFSET, top, (batch, self.length), generator=generator)

    def _dtype(self) -> type[np.uint8] | type[np.int16]:
        return np.uint8 if len(self.vocabulary) + OFFSET <= 256 else np.int16


def resolve_text_preprocessing(request: DatasetRequest, class_order: list[str]) -> TextPreprocessing:
    """Fill in the values that the request does not set."""
    return TextPreprocessing(
        length=request.length,
        vocabulary=VDCNN_VOCABULARY if request.vocabulary is None else request.vocabulary,
        lowercase=request.lowercase,
        class_order=class_order,
    )
