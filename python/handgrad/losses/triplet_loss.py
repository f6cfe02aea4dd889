"""Triplet loss. Mathematics, derivatives and numerics: docs/losses/triplet_loss.md."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_bool, check_choice, check_range
from handgrad.kinds.set_loss import SetLoss, SetLossModule, squared_distances
from handgrad.tracing import traceable

_OP = "triplet_loss"
_HARD, _ALL, _ALL_POSITIVE = 0, 1, 2
_MINING = {"hard": _HARD, "all": _ALL, "all_positive": _ALL_POSITIVE}

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    margin: float = 0.2,
    soft: bool = False,
    mining: str = "hard",
    squared: bool = False,
    reduction: str = "mean",
) -> Tensor:
    r"""An anchor is to be nearer to what has its label than to what has another, by a margin; triplets are mined in the
    batch (Hermans et al., `In Defense of the Triplet Loss <https://arxiv.org/abs/1703.07737>`_, 2017).

    .. math:: \max(0, d_{ap} - d_{an} + margin), \quad \text{or with soft} \quad \log(1 + e^{d_{ap} - d_{an}})

    The matrix of distances is made in chunks of rows and never stored.

    Args:
        embeddings: (N, D); float32, float64, bfloat16 or float16, any strides.
        labels: (N,), integers, any numbers.
        margin: a finite number; of no consequence with ``soft``.
        soft: the softened form without a margin.
        mining: ``"hard"``, for each anchor its farthest positive and its nearest negative; ``"all"``, all triplets;
            ``"all_positive"``, all triplets, of which a mean counts those that cost something.
        squared: squares of distances in place of distances.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. The mean is over triplets: with ``"hard"`` one for each anchor
            that has both a positive and a negative. The mean of none is 0.

    Returns:
        Under ``"none"`` the mean over each anchor's triplets, (N,), 0 for an anchor without any; otherwise a scalar.
        float32, of float64 embeddings float64. Two equal embeddings do not move each other.

    Raises:
        ValueError: an option or a number out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> embeddings = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]])
        >>> triplet_loss(embeddings, torch.tensor([0, 0, 1]), margin=1.0, reduction="none")
        tensor([2., 3., 0.])
    """
    return _loss(embeddings, labels, reduction, *_checked_numbers(margin, soft, mining, squared))


def _checked_numbers(margin: float, soft: bool, mining: str, squared: bool) -> tuple[float, bool, int, bool]:
    check_range(_OP, "margin", margin, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    soft, squared = check_bool(_OP, "soft", soft), check_bool(_OP, "squared", squared)
    return float(margin), soft, _MINING[check_choice(_OP, "mining", mining, _MINING)], squared


# ---- module ----------------------------------------------------------------------------------------------------------


class TripletLoss(SetLossModule):
    """:func:`triplet_loss` as a module.

    Args:
        margin, soft, mining, squared, reduction: see :func:`triplet_loss`; checked here, so that a mistake shows at
            construction.

    Example:
        >>> loss = TripletLoss(margin=0.5)
        >>> loss(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))
        tensor(0.5000)
    """

    def __init__(
        self,
        margin: float = 0.2,
        soft: bool = False,
        mining: str = "hard",
        squared: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            triplet_loss, _checked_numbers, reduction, margin=margin, soft=soft, mining=mining, squared=squared
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def triplet_loss_reference(
    embeddings: Tensor, same: Tensor, other: Tensor, margin: float, soft: bool, mining: int, squared: bool
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch. To be trusted because it is the definition: all distances; of each anchor the hardest pair, or all
    triplets."""
    distances = squared_distances(embeddings)
    if not squared:
        # The root has no slope at 0.
        is_zero = (distances <= 0) & (distances >= 0)
        distances = torch.where(is_zero, 0, torch.where(is_zero, 1, distances).sqrt())

    def cost(far: Tensor, near: Tensor) -> Tensor:
        return -F.logsigmoid(near - far) if soft else torch.relu(far - near + margin)

    if distances.shape[2] == 0:
        return distances.sum(2), distances.sum(2)
    if mining == _HARD:
        has_both = same.any(2) & other.any(2)
        far = torch.where(same, distances, -torch.inf).max(2).values
        near = torch.where(other, distances, torch.inf).min(2).values
        far, near = torch.where(has_both, far, 0), torch.where(has_both, near, 0)
        return torch.where(has_both, cost(far, near), 0), has_both.to(far.dtype)
    is_triplet = same.unsqueeze(3) & other.unsqueeze(2)
    costs = torch.where(is_triplet, cost(distances.unsqueeze(3), distances.unsqueeze(2)), 0)
    counted = is_triplet if mining == _ALL else ~(costs <= 0)
    return costs.sum((2, 3)), counted.to(costs.dtype).sum((2, 3))


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = SetLoss("handgrad::triplet_loss", triplet_loss_reference)
