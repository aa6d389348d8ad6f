"""Finding the sections of any network by watching one forward pass.

A section is a run of modules ("blocks") with one parent. Each block has several layers and is called on the output of
the block before it, and all but the first keep the shape. Stages of residual networks and stacks of transformer blocks
look like this in any code. The parent is a container (Sequential, ModuleList, ModuleDict) or, in a network whose
containers hold no such run, any module.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lit_core.measuring.memory import is_out_of_memory
from lit_core.networks.layout import Layout, NoSections
from lit_core.networks.modes import modes_restored
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.surgery import CONTAINERS, RemovedBlock, cut
from lit_core.networks.watching import Call, watch

LEAST_LAYERS = 2
"""A block has at least this many layers with weights. A single convolution that keeps the shape is not a block."""
LONG_SEQUENCE, MOST_PIECES, LEAST_BLOCKS_PER_PIECE = 6, 4, 3
"""A single sequence of at least LONG_SEQUENCE blocks becomes up to MOST_PIECES sections, each with at least
LEAST_BLOCKS_PER_PIECE blocks."""


def find_layout(network: nn.Module, inputs: tuple[Tensor, ...], sections: Sequence[str | Sequence[str]] = ()) -> Layout:
    """The network's stem, sections and head, from one forward pass of `inputs` in eval mode.

    `sections` overrides the search: each is the path of a container of blocks, or the paths of the blocks.
    Network and inputs may be on torch's meta device. Raises NoSections.
    """
    watched = watch(network, inputs)
    calls = watched.calls
    if sections:
        found = [_given_section(network, calls, section) for section in sections]
    else:
        found = _removable(network, inputs, calls, _divide(network, "", calls, CONTAINERS))
        found = _cut_into_pieces(found or _removable(network, inputs, calls, _divide(network, "", calls, (nn.Module,))))
    if not found:
        raise NoSections(_why_no_sections(network, calls))
    found.sort(key=lambda run: calls[run[0]].place)
    _check_disjoint(found)
    numbered = _numbered_blocks(network, inputs, found, calls)
    found = [run for run in found if _parent(run[0]) not in numbered]
    if numbered and (sections or not found):
        block = next(iter(numbered.values()))
        raise NoSections(
            f"{block} gets other arguments than the block before it, and they depend on the block's number, so blocks "
            "can't be left out: name other sections with `sections`"
        )
    if all(len(run) == 1 for run in found):
        raise NoSections("each section has only one block, which can't be left out: name longer ones with `sections`")
    if sections:
        _check_removable(network, inputs, calls, found)
    stem, head = _ends(network, found, watched.order, calls[found[0][0]].place)
    return Layout(tuple(stem), tuple(tuple(run) for run in found), tuple(head))


@torch.no_grad()
def check_composition(network: SectionedNetwork, *inputs: Tensor) -> None:
    """Run each section by itself on its recorded input, in eval mode. Raises NoSections unless it gives what it gave
    within the network: code between two blocks may change a representation in ways that leave no trace, as `x.data`
    does. A section with random numbers can't be compared."""
    trace = network.trace(*inputs)
    for paths, section, given, wanted, extra in zip(
        network.layout.sections, network.sections, trace.inputs, trace.outputs, trace.extra_arguments, strict=True
    ):
        try:
            made, again = (section(given.clone(), extra) for _ in range(2))
        except Exception as failure:
            if is_out_of_memory(failure):
                raise
            raise NoSections(
                f"the blocks {', '.join(paths)} can't be run by themselves ({failure}), because the network prepares "
                "something for them: let it reach them as an argument, or use method kd, which runs whole networks"
            ) from failure
        if torch.equal(made, again) and not torch.allclose(
            made, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())
        ):
            raise NoSections(
                f"the blocks {', '.join(paths)} by themselves give another output than within the network, so the "
                "network does something between them: move it into the blocks, or put them into different sections"
            )


@torch.no_grad()
def check_trains(network: nn.Module, *inputs: Tensor) -> None:
    """Run it in training mode, in which auxiliary heads may need larger images. Raises the network's errors.

    Modes and buffers, such as a BatchNorm's, are as before afterwards.
    """
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    with modes_restored(network):
        try:
            network.train()(*inputs)
        finally:
            with torch.no_grad():
                for module, name, buffer, before in buffers:
                    setattr(module, name, buffer.copy_(before))


def _divide(
    network: nn.Module, path: str, calls: dict[str, Call], parents: tuple[type[nn.Module], ...]
) -> list[list[str]]:
    """The runs of blocks in a module. Of nested runs, the outer one is taken. If its blocks are of several kinds, as
    stages are, and an inner run is longer, the inner runs are taken."""
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


