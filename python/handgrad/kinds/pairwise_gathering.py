"""Embeddings of several processes: gathered, with gradients that find their way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["gathered", "of_each_query", "rank_in"]


def rank_in(op: str, group: Any) -> int:
    """The number of this process in ``group``.

    Raises:
        TypeError: not a process group.
    """
    import torch.distributed as dist

    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"{op}: group must be a torch.distributed.ProcessGroup or None; got {type(group).__name__}")
    return dist.get_rank(group)


def gathered(tensor: Tensor, group: Any, dim: int) -> Tensor:
    """The tensors of all processes of ``group``, one behind the other along ``dim``, those of rank 0 first. They must
    have one shape. The gradient of a tensor is the sum of what all processes found for it; so is any higher one."""
    return _Gather.apply(tensor, group, dim) if tensor.is_floating_point() else _gather(tensor, group, dim)


def of_each_query(reduction: str, batched: bool, *args: Any) -> Tensor:
    """The cross entropy of finding each query's key, one side of a loss of two: rows of this process, keys of all."""
    from handgrad.losses.info_nce_loss import _loss

    return _loss.reduced(reduction, batched, *args)


def _gather(tensor: Tensor, group: Any, dim: int) -> Tensor:
    import torch.distributed as dist

    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return torch.cat(parts, dim)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return _gather(tensor, group, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _SumOfOwn.apply(grad, ctx.group, ctx.dim), None, None


class _SumOfOwn(torch.autograd.Function):
    """The sum over processes of what each has for this one; the transposed of gathering, as that is of this."""

    @staticmethod
    def forward(ctx: Any, grads: Tensor, group: Any, dim: int) -> Tensor:
        import torch.distributed as dist

        ctx.group, ctx.dim = group, dim
        total = grads.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total.chunk(dist.get_world_size(group), dim)[dist.get_rank(group)].contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(grad, ctx.group, ctx.dim), None, None
