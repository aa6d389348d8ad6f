"""Finding the sections of any network by watching one forward pass.

A section is a run of modules of one parent, each of several layers, that are called one on another's output and of
which all but the first leave the shape as it is: what a stage of a residual network or a stack of transformer blocks
looks like, whoever wrote it. The parent is a container (Sequential, ModuleList, ModuleDict) or, in a network whose
containers hold no such run, any module.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from lit_core.measuring.cost import is_out_of_memory
from lit_core.networks.layout import Layout
from lit_core.networks.sections import Kept, Moment, kept_of
from lit_core.networks.surgery import CONTAINERS, LeftOut, cut

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
LEAST_WEIGHTS = 2
"""A block has several layers. A lone convolution that keeps its shape is no block."""
LONG, MOST_PIECES, LEAST_PIECE = 6, 4, 3
"""A lone sequence of so many blocks is cut into so many sections at most, of so many blocks at least."""


class NoSections(Exception):
    """The network can't be divided. The message says why and what could be done."""


@dataclass(frozen=True)
class Call:
    """One module's only call."""

    place: int
    """In the order of the calls."""
    given: Moment
    made: Moment
    arguments: list[Any]
    """Those beside the representation, of all depths; tensors as they were when it was called."""
    structure: Any
    """How they lie in one another."""

    @property
    def shape(self) -> torch.Size:
        return self.given.tensor.shape

    @property
    def keeps_shape(self) -> bool:
        given, made = self.given.tensor, self.made.tensor
        return given.shape == made.shape and given.dtype == made.dtype

    def follows(self, other: Call) -> bool:
        """Whether it is run on the very output of the other, with nothing between them."""
        return self.given.is_that_of(other.made)


def find_layout(network: nn.Module, inputs: tuple[Tensor, ...], sections: Sequence[str | Sequence[str]] = ()) -> Layout:
    """The network's stem, sections and head, from one forward pass of `inputs` in eval mode.

    `sections` are used where they are given: each the path of a container of blocks, or the paths of the blocks.
    Network and inputs may be on torch's meta device. Raises NoSections.
    """
    calls, order = _watch(network, inputs)
    if sections:
        found = [_given_section(network, calls, section) for section in sections]
    else:
        found = _that_can_go(network, inputs, calls, _divide(network, "", calls, CONTAINERS))
        found = _cut(found or _that_can_go(network, inputs, calls, _divide(network, "", calls, (nn.Module,))))
    if not found:
        raise NoSections(_why_none(network, calls))
    found.sort(key=lambda run: calls[run[0]].place)
    _check_apart(found)
    numbered = _given_by_number(network, inputs, found, calls)
    found = [run for run in found if _parent(run[0]) not in numbered]
    if numbered and (sections or not found):
        block = next(iter(numbered.values()))
        raise NoSections(f"{block} is given other arguments than the block before it, which go by its number")
    if all(len(run) == 1 for run in found):
        raise NoSections("each of the sections has one block alone, which can't be left out")
    stem, head = _ends(network, found, order, calls[found[0][0]].place)
    return Layout(tuple(stem), tuple(tuple(run) for run in found), tuple(head))


@torch.no_grad()
def check_trains(network: nn.Module, *inputs: Tensor) -> None:
    """Raises what the network raises in training mode, in which auxiliary heads may need larger images."""
    copy.deepcopy(network).train()(*inputs)


