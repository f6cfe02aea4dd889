"""What the tests of overlap losses share: logits with targets of every kind, the reference, the spec."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.losses.overlap_sums import overlap_sums_reference
from handgrad.testing import Bad, OpSpec, Sample, reseeded

ACTIVATIONS = {"none": 0, "sigmoid": 1, "softmax": 2}


def soft(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits and soft targets, (N, C, ...)."""
    generator = reseeded(len(shape))
    logits = torch.randn(*shape, dtype=torch.float64, generator=generator)
    targets = 0.1 + 0.8 * torch.rand(*shape, dtype=torch.float64, generator=generator)
    return logits.to(dtype), targets.to(dtype)


def classes(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits, (N, C, ...), and the class at each position, (N, ...)."""
    generator = reseeded(10 + len(shape))
    logits = torch.randn(*shape, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, max(1, shape[1]), (shape[0], *shape[2:]), generator=generator)
    return logits.to(dtype), targets


def one_hot(targets: Tensor, channels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.one_hot(targets, channels).movedim(-1, 1).to(dtype)


def with_grad(function: Callable[..., Tensor], inputs: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The loss, and the gradient of its sum with respect to the inputs."""
    leaf = inputs.detach().requires_grad_()
    loss = function(leaf, targets, *args, **kwargs)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


def reference_of(function: Callable[..., Tensor], formula: Callable[..., Tensor], together: bool) -> Any:
    """The public function over the definition of the sums and that of the loss."""
    signature = inspect.signature(function)

    def public(*args: Any, **kwargs: Any) -> Tensor:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        inputs, targets = given["inputs"], given["targets"]
        if targets.dim() < inputs.dim():
            targets = targets.unsqueeze(1)
        options = ACTIVATIONS[given["activation"]], given["ignore_index"], given.get("squared", False)
        sums = overlap_sums_reference(inputs, targets, *options)
        sums = sums.sum(0) if given["batch"] else sums
        numbers = [given[name] for name in ("alpha", "beta", "gamma", "smooth", "eps") if name in given]
        there = sums[..., 2] != 0
        skips = given["absent"] != "count"
        if together:
            weighting = {"square": 2, "simple": 1, "uniform": 0}[given["weighting"]]
            losses, there = formula(sums, weighting, *numbers, skips), there.any(-1)
        else:
            losses = formula(sums, *numbers)
            losses = torch.where(there, losses, 0) if skips else losses
        count = there.sum() if given["absent"] == "skip" else torch.tensor(losses.numel())
        reduction = given["reduction"]
        return losses if reduction == "none" else losses.sum() / (count.clamp(min=1) if reduction == "mean" else 1)

    return public


def overlap_loss_spec(
    function: Callable[..., Tensor],
    module: Callable[..., torch.nn.Module],
    formula: Callable[..., Tensor],
    identities: dict[str, Callable[[], None]],
    numbers: dict[str, Any],
    together: bool = False,
) -> OpSpec:
    """The spec of a loss; of ``numbers``, other values than the defaults, one sample is made."""
    name = function.__name__
    inputs, targets = classes(2, 3, 4)

    def sum_is_the_sum_of_all() -> None:
        logits, soft_targets = soft(3, 4, 5, 6)
        losses = function(logits, soft_targets, "softmax", reduction="none")
        assert losses.shape == ((3,) if together else (3, 4))
        torch.testing.assert_close(function(logits, soft_targets, "softmax", reduction="sum"), losses.sum())
        torch.testing.assert_close(function(logits, soft_targets, "softmax"), losses.mean())

    def classes_are_one_hot() -> None:
        logits, found = classes(3, 4, 5, 6)
        expected = with_grad(function, logits, one_hot(found, 4), "softmax")
        torch.testing.assert_close(with_grad(function, logits, found, "softmax"), expected)

    def a_batch_is_one_large_sample() -> None:
        logits, found = classes(3, 4, 30)
        one = logits.movedim(0, 1).flatten(1)[None], found.flatten()[None]
        expected = function(*one, "softmax", reduction="none")[0]
        torch.testing.assert_close(function(logits, found, "softmax", batch=True, reduction="none"), expected)

    def perfect_predictions_have_no_loss() -> None:
        _, found = classes(3, 4, 5, 6)
        loss = function(one_hot(found, 4), found, "none", reduction="none")
        torch.testing.assert_close(loss, torch.zeros_like(loss))

    def of_many(n: int) -> None:
        """The loss of n equal positions is that of one."""
        one = torch.tensor([[[0.5], [-0.5]]]), torch.tensor([[[1.0], [0.25]]])
        expected = function(*one, "sigmoid", smooth=0.0)
        many = (tensor.expand(1, 2, n) for tensor in one)
        torch.testing.assert_close(function(*many, "sigmoid", smooth=0.0), expected, rtol=1e-6, atol=0)

    return OpSpec(
        name=name,
        operator=f"handgrad::{name}",
        function=function,
        reference=reference_of(function, formula, together),
        module=module,
        samples=[
            Sample("soft", soft(2, 3, 7), {"activation": "softmax", "smooth": 0.1, "reduction": "none"}),
            Sample("batch", soft(2, 2, 2, 2), {"activation": "sigmoid", "batch": True, "reduction": "mean", **numbers}),
            Sample("classes", classes(2, 3, 7), {"activation": "softmax", "ignore_index": 1, "absent": "skip"}),
        ],
        large=Sample(
            "large", classes(2, 3, 211, 157, dtype=torch.float32), {"activation": "softmax", "reduction": "sum"}
        ),
        empty=[
            Sample("no_batch_none", soft(0, 3, 4), {"activation": "softmax", "reduction": "none"}),
            Sample("no_batch_mean", soft(0, 3, 4), {"activation": "softmax", "reduction": "mean"}),
            Sample("no_positions_sum", soft(2, 3, 0), {"activation": "sigmoid", "reduction": "sum"}),
            Sample("no_classes_mean", soft(2, 0, 4), {"activation": "softmax", "reduction": "mean"}),
        ],
        autocast=torch.float32,
        widens=True,
        # Sums, directions and gradients of these: three numbers for each sample and class.
        saves=512,
        sums_of_many=lambda: of_many(2**21),
        lenient={"ignore_index": lambda value: value is None or (type(value) is int and abs(value) < 2**63)},
        bad=[
            Bad("smooth", lambda: module("softmax", smooth=-1.0), ValueError, r"smooth must be a finite .* got -1\.0"),
            Bad("reduction", lambda: module("softmax", reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
            Bad("absent", lambda: module("softmax", absent="no"), ValueError, "absent must be 'count', .* got 'no'"),
            Bad("activation", lambda: module("relu"), ValueError, "activation must be 'none', .* got 'relu'"),
            Bad(
                "one_channel",
                lambda: function(inputs[:, :1], targets, "softmax"),
                ValueError,
                "activation must be 'sigmoid' or 'none' for inputs of one channel",
            ),
            Bad(
                "shape",
                lambda: function(inputs, targets[:, :2], "softmax"),
                RuntimeError,
                r"targets must have the shape of inputs, \(2, 3, 4\), or that without its channels for classes; got "
                r"\(2, 1, 2\)",
            ),
            Bad(
                "rank", lambda: function(inputs[0, 0], targets, "none"), RuntimeError, r"inputs must have shape \(N, C"
            ),
            Bad(
                "classes",
                lambda: function(inputs, targets.double(), "softmax"),
                RuntimeError,
                "targets without channels are classes, and must be integers; got torch.float64",
            ),
        ],
        identities={
            "sum": sum_is_the_sum_of_all,
            "one_hot": classes_are_one_hot,
            "batch": a_batch_is_one_large_sample,
            "perfect": perfect_predictions_have_no_loss,
            **identities,
        },
        numel_beyond_int32=lambda: of_many(2**30 + 64),
        # The double backward goes through inputs and targets twice: for the sums' derivatives along the direction, and
        # then for the gradients, which depend on those.
        floor_factors={"double_backward": 2.1},
    )
