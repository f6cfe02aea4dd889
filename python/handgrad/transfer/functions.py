"""Functions in the place of others, where layers call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from handgrad.arguments import described
from handgrad.transfer.models import check_bare_module
from handgrad.transfer.rewiring import Rewiring
from handgrad.transfer.words import count


@dataclass(frozen=True)
class ReplaceFunctionsReport:
    """What :func:`replace_functions` did. ``len(report)`` is the number of layers that now call other functions."""

    wanted: tuple[str, ...]  #: the functions that were looked for
    #: by name of the layer: ``"method calls old -> new"``; '' is the model itself
    layers: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...]  #: those of ``wanted`` that no layer calls

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        lines = [f"replaced functions in {count(len(self.layers), 'layer')}"]
        lines += [f"  {name or 'the model'}: {call}" for name, calls in self.layers.items() for call in calls]
        lines += [f"  no layer calls {name}" for name in self.unused]
        return "\n".join(lines)

    __repr__ = __str__


def replace_functions(
    model: nn.Module, replacements: Mapping[Callable[..., Any], Callable[..., Any]]
) -> ReplaceFunctionsReport:
    """Let the layers of ``model`` call other functions, where a library's code calls one by name.

    Some ops are no layers: torchvision's detectors call ``nms`` and ``roi_align`` in the middle of their methods. This
    gives the layers that do so a subclass of their class, in which the calls go to the replacement, also where they are
    made by a function further down. Nothing changes for other models or for the library: it is not patched.

    Args:
        model: the network, changed in place.
        replacements: old function to new one, which takes the same arguments.

    Returns:
        A :class:`ReplaceFunctionsReport`: print it to see which layers call what. A function that no layer calls is
        listed there and no error.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``model`` is already wrapped for distributed training, or compiled.

    Followed are functions of the packages that the old functions and the layers' classes come from, found by their
    global names, as they are now: what somebody patches into the library later is not seen. Layers are found; objects
    that are no modules are not looked into. The state dict, hooks and ``copy.deepcopy`` work as before; pickling the
    whole model, instead of its state dict, fails, since the subclasses exist in this process only.

    Example::

        >>> class Doubled(nn.Module):
        ...     def forward(self, x):
        ...         return nn.functional.relu(2 * x)
        >>> model = nn.Sequential(Doubled())
        >>> replace_functions(model, {nn.functional.relu: nn.functional.relu6})
        replaced functions in 1 layer
          0: forward calls relu -> relu6
        >>> model(torch.tensor(5.0))
        tensor(6.)
    """
    check_bare_module("model", model)
    if not isinstance(replacements, Mapping) or not replacements:
        raise TypeError(f"replacements must map functions to functions; got {described(replacements)}")
    for old, new in replacements.items():
        if not callable(old) or not callable(new):
            raise TypeError(
                f"replacements must map functions to functions; got {described(new if callable(old) else old)}"
            )
        if isinstance(old, type) or isinstance(new, type):
            raise TypeError(
                f"replacements must map functions to functions; got the class "
                f"{(old if isinstance(old, type) else new).__name__}: for layers there is replace_layers"
            )
    kinds = {type(module): None for module in model.modules()}
    packages = {(part.__module__ or "").partition(".")[0] for part in (*replacements, *kinds)}
    rewiring = Rewiring(replacements, packages)
    layers: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    subclasses = {kind: rewiring.subclass(kind) for kind in kinds}
    new_names = {old.__name__: getattr(new, "__name__", repr(new)) for old, new in replacements.items()}
    for name, module in model.named_modules():
        calls = rewiring.calls(type(module))
        # A layer may also hold a function as an attribute.
        held = {key: value for key, value in vars(module).items() if rewiring.copy(value) is not value}
        for key, value in held.items():
            setattr(module, key, rewiring.copy(value))
            calls += [(key, old.__name__) for old in ([value] if value in replacements else rewiring.reached(value))]
        if calls:
            layers[name] = tuple(f"{method} calls {old} -> {new_names[old]}" for method, old in calls)
            used.update(old for _, old in calls)
        module.__class__ = subclasses[type(module)]
    wanted = tuple(new_names)
    return ReplaceFunctionsReport(wanted, layers, tuple(name for name in wanted if name not in used))
