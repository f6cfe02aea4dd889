"""Multi-similarity loss. Mathematics, derivatives and numerics: docs/losses/multi_similarity_loss.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad._vectors import unit_rows
from handgrad.arguments import FLOAT_MAX, check_range
from handgrad.kinds.set_loss import SetLoss, SetLossModule
from handgrad.tracing import traceable

_OP = "multi_similarity_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def multi_similarity_loss(
    embeddings: Tensor,
    labels: Tensor,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cosines of positive pairs are to be above a threshold and those of negative pairs below it, softly, and the
    worst of either count most (Wang et al., `Multi-Similarity Loss with General Pair Weighting
    <https://arxiv.org/abs/1904.06627>`_, 2019).

    .. math:: \frac{1}{\alpha} \log\Big(1 + \sum_p e^{-\alpha (s_{ap} - base)}\Big) +
        \frac{1}{\beta} \log\Big(1 + \sum_n e^{\beta (s_{an} - base)}\Big)

    The matrix of cosines is made in chunks of rows and never stored.

    Args:
        embeddings: (N, D), of any lengths; float32, float64, bfloat16 or float16, any strides.
        labels: (N,), integers, any numbers.
        alpha, beta: how much the worst of the positives and of the negatives count, more than 0.
        base: the threshold, the paper's lambda.
        epsilon: the paper's mining: of an anchor's pairs count only positives less alike than its nearest negative plus
            ``epsilon``, and negatives more alike than its farthest positive less ``epsilon``. None: all count.
        reduction: ``"none"``, ``"mean"`` (over all anchors) or ``"sum"``.

    Returns:
        Under ``"none"`` the loss of each anchor, (N,), otherwise a scalar, the mean of no anchors being 0. float32, of
        float64 embeddings float64. The gradient with respect to an embedding of zeros is 0.

    Raises:
        ValueError: a number out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
        >>> multi_similarity_loss(embeddings, torch.tensor([0, 0, 1]), reduction="none")
        tensor([0.2537, 0.4608, 0.2071])
    """
    return _loss(embeddings, labels, reduction, *_checked_numbers(alpha, beta, base, epsilon))


def _checked_numbers(
    alpha: float, beta: float, base: float, epsilon: float | None
) -> tuple[float, float, float, bool, float]:
    smallest = 5e-324
    check_range(_OP, "alpha", alpha, smallest, FLOAT_MAX, "a finite number, more than 0")
    check_range(_OP, "beta", beta, smallest, FLOAT_MAX, "a finite number, more than 0")
    check_range(_OP, "base", base, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    if epsilon is not None:
        check_range(_OP, "epsilon", epsilon, -FLOAT_MAX, FLOAT_MAX, "a finite number, or None")
    return float(alpha), float(beta), float(base), epsilon is not None, float(epsilon or 0)


# ---- module ----------------------------------------------------------------------------------------------------------


class MultiSimilarityLoss(SetLossModule):
    """:func:`multi_similarity_loss` as a module.

    Args:
        alpha, beta, base, epsilon, reduction: see :func:`multi_similarity_loss`; checked here, so that a mistake shows
            at construction.

    Example:
        >>> loss = MultiSimilarityLoss(epsilon=0.1)
        >>> loss(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 0, 1]))
        tensor(0.1536)
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            multi_similarity_loss, _checked_numbers, reduction, alpha=alpha, beta=beta, base=base, epsilon=epsilon
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def multi_similarity_loss_reference(
    embeddings: Tensor,
    same: Tensor,
    other: Tensor,
    alpha: float,
    beta: float,
    base: float,
    mines: bool,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch. To be trusted because it is the definition: all cosines, two masks, two sums of exponentials."""
    units = unit_rows(embeddings)
    cosines = units @ units.transpose(1, 2)
    if cosines.shape[2] == 0:
        return cosines.sum(2), cosines.sum(2)
    if mines:
        given = cosines.detach()
        nearest = torch.where(other, given, -torch.inf).max(2, keepdim=True).values
        farthest = torch.where(same, given, torch.inf).min(2, keepdim=True).values
        # NaN is kept.
        has_both = same.any(2, keepdim=True) & other.any(2, keepdim=True)
        same = same & has_both & ~(given >= nearest + epsilon)
        other = other & has_both & ~(given <= farthest - epsilon)

    def of_side(exponents: Tensor, counts: Tensor) -> Tensor:
        exponents = torch.where(counts, exponents, -torch.inf)
        return torch.logsumexp(torch.cat([exponents, torch.zeros_like(exponents[:, :, :1])], 2), 2)

    positives, negatives = of_side(-alpha * (cosines - base), same), of_side(beta * (cosines - base), other)
    losses = positives / alpha + negatives / beta
    return losses, torch.ones_like(losses)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = SetLoss("handgrad::multi_similarity_loss", multi_similarity_loss_reference)
