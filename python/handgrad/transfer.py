"""Turn a trained network into one for another task.

Functions that change the model in place and return a report that says, when printed, what was done::

    import torchvision
    from handgrad import transfer

    model = torchvision.models.resnet18(weights="DEFAULT")
    print(transfer.freeze(model, until="layer4"))    # the first three stages no longer learn
    print(transfer.new_head(model, num_classes=5))   # 1000 ImageNet classes become 5

Only torch is imported. torchvision's classifiers are recognised by the name of their class.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from handgrad._rewiring import Rewiring

__all__ = [
    "CopyReport",
    "FreezeReport",
    "HeadReport",
    "ReplaceFunctionsReport",
    "ReplaceReport",
    "ReplacedLayer",
    "copy_matching_weights",
    "freeze",
    "new_head",
    "replace_functions",
    "replace_layers",
    "unfreeze",
]


# ----------------------------------------------------------------------------------------------------- replace layers


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
        head = f"replaced {_count(len(self.replaced), 'layer')} of type {self.wanted}"
        return "\n".join([head, *(_indent(str(layer)) for layer in self.replaced)])

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
    _check_bare_module("model", model)
    types = old_type if isinstance(old_type, tuple) else (old_type,)
    if not types or not all(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in types):
        raise TypeError(f"old_type must be a module class or a tuple of module classes, got {old_type!r}")
    if not callable(factory):
        raise TypeError(f"factory must be callable as factory(old_layer), got {_described(factory)}")
    wanted = " or ".join(kind.__name__ for kind in types)
    if isinstance(model, types):
        raise ValueError(
            f"model must contain layers of old_type, but is itself a {type(model).__name__}: "
            "call the factory on it directly"
        )

    places: dict[nn.Module, list[tuple[nn.Module, str, str]]] = {}
    for parent, name, path, child in _children(model, stop=types):
        if isinstance(child, types):
            places.setdefault(child, []).append((parent, name, path))

    # Every factory call comes before the first change, so that a factory that fails halfway leaves the model whole.
    made = {old: factory(old) for old in places}
    sources: dict[nn.Module, nn.Module] = {}
    for old, new in made.items():
        where = places[old][0][2]
        if not isinstance(new, nn.Module):
            raise TypeError(f"factory must return a module, got {_described(new)} for the layer {where}")
        if new is not old and sources.setdefault(new, old) is not old and _has_tensors(new):
            raise ValueError(
                f"factory must return a new layer for each old one, but returned one {type(new).__name__} with weights "
                f"for both {places[sources[new]][0][2]} and {where}"
            )

    replaced = []
    for old, new in made.items():
        if new is old:
            continue
        parent = places[old][0][0]
        replaced.append(_take_over(tuple(path for *_, path in places[old]), old, new, (parent, model), keep_weights))
        for parent, name, _ in places[old]:
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
            example = next((t for t in _tensors(module).values() if t.is_floating_point()), None)
            if example is not None:
                new.to(device=example.device, dtype=example.dtype)
                break
        old_tensors, new_tensors = _tensors(old), _tensors(new)
        for name, tensor in old_tensors.items():
            target = new_tensors.get(name)
            if not keep_weights:
                not_kept[name] = "keep_weights=False"
            elif target is None:
                not_kept[name] = "the new layer has no tensor of this name"
            elif reason := _misfit(tensor, target):
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


# -------------------------------------------------------------------------------------------------- replace functions


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
        lines = [f"replaced functions in {_count(len(self.layers), 'layer')}"]
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
    _check_bare_module("model", model)
    if not isinstance(replacements, Mapping) or not replacements:
        raise TypeError(f"replacements must map functions to functions, got {_described(replacements)}")
    for old, new in replacements.items():
        if not callable(old) or not callable(new):
            raise TypeError(
                f"replacements must map functions to functions, got {_described(new if callable(old) else old)}"
            )
        if isinstance(old, type) or isinstance(new, type):
            raise TypeError(
                f"replacements must map functions to functions, got the class "
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


# ------------------------------------------------------------------------------------------------------- copy weights


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
        lines = [f"copied {len(self.copied)} of {_count(total, 'tensor')}"]
        lines += [f"  not copied {name}: {reason}" for name, reason in self.mismatched.items()]
        lines += [f"  {label}: {_some(names)}" for label, names in self._one_sided() if names]
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
    _check_module("dst", dst)
    if isinstance(src, nn.Module):
        state: Mapping[str, object] = src.state_dict()
    elif isinstance(src, Mapping):
        state = src
        bad = next((key for key in state if not isinstance(key, str)), None)
        if bad is not None:
            raise TypeError(f"src must map names to tensors, got the key {bad!r} of type {type(bad).__name__}")
    else:
        raise TypeError(f"src must be a module or a state dict, got {_described(src)}")
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
        elif reason := _misfit(state[source_name], value):
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


def _misfit(source: object, target: object) -> str | None:
    """Why ``source`` cannot fill ``target``; None if it can."""
    if not isinstance(source, Tensor) or not isinstance(target, Tensor):
        return f"not a tensor but {_described(target if isinstance(source, Tensor) else source)}"
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


# ------------------------------------------------------------------------------------------------------------- freeze


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
            f"froze {_count(len(self.frozen), 'parameter')} ({_count(self.frozen_elements, 'element')}), "
            f"held {_count(len(self.eval_layers), 'layer')} with running statistics in eval mode",
            f"  trainable: {_count(len(self.trainable), 'parameter')} ({_count(self.trainable_elements, 'element')})"
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
        ValueError: ``model`` has no submodule ``until`` (the sentence names those that come close), or is already
            wrapped for distributed training or compiled.

    Example::

        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
        >>> freeze(model, until="2")
        froze 4 parameters (240 elements), held 1 layer with running statistics in eval mode
          trainable: 2 parameters (18 elements), from 2.weight on
    """
    _check_bare_module("model", model)
    if until is not None and not isinstance(until, str):
        raise TypeError(f"until must be the name of a submodule or None, got {_described(until)}")

    frozen: dict[str, nn.Parameter] = {}
    modules: dict[str, nn.Module] = {}
    if until is None:
        modules = dict(model.named_modules())
        frozen = dict(model.named_parameters())
    else:
        known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
        if until not in known:
            raise ValueError(f"until must name a submodule of the model, got {until!r}{_suggestion(until, known)}")
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
        notes.append(f"frozen too, being tied to a frozen parameter: {_some(ties)}")
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
    _check_bare_module("model", model)
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


