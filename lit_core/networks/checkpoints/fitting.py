"""Which tensors of a checkpoint are those of a network that is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.networks.checkpoints.files import TeacherError
from lit_core.networks.checkpoints.renamed import with_own_names
from lit_core.networks.checkpoints.reparametrised import folded
from lit_core.networks.checkpoints.students import AS_DOWNLOADED, made_of
from lit_core.networks.checkpoints.wrappers import AVERAGED, StateDict, cleaned, prefixes, state_dicts, under
from lit_core.networks.families import Recognised, Shapes, Unrecognised, recognise
from lit_core.networks.families.library import as_shapes, blank
from lit_core.networks.families.shapes import listed, misfits
from lit_spec import LibraryRequest, SpecError, TeacherWeights
from lit_spec.networks.teacher_files import TENSORS, too_many_tensors

MOST_TRIED, NAMES_COMPARED = 8, 24
"""Prefixes with which the tensors of a library's network are tried, and how many names they are found by."""
FEW = 3
"""Names that are listed one by one although they begin alike."""


@dataclass(frozen=True)
class Candidate:
    """Tensors that may be those of a network."""

    place: StateDict
    prefix: str
    tensors: Mapping[str, Tensor]
    """With the names that they have in the network."""
    steps: Sequence[str]
    """What was done with all of the place's tensors."""
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    """The place's other tensors."""
    renamed: Sequence[str] = ()
    """What was done with names after the prefix was removed."""

    @property
    def name(self) -> str:
        """The keys and the prefix that lead to the tensors."""
        return ".".join(part for part in (self.place.path, self.prefix.removesuffix(".")) if part) or "the file itself"

    @property
    def shapes(self) -> Shapes:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def without(self, inside: Sequence[str]) -> Candidate:
        """Those that have none of these longer prefixes."""
        left = {name: t for name, t in self.tensors.items() if not f"{self.prefix}{name}".startswith(tuple(inside))}
        others = {f"{self.prefix}{name}": t for name, t in self.tensors.items() if name not in left}
        return replace(self, tensors=left, beside={**self.beside, **others})


@dataclass(frozen=True)
class Fit:
    """Tensors that are those of a network."""

    candidate: Candidate
    recognised: Recognised
    is_averaged: bool
    """Whether they are a moving average over the training."""


