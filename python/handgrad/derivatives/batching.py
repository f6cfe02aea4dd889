"""The vmap rules of the three ops, and their rules for DTensors: both from the roles of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad.derivatives.described import Described
from handgrad.derivatives.roles import ELEMENTWISE, Call, Op, argument_of
from handgrad.registration import batch_first


class Batching(Described):
    #: How a call can be split over devices, see :class:`handgrad.derivatives.Derivatives`.
    splits: Callable[..., list[dict[str, int | None]]]

    # ---- vmap --------------------------------------------------------------------------------------------------------

    def vmap_of(self, op: Op) -> Callable[..., Any]:
        def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
            dims = dict(zip(op.tensors, in_dims, strict=False))
            tensors: dict[str, Any] = {}
            for name, tensor in zip(op.tensors, args, strict=False):
                shared = dims[name] is None and self.role(name).whole
                tensors[name] = tensor if shared else batch_first(tensor, dims[name], info.batch_size)
            others = dict(zip(op.others, args[len(op.tensors) :], strict=True))
            batched = frozenset(name for name, dim in dims.items() if dim is not None)
            results = self.batched(Call(op, info.batch_size, tensors, others, batched))
            return (results[0], 0) if len(results) == 1 else (tuple(results), (0,) * len(results))

        return vmap

    def batched(self, call: Call) -> list[Tensor]:
        """Calls an op of the three on tensors with a further dimension in front; its results have it in front too."""
        whole = [name for name in call.tensors if name in call.batched and self.role(name).whole]
        sums = [name for name in call.op.results if self.role(name).whole and call.asks_for(name)]
        if whole or sums:
            return self._one_by_one(call)
        folded = {
            name: None if tensor is None else self.role(name).fold(tensor, call)
            for name, tensor in call.tensors.items()
        }
        results = self._run(call.op, folded, call.others)
        return [
            self.role(name).unfold(result, call.size) if call.asks_for(name) else result.expand(call.size, 0)
            for name, result in zip(call.op.results, results, strict=True)
        ]

    def _one_by_one(self, call: Call) -> list[Tensor]:
        samples = []
        for index in range(call.size):
            tensors = {
                name: tensor
                if tensor is None or (self.role(name).whole and name not in call.batched)
                else tensor[index]
                for name, tensor in call.tensors.items()
            }
            samples.append(self._run(call.op, tensors, call.others))
        return [torch.stack(results) for results in zip(*samples, strict=True)]

    def _run(self, op: Op, tensors: Mapping[str, Any], others: Mapping[str, Any]) -> Sequence[Tensor]:
        function = {self.op: self.forward, self.backward_op: self.backward}.get(op) or self.double_backward
        results = function(*(tensors[name] for name in op.tensors), *(others[name] for name in op.others))
        return (results,) if isinstance(results, Tensor) else results

    # ---- DTensor -----------------------------------------------------------------------------------------------------

    def default_splits(self, **arguments: Any) -> list[dict[str, int | None]]:
        if all(role is ELEMENTWISE for role in self.roles.values()):
            first = arguments[self.op.tensors[0]]
            return [dict.fromkeys(self.roles, dim) for dim in range(len(first.shape))]
        return [{name: None if role.whole else 0 for name, role in self.roles.items()}]

    def sharding_of(self, op: Op) -> Callable[..., Any]:
        def rule(*args: Any) -> Any:
            from torch.distributed.tensor import Partial, Replicate, Shard

            named = op.named(args)
            arguments = {name: value for name, value in named.items() if name in self.op.tensors + self.op.others}
            mask = named.get("output_mask") or [True] * len(op.results)
            rules: list[Any] = [
                ([Replicate()] * len(op.results), [None if named[x] is None else Replicate() for x in op.tensors])
            ]
            for split in self.splits(**arguments):
                made: list[Any] = []
                for result, asked in zip(op.results, mask, strict=True):
                    name = argument_of(result)
                    dim = split[name]
                    if not asked or named.get(name, ()) is None:
                        made.append(Replicate())  # without elements, the same everywhere
                    else:
                        # What every device has whole, each has a share of the gradient of.
                        made.append(Partial() if dim is None else Shard(dim))
                given: list[Any] = []
                for tensor in op.tensors:
                    dim = split[argument_of(tensor)]
                    placement = Replicate() if dim is None else Shard(dim)
                    given.append(None if named[tensor] is None else placement)
                rules.append((made, given))
            return [(made, given + [None] * len(op.others)) for made, given in rules]

        return rule