# ----------------------------------------------------------------------------------------------------------- new head

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
    _check_bare_module("model", model)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise TypeError(f"num_classes must be an integer, got {_described(num_classes)}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
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
                raise ValueError(f"head must name a submodule of the model, got {name!r}{_suggestion(name, known)}")
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
            f"model must have one head, but in {kind} it may be {_some([*rivals, name])}: "
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


# ------------------------------------------------------------------------------------------------------------ helpers


def _check_module(name: str, value: object) -> None:
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a module, got {_described(value)}")


def _check_bare_module(name: str, value: object) -> None:
    """Refuse a model whose wrapper has already taken note of its parameters and would not see them change."""
    _check_module(name, value)
    wrappers = nn.DataParallel | nn.parallel.DistributedDataParallel | torch.jit.ScriptModule
    if isinstance(value, wrappers) or hasattr(value, "_orig_mod"):
        raise ValueError(
            f"{name} must be the bare network, got it wrapped in {type(value).__name__}: "
            "change it first, wrap it afterwards"
        )


def _children(root: nn.Module, stop: tuple[type[nn.Module], ...]) -> Iterator[tuple[nn.Module, str, str, nn.Module]]:
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


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, buffers outside the state dict included."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def _has_tensors(module: nn.Module) -> bool:
    return bool(_tensors(module))


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [k for k in known if k], n=3, cutoff=0.5)
    return f"; close to it: {', '.join(close)}" if close else f"; it has {_some([k for k in known if k])}"


def _some(names: Iterable[str], limit: int = 6) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "none"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _described(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} of type {type(value).__name__}"


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
