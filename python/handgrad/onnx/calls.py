"""Example calls of a model: the arguments that exporting and verifying share."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from handgrad.arguments import described


@dataclass(frozen=True)
class Call:
    """An example call of a model, its keyword arguments in the order of the signature."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    named: dict[str, Any]  #: both by the signature's names: what dynamic_shapes refers to


def bind(function: str, model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None) -> Call:
    if isinstance(args, Tensor):
        args = (args,)
    if not isinstance(args, tuple | list):
        raise TypeError(f"{function}: args must be a tensor or a tuple of arguments; got {described(args)}")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"{function}: kwargs must be a dictionary of arguments; got {described(kwargs)}")
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **(kwargs or {}))
    except TypeError as error:
        raise TypeError(f"{function}: args and kwargs must fit {type(model).__name__}.forward: {error}") from None
    order = list(signature.parameters)
    ordered = dict(
        sorted((kwargs or {}).items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    )
    call = Call(tuple(args), ordered, dict(bound.arguments))
    if not tensors_of(call):
        raise ValueError(f"{function}: args must hold at least one tensor; got {described(args)}")
    return call


def tensors_of(tree: Any) -> list[Tensor]:
    tree = (tree.args, tree.kwargs) if isinstance(tree, Call) else tree
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def with_batch(call: Call, new_size: Callable[[int], int]) -> Call:
    """The same call with other batch sizes: the rows of each tensor, repeated in turn."""

    def resized(tensor: Tensor) -> Tensor:
        if not tensor.dim() or new_size(tensor.shape[0]) == tensor.shape[0]:
            return tensor
        rows = torch.arange(new_size(tensor.shape[0]), device=tensor.device) % tensor.shape[0]
        return tensor.detach().index_select(0, rows)

    args, kwargs, named = tree_map_only(Tensor, resized, (call.args, call.kwargs, call.named))
    return Call(args, kwargs, named)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    # Module by module: model.train() would wake those that were in evaluation mode, or are held there.
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def require(function: str, *packages: str) -> None:
    missing = []
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise ImportError(
            f"handgrad.onnx.{function} needs {' and '.join(missing)}. Install it with: pip install handgrad[onnx]"
        )


def check_model(function: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be a torch.nn.Module; got {described(model)}")
