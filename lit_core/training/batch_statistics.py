"""BatchNorm over a batch whose rows are spread over several processes.

torch.nn.SyncBatchNorm runs on accelerators only, and replaces modules, of which some libraries have subclasses of their
own. Here the function `torch.nn.functional.batch_norm` is replaced instead, for as long as a step takes: whichever
module calls it, in training mode its statistics are those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class WholeBatchStatistics(TorchFunctionMode):
    """A context in which BatchNorm in training mode has the statistics of all processes' rows together."""

    def __init__(self, copies: int) -> None:
        """`copies`: how many processes have each row of the batch."""
        super().__init__()
        self._copies = copies

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        mean, var, values = _statistics(x.detach())
        _follow(running_mean, mean, momentum)
        samples = values / self._copies
        _follow(running_var, var * samples / (samples - 1), momentum)
        made: Tensor = _Normalise.apply(x, mean, var, values, weight, bias, eps)
        return made


def _follow(running: Tensor | None, value: Tensor, momentum: float) -> None:
    if running is not None:
        running.copy_((1 - momentum) * running + momentum * value)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each channel of x (B, C, …) over all processes, and their number of values."""
    x = _at_least_float32(x)
    var, mean = torch.var_mean(x, _dims(x), correction=0)
    own = torch.cat([mean, var, mean.new_tensor([x.numel() // x.shape[1]])])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    rows = torch.stack(gathered)
    # Of the processes: (P, C), (P, C) and (P, 1).
    means, variances, counts = rows.tensor_split((len(mean), 2 * len(mean)), dim=1)
    shares = counts / counts.sum()
    whole = (shares * means).sum(dim=0)
    return whole, (shares * (variances + (means - whole).square())).sum(dim=0), counts.sum()


class _Normalise(torch.autograd.Function):
    """Normalise x (B, C, …) with the statistics of all processes' rows, which depend on x themselves."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, mean, (var + eps).rsqrt(), values, weight)
        ctx.has_bias = bias is not None
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, mean, scale, values, weight = ctx.saved_tensors
        given, dims = _at_least_float32(gradient), _dims(x)
        normalised = (_at_least_float32(x) - _as_channels(mean, x)) * _as_channels(scale, x)
        of_bias, of_weight = given.sum(dims), (given * normalised).sum(dims)
        sums = torch.stack([of_bias, of_weight])
        dist.all_reduce(sums)
        of_mean, of_spread = (_as_channels(one / values, x) for one in sums)
        factor = scale if weight is None else scale * weight
        of_x = (given - of_mean - normalised * of_spread) * _as_channels(factor, x)
        return (
            of_x.to(x.dtype),
            None,
            None,
            None,
            None if weight is None else of_weight.to(weight.dtype),
            of_bias.to(gradient.dtype if weight is None else weight.dtype) if ctx.has_bias else None,
            None,
        )


def _dims(x: Tensor) -> list[int]:
    """All but the channels."""
    return [0, *range(2, x.ndim)]


def _as_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *(1 for _ in x.shape[2:]))


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