class Search:
    """What fits in a checkpoint, and the failure that is nearest to a fit.

    Looks for the library's network that is requested, or for a student of one that the file says to be; without these,
    for a network of a family of our own. Raises TeacherError for tensors that can't be read, and SpecError as
    `recognise`.
    """

    def __init__(self, loaded: Any, request: LibraryRequest | None, student: Recognised | None = None) -> None:
        self.request = request
        self.student = student
        self.network = None if request is None else blank(request)
        if student is not None:
            self.network = as_shapes(lambda: student.family.build(student.architecture))
        self.fits: list[Fit] = []
        self.tried: list[Candidate] = []
        self.failure: Unrecognised | None = None
        self.nearest: Candidate | None = None
        self._known: dict[tuple[Any, ...], Recognised | Unrecognised] = {}
        problems: list[str] = []
        for place in _places(loaded):
            try:
                self.fits += self._in(place)
            except SpecError:
                raise
            except ValueError as failure:
                problems.append(str(failure))
        if problems and not self.fits:
            raise TeacherError(f"the state dict can't be read: {problems[0]}")

    def _in(self, place: StateDict) -> list[Fit]:
        """Raises ValueError for tensors that can't be read."""
        found: dict[str, tuple[Candidate, Recognised]] = {}
        failed: list[Candidate] = []
        for candidate in _candidates(place, self.network):
            # A part of a network that fits is none of its own.
            if candidate.prefix.startswith(tuple(found)):
                continue
            fit = self._tried(candidate)
            if fit is None:
                failed.append(candidate)
            else:
                found[candidate.prefix] = fit
        for candidate in failed:
            # Two networks may be stored so that only one of them has a prefix.
            inside = [prefix for prefix in found if prefix.startswith(candidate.prefix)]
            rest = candidate.without(inside)
            if inside and rest.tensors and (fit := self._tried(rest)) is not None:
                found[candidate.prefix] = fit
        return _fits(place, list(found.values()))

    def _tried(self, candidate: Candidate) -> tuple[Candidate, Recognised] | None:
        self.tried.append(candidate)
        try:
            named = self._with_own_names(candidate)
            return named, self._recognised(named.shapes)
        except Unrecognised as failure:
            if self.failure is None or failure.count < self.failure.count:
                self.failure, self.nearest = failure, candidate
            return None

    def _recognised(self, shapes: Shapes) -> Recognised:
        """Raw and averaged weights have the same shapes, and a library's network takes long to recognise."""
        key = tuple(shapes.items())
        if key not in self._known:
            try:
                self._known[key] = self._recognise(shapes)
            except Unrecognised as failure:
                self._known[key] = failure
        known = self._known[key]
        if isinstance(known, Unrecognised):
            raise known
        return known

    def _recognise(self, shapes: Shapes) -> Recognised:
        if self.student is None or self.network is None:
            return recognise(shapes, self.request)
        misfits(
            shapes, self.network, f"the {made_of(self.student.architecture)} that its file says it is", AS_DOWNLOADED
        )
        return self.student

    def _with_own_names(self, candidate: Candidate) -> Candidate:
        """Named as in the requested network. Raises Unrecognised."""
        if self.request is None or self.network is None:
            return candidate
        what, by_order = f"{self.request.library.value}'s {self.request.name}", self.request.rename is not None
        renamed = with_own_names(self.network, candidate.tensors, candidate.beside, what, by_order=by_order)
        beside = {name: tensor for name, tensor in candidate.beside.items() if name not in renamed.taken}
        return replace(candidate, tensors=renamed.tensors, renamed=renamed.steps, beside=beside)


def _fits(place: StateDict, found: list[tuple[Candidate, Recognised]]) -> list[Fit]:
    named = [bool(AVERAGED.search(candidate.prefix)) for candidate, _ in found]
    # A counter of averages beside the tensors tells of all, unless a prefix tells which.
    all_averaged = place.is_averaged and not any(named)
    return [
        Fit(candidate, recognised, averaged or all_averaged)
        for (candidate, recognised), averaged in zip(found, named, strict=True)
    ]


def _places(loaded: Any) -> list[StateDict]:
    try:
        places = state_dicts(loaded)
    except ValueError as failure:
        raise TeacherError(f"the pickled module can't be read: {failure}") from failure
    if places and len(places[0].tensors) > TENSORS:
        raise TeacherError(too_many_tensors(len(places[0].tensors)))
    return places


def _candidates(place: StateDict, network: nn.Module | None) -> Iterator[Candidate]:
    """The place's tensors with each prefix that may be that of a network, short ones first. Raises ValueError for
    tensors that can't be read."""
    clean = cleaned(place.tensors)
    tensors, folds = folded(clean.tensors)
    if network is None:
        likely = prefixes(tensors)
    else:
        likely = islice(_prefixes_for(list(network.state_dict()), tensors), MOST_TRIED)
    for prefix in likely:
        beside = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
        yield Candidate(place, prefix, under(prefix, tensors), [*clean.steps, *folds], beside)


