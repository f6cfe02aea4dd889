"""Weights of one network in another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from handgrad.arguments import described
from handgrad.transfer.models import check_module, misfit
from handgrad.transfer.words import count, some


@dataclass(frozen=True)
class CopyReport:
    """What :func:`copy_matching_weights` did. Names are those of the destination, except in ``unexpected``."""

    copied: tuple[str, ...]  #: tensors that now hold the source's values
    mismatched: Mapping[str, str]  #: found under the same name but not copied, each with the reason
    missing: tuple[str, ...]  #: in the destination only
    unexpected: tuple[str, ...]  #: in the source only

    @property
    def complete(self) -> bool:
        """True if every tensor of the destination was filled and none of the source was left over."""
        return not (self.mismatched or self.missing or self.unexpected)

    def __str__(self) -> str:
        total = len(self.copied) + len(self.mismatched) + len(self.missing)
        lines = [f"copied {len(self.copied)} of {count(total, 'tensor')}"]
        lines += [f"  not copied {name}: {reason}" for name, reason in self.mismatched.items()]
        lines += [f"  {label}: {some(names)}" for label, names in self._one_sided() if names]
        return "\n".join(lines)

    def _one_sided(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return ("missing in the source", self.missing), ("only in the source", self.unexpected)

    __repr__ = __str__


def copy_matching_weights(src: nn.Module | Mapping[str, Tensor], dst: nn.Module) -> CopyReport:
    """Copy into ``dst`` every parameter and buffer of ``src`` that has the same name and shape there.

    Values are written in place and outside autograd, in the destination's device and floating-point type; whether a
    parameter requires a gradient stays as it was. A ``module.`` or ``_orig_mod.`` in front of all names, which
    ``DistributedDataParallel`` and ``torch.compile`` put there, is ignored on both sides.

    Args:
        src: a module or a state dict (name to tensor).
        dst: the module that receives the values.

    Returns:
        A :class:`CopyReport` with ``copied``, ``mismatched`` (and why), ``missing`` and ``unexpected`` names.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``src`` is a checkpoint that holds the state dict under a key of its own.

    Example::

        >>> src, dst = nn.Linear(4, 2), nn.Linear(4, 3, bias=False)
        >>> copy_matching_weights(src, dst)
        copied 0 of 1 tensor
          not copied weight: shape (2, 4) does not fit (3, 4)
          only in the source: bias
    """
    check_module("dst", dst)
    if isinstance(src, nn.Module):
        state: Mapping[str, object] = src.state_dict()
    elif isinstance(src, Mapping):
        state = src
        bad = next((key for key in state if not isinstance(key, str)), None)
        if bad is not None:
            raise TypeError(f"src must map names to tensors; got the key {bad!r} of type {type(bad).__name__}")
    else:
        raise TypeError(f"src must be a module or a state dict; got {described(src)}")
    if not any(isinstance(value, Tensor) for value in state.values()):
        inner = next((key for key, value in state.items() if isinstance(value, Mapping | nn.Module)), None)
        if inner is not None:
            raise ValueError(f"src must map names to tensors, but holds none: did you mean src[{inner!r}]?")

    target = dst.state_dict(keep_vars=True)
    source_prefix, target_prefix = _wrapper_prefix(state), _wrapper_prefix(target)
    source_names = {name.removeprefix(source_prefix): name for name in state}

    copied, missing = [], []
    mismatched: dict[str, str] = {}
    pairs: list[tuple[Tensor, Tensor]] = []
    for name, value in target.items():
        source_name = source_names.pop(name.removeprefix(target_prefix), None)
        if source_name is None:
            missing.append(name)
        elif reason := misfit(state[source_name], value):
            mismatched[name] = reason
        else:
            pairs.append((value, state[source_name]))  # type: ignore[arg-type]
            copied.append(name)
    with torch.no_grad():
        for value, new_value in pairs:
            value.copy_(new_value)
    return CopyReport(tuple(copied), mismatched, tuple(missing), tuple(source_names.values()))


def _wrapper_prefix(names: Iterable[str]) -> str:
    """The run of ``module.`` and ``_orig_mod.`` with which every name begins; '' if there is none."""
    names = list(names)
    prefix = ""
    while names:
        step = next((w for w in ("module.", "_orig_mod.") if all(n.startswith(prefix + w) for n in names)), None)
        if step is None:
            break
        prefix += step
    return prefix
