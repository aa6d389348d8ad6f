"""A model and data in memory as the files that the service reads: for `Client.compress`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lit_core.model import Model, load, save_weights
from lit_core.networks.catalogue import propose
from lit_core.networks.families import Unrecognised, recognise
from lit_spec import Split
from lit_spec.trainer.folder import CONFIG_FILE

SPLIT_CODES = {split.value: code for code, split in enumerate((Split.TRAIN, Split.VALIDATION, Split.TEST))}


def write_teacher(model: nn.Module, path: Path, architecture: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Write the model's tensors as a safetensors file, and return the architecture that the service must be told.

    None where the file alone says what the network is: for a loaded student, and for the families that are recognised
    by their tensors. `architecture` is what the caller says; without it networks of torchvision and timm with the
    library's default arguments are found. Raises ValueError for any other network.
    """
    if isinstance(model, Model):
        save_weights(model.network, path, model.config.architecture)
        return None
    save_weights(model, path)
    return dict(architecture) if architecture is not None else _found_architecture(model)


def _found_architecture(model: nn.Module) -> dict[str, Any] | None:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    try:
        recognise(shapes)
    except Unrecognised:
        pass
    else:
        return None
    # timm's models say their name, because several of its networks may have the same tensors.
    told = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    library = type(model).__module__.partition(".")[0]
    found = [request for request in propose(shapes) if request.library == library and told in (None, request.name)]
    if len(found) == 1:
        return found[0].model_dump(mode="json", exclude_unset=True)
    names = ", ".join(f"{request.library}/{request.name}" for request in found)
    raise ValueError(
        f"the service can't tell which network the model ({type(model).__name__}) is"
        + (f", because its tensors are those of {names}" if names else "")
        + ': give architecture, as "torchvision/resnet50"; a network of your own is compressed with lit_core.compress'
    )


def write_data(data: Any, path: Path) -> None:
    """Write data as an npz file (docs/datasets.md).

    `data` is one of: x, or (x, y); a mapping with "x" and perhaps "y" and "split"; a mapping from "train", "val" and
    "test" to x or (x, y); a torch data set, a DataLoader or another iterable of batches. x are images (N, C, H, W) or
    (N, H, W, C), as uint8 or as floats from 0 to 1, or places in a vocabulary (N, L); y are labels (N,). Raises
    ValueError.
    """
    arrays = _arrays(data)
    if arrays["x"].shape == () or any(len(array) != len(arrays["x"]) for array in arrays.values()):
        sizes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"the arrays of data have different numbers of samples: {sizes}")
    np.savez(path, allow_pickle=False, **arrays)


def _arrays(data: Any) -> dict[str, NDArray[Any]]:
    if isinstance(data, Mapping):
        if "x" in data:
            return {name: _array(value, name) for name, value in data.items() if value is not None}
        if data and set(data) <= set(SPLIT_CODES):
            return _of_splits({SPLIT_CODES[name]: _pair(part) for name, part in data.items()})
        raise ValueError(
            f"data has the names {', '.join(map(str, data))}: give x, y and perhaps split, or train, val and test"
        )
    x, y = _pair(data)
    return {"x": x} if y is None else {"x": x, "y": y}


def _of_splits(parts: Mapping[int, tuple[NDArray[Any], NDArray[Any] | None]]) -> dict[str, NDArray[Any]]:
    labels = [y for _, y in parts.values() if y is not None]
    if len(labels) not in (0, len(parts)):
        raise ValueError("some splits of data have labels and others have none: give labels for all, or for none")
    split = np.concatenate([np.full(len(x), code, np.uint8) for code, (x, _) in parts.items()])
    arrays = {"x": np.concatenate([x for x, _ in parts.values()]), "split": split}
    return arrays | ({"y": np.concatenate(labels)} if labels else {})


def _pair(data: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """x and y."""
    if isinstance(data, tuple | list) and len(data) in (1, 2) and _is_array(data[0]):
        return _array(data[0], "x"), _array(data[1], "y") if len(data) == 2 else None
    if _is_array(data):
        return _array(data, "x"), None
    if isinstance(data, torch.utils.data.DataLoader):
        return _joined(data, np.concatenate)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        samples = (data[index] for index in range(len(data)))
        return _joined(samples, np.stack)
    if isinstance(data, Iterable):
        return _joined(data, np.concatenate)
    raise ValueError(f"data is a {type(data).__name__}: give a file, arrays (x, y), a data set or batches")


def _joined(parts: Iterable[Any], join: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Samples or batches as one array each. Raises ValueError."""
    xs, ys = [], []
    for part in parts:
        x, *others = part if isinstance(part, tuple | list) else (part,)
        xs.append(_array(x, "x"))
        ys += [_array(others[0], "y")] if others else []
    if not xs:
        raise ValueError("data has no samples: give some")
    if len(ys) not in (0, len(xs)):
        raise ValueError("some samples of data have labels and others have none: give labels for all, or for none")
    try:
        return join(xs), join(ys) if ys else None
    except ValueError as failure:
        raise ValueError(f"the samples of data have different shapes ({failure}): save them in a folder") from failure


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _array(value: Any, name: str) -> NDArray[Any]:
    """Without objects, which could only be pickled. Raises ValueError."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise ValueError(f"{name} has objects: give numbers")
    return array


def load_student(folder: Path) -> Model | None:
    """The downloaded student; None for a job that made none, a plan."""
    return load(folder) if (folder / CONFIG_FILE).is_file() else None