def _removable(
    network: nn.Module, inputs: tuple[Tensor, ...], calls: dict[str, Call], runs: list[list[str]]
) -> list[list[str]]:
    """The runs whose blocks, except the first, can be left out. In other runs the output of a block may be needed
    elsewhere, or code between two blocks may depend on their numbers."""
    shapes = {run[0]: calls[run[0]].shape for run in runs}
    if not runs or _runs_without(network, inputs, runs, shapes):
        return runs
    return [run for run in runs if _runs_without(network, inputs, [run], shapes)]


def _check_removable(
    network: nn.Module, inputs: tuple[Tensor, ...], calls: dict[str, Call], runs: list[list[str]]
) -> None:
    removable = _removable(network, inputs, calls, runs)
    for run in runs:
        if run not in removable:
            raise NoSections(
                f"without the blocks after {run[0]} the network no longer runs, or gives other sections another shape: "
                "name blocks that only the next block needs"
            )


def _runs_without(
    network: nn.Module, inputs: tuple[Tensor, ...], runs: list[list[str]], shapes: dict[str, torch.Size]
) -> bool:
    """Whether the network still runs, with inputs of the same shapes, if only the first block of each run is left."""
    shallow = copy.deepcopy(network)
    others = [path for path in shapes if path not in {run[0] for run in runs}]
    layout = cut(shallow, Layout((), (*map(tuple, runs), *((path,) for path in others)), ()), [[0]] * len(shapes))
    calls = _calls_without(shallow, inputs)
    if calls is None:
        return False
    before = [*(run[0] for run in runs), *others]
    after = [section[0] for section in layout.sections]
    return all(path in calls and calls[path].shape == shapes[old] for old, path in zip(before, after, strict=True))


def _calls_without(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Call] | None:
    """The calls in a network without some of its blocks; None if the network no longer runs."""
    try:
        return watch(network, inputs).calls
    except Exception as failure:
        if is_out_of_memory(failure):
            raise
        return None


def _are_alike(network: nn.Module, run: list[str]) -> bool:
    return len({_kind(network.get_submodule(place)) for place in run}) == 1


def _kind(module: nn.Module) -> tuple[type, ...]:
    """The type of a module; for a plain container also the types of its children."""
    return (type(module), *(map(type, module.children()) if type(module) in CONTAINERS else ()))


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _numbered_blocks(
    network: nn.Module, inputs: tuple[Tensor, ...], runs: list[list[str]], calls: dict[str, Call]
) -> dict[str, str]:
    """Containers whose blocks get arguments that depend on the block's number, each with the first such block.

    `runs` are in the order of their calls.
    """
    together: dict[str, list[list[str]]] = defaultdict(list)
    for run in runs:
        together[_parent(run[0])].append(run)
    numbered: dict[str, str] = {}
    for parent, own in together.items():
        blocks = [calls[path] for run in own for path in run]
        if not isinstance(network.get_submodule(parent), CONTAINERS):
            continue
        if not all(block.has_same_arguments(blocks[0]) for block in blocks[1:]):
            block = _first_numbered(network, inputs, own, calls)
            numbered |= {} if block is None else {parent: block}
    return numbered


def _first_numbered(
    network: nn.Module, inputs: tuple[Tensor, ...], runs: list[list[str]], calls: dict[str, Call]
) -> str | None:
    """The first block that gets another block's arguments when an earlier block is left out; None if there is none.

    An earlier block is left out in two copies of the network. In one copy the later blocks move up by one, in the other
    they keep their numbers. Arguments that depend on a block's number differ between the copies. Arguments that depend
    on the representation do not.
    """
    if any(x.is_meta for x in inputs):
        raise NotImplementedError(
            "the blocks get different arguments, and the meta device has no values to compare: use a device with values"
        )
    run = next((run for run in runs if len(run) > 1), None)
    if run is None:
        return None
    # The first block if possible, because then all other blocks move.
    removed = run[0] if calls[run[0]].keeps_shape else run[1]
    layout = Layout((), (*map(tuple, runs),), ())
    kept = [[place for place, path in enumerate(paths) if path != removed] for paths in runs]
    moved, stayed = copy.deepcopy(network), copy.deepcopy(network)
    after = [path for section in cut(moved, layout, kept).sections for path in section]
    before = [path for paths in runs for path in paths if path != removed]
    parent, _, name = removed.rpartition(".")
    stayed.get_submodule(parent).register_module(name, RemovedBlock())
    found, wanted = _calls_without(moved, inputs), _calls_without(stayed, inputs)
    if found is None or wanted is None:
        return before[0]
    return next(
        (
            old
            for new, old in zip(after, before, strict=True)
            if new not in found or old not in wanted or not found[new].has_equal_arguments(wanted[old])
        ),
        None,
    )


