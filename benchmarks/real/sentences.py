"""Sentences of reviews and editorials, as training and test samples of sentence encoders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evidence.data import AMAZON, SNIPPETS_PACKAGE, snippet_file
from benchmarks.real.data import Batches, Draw, Inputs, shuffled_rows
from lit_core.seeding import generator_of

FILES = (AMAZON, "movieReviewSnippets_GroundTruth.txt", "nytEditorialSnippets_GroundTruth.txt")
CHARACTERS = range(20, 301)
TOKENS = 32
"""The longest sentences are cut there."""
TEST_SENTENCES, VALIDATION_SENTENCES = 500, 300


VERSION = f"{SNIPPETS_PACKAGE} {CHARACTERS} {TOKENS} {TEST_SENTENCES} {VALIDATION_SENTENCES}"
"""Changes with everything that decides which samples there are."""


class Sentences:
    """Data of sentence encoders: token ids (B, L) and masks (B, L), L tokens of the longest sentence of a batch."""

    def __init__(self, ids: Tensor, mask: Tensor, test: int, validation: int) -> None:
        """The first ones are for the test, the next for validation."""
        self._ids, self._mask = ids, mask
        self._test, self._validation = test, validation

    def training(self, draw: Draw) -> Batches:
        first = self._test + (self._validation if draw.tuning else 0)
        generator = generator_of("training", draw.seed)
        rows = first + torch.randperm(len(self._ids) - first, generator=generator)[: draw.samples]
        return SentenceBatches(self._ids[rows], self._mask[rows], draw)

    def measured(self, *, tuning: bool) -> Inputs:
        rows = slice(self._test, self._test + self._validation) if tuning else slice(self._test)
        return self._ids[rows], self._mask[rows]

    def counts(self) -> dict[str, int]:
        return {"training sentences": len(self._ids) - self._test, "test sentences": self._test}


class SentenceBatches:
    def __init__(self, ids: Tensor, mask: Tensor, draw: Draw) -> None:
        self._ids, self._mask, self._draw = ids, mask, draw

    def __len__(self) -> int:
        return self._draw.steps

    def __iter__(self) -> Iterator[tuple[Inputs]]:
        generator = generator_of("batches", self._draw.seed)
        for rows in shuffled_rows(len(self._ids), self._draw, generator):
            mask = self._mask[rows]
            longest = int(mask.sum(1).max())
            yield ((self._ids[rows, :longest], mask[:, :longest]),)


def load_sentences(cache: Path, tokenizer: Any) -> Sentences:
    """Raises FetchFailed. `tokenizer` is one of transformers."""
    lines = [(name, line) for name in FILES for line in snippet_file(name, cache).splitlines()]
    texts = in_order(reviews_of(lines), (TEST_SENTENCES, VALIDATION_SENTENCES))
    found = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    return Sentences(found["input_ids"], found["attention_mask"], TEST_SENTENCES, VALIDATION_SENTENCES)


def reviews_of(lines: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The different sentences of each review, in a random order of the reviews. `lines` are (file, line)."""
    by_review: dict[tuple[str, str], list[str]] = {}
    seen: set[str] = set()
    for name, line in lines:
        number, _, text = line.split("\t")
        text = text.strip()
        if len(text) in CHARACTERS and text not in seen:
            seen.add(text)
            by_review.setdefault((name, number.partition("_")[0]), []).append(text)
    reviews = list(by_review.values())
    return [reviews[place] for place in torch.randperm(len(reviews), generator=generator_of("reviews")).tolist()]


def in_order(reviews: Sequence[Sequence[str]], sizes: Sequence[int]) -> list[str]:
    """First parts of these sizes, then the rest. A review that is longer than what its part still takes is cut short,
    so that no review is in two parts."""
    texts: list[str] = []
    ends = list(accumulate(sizes))
    for review in reviews:
        room = next((end - len(texts) for end in ends if end > len(texts)), len(review))
        texts += review[:room]
    return texts
