"""What a tensor is to its op, and what the op's schema says: the words that handgrad.derivatives speaks in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from handgrad.registration import schema_of

# ---- roles -----------------------------------------------------------------------------------------------------------


def fold_batch(tensor: Tensor, call: Call) -> Tensor:
    """What vmap adds goes into the op's own batch, dimension 0."""
    return tensor.flatten(0, 1)


def unfold_batch(tensor: Tensor, size: int) -> Tensor:
    """The reverse of :func:`fold_batch`, for a result."""
    return tensor.unflatten(0, (size, tensor.shape[0] // max(1, size)))


@dataclass(frozen=True)
class Role:
    """What a tensor is to its op: how vmap's dimension goes into it and comes out of its gradient, and where it may be
    split over devices.

    Args:
        fold: from the tensor with vmap's dimension in front to one that the op takes. It also gets the whole call, for
            what depends on the other tensors.
        unfold: from a result, and the size of vmap's dimension, to one with that dimension in front.
        gradient: the role of the tensor's gradients and directions, where it is not this one.
        whole: the op needs all of it for each sample, and its gradient is a sum over samples: a weight.
    """

    fold: Callable[[Tensor, Call], Tensor]
    unfold: Callable[[Tensor, int], Tensor]
    gradient: Role | None = None
    whole: bool = False


#: Dimension 0 is the batch: samples are independent of each other.
BATCHED = Role(fold_batch, unfold_batch)
#: Elements, or rows, are independent of each other: a further dimension in front changes nothing.
ELEMENTWISE = Role(lambda tensor, call: tensor, lambda tensor, size: tensor)
#: All samples share it, as they do a weight. Under vmap over it, or over a call that asks for its gradient, samples are
#: computed one by one, unless the op knows better.
WHOLE = Role(lambda tensor, call: tensor, lambda tensor, size: tensor, whole=True)


# ---- schemas, read ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Op:
    """An op as its schema has it: the names of its tensors, of its other arguments, and of its results."""

    name: str
    tensors: tuple[str, ...]
    others: tuple[str, ...]
    results: tuple[str, ...]

    @staticmethod
    def read(name: str) -> Op:
        schema = schema_of(name)
        tensors = [a.name for a in schema.arguments if str(a.type) in ("Tensor", "Optional[Tensor]")]
        names = [argument.name for argument in schema.arguments]
        if names[: len(tensors)] != tensors:
            raise TypeError(f"{name}: tensors must be the first arguments of the schema; got ({', '.join(names)})")
        results = [result.name or "output" for result in schema.returns]
        return Op(name, tuple(tensors), tuple(names[len(tensors) :]), tuple(results))

    def named(self, args: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self.tensors + self.others, args, strict=True))


@dataclass
class Call:
    """A call of one of the three ops under vmap: its tensors have vmap's dimension in front, but for those without one
    that are :data:`WHOLE`."""

    op: Op
    size: int  #: of vmap's dimension
    tensors: dict[str, Any]  #: None for one that is left out
    others: dict[str, Any]
    batched: frozenset[str] = field(default_factory=frozenset)  #: the tensors that vmap goes over

    def asks_for(self, result: str) -> bool:
        """Whether ``result`` is asked for, and the gradient of a tensor that is there."""
        mask = self.others.get("output_mask")
        if mask is not None and not mask[self.op.results.index(result)]:
            return False
        return has_gradient(self.tensors, argument_of(result))


def has_gradient(tensors: Mapping[str, Any], name: str) -> bool:
    """Whether there is a gradient with respect to ``name``: of a tensor that is left out, or of integers (class
    numbers, say), there is none. What is no tensor's name counts as the output's."""
    tensor = tensors.get(name, ())
    return tensor is not None and (not isinstance(tensor, Tensor) or tensor.is_floating_point())


def argument_of(name: str) -> str:
    """``x`` of ``grad_x`` and ``grad_grad_x``; ``output`` for all that is like the output."""
    return name.removeprefix("grad_").removeprefix("grad_")