def _runs(network: nn.Module, places: Sequence[str], calls: dict[str, Call]) -> Iterator[list[str]]:
    run: list[str] = []
    for place in places:
        if _layers(network.get_submodule(place)) < LEAST_LAYERS:
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


def _layers(module: nn.Module) -> int:
    """The number of weights with several dimensions: one per layer, and none for normalisations."""
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def _cut_into_pieces(runs: list[list[str]]) -> list[list[str]]:
    """A single long sequence has no stages, so it is cut into pieces of even length."""
    if len(runs) != 1 or len(runs[0]) < LONG_SEQUENCE:
        return runs
    (run,) = runs
    pieces = min(MOST_PIECES, len(run) // LEAST_BLOCKS_PER_PIECE)
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
        raise NoSections(f"the section {section!r} has no blocks: name a container of blocks")
    if len({_parent(path) for path in paths}) > 1:
        raise NoSections(f"the blocks of {section!r} are in several modules: name blocks of one module")
    for number, path in enumerate(paths):
        call = calls.get(path)
        if call is None:
            raise NoSections(
                f"{path} is not called exactly once, from tensor to tensor, so it can't be a block: leave it out"
            )
        module = network.get_submodule(path)
        if _layers(module) == 0:
            raise NoSections(
                f"{path} ({type(module).__name__}) has no convolution, linear or similar layer, so it can't be a "
                "block: without it, the layers before and after it would follow each other with nothing in between; "
                "put it into one module with one of them, as nn.Sequential(convolution, activation), and name such "
                "modules"
            )
        if number and not call.follows(calls[paths[number - 1]]):
            raise NoSections(
                f"{path} is not run on the output of {paths[number - 1]}: put them into different sections"
            )
        if number and not call.keeps_shape:
            raise NoSections(
                f"{path} turns {list(call.shape)} into {list(call.returned.tensor.shape)}, but only the first block of "
                "a section may change the shape: begin a section with it"
            )
    return paths


def _submodule(network: nn.Module, path: str) -> nn.Module:
    try:
        return network.get_submodule(path)
    except AttributeError:
        children = ", ".join(name for name, _ in network.named_children())
        raise NoSections(f"there is no module {path!r}: give a path below one of {children}") from None


def _check_disjoint(sections: list[list[str]]) -> None:
    paths = [path for section in sections for path in section]
    for path in paths:
        if paths.count(path) > 1 or any(other.startswith(f"{path}.") for other in paths):
            raise NoSections(f"{path} is in two sections: name it once")


def _ends(
    network: nn.Module, sections: list[list[str]], order: dict[str, int], start: int
) -> tuple[list[str], list[str]]:
    """Everything outside the sections: paths of the largest modules without a block, and of parameters outside them.
    Layers between two sections count as head."""
    blocks = [path for section in sections for path in section]
    stem: list[str] = []
    head: list[str] = []
    within = {module for path in blocks for module in network.get_submodule(path).modules()}
    for path, is_module in _outside(network, "", blocks, within):
        first = order.get(path, len(order)) if is_module else 0
        (stem if first < start else head).append(path)
    return stem, head


def _outside(module: nn.Module, path: str, blocks: list[str], within: set[nn.Module]) -> Iterator[tuple[str, bool]]:
    """`within` are the blocks' own modules. A module without tensors that blocks use too belongs to the blocks."""
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


def _why_no_sections(network: nn.Module, calls: dict[str, Call]) -> str:
    """The reason that says most about the network."""
    widening = _deepest(
        path
        for path, module in network.named_modules()
        if isinstance(module, CONTAINERS) and _all_change(path, module, calls)
    )
    advice = "if the network has sections, name them with `sections` (module paths)"
    if widening is not None:
        return (
            f"no blocks can be left out: in {widening}, and everywhere else, each block changes the shape of its input "
            f"(as in densely connected networks), and the next block needs that shape; {advice}"
        )
    return (
        "no section was found: no module runs two or more blocks of several layers one after the other, from tensor "
        f"to tensor, such that the later blocks keep the shape; {advice}"
    )


def _all_change(path: str, container: nn.Module, calls: dict[str, Call]) -> bool:
    names = [f"{path}.{name}" if path else name for name, _ in container.named_children()]
    blocks = [n for n in names if n in calls and _layers(container.get_submodule(n.rpartition(".")[2])) > 1]
    return len(blocks) > 1 and not any(calls[name].keeps_shape for name in blocks)


def _deepest(paths: Iterable[str]) -> str | None:
    return max(paths, key=lambda path: path.count("."), default=None)
