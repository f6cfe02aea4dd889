"""Normalisations of each channel of (batch, channels, positions...) by sums over its positions: all but the formula.

The op's schema is ``foo(Tensor input, Tensor? weight, Tensor? bias, ..., float eps) -> Tensor``, with further tensors
of channels where it has them, and with ``int groups`` behind ``eps`` where channels are normalised together; its
private ops' are as :mod:`handgrad.derivatives` has them; the C++ half is ``csrc/common/kinds/spatial_norm.h``. Tensors
of channels are of the type that the input is computed in, float32 beside half types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handgrad.arguments import check_tensor
from handgrad.derivatives import BATCHED, WHOLE, Call
from handgrad.kinds.channel_norm import check_eps, empty_gradient_of_norm, like_bias
from handgrad.kinds.separate_channels import SeparateChannels
from handgrad.registration import schema_of

__all__ = ["SpatialNorm", "over_positions"]


class SpatialNorm(SeparateChannels):
    """Registers a normalisation by sums over positions and calls it, with the checks that all of them share.

    Args:
        name: ``"namespace::op"``.
        reference: the op in plain PyTorch, with the op's positional arguments.
        omitted: the tensors of channels that the backward does not need, because they are added.

    Example::

        >>> _norm = SpatialNorm("my_ops::my_norm", my_norm_reference)
        >>> _norm(input, weight, bias, 1e-6)
    """

    def __init__(self, name: str, reference: Callable[..., Tensor], omitted: tuple[str, ...] = ()) -> None:
        arguments = [argument.name for argument in schema_of(name).arguments]
        self.mixes_channels = "groups" in arguments
        of_channels = arguments[1 : arguments.index("eps")]
        super().__init__(
            name,
            reference=reference,
            fake=self.fake_norm,
            roles={"input": BATCHED, **dict.fromkeys(of_channels, WHOLE), "output": BATCHED},
            gradient_like=empty_gradient_of_norm,
            autocast=torch.float32,
            omitted=dict.fromkeys(omitted, like_bias),
            splits=self.batch_and_channels,
        )

    def __call__(self, input: Tensor, *others: Any) -> Tensor:
        """The normalised input, from ``input``, the tensors of channels, and ``eps``."""
        check_tensor(self.title, "input", input)
        *of_channels, eps = others
        groups = (1,) if self.mixes_channels else ()
        return self.forward(input, *self.checked(input, of_channels), check_eps(self.title, eps), *groups)

    def others_of(self, call: Call) -> dict[str, Any]:
        others = dict(call.others)
        if self.mixes_channels:
            others["groups"] *= max(1, call.size)
        return others

    def batch_and_channels(self, **_: Any) -> list[dict[str, int | None]]:
        dims: list[tuple[int, int | None]] = [(0, None)] if self.mixes_channels else [(0, None), (1, 0)]
        return [{name: whole if role.whole else dim for name, role in self.roles.items()} for dim, whole in dims]


def over_positions(tensor: Tensor, mean: bool = False) -> Tensor:
    """The sum or the mean over the positions of each channel, which stay as dimensions of 1; for references."""
    dims = tuple(range(2, tensor.dim()))
    if not dims:
        return tensor
    return tensor.mean(dims, keepdim=True) if mean else tensor.sum(dims, keepdim=True)
