"""DTensors: what is told to torch of an op's sharding, and ops whose results have no sharding."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from handgrad.arguments import is_sharded

#: Overloads and rules that torch has not been told of yet.
PENDING: list[tuple[Any, Callable[..., Any]]] = []


def register_pending() -> None:
    # Importing DTensor costs more than importing handgrad; whoever holds a DTensor has imported it.
    if "torch.distributed.tensor" not in sys.modules:
        return
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.experimental import register_sharding

    infos = DTensor._op_dispatcher.sharding_propagator.op_to_schema_info
    while PENDING:
        overload, rule = PENDING.pop()
        register_sharding(overload)(rule)
        # Decisions are cached by the arguments from the first int on; a rule may also depend on an output_mask.
        types = [str(argument.type) for argument in overload._schema.arguments]
        infos[overload].static_argnum = next(
            (k for k, kind in enumerate(types) if "Tensor" not in kind), infos[overload].static_argnum
        )


# As above: Dynamo runs it instead of tracing into DTensor, which it cannot.
register_pending._dynamo_marked_constant = True  # type: ignore[attr-defined]


def replicated_beside(model: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` as a DTensor that every device has whole, if ``model`` is a DTensor and it is not one yet."""
    if not is_sharded(model) or is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh: Any = model.device_mesh  # type: ignore[attr-defined]
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def gathering(call: Callable[..., Any]) -> Callable[..., Any]:
    def gathering(*args: Any) -> Any:
        sharded: list[Any] = [arg for arg in args if isinstance(arg, torch.Tensor) and is_sharded(arg)]
        if not sharded:
            return call(*args)
        from torch.distributed.tensor import DTensor, Replicate

        mesh = sharded[0].device_mesh
        results = call(*(arg.full_tensor() if isinstance(arg, DTensor) else arg for arg in args))
        everywhere = [Replicate()] * mesh.ndim
        return tree_map_only(
            torch.Tensor, lambda result: DTensor.from_local(result, mesh, everywhere, run_check=False), results
        )

    return gathering
