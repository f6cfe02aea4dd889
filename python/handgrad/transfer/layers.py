"""Layers in the place of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from handgrad.arguments import described
from handgrad.transfer.models import check_bare_module, children, has_tensors, misfit, tensors_of
from handgrad.transfer.words import count, indent


@dataclass(frozen=True)
class ReplacedLayer:
    """One layer that :func:`replace_layers` put in the place of another."""

    names: tuple[str, ...]  #: where it sits; more than one name if the layer is shared
    old: str  #: class of the old layer
    new: str  #: class of the new layer
    kept: tuple[str, ...] = ()  #: parameters and buffers taken over from the old layer
    not_kept: Mapping[str, str] = field(default_factory=dict)  #: the others, each with the reason
    notes: tuple[str, ...] = ()  #: what else the caller should know

    def __str__(self) -> str:
        lines = [f"{' = '.join(self.names)}: {self.old} -> {self.new}"]
        if self.kept:
            lines.append(f"  kept {', '.join(self.kept)}")
        lines += [f"  not kept {name}: {reason}" for name, reason in self.not_kept.items()]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    __repr__ = __str__


@dataclass(frozen=True)
class ReplaceReport:
    """What :func:`replace_layers` did. ``len(report)`` is the number of replaced layers."""

    wanted: str  #: the type that was looked for
    replaced: tuple[ReplacedLayer, ...]

    def __len__(self) -> int:
        return len(self.replaced)

    def __iter__(self) -> Iterator[ReplacedLayer]:
        return iter(self.replaced)

    def __str__(self) -> str:
        if not self.replaced:
            return f"replaced no layer: the model holds no {self.wanted}"
        head = f"replaced {count(len(self.replaced), 'layer')} of type {self.wanted}"
        return "\n".join([head, *(indent(str(layer)) for layer in self.replaced)])

    __repr__ = __str__


def replace_layers(
    model: nn.Module,
    old_type: type[nn.Module] | tuple[type[nn.Module], ...],
    factory: Callable[[nn.Module], nn.Module],
    *,
    keep_weights: bool = True,
) -> ReplaceReport:
    """Put ``factory(layer)`` in the place of every ``layer`` of ``model`` that is an ``old_type``.

    A parameter or buffer that has the same name and shape in the old and the new layer is taken over: the new layer
    holds the very tensor, so weights tied to another layer stay tied and an optimizer built before keeps its hold.
    The new layer also takes the old one's train/eval mode, device and floating-point type (for a layer without
    tensors, such as a ReLU, those of the module around it). A layer that the model uses in several places is replaced
    once and stays shared. Layers inside a replaced layer are left alone, so a factory may wrap the old layer. Nothing
    is changed if the factory fails on any layer.

    Args:
        model: the network, changed in place.
        old_type: a module class, or a tuple of them; subclasses count.
        factory: called once per layer with the old layer; returns the new one, or the old one itself to leave it.
        keep_weights: False leaves the new layers' weights as the factory made them.

    Returns:
        A :class:`ReplaceReport`: print it to see what was replaced, and which tensors were kept or not, and why.

    Raises:
        TypeError: an argument, or what ``factory`` returned, is of the wrong type.
        ValueError: ``model`` itself is an ``old_type`` (nothing holds it that could hold another), is already wrapped
            for distributed training or compiled, or ``factory`` returned one layer with weights for two old ones.

    Example::

        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> replace_layers(model, nn.ReLU, lambda old: nn.GELU())
        replaced 1 layer of type ReLU
          1: ReLU -> GELU
    """
    check_bare_module("model", model)
    types = old_type if isinstance(old_type, tuple) else (old_type,)
    if not types or not all(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in types):
        raise TypeError(f"old_type must be a module class or a tuple of module classes; got {old_type!r}")
    if not callable(factory):
        raise TypeError(f"factory must be callable as factory(old_layer); got {described(factory)}")
    wanted = " or ".join(kind.__name__ for kind in types)
    if isinstance(model, types):
        raise ValueError(
            f"model must contain layers of old_type, but is itself a {type(model).__name__}: "
            "call the factory on it directly"
        )

    uses: dict[nn.Module, list[tuple[nn.Module, str, str]]] = {}
    for parent, name, path, child in children(model, stop=types):
        if isinstance(child, types):
            uses.setdefault(child, []).append((parent, name, path))

    # Every factory call comes before the first change, so that a factory that fails halfway leaves the model whole.
    made = {old: factory(old) for old in uses}
    sources: dict[nn.Module, nn.Module] = {}
    for old, new in made.items():
        where = uses[old][0][2]
        if not isinstance(new, nn.Module):
            raise TypeError(f"factory must return a module; got {described(new)} for the layer {where}")
        if new is not old and sources.setdefault(new, old) is not old and has_tensors(new):
            raise ValueError(
                f"factory must return a new layer for each old one, but returned one {type(new).__name__} with weights "
                f"for both {uses[sources[new]][0][2]} and {where}"
            )

    replaced = []
    for old, new in made.items():
        if new is old:
            continue
        parent = uses[old][0][0]
        replaced.append(_take_over(tuple(path for *_, path in uses[old]), old, new, (parent, model), keep_weights))
        for parent, name, _ in uses[old]:
            parent._modules[name] = new
    return ReplaceReport(wanted, tuple(replaced))


def _take_over(
    names: tuple[str, ...], old: nn.Module, new: nn.Module, around: Sequence[nn.Module], keep_weights: bool
) -> ReplacedLayer:
    """Move mode, placement and matching tensors of ``old`` to ``new``; say what happened."""
    notes = []
    kept: list[str] = []
    not_kept: dict[str, str] = {}
    if any(module is old for module in new.modules()):
        notes.append("the new layer wraps the old one, which keeps its tensors")
    else:
        for module in (old, *around):
            example = next((t for t in tensors_of(module).values() if t.is_floating_point()), None)
            if example is not None:
                new.to(device=example.device, dtype=example.dtype)
                break
        old_tensors, new_tensors = tensors_of(old), tensors_of(new)
        for name, tensor in old_tensors.items():
            target = new_tensors.get(name)
            if not keep_weights:
                not_kept[name] = "keep_weights=False"
            elif target is None:
                not_kept[name] = "the new layer has no tensor of this name"
            elif reason := misfit(tensor, target):
                not_kept[name] = reason
            elif isinstance(tensor, nn.Parameter) != isinstance(target, nn.Parameter):
                not_kept[name] = "a parameter in one layer, a buffer in the other"
            else:
                owner, _, leaf = name.rpartition(".")
                holder = new.get_submodule(owner)
                if isinstance(tensor, nn.Parameter):
                    holder._parameters[leaf] = tensor
                else:
                    holder._buffers[leaf] = tensor
                kept.append(name)
        if fresh := [name for name in new_tensors if name not in old_tensors]:
            notes.append(f"new in this layer: {', '.join(fresh)}")
    if old._forward_hooks or old._forward_pre_hooks or old._backward_hooks or old._backward_pre_hooks:
        notes.append("hooks registered on the old layer were not carried over")
    new.train(old.training)
    return ReplacedLayer(names, type(old).__name__, type(new).__name__, tuple(kept), not_kept, tuple(notes))