def _watch(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[dict[str, Call], dict[str, int]]:
    """The call of each module that is called once, with tensors; and when each was first called."""
    calls: dict[str, Call] = {}
    order: dict[str, int] = {}
    entered: dict[str, tuple[Moment, list[Any], Any]] = {}
    again: set[str] = set()
    handles = []

    def before(path: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            order.setdefault(path, len(order))
            if args and isinstance(args[0], Tensor):
                _check_plain(path, args[0])
                leaves, structure = tree_flatten((args[1:], dict(kwargs)))
                entered[path] = Moment.of(args[0]), [kept_of(leaf) for leaf in leaves], structure

        return hook

    def after(path: str) -> Any:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            if path in calls:
                again.add(path)
            if path in entered and isinstance(output, Tensor):
                given, seen, structure = entered.pop(path)
                calls[path] = Call(order[path], given, Moment.of(output), seen, structure)

        return hook

    modes = {module: module.training for module in network.modules()}
    for path, module in network.named_modules(remove_duplicate=True):
        handles.append(module.register_forward_pre_hook(before(path), with_kwargs=True))
        handles.append(module.register_forward_hook(after(path)))
    try:
        network.eval()
        with torch.no_grad():
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return {path: call for path, call in calls.items() if path not in again}, order


def _check_plain(path: str, given: Tensor) -> None:
    if given.is_nested:
        raise NoSections(
            f"{path} is run on a nested tensor, which has no shape: build nn.TransformerEncoder with "
            "enable_nested_tensor=False"
        )


def _divide(
    network: nn.Module, path: str, calls: dict[str, Call], parents: tuple[type[nn.Module], ...]
) -> list[list[str]]:
    """The runs of blocks in a module. Of those that lie in one another the outer, unless its blocks are of several
    kinds, as stages are, and the inner is longer."""
    module = network.get_submodule(path)
    places = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
    within = {place: _divide(network, place, calls, parents) for place in places}
    found: list[list[str]] = []
    for run in _runs(network, places, calls) if isinstance(module, parents) else []:
        inner = [other for place in run for other in within[place]]
        if len(run) > 1 and (_are_alike(network, run) or all(len(other) <= len(run) for other in inner)):
            found.append(run)
            within |= {place: [] for place in run}
    return [*found, *(run for place in places for run in within[place])]


def _that_can_go(
    network: nn.Module, inputs: tuple[Tensor, ...], calls: dict[str, Call], runs: list[list[str]]
) -> list[list[str]]:
    """The runs without whose later blocks the network runs as before: what blocks put out may be needed elsewhere, and
    what is done between two of them may go by their number."""
    shapes = {run[0]: calls[run[0]].shape for run in runs}
    if not runs or _runs_without(network, inputs, runs, shapes):
        return runs
    return [run for run in runs if _runs_without(network, inputs, [run], shapes)]


def _runs_without(
    network: nn.Module, inputs: tuple[Tensor, ...], runs: list[list[str]], shapes: dict[str, torch.Size]
) -> bool:
    """Whether each run with its first block alone is a network in which all runs are given what they were."""
    shallow = copy.deepcopy(network)
    others = [path for path in shapes if path not in {run[0] for run in runs}]
    layout = cut(shallow, Layout((), (*map(tuple, runs), *((path,) for path in others)), ()), [[0]] * len(shapes))
    calls = _tried(shallow, inputs)
    if calls is None:
        return False
    before = [*(run[0] for run in runs), *others]
    after = [section[0] for section in layout.sections]
    return all(path in calls and calls[path].shape == shapes[old] for old, path in zip(before, after, strict=True))


def _tried(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Call] | None:
    """The calls in a network that blocks were taken out of; None where it can't be run so."""
    try:
        return _watch(network, inputs)[0]
    except Exception as failure:
        if is_out_of_memory(failure):
            raise
        return None


def _are_alike(network: nn.Module, run: list[str]) -> bool:
    return len({_kind(network.get_submodule(place)) for place in run}) == 1


def _kind(module: nn.Module) -> tuple[type, ...]:
    """Plain containers are told apart by what is in them."""
    return (type(module), *(map(type, module.children()) if type(module) in CONTAINERS else ()))


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _given_by_number(
    network: nn.Module, inputs: tuple[Tensor, ...], runs: list[list[str]], calls: dict[str, Call]
) -> dict[str, str]:
    """Containers of blocks that are given, beside their representation, what goes by their number; and such a block.
    `runs` are in the order of their calls."""
    together: dict[str, list[list[str]]] = defaultdict(list)
    for run in runs:
        together[_parent(run[0])].append(run)
    numbered: dict[str, str] = {}
    for parent, own in together.items():
        blocks = [calls[path] for run in own for path in run]
        if isinstance(network.get_submodule(parent), CONTAINERS) and not _are_given_the_same(blocks):
            block = _given_anothers(network, inputs, own, calls)
            numbered |= {} if block is None else {parent: block}
    return numbered


def _are_given_the_same(blocks: list[Call]) -> bool:
    """The very same tensors, or equal numbers and words."""
    return all(_get_the_same(block, blocks[0], _is_the_very_same) for block in blocks[1:])


def _given_anothers(
    network: nn.Module, inputs: tuple[Tensor, ...], runs: list[list[str]], calls: dict[str, Call]
) -> str | None:
    """The first block that is given another's arguments when one before it is taken out.

    Twice a block is left out: so that the others move up by one, and so that they stay where they are. What goes by
    the number of a block differs then, and what depends on the representation does not.
    """
    if any(x.is_meta for x in inputs):
        raise NotImplementedError("the values of arguments decide, which the meta device hasn't")
    run = next((run for run in runs if len(run) > 1), None)
    if run is None:
        return None
    # The first block goes where it may, since all that come after it move.
    gone = run[0] if calls[run[0]].keeps_shape else run[1]
    layout = Layout((), (*map(tuple, runs),), ())
    kept = [[place for place, path in enumerate(paths) if path != gone] for paths in runs]
    moved, stayed = copy.deepcopy(network), copy.deepcopy(network)
    after = [path for section in cut(moved, layout, kept).sections for path in section]
    before = [path for paths in runs for path in paths if path != gone]
    parent, _, name = gone.rpartition(".")
    stayed.get_submodule(parent).register_module(name, LeftOut())
    found, wanted = _tried(moved, inputs), _tried(stayed, inputs)
    if found is None or wanted is None:
        return before[0]
    return next(
        (
            old
            for new, old in zip(after, before, strict=True)
            if new not in found or old not in wanted or not _get_the_same(found[new], wanted[old], _is_same)
        ),
        None,
    )


def _get_the_same(call: Call, other: Call, same: Callable[[Any, Any], bool]) -> bool:
    return call.structure == other.structure and all(map(same, call.arguments, other.arguments))


def _is_the_very_same(one: Any, other: Any) -> bool:
    if isinstance(one, Kept) and isinstance(other, Kept):
        return one.moment.is_that_of(other.moment)
    return _is_same(one, other)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Kept) and isinstance(other, Kept):
        a, b = one.value, other.value
        return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, 0, 0, equal_nan=True)
    if isinstance(one, PLAIN) and isinstance(other, PLAIN):
        return one == other
    # Other things (a configuration) can't be compared, and go by no number as a rule.
    return type(one) is type(other)


