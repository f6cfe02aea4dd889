"""What the tools of this package ask of models and their tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from handgrad.arguments import described


def check_module(name: str, value: object) -> None:
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a module; got {described(value)}")


def check_bare_module(name: str, value: object) -> None:
    """Refuse a model whose wrapper has already taken note of its parameters and would not see them change."""
    check_module(name, value)
    wrappers = nn.DataParallel | nn.parallel.DistributedDataParallel | torch.jit.ScriptModule
    if isinstance(value, wrappers) or hasattr(value, "_orig_mod"):
        raise ValueError(
            f"{name} must be the bare network; got it wrapped in {type(value).__name__}: "
            "change it first, wrap it afterwards"
        )


def children(root: nn.Module, stop: tuple[type[nn.Module], ...]) -> Iterator[tuple[nn.Module, str, str, nn.Module]]:
    """Every place a module sits in, in order: holder, name in it, path, module. Nothing below the types ``stop``."""
    seen: set[nn.Module] = set()

    def walk(parent: nn.Module, prefix: str) -> Iterator[tuple[nn.Module, str, str, nn.Module]]:
        seen.add(parent)
        for name, child in parent._modules.items():  # named_children() would leave out a child's second name
            if child is None:
                continue
            yield parent, name, prefix + name, child
            if child not in seen and not isinstance(child, stop):
                yield from walk(child, f"{prefix}{name}.")

    return walk(root, "")


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, buffers outside the state dict included."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def has_tensors(module: nn.Module) -> bool:
    return bool(tensors_of(module))


def misfit(source: object, target: object) -> str | None:
    """Why ``source`` cannot fill ``target``; None if it can."""
    if not isinstance(source, Tensor) or not isinstance(target, Tensor):
        return f"not a tensor but {described(target if isinstance(source, Tensor) else source)}"
    if is_lazy(source) or is_lazy(target):
        return "a lazy layer has no shape before its first call"
    if source.shape != target.shape:
        return f"shape {tuple(source.shape)} does not fit {tuple(target.shape)}"
    if source.is_meta and not target.is_meta:
        return "the source is on the meta device and holds no values"
    if _number_kind(source) != _number_kind(target):
        return f"type {source.dtype} does not fit {target.dtype}"
    return None


def _number_kind(tensor: Tensor) -> str:
    # float32 into bfloat16 is what a user of half precision wants; float into integer would lose values silently.
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else str(tensor.dtype)
