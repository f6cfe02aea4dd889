"""A last layer for other classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from handgrad.arguments import described
from handgrad.transfer.models import check_bare_module
from handgrad.transfer.words import some, suggestion

# Where torchvision's classifiers keep the layer that gives the classes, by the name of their class. Further names of
# a family are auxiliary heads, which are there only when the model was built with them.
_HEADS: dict[str, tuple[str, ...]] = {
    "AlexNet": ("classifier.6",),
    "VGG": ("classifier.6",),
    "ResNet": ("fc",),
    "SqueezeNet": ("classifier.1",),
    "DenseNet": ("classifier",),
    "Inception3": ("fc", "AuxLogits.fc"),
    "GoogLeNet": ("fc", "aux1.fc2", "aux2.fc2"),
    "MobileNetV2": ("classifier.1",),
    "MobileNetV3": ("classifier.3",),
    "EfficientNet": ("classifier.1",),
}
_HEAD_TYPES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class HeadReport:
    """What :func:`new_head` did."""

    names: tuple[str, ...]  #: the replaced layers; the main head first
    changes: tuple[str, ...]  #: one line for each
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{name}: {change}" for name, change in zip(self.names, self.changes, strict=True)]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    __repr__ = __str__


def new_head(model: nn.Module, num_classes: int, *, head: str | Sequence[str] | None = None) -> HeadReport:
    """Give ``model`` a new last layer with ``num_classes`` outputs.

    Known are torchvision's AlexNet, VGG, ResNet (ResNeXt, Wide ResNet), SqueezeNet, DenseNet, Inception v3 and
    GoogLeNet (with their auxiliary heads), MobileNet v2 and v3, and EfficientNet. Of any other network the last layer
    that holds parameters is taken, if it is a linear or an ungrouped convolution layer and the only one that can be
    the head.

    The new layer has the old one's input width, kernel, bias, device, type and mode; its parameters are trainable. It
    starts with normal weights of deviation 0.01 and zero bias, so that every class starts with a logit near zero: the
    output keeps its shape, (N, old classes) becoming (N, ``num_classes``).

    Args:
        model: the network, changed in place.
        num_classes: number of outputs; 1 for a binary task with one logit.
        head: name, or names, of the layer to replace, where it cannot be found or another one is meant.

    Returns:
        A :class:`HeadReport` with the ``names`` of the layers that were replaced.

    Raises:
        TypeError: an argument is of the wrong type, or no head, or more than one, was found in ``model``.
        ValueError: ``num_classes`` is not positive, ``head`` names no submodule, or ``model`` is already wrapped for
            distributed training or compiled.

    Example::

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
        >>> new_head(model, 3)
        1: Linear 12 -> 10 becomes 12 -> 3
    """
    check_bare_module("model", model)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise TypeError(f"num_classes must be an integer; got {described(num_classes)}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1; got {num_classes}")
    names = _find_heads(model, head)

    changes, notes = [], []
    for name in names:
        old = model.get_submodule(name)
        new = _same_layer(old, num_classes)
        parent, _, leaf = name.rpartition(".")
        holder = model.get_submodule(parent)
        holder._modules[leaf] = new
        width, outputs = _widths(old)
        changes.append(f"{type(old).__name__} {width} -> {outputs} becomes {width} -> {num_classes}")
        after = list(holder)[int(leaf) + 1 :] if isinstance(holder, nn.Sequential) and leaf.isdigit() else []
        if any(isinstance(module, nn.ReLU) for module in after):
            notes.append(f"a ReLU follows {name}: outputs are never negative, which a sigmoid loss cannot use")
    if isinstance(getattr(model, "num_classes", None), int):
        setattr(model, "num_classes", num_classes)  # noqa: B010  (mypy takes every attribute of a module for a tensor)
    return HeadReport(names, tuple(changes), tuple(notes))


def _find_heads(model: nn.Module, head: str | Sequence[str] | None) -> tuple[str, ...]:
    if head is not None:
        names = (head,) if isinstance(head, str) else tuple(head)
        known = dict(model.named_modules(remove_duplicate=False))
        for name in names:
            if name not in known or not name:
                raise ValueError(f"head must name a submodule of the model; got {name!r}{suggestion(name, known)}")
            if not isinstance(known[name], _HEAD_TYPES):
                raise TypeError(
                    f"head must name a linear or convolution layer, but {name} is a {type(known[name]).__name__}"
                )
        return names

    kind = type(model).__name__
    for base in type(model).__mro__:
        if base.__module__.startswith("torchvision.models.") and base.__name__ in _HEADS:
            present = dict(model.named_modules())
            return tuple(name for name in _HEADS[base.__name__] if name in present)

    layers = [(name, module) for name, module in model.named_modules() if any(True for _ in module.parameters(False))]
    name, last = layers[-1] if layers else ("", model)
    if not name or not isinstance(last, _HEAD_TYPES) or getattr(last, "groups", 1) != 1:
        found = f"its last layer with parameters is {name} ({type(last).__name__})" if name else "it has none"
        raise TypeError(
            f"model must end in a linear or ungrouped convolution layer, but {kind} does not: {found}; "
            "name the layer to replace with head="
        )
    width, outputs = _widths(last)
    parent = name.rpartition(".")[0]
    last_of_branch = {other.partition(".")[0]: other for other, _ in layers}
    rivals = []
    for other, layer in layers[:-1]:
        if not isinstance(layer, _HEAD_TYPES) or _widths(layer)[1] == width:
            continue  # no head, or one that may well feed the last layer
        beside = other.rpartition(".")[0] == parent
        same_outputs = _widths(layer)[1] == outputs
        # Two heads read the same features, or end two branches with the same classes, as an auxiliary head does.
        if (beside and (_widths(layer)[0] == width or same_outputs)) or (
            same_outputs and other == last_of_branch[other.partition(".")[0]]
        ):
            rivals.append(other)
    if rivals:
        raise TypeError(
            f"model must have one head, but in {kind} it may be {some([*rivals, name])}: "
            "name the layer, or all layers, to replace with head="
        )
    return (name,)


def _widths(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return layer.in_channels, layer.out_channels


def _same_layer(old: nn.Module, num_classes: int) -> nn.Module:
    """A layer like ``old`` with ``num_classes`` outputs."""
    placement: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
    new: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None, **placement)
    else:
        assert isinstance(old, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        same = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        settings: dict[str, Any] = {name: getattr(old, name) for name in same} | placement
        kind = next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(old, kind))
        new = kind(old.in_channels, num_classes, bias=old.bias is not None, **settings)
    nn.init.normal_(new.weight, std=0.01)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new.train(old.training)