def _runs(network: nn.Module, places: Sequence[str], calls: dict[str, Call]) -> Iterator[list[str]]:
    run: list[str] = []
    for place in places:
        if _weights(network.get_submodule(place)) < LEAST_WEIGHTS:
            continue
        call = calls.get(place)
        if run and call is not None and call.follows(calls[run[-1]]) and call.keeps_shape:
            run.append(place)
            continue
        if run:
            yield run
        run = [] if call is None else [place]
    if run:
        yield run


def _weights(module: nn.Module) -> int:
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def _cut(runs: list[list[str]]) -> list[list[str]]:
    """One long sequence has no stages of its own, so it is cut into even pieces."""
    if len(runs) != 1 or len(runs[0]) < LONG:
        return runs
    (run,) = runs
    pieces = min(MOST_PIECES, len(run) // LEAST_PIECE)
    edges = [piece * len(run) // pieces for piece in range(pieces + 1)]
    return [run[start:end] for start, end in pairwise(edges)]


def _given_section(network: nn.Module, calls: dict[str, Call], section: str | Sequence[str]) -> list[str]:
    if isinstance(section, str):
        module = _submodule(network, section)
        paths = [f"{section}.{name}" if section else name for name, _ in module.named_children()]
    else:
        paths = list(section)
        for path in paths:
            _submodule(network, path)
    if not paths:
        raise NoSections(f"the section {section!r} has no blocks")
    if len({_parent(path) for path in paths}) > 1:
        raise NoSections(f"the blocks of {section!r} must be children of one module")
    for number, path in enumerate(paths):
        call = calls.get(path)
        if call is None:
            raise NoSections(f"{path} is not called exactly once from tensor to tensor, so it can be no block")
        if number and not call.follows(calls[paths[number - 1]]):
            raise NoSections(f"{path} is not run on what {paths[number - 1]} puts out, so they can be in no section")
        if number and not call.keeps_shape:
            raise NoSections(
                f"{path} makes {list(call.made.tensor.shape)} of {list(call.shape)}: only a section's first block may "
                "change the shape"
            )
    return paths


def _submodule(network: nn.Module, path: str) -> nn.Module:
    try:
        return network.get_submodule(path)
    except AttributeError:
        children = ", ".join(name for name, _ in network.named_children())
        raise NoSections(f"there is no module {path!r}: at the top there are {children}") from None


def _check_apart(sections: list[list[str]]) -> None:
    paths = [path for section in sections for path in section]
    for path in paths:
        if paths.count(path) > 1 or any(other.startswith(f"{path}.") for other in paths):
            raise NoSections(f"{path} is in two sections")


def _ends(
    network: nn.Module, sections: list[list[str]], order: dict[str, int], start: int
) -> tuple[list[str], list[str]]:
    """All that is outside of the sections, as paths of the largest modules without a block, and of lone parameters.
    What runs between two sections is dealt with as the head."""
    blocks = [path for section in sections for path in section]
    stem: list[str] = []
    head: list[str] = []
    within = {module for path in blocks for module in network.get_submodule(path).modules()}
    for path, is_module in _outside(network, "", blocks, within):
        first = order.get(path, len(order)) if is_module else 0
        (stem if first < start else head).append(path)
    return stem, head


def _outside(module: nn.Module, path: str, blocks: list[str], within: set[nn.Module]) -> Iterator[tuple[str, bool]]:
    """`within` are the blocks' own modules: one without tensors that is used there as well is the blocks'."""
    prefix = f"{path}." if path else ""
    for name, _ in module.named_parameters(recurse=False):
        yield f"{prefix}{name}", False
    for name, child in module.named_children():
        place = f"{prefix}{name}"
        if place in blocks:
            continue
        if any(block.startswith(f"{place}.") for block in blocks):
            yield from _outside(child, place, blocks, within)
        elif _has_state(child) or child not in within:
            yield place, True


def _has_state(module: nn.Module) -> bool:
    return next(iter(module.state_dict()), None) is not None


def _why_none(network: nn.Module, calls: dict[str, Call]) -> str:
    """The most telling reason that there is."""
    widening = _first(
        path
        for path, module in network.named_modules()
        if isinstance(module, CONTAINERS) and _all_change(path, module, calls)
    )
    advice = "name them with `sections` (module paths) if it has some"
    if widening is not None:
        return (
            f"no blocks can be left out: in {widening}, as everywhere, each block changes the shape of what it is "
            f"given (as where layers are densely connected), and the next ones need that; {advice}"
        )
    return (
        "no section was found: no module runs two blocks, each of several layers, one after the other from "
        f"tensor to tensor, the later of which keep the shape; {advice}"
    )


def _all_change(path: str, container: nn.Module, calls: dict[str, Call]) -> bool:
    names = [f"{path}.{name}" if path else name for name, _ in container.named_children()]
    blocks = [n for n in names if n in calls and _weights(container.get_submodule(n.rpartition(".")[2])) > 1]
    return len(blocks) > 1 and not any(calls[name].keeps_shape for name in blocks)


def _first(paths: Iterable[str]) -> str | None:
    return max(paths, key=lambda path: path.count("."), default=None)
