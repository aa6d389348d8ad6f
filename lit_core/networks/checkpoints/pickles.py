"""Reading the pickles of torch.save without importing or running anything that they name.

torch's own `weights_only` refuses a whole file for one object beside its tensors, as an argparse.Namespace. Here such
an object becomes a `Skipped`, which remembers its class's name and what was stored in it. Nothing of torch's reader is
used: it would run TorchScript, and it trusts the sizes that a file gives.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from lit_spec.networks.teacher_files import TENSORS

PICKLED = ("_parameters", "_buffers", "_modules")
"""What torch keeps in every module."""
MOST_MODULES, MOST_DIMENSIONS = 10_000, 64
LONGEST_NAME, MOST = 1_000, 1 << 48
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
UNTYPED = "UntypedStorage"
PLAIN = (str, int, float, bool, bytes, type(None))
LONGEST_KEY = 16


class Skipped:
    """An object of a class that is not imported."""

    def __init__(self, name: str) -> None:
        self.name = name
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
        if left < 0 or len(prefix) > LONGEST_NAME or len(found) > TENSORS:
            raise ValueError(f"it has more than {MOST_MODULES} modules or {TENSORS} tensors, or too long names")
        not_stored = module.state.get("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers"):
            for name, value in module.state[kind].items():
                hidden = kind == "_buffers" and isinstance(not_stored, set) and name in not_stored
                if isinstance(value, Tensor) and not hidden:
                    found[f"{prefix}{name}"] = value
        inner = [(f"{prefix}{name}.", m) for name, m in module.state["_modules"].items()]
        open_ones += [(path, m) for path, m in reversed(inner) if isinstance(m, Skipped) and m.is_module]
    return found


# --- tensors ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StorageType:
    dtype: torch.dtype | None
    """None: of bytes, to which each tensor gives a type."""

    def bytes_of(self, elements: Any) -> int:
        """Raises UnpicklingError for what is no number of elements."""
        if type(elements) is not int or elements < 0:
            raise pickle.UnpicklingError("a storage has no number of elements")
        return elements * (1 if self.dtype is None else self.dtype.itemsize)


@dataclass(frozen=True)
class Storage:
    content: torch.UntypedStorage
    dtype: torch.dtype | None


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Any:
    return _rebuilt(storage, offset, size, stride, getattr(storage, "dtype", None), more[2:3])


def _typed_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *more: Any
) -> Any:
    return _rebuilt(storage, offset, size, stride, dtype, more[:1])


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any, metadata: Sequence[Any]) -> Any:
    """A tensor of a part of the storage. Raises UnpicklingError for one that is not within it."""
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        return Skipped("a tensor of another kind")
    numbers = [offset, *size, *stride] if isinstance(size, tuple) and isinstance(stride, tuple) else [None]
    if not all(type(number) is int and 0 <= number < MOST for number in numbers) or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor's size, stride or offset is no whole number")
    elements, there = math.prod(size), storage.content.nbytes() // dtype.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if len(size) > MOST_DIMENSIONS or (elements and last >= there):
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    if elements > there:
        return Skipped("a tensor that repeats its values")
    if any(metadata):
        return Skipped("a conjugated or negated view of a tensor")
    return torch.empty(0, dtype=dtype).set_(storage.content, offset, size, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _of_type(rebuild: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    return _made(rebuild, arguments)


def _size(*sizes: Any) -> Any:
    return sizes[0] if sizes and isinstance(sizes[0], tuple) else ()


def _dictionary(*pairs: Any) -> Any:
    found: OrderedDict[Any, Any] = OrderedDict()
    for pair in pairs[0] if pairs and isinstance(pairs[0], list) else []:
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and _is_key(pair[0]):
            found[pair[0]] = pair[1]
    return found


def _set(*items: Any) -> Any:
    given = items[0] if items and isinstance(items[0], (list, tuple)) else []
    return {item for item in given if _is_key(item)}


CALLED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _dictionary,
    ("builtins", "set"): _set,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
}
"""All that is ever called, in the place of what a file names. It makes containers and tensors of what it is given."""
OTHER_TENSORS = {"_rebuild_sparse_tensor": "a sparse tensor", "_rebuild_qtensor": "a quantised tensor"}


def _made(function: Any, arguments: Any) -> Any:
    if isinstance(function, Skipped):
        return Skipped(function.name)
    if not isinstance(arguments, tuple) or not any(function is allowed for allowed in CALLED.values()):
        raise pickle.UnpicklingError(f"it calls a {type(function).__name__}")
    return function(*arguments)


# --- pickles ------------------------------------------------------------------------------------------------------


def _is_key(value: Any) -> bool:
    """Whether it is quick to hash: nested tuples may take for ever."""
    flat = value if isinstance(value, tuple) and len(value) <= LONGEST_KEY else (value,)
    return all(isinstance(item, (*PLAIN, Skipped, torch.dtype)) for item in flat)


def _filling(code: bytes, items: int | None, *kinds: type, keys: int | None = None) -> Callable[[Any], None]:
    """Pickle's own step that puts items into a container, if it is one: what tensors do with items is not checked.

    `items` are on the stack above the container; None: they are between a mark and the end. Each `keys`-th of them is
    hashed.
    """
    fill: Callable[[Any], None] = pickle._Unpickler.dispatch[code[0]]

    def load(unpickler: Any) -> None:
        filled = unpickler.metastack[-1][-1] if items is None else unpickler.stack[-1 - items]
        if type(filled) not in (*kinds, Skipped):
            raise pickle.UnpicklingError(f"it puts items into a {type(filled).__name__}")
        hashed = unpickler.stack[0 if items is None else -items :: keys] if keys else []
        if not all(map(_is_key, hashed)):
            raise pickle.UnpicklingError("a key is neither text nor a number nor a few of them")
        fill(unpickler)

    return load


class Unpickler(pickle._Unpickler):
    """`storage_of` gives the storage with this key, of this type and number of elements."""

    stack: list[Any]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: IO[bytes], storage_of: Callable[[str, StorageType, int], Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storage_of = storage_of

    def find_class(self, module: str, name: str) -> Any:
        if len(module) + len(name) > LONGEST_NAME:
            raise pickle.UnpicklingError("it has the name of a class of more than a thousand letters")
        found = CALLED.get((module.replace("__builtin__", "builtins"), name))
        if found is not None:
            return found
        if module in {"torch", "torch.cuda", "torch.storage"} and (name in STORAGES or name == UNTYPED):
            return StorageType(STORAGES.get(name))
        constant = vars(torch).get(name) if module == "torch" else None
        if isinstance(constant, torch.dtype):
            return constant
        return Skipped(OTHER_TENSORS.get(name, f"{module}.{name}"))

    def persistent_load(self, identity: Any) -> Any:
        match identity:
            case ("storage", StorageType() as kind, str() as key, _, elements, *views) if not any(views):
                return self.storage_of(key, kind, kind.bytes_of(elements))
            case ("storage", Skipped(), str(), *_):
                return Skipped("a storage of another kind")
            case ("module", kind, _, _):
                return kind
        raise pickle.UnpicklingError("a storage is named in no way that torch has used since 2018")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _made(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments
        self.load_reduce()

    def _instantiate(self, function: Any, arguments: Any) -> None:
        self.append(_made(function, tuple(arguments)))

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Skipped):
            self.stack[-1].state = state

    dispatch[pickle.APPEND[0]] = _filling(pickle.APPEND, 1, list)
    dispatch[pickle.APPENDS[0]] = _filling(pickle.APPENDS, None, list)
    dispatch[pickle.SETITEM[0]] = _filling(pickle.SETITEM, 2, dict, OrderedDict, keys=2)
    dispatch[pickle.SETITEMS[0]] = _filling(pickle.SETITEMS, None, dict, OrderedDict, keys=2)
    dispatch[pickle.ADDITEMS[0]] = _filling(pickle.ADDITEMS, None, set, keys=1)
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build


def _frozen_set(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    unpickler.append(_set(items))


def _dictionary_of_items(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    unpickler.append(_dictionary([list(pair) for pair in zip(items[::2], items[1::2], strict=False)]))


Unpickler.dispatch[pickle.FROZENSET[0]] = _frozen_set
Unpickler.dispatch[pickle.DICT[0]] = _dictionary_of_items