def _prefixes_for(wanted: Sequence[str], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Prefixes with which most of the wanted names are there, and the empty one where there are none such."""
    some = wanted[:: max(1, len(wanted) // NAMES_COMPARED)]
    counts: dict[str, int] = {}
    for name in some:
        for found in tensors:
            if found == name or found.endswith(f".{name}"):
                prefix = found[: len(found) - len(name)]
                counts[prefix] = counts.get(prefix, 0) + 1
    likely = {prefix: count for prefix, count in counts.items() if 2 * count > len(some)}
    yield from sorted(likely, key=len) or [""]


# --- which of several ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The weights that are taken."""

    fit: Fit
    choices: Sequence[TeacherWeights]
    """Which weights the checkpoint has."""
    steps: Sequence[str]
    """What was done to find them."""

    @property
    def weights(self) -> TeacherWeights:
        return _weights_of(self.fit)


def choose(fits: Sequence[Fit], asked: TeacherWeights | None = None) -> Choice:
    """The weights to take. Without `asked`: the raw ones, or the averaged ones where there are no others.

    Raises TeacherError where several networks fit as well, and where there are no such weights.
    """
    found = {weights: _different([fit for fit in fits if _weights_of(fit) is weights]) for weights in TeacherWeights}
    choices = [weights for weights, fitting in found.items() if fitting]
    if asked is not None and asked not in choices:
        raise _no_such_weights(asked)
    taken = asked or choices[0]
    fitting = found[taken]
    if len(fitting) > 1:
        names = listed([f"{fit.candidate.name} ({_told(fit)})" for fit in fitting])
        raise TeacherError(f"the file has the weights of several networks: {names}. Save the state dict of one of them")
    [chosen] = fitting
    steps = _steps(chosen.candidate)
    if len(choices) > 1:
        steps.append(_taken(taken, *(found[other] for other in choices if other is not taken)))
    elif taken is TeacherWeights.EMA:
        steps.append("these weights are averaged over the training, and there are no raw ones")
    return Choice(chosen, choices, steps)


def _weights_of(fit: Fit) -> TeacherWeights:
    return TeacherWeights.EMA if fit.is_averaged else TeacherWeights.RAW


def _no_such_weights(asked: TeacherWeights) -> TeacherError:
    averaged, raw = "that are averaged over the training", "raw ones"
    only = f"only weights {averaged}" if asked is TeacherWeights.RAW else f"no weights {averaged}, only {raw}"
    wanted = raw if asked is TeacherWeights.RAW else "averaged ones"
    return TeacherError(
        f"teacher_weights is {asked.value}, but the file has {only}: leave teacher_weights out to use these, or give a "
        f"file with {wanted}",
        "teacher_weights",
    )


def _taken(taken: TeacherWeights, others: Sequence[Fit]) -> str:
    names = listed([fit.candidate.name for fit in others])
    if taken is TeacherWeights.RAW:
        return f"raw weights taken, and not those that are averaged over the training: {names}"
    return f"weights taken that are averaged over the training, and not the raw ones: {names}"


def _different(fits: Sequence[Fit]) -> list[Fit]:
    """Without those that have the same values as an earlier one."""
    found: list[Fit] = []
    for fit in fits:
        if not any(_same(fit.candidate.tensors, other.candidate.tensors) for other in found):
            found.append(fit)
    return found


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _told(fit: Fit) -> str:
    architecture = fit.recognised.architecture
    name = architecture.network.name if architecture.network is not None else architecture.family
    return f"{name} of {sum(architecture.blocks)} blocks"


def _steps(candidate: Candidate) -> list[str]:
    place = candidate.place
    steps = ["read from a pickled module, without its code"] if place.is_module else []
    steps += [f"the tensors are those of {place.path}"] if place.path else []
    steps += candidate.steps
    steps += [f"the prefix {candidate.prefix} removed from the names"] if candidate.prefix else []
    steps += [f"left out: {listed(_grouped(list(candidate.beside)))}"] if candidate.beside else []
    return [*steps, *candidate.renamed]


def _grouped(names: Sequence[str]) -> list[str]:
    """With one entry for the names that share their first part, if these are more than a few."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    return [
        entry
        for own in groups.values()
        for entry in (own if len(own) <= FEW else [f"{len(own)} tensors under {_shared(own)}"])
    ]


def _shared(names: Sequence[str]) -> str:
    """The parts with which all of the names begin."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts))
