"""Reading the pickles of torch.save without importing or running anything that they name.

torch's own `weights_only` refuses a whole file for one object beside its tensors, as an argparse.Namespace. Here such
an object becomes a `Skipped`, which remembers its class's name and what was stored in it.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from typing import Any, ClassVar

import torch
from torch import Tensor

PICKLED = ("_parameters", "_buffers", "_modules")
"""What torch keeps in every module."""
MOST_MODULES = 10_000


class Skipped:
    """An object of a class that is not imported."""

    def __init__(self, name: str) -> None:
        self.name = self.__name__ = name
        self.items: dict[Any, Any] = {}
        """Of a kind of dictionary."""
        self.state: Any = None
        """What pickle would set as the object's attributes."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Of a kind of list: nothing of it is needed."""

    def extend(self, values: Any) -> None:
        """As `append`."""

    def add(self, value: Any) -> None:
        """As `append`."""

    @property
    def is_module(self) -> bool:
        return isinstance(self.state, Mapping) and all(isinstance(self.state.get(name), Mapping) for name in PICKLED)


def module_tensors(module: Skipped) -> dict[str, Tensor]:
    """Of a pickled module, named as its state dict names them. Raises ValueError for one that has no end."""
    found: dict[str, Tensor] = {}
    open_ones, left = [("", module)], MOST_MODULES
    while open_ones:
        prefix, module = open_ones.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"it has more than {MOST_MODULES} modules")
        not_stored = module.state.get("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers"):
            for name, value in module.state[kind].items():
                hidden = kind == "_buffers" and isinstance(not_stored, set) and name in not_stored
                if isinstance(value, Tensor) and not hidden:
                    found[f"{prefix}{name}"] = value
        inner = [(f"{prefix}{name}.", m) for name, m in module.state["_modules"].items()]
        open_ones += [(path, m) for path, m in reversed(inner) if isinstance(m, Skipped) and m.is_module]
    return found


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _of_type(rebuild: Any, _type: Any, arguments: tuple[Any, ...], _state: Any) -> Any:
    return _made(rebuild, arguments)


CALLED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    **{
        ("torch._utils", name): getattr(torch._utils, name)
        for name in (
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_sparse_tensor",
            "_rebuild_qtensor",
        )
    },
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
}
"""All that is ever called: it makes containers and tensors of what it is given."""


def _made(function: Any, arguments: tuple[Any, ...]) -> Any:
    if isinstance(function, Skipped):
        return Skipped(function.name)
    if not any(function is allowed for allowed in CALLED.values()):
        raise pickle.UnpicklingError(f"it calls {function!r}")
    return function(*arguments)


def _filling(code: bytes, items: int | None, *kinds: type) -> Callable[[Any], None]:
    """Pickle's own step that puts items into a container, if it is one: what tensors do with items is not checked.

    `items` are on the stack above the container; None: they are between a mark and the end.
    """
    fill: Callable[[Any], None] = pickle._Unpickler.dispatch[code[0]]

    def load(unpickler: Any) -> None:
        filled = unpickler.metastack[-1][-1] if items is None else unpickler.stack[-1 - items]
        if type(filled) not in (*kinds, Skipped):
            raise pickle.UnpicklingError(f"it puts items into a {type(filled).__name__}")
        fill(unpickler)

    return load


class Unpickler(pickle._Unpickler):
    """Takes the place of pickle's own in torch.load."""

    stack: list[Any]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        found = CALLED.get((module.replace("__builtin__", "builtins"), name))
        if found is not None:
            return found
        constant = getattr(torch, name, None) if module == "torch" else None
        return constant if isinstance(constant, (torch.dtype, torch.qscheme)) else Skipped(f"{module}.{name}")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _made(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments
        self.load_reduce()

    def _instantiate(self, function: Any, arguments: Any) -> None:
        self.append(_made(function, arguments))

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Skipped):
            self.stack[-1].state = state

    dispatch[pickle.APPEND[0]] = _filling(pickle.APPEND, 1, list)
    dispatch[pickle.APPENDS[0]] = _filling(pickle.APPENDS, None, list)
    dispatch[pickle.SETITEM[0]] = _filling(pickle.SETITEM, 2, dict, OrderedDict)
    dispatch[pickle.SETITEMS[0]] = _filling(pickle.SETITEMS, None, dict, OrderedDict)
    dispatch[pickle.ADDITEMS[0]] = _filling(pickle.ADDITEMS, None, set)
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build


def load(file: BufferedIOBase, **options: Any) -> Any:
    """As pickle.load."""
    return Unpickler(file, **options).load()
