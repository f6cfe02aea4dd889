"""Other libraries' functions answered by handgrad's, for as long as it is asked for: torchvision's in the whole
process; of transformers and timm, one processor or loader."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from typing import Any

from handgrad.arguments import check_choice
from handgrad.transfer.words import count

_PLACES = ("torchvision", "torchvision.ops", "torchvision.transforms")


class Accelerated:
    """What :func:`accelerate` did, until :meth:`undo`, or until the end of a ``with``."""

    def __init__(self) -> None:
        self.functions: list[str] = []  #: the names of what handgrad answers, in their libraries
        self.left: list[str] = []  #: those that this version of torchvision has with other arguments
        self._swaps: list[tuple[MutableMapping[Any, Any], Any, Any, Any]] = []
        self._others: list[Callable[[], None]] = []

    def undo(self) -> None:
        """Puts back what was there, where nobody else has put anything since."""
        for holder, key, old, new in reversed(self._swaps):
            if holder.get(key) is new:
                holder[key] = old
        for put_back in self._others:
            put_back()
        self._swaps, self._others, self.functions, self.left = [], [], [], []

    def _swap(self, holder: MutableMapping[Any, Any], key: Any, new: Any) -> None:
        self._swaps.append((holder, key, holder[key], new))
        holder[key] = new

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(self, *exception: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        owners = sorted({name.partition(".")[0] for name in self.functions})
        libraries = " and ".join(f"{owner}'s" for owner in owners) or "torchvision's"
        lines = [f"handgrad answers {count(len(self.functions), 'function')} of {libraries}"]
        lines += [f"  {name}" for name in self.functions]
        return "\n".join([*lines, *(f"  left for its other arguments: {name}" for name in self.left)])


def accelerate(what: Any = "torchvision") -> Accelerated:
    """Let torchvision's own functions be answered by handgrad's, for code that cannot be changed: metrics, detectors
    and pipelines that look a function up in torchvision when they call it.

    Or let an image processor of Hugging Face's transformers resize, crop, rescale and normalise an image in one pass,
    and a ``PrefetchLoader`` of timm convert and normalise a batch in one.

    For torchvision the whole process is changed, which :func:`replace_functions` does not do: it gives the layers of
    one model other functions. Nothing is changed on import, and everything is put back by ``undo()`` or at the end of a
    ``with``.

    Args:
        what: ``"torchvision.ops"``: the functions of that module which handgrad has too, by the same names, wherever
            torchvision has them. (docs/torchvision.md says what differs.) ``"torchvision.transforms"``: v2's kernels of
            tensors for ``resize``, ``resized_crop``, ``normalize``, ``adjust_brightness``, ``adjust_contrast``,
            ``adjust_saturation``, ``adjust_hue``, ``adjust_sharpness``, ``rgb_to_grayscale``, ``gaussian_blur``,
            ``affine``, ``rotate``, ``perspective``, ``elastic``, ``erase``, ``posterize``, ``solarize``, ``invert``,
            ``autocontrast`` and ``equalize``; what ours do not compute goes to theirs. ``"torchvision"``: both.

            Or an object, which alone is changed: an image processor of transformers whose class is a
            ``TorchvisionBackend``, in one pass where it goes by the backend's own order (ViT, CLIP, SigLIP), else in
            those of its steps that are the backend's; it pickles, and is saved under its own name. Or a
            ``timm.data.loader.PrefetchLoader``.

    Returns:
        An :class:`Accelerated`: print it to see what was replaced.

    Raises:
        ValueError: ``what`` is another string.
        TypeError: it is another object.
        ImportError: torchvision is not installed.
        RuntimeError: the installed torchvision keeps its kernels elsewhere, or they take other arguments; then nothing
            is replaced; likewise of transformers and timm. (A function of ``torchvision.ops`` with other arguments is
            left as it is, and listed.)

    Example::

        >>> with accelerate("torchvision.ops") as accelerated:
        ...     "torchvision.ops.nms" in accelerated.functions
        True
    """
    accelerated = Accelerated()
    if not isinstance(what, str):
        from handgrad.transforms._preprocessing import swap_for

        swapped = swap_for(what)
        if swapped is None:
            raise TypeError(
                f"accelerate: what must be a string, an image processor of transformers or a PrefetchLoader of timm; "
                f"got {type(what).__name__}"
            )
        name, put_back = swapped
        accelerated.functions.append(name)
        accelerated._others.append(put_back)
        return accelerated
    check_choice("accelerate", "what", what, _PLACES)
    try:
        importlib.import_module("torchvision")
    except ImportError as error:
        raise ImportError(
            "accelerate needs torchvision, which is not installed: pip install 'handgrad[vision]'"
        ) from error
    try:
        if what != "torchvision.transforms":
            _answer_functions(accelerated)
        if what != "torchvision.ops":
            _answer_kernels(accelerated)
    except BaseException:
        accelerated.undo()
        raise
    return accelerated


def _answer_functions(accelerated: Accelerated) -> None:
    """Wherever a module of torchvision holds one of its functions, ours of that name. Its classes call them."""
    ops = importlib.import_module("torchvision.ops")
    for name, ours in _public_functions():
        theirs = getattr(ops, name, None)
        if not inspect.isfunction(theirs) or theirs is ours:
            continue
        if not _takes(list(inspect.signature(ours).parameters), theirs):
            accelerated.left.append(f"torchvision.ops.{name}")
            continue
        for module_name, module in list(sys.modules.items()):
            if module is None or module_name.partition(".")[0] != "torchvision":
                continue
            for key, value in list(vars(module).items()):
                if value is theirs:
                    accelerated._swap(vars(module), key, ours)
        accelerated.functions.append(f"torchvision.ops.{name}")


def _public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    import handgrad

    for family in handgrad.__all__:
        module = getattr(handgrad, family)
        for name in getattr(module, "__all__", ()):
            # Those of ops: what TorchScript is told of marks them.
            if name.islower() and hasattr(getattr(module, name), "__prepare_scriptable__"):
                yield name, getattr(module, name)


def _answer_kernels(accelerated: Accelerated) -> None:
    from torch import Tensor

    from handgrad.transforms.kernels import KERNELS, NOT_OF_VIDEOS

    functional = importlib.import_module("torchvision.transforms.v2.functional")
    tv_tensors = importlib.import_module("torchvision.tv_tensors")
    registry = getattr(getattr(functional, "_utils", None), "_KERNEL_REGISTRY", None)
    for name, kernel in KERNELS.items():
        dispatcher = getattr(functional, name)
        kernels = registry.get(dispatcher) if isinstance(registry, dict) else None
        types = (Tensor, tv_tensors.Image, *([] if name in NOT_OF_VIDEOS else [tv_tensors.Video]))
        if kernels is None or not all(kind in kernels for kind in types):
            raise RuntimeError(_other_version(name))
        _, *parameters = inspect.signature(kernel).parameters
        if not _takes(parameters, dispatcher):
            raise RuntimeError(_other_version(name))
        for kind in types:
            if getattr(kernels[kind], "func", None) is not kernel:
                accelerated._swap(kernels, kind, partial(kernel, kernels[kind]))
        accelerated.functions.append(f"torchvision.transforms.v2.functional.{name}")


def _takes(ours: list[str], theirs: Callable[..., Any]) -> bool:
    """Whether our parameters begin with theirs."""
    wanted = list(inspect.signature(theirs).parameters)
    return ours[: len(wanted)] == wanted


def _other_version(name: str) -> str:
    import torchvision

    return (
        f"accelerate: of torchvision {torchvision.__version__} handgrad does not know the kernels or the arguments of "
        f"transforms.v2.functional.{name}"
    )
