"""Ops of (batch, channels, positions...) and of tensors of its channels, in which channels do not talk to each other,
or only to others of their group: what vmap makes of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from handgrad.derivatives import Call
from handgrad.kinds.channel_norm import NormWithParameters

__all__ = ["SeparateChannels"]


class SeparateChannels(NormWithParameters):
    """An op whose first tensor is an input of (batch, channels, positions...), and whose others are of its channels."""

    #: Tensors that are not of the channels: all of them share these.
    shared: tuple[str, ...] = ()

    def others_of(self, call: Call) -> dict[str, Any]:
        """The arguments that are no tensors, for a call in which samples are further channels."""
        return dict(call.others)

    # ---- vmap: samples that have a weight each, or want its gradient, are further channels of one call ---------------

    def batched(self, call: Call) -> list[Tensor]:
        whole = [name for name in call.tensors if name in call.batched and self.role(name).whole]
        sums = [name for name in call.op.results if self.role(name).whole and call.asks_for(name)]
        if (not whole and not sums) or any(name in self.shared for name in whole):
            return super().batched(call)
        size, channels = call.size, call.tensors[self.op.tensors[0]].shape[2]
        tensors = {name: self._beside_each_other(name, tensor, call) for name, tensor in call.tensors.items()}
        results = []
        for name, result in zip(call.op.results, self._run(call.op, tensors, self.others_of(call)), strict=True):
            if not call.asks_for(name):
                results.append(result.new_empty(size, 0))
            elif self.role(name).whole:
                results.append(result.unflatten(0, (size, channels)))
            else:
                results.append(result.unflatten(1, (size, channels)).movedim(1, 0))
        return results

    def _beside_each_other(self, name: str, tensor: Tensor | None, call: Call) -> Tensor | None:
        if tensor is None or name in self.shared:
            return tensor
        if not self.role(name).whole:
            return tensor.movedim(0, 1).flatten(1, 2)
        return (tensor if name in call.batched else tensor.expand(call.size, -1)).flatten()
