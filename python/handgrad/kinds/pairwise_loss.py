"""Losses of all pairs of queries and keys, whose matrix is never stored: all but the rule of which pairs count.

The op's schema is ``foo(Tensor queries, Tensor? keys, Tensor scale, int offset, int reduction) -> Tensor``, where
labels decide ``foo(Tensor queries, Tensor? keys, Tensor labels, Tensor? key_labels, Tensor scale, ...)``, and with a
bias ``foo(Tensor queries, Tensor? keys, Tensor scale, Tensor bias, ...)``; queries are (batch, N, features), keys
(batch, M, features), scale and bias (batch,). Keys that are None are the queries: their gradient is then the sum of
both sides', rounded once. Its private ops' schemas are as :mod:`handgrad.derivatives` has them; the C++ half is
``csrc/common/kinds/pairwise_loss.h``. The ops know the reductions none and sum: a mean is divided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._sharding import replicated_beside
from handgrad._vectors import unit_rows
from handgrad.arguments import (
    as_computed,
    check_bool,
    check_device,
    check_integers,
    check_range,
    check_tensor,
    computed_dtype,
    dtype_name,
)
from handgrad.derivatives import BATCHED
from handgrad.kinds.reduced_loss import ReducedLoss
from handgrad.reductions import MEAN, NONE, SUM, reduction_code

__all__ = ["Pairs", "PairwiseLoss", "PairwiseLossModule"]


class PairwiseLoss(ReducedLoss):
    """Registers a loss of all pairs.

    Args:
        name: ``"namespace::op"``.
        reference: the loss of each query in plain PyTorch, with the op's tensors and its offset; it gets float32 or
            float64. The logits are :func:`logits_of`'s.

    Example::

        >>> _loss = PairwiseLoss("my_ops::my_loss", my_loss_reference)
        >>> pairs = Pairs("my_loss", normalize=True).add("queries", queries).add("keys", keys)
        >>> _loss.reduced("mean", pairs.batched, *pairs.tensors, temperature_scale(pairs, 0.1), 0)
    """

    def __init__(self, name: str, reference: Callable[..., Tensor]) -> None:
        super().__init__(
            name,
            reference=_reduced(reference),
            fake=self.fake_loss,
            roles=BATCHED,
            gradient_like=lambda tensor: tensor.new_empty(tensor.shape),
            autocast=torch.float32,
            splits=self.along_the_batch,
        )

    def reduced(self, reduction: str, batched: bool, *args: Any) -> Tensor:
        """The loss, of the op's arguments but the reduction; ``batched``: whether the caller's tensors have a batch."""
        code = reduction_code(self.title, reduction)
        loss = self.forward(*args, SUM if code == MEAN else code)
        if code == NONE:
            return loss if batched else loss.squeeze(0)
        # (A tensor, since of no rows the mean is NaN, as torch's is.)
        return loss / (args[0].shape[0] * args[0].shape[1]) if code == MEAN else loss

    def fake_loss(self, queries: Tensor, keys: Tensor | None, *others: Any) -> Tensor:
        keys = queries if keys is None else keys
        torch._check(
            queries.dim() == keys.dim() == 3,
            lambda: (
                f"{self.title}: queries and keys must have shape (batch, rows, features); got {tuple(queries.shape)} "
                f"and {tuple(keys.shape)}"
            ),
        )
        torch._check(
            queries.device == keys.device,
            lambda: f"{self.title}: keys must be on the device of queries, {queries.device}; got {keys.device}",
        )
        return queries.new_empty(queries.shape[:2] if others[-1] == NONE else (), dtype=computed_dtype(queries))

    def losses_like(self, tensors: Mapping[str, Any]) -> Tensor:
        return tensors["queries"][..., 0]

    def along_the_batch(self, reduction: int, **_: Any) -> list[dict[str, int | None]]:
        """Rows are not independent of each other, and a sum over shards is a partial sum."""
        return [{**dict.fromkeys(self.roles, 0), "output": None if reduction else 0}]


class Pairs:
    """What a user typed, checked and brought into the shape that the ops take: a batch of matrices, one if there is no
    batch.

    Args:
        op: the public function, for error messages.
        normalize: whether rows are divided by their lengths.
    """

    def __init__(self, op: str, normalize: bool) -> None:
        self.op, self.normalize = op, check_bool(op, "normalize", normalize)
        self.tensors: list[Tensor] = []
        self.batched = False
        # In a trace sizes are tensors, of which nothing is asked; the op does when it runs.
        self.knows_sizes = not torch.jit.is_tracing()

    def add(self, name: str, tensor: Tensor, as_many: bool = False) -> Pairs:
        """Embeddings, (rows, features) or (batch, rows, features); ``as_many``: with as many rows as the first."""
        check_tensor(self.op, name, tensor)
        if not tensor.is_floating_point():
            raise TypeError(
                f"{self.op}: {name} must be float32, float64, bfloat16 or float16; got {dtype_name(tensor.dtype)}"
            )
        if tensor.dim() not in (2, 3) or (self.knows_sizes and tensor.shape[-1] == 0):
            raise RuntimeError(
                f"{self.op}: {name} must have shape (rows, features), or (batch, rows, features), with a feature at "
                f"least; got {tuple(tensor.shape)}"
            )
        if not self.tensors:
            self.name, self.model, self.batched = name, tensor, tensor.dim() == 3
        else:
            tensor = self._beside_model(name, tensor)
            self._check_device(name, tensor)
            if self.knows_sizes:
                self._check_mate(name, tensor, as_many)
        rows = unit_rows(tensor) if self.normalize else tensor
        self.tensors.append(rows if self.batched else rows.unsqueeze(0))
        return self

    def _beside_model(self, name: str, tensor: Tensor) -> Tensor:
        """In the type of the first, which becomes that of both under autocast, where layers give several."""
        model = self.model
        if tensor.dtype is model.dtype:
            return tensor
        if not torch.is_autocast_enabled(model.device.type):
            raise RuntimeError(
                f"{self.op}: {name} must have the dtype of {self.name}, {dtype_name(model.dtype)}; got "
                f"{dtype_name(tensor.dtype)}"
            )
        dtype = torch.promote_types(tensor.dtype, model.dtype)
        self.model, self.tensors = model.to(dtype), [each.to(dtype) for each in self.tensors]
        return tensor.to(dtype)

    def _check_mate(self, name: str, tensor: Tensor, as_many: bool) -> None:
        model = self.model
        fits = tensor.dim() == model.dim() and tensor.shape[-1] == model.shape[-1]
        fits = fits and (not self.batched or tensor.shape[0] == model.shape[0])
        enough = fits and (tensor.shape[-2] == model.shape[-2] if as_many else tensor.shape[-2] >= model.shape[-2])
        if not enough:
            rows = "the shape of" if as_many else "at least the rows, and the batch and features, of"
            raise RuntimeError(
                f"{self.op}: {name} must have {rows} {self.name}, {tuple(model.shape)}; got {tuple(tensor.shape)}"
            )

    def _check_device(self, name: str, tensor: Tensor) -> None:
        check_device(self.op, name, tensor, self.name, self.model)

    def number(self, name: str, value: Any, low: float, expected: str) -> Tensor:
        """A number, or a tensor of one or of one for each of the batch, as (batch,) in the type that is computed in."""
        model = self.tensors[0]
        batch = model.shape[0]
        if value is None:
            raise TypeError(f"{self.op}: {name} must be {expected}; got NoneType")
        if not isinstance(value, Tensor):
            check_range(self.op, name, value, low, HUGE, expected)
            number = torch.full((), float(value), dtype=computed_dtype(model), device=model.device)
            return replicated_beside(model, number.expand(batch))
        check_tensor(self.op, name, value)
        number = as_computed(self.op, name, value, self.name, self.model)
        self._check_device(name, number)
        if number.dim() > 1 or (self.knows_sizes and number.dim() == 1 and number.shape[0] not in (1, batch)):
            raise RuntimeError(
                f"{self.op}: {name} must be a number, or a tensor of shape () or (batch,), here ({batch},); got "
                f"{tuple(number.shape)}"
            )
        return number.expand(batch)

    def labels(self, name: str, labels: Tensor) -> Tensor:
        """A label for each row, as int64."""
        check_integers(self.op, name, labels)
        self._check_device(name, labels)
        if self.knows_sizes and labels.shape != self.model.shape[:-1]:
            raise RuntimeError(
                f"{self.op}: {name} must have a label for each row of {self.name}, {tuple(self.model.shape[:-1])}; got "
                f"{tuple(labels.shape)}"
            )
        labels = labels.to(torch.int64)
        return labels if self.batched else labels.unsqueeze(0)


class PairwiseLossModule(nn.Module):
    """A loss of all pairs as a module, which averages unless told otherwise.

    Args:
        function: the public function.
        numbers: the loss' own, by name; they become attributes.
    """

    def __init__(self, function: Callable[..., Tensor], reduction: str, **numbers: Any) -> None:
        super().__init__()
        # So that a mistake shows at construction.
        reduction_code(function.__name__, reduction)
        check_bool(function.__name__, "normalize", numbers["normalize"])
        if "temperature" in numbers and not isinstance(numbers["temperature"], Tensor):
            check_temperature(function.__name__, numbers["temperature"])
        self._function, self._numbers = function, (*numbers, "reduction")
        for name, value in {**numbers, "reduction": reduction}.items():
            setattr(self, name, value)

    def loss(self, *tensors: Tensor | float | None) -> Tensor:
        """The loss of what the function's first arguments are; the last, if it is None, is the module's own."""
        given = tensors[:-1] if tensors[-1] is None else tensors
        names = self._function.__code__.co_varnames[: len(given)]
        return self._function(*given, **{name: getattr(self, name) for name in self._numbers if name not in names})

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._numbers)


#: What a scale or a temperature may be; the least of them, and the largest number of all: both, and one over them, are
#: numbers of float32.
SCALE = "a finite number above 0, or a tensor"
TINY, HUGE = 1e-30, 1e30


def check_temperature(op: str, temperature: float) -> None:
    check_range(op, "temperature", temperature, TINY, HUGE, SCALE)


def temperature_scale(pairs: Pairs, temperature: Any) -> Tensor:
    """What products are multiplied by, from what they are divided by."""
    return 1 / pairs.number("temperature", temperature, TINY, SCALE)


def logits_of(queries: Tensor, keys: Tensor, scale: Tensor) -> Tensor:
    """All of them, (batch, N, M): for references."""
    return scale.unsqueeze(-1).unsqueeze(-1) * torch.matmul(queries, keys.transpose(1, 2))


def row_numbers(queries: Tensor, keys: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Which key each query is, as a column, and the numbers of the keys, as a row: for references."""
    rows = torch.arange(queries.shape[1], device=queries.device).unsqueeze(1) + offset
    return rows, torch.arange(keys.shape[1], device=keys.device).unsqueeze(0)


def _reduced(reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def with_reduction(queries: Tensor, keys: Tensor | None, *others: Any) -> Tensor:
        queries = queries.to(computed_dtype(queries))
        losses = reference(queries, queries if keys is None else keys.to(queries.dtype), *others[:-1])
        return losses if others[-1] == NONE else losses.sum()

    # Whose it is: registration names the op's public function by its module.
    with_reduction.__module__ = reference.__module__
    return with_reduction
