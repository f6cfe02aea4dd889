"""Parameters that no longer learn."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import nn

from handgrad.arguments import described
from handgrad.transfer.models import check_bare_module
from handgrad.transfer.words import count, some, suggestion


@dataclass(frozen=True)
class FreezeReport:
    """What :func:`freeze` left of the model. Shared parameters count once."""

    frozen: tuple[str, ...]  #: parameters in front of `until`
    trainable: tuple[str, ...]  #: parameters that still require a gradient
    eval_layers: tuple[str, ...]  #: layers held in eval mode because they keep running statistics
    frozen_elements: int
    trainable_elements: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"froze {count(len(self.frozen), 'parameter')} ({count(self.frozen_elements, 'element')}), "
            f"held {count(len(self.eval_layers), 'layer')} with running statistics in eval mode",
            f"  trainable: {count(len(self.trainable), 'parameter')} ({count(self.trainable_elements, 'element')})"
            + (f", from {self.trainable[0]} on" if self.trainable else ""),
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    __repr__ = __str__


def freeze(model: nn.Module, until: str | None = None) -> FreezeReport:
    """Stop training the parameters that come before the submodule ``until``.

    "Before" is the order in which modules were registered, which ``print(model)`` shows: at every level of the path to
    ``until`` the children in front of it are frozen, and the parameters that the containers on the way hold themselves.
    ``until`` and everything behind it stays as it is; ``None`` freezes the whole model. A frozen parameter no longer
    requires a gradient and its ``grad`` is dropped.

    A frozen batch normalisation, and any other frozen layer with running statistics, is put in eval mode and stays
    there when ``model.train()`` is called, as it would otherwise go on moving its statistics. That holds for copies and
    pickles of the model too; :func:`unfreeze` ends it. Frozen dropout is not touched.

    Freeze before :func:`new_head` if the model has an auxiliary head in the middle (Inception v3), so that the new
    head is not frozen with the layers around it, and before wrapping the model in ``DistributedDataParallel``.

    Args:
        model: the network, changed in place.
        until: name of the first submodule to leave trainable, as in ``"layer4"`` or ``"features.14"``.

    Returns:
        A :class:`FreezeReport` with the names and sizes of what is frozen and what still learns.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``model`` has no submodule ``until`` (the error message names those that come close), or is already
            wrapped for distributed training or compiled.

    Example::

        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
        >>> freeze(model, until="2")
        froze 4 parameters (240 elements), held 1 layer with running statistics in eval mode
          trainable: 2 parameters (18 elements), from 2.weight on
    """
    check_bare_module("model", model)
    if until is not None and not isinstance(until, str):
        raise TypeError(f"until must be the name of a submodule or None; got {described(until)}")

    frozen: dict[str, nn.Parameter] = {}
    modules: dict[str, nn.Module] = {}
    if until is None:
        modules = dict(model.named_modules())
        frozen = dict(model.named_parameters())
    else:
        known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
        if until not in known:
            raise ValueError(f"until must name a submodule of the model; got {until!r}{suggestion(until, known)}")
        holder, path = model, ""
        for step in until.split("."):
            frozen.update({path + name: p for name, p in holder.named_parameters(recurse=False)})
            for name, child in holder.named_children():
                if name == step:
                    break
                modules.update(child.named_modules(prefix=path + name))
                frozen.update(child.named_parameters(prefix=path + name))
            holder, path = holder.get_submodule(step), f"{path}{step}."

    names_of_frozen = {parameter: name for name, parameter in reversed(frozen.items())}
    for parameter in names_of_frozen:
        parameter.requires_grad_(False)
        parameter.grad = None  # an optimizer would go on applying a gradient that was left behind
    eval_layers = []
    for name, module in modules.items():
        if getattr(module, "running_mean", None) is not None:
            _hold_in_eval(module)
            eval_layers.append(name)

    notes = []
    every = model.named_parameters(remove_duplicate=False)
    if ties := [name for name, p in every if name not in frozen and p in names_of_frozen]:
        notes.append(f"frozen too, being tied to a frozen parameter: {some(ties)}")
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return FreezeReport(
        tuple(reversed(names_of_frozen.values())),
        tuple(trainable),
        tuple(eval_layers),
        sum(p.numel() for p in names_of_frozen),
        sum(p.numel() for p in trainable.values()),
        tuple(notes),
    )


def unfreeze(model: nn.Module) -> None:
    """Make every parameter of ``model`` trainable again and give its layers back to ``model.train()``.

    Modes are not changed: call ``model.train()`` afterwards. To thaw a network step by step, unfreeze it and freeze
    less of it.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``model`` is already wrapped for distributed training or compiled.

    Example::

        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        >>> report = freeze(model)
        >>> unfreeze(model)
        >>> model.train()[1].training
        True
    """
    check_bare_module("model", model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for module in model.modules():
        if _is_held(module):
            del module.train


def _hold_in_eval(module: nn.Module) -> None:
    module.eval()
    # An attribute of the instance hides the method when model.train() walks over its children. Unlike a subclass it
    # leaves the layer's type alone, unlike a hook it costs nothing in forward and is invisible to compile and export;
    # and being a partial of a function of this file, it is copied and pickled together with the layer that it names.
    module.train = functools.partial(_stay_in_eval, module)  # type: ignore[method-assign]


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return type(module).train(module, False)


def _is_held(module: nn.Module) -> bool:
    own = module.__dict__.get("train")
    return isinstance(own, functools.partial) and own.func is _stay_in_eval
