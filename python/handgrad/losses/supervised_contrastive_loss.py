"""Supervised contrastive loss. Mathematics, derivatives and numerics: docs/losses/supervised_contrastive_loss.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handgrad.kinds.pairwise_gathering import gathered, rank_in
from handgrad.kinds.pairwise_loss import (
    Pairs,
    PairwiseLoss,
    PairwiseLossModule,
    logits_of,
    row_numbers,
    temperature_scale,
)
from handgrad.tracing import traceable

_OP = "supervised_contrastive_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def supervised_contrastive_loss(
    embeddings: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    reduction: str = "mean",
    group: Any = None,
) -> Tensor:
    r"""Supervised contrastive loss (Khosla et al., `Supervised Contrastive Learning
    <https://arxiv.org/abs/2004.11362>`_, 2020, equation 2): the mean cross entropy of finding the other embeddings of
    the same label among all but the own one, without the matrix of their products in memory.

    .. math:: loss_i = -\frac{1}{|P_i|} \sum_{p \in P_i}
        \log \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{j \ne i} \exp(z_i \cdot z_j / \tau)}

    Args:
        embeddings: (N, features), or (batch, N, features) of problems apart from each other; float32, float64, bfloat16
            or float16, any strides. Several views of an image are rows of the same label: of features (images, views,
            features) ``features.flatten(0, 1)`` with ``labels.repeat_interleave(views)``.
        labels: integers, (N,) or (batch, N), of any values.
        temperature: what products are divided by, a number above 0; or a tensor, () or (batch,), which has gradients:
            of float32 beside half embeddings.
        normalize: whether embeddings are divided by their lengths, so that products are cosines, as in the paper.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. An embedding whose label no other one has costs nothing, has no
            gradient of its own, and counts in the mean, as in the authors' code.
        group: the process group whose processes have a part of the batch each, of one size: embeddings and labels are
            gathered from all of them. The mean of the losses and, as data-parallel training averages them, the
            gradients are those of one process with the whole batch. None: this process alone.

    Returns:
        Under ``"none"`` the loss of each embedding, otherwise a scalar; float32, of float64 embeddings float64. The
        mean of none is NaN, as in torch.

    Raises:
        ValueError: a ``temperature`` that is a number and not above 0, or an unknown ``reduction``.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> supervised_contrastive_loss(torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1]), temperature=0.5)
        tensor(0.2395)
    """
    pairs = Pairs(_OP, normalize).add("embeddings", embeddings)
    numbers = pairs.labels("labels", labels)
    scale = temperature_scale(pairs, temperature)
    (rows,) = pairs.tensors
    if group is None:
        return _loss.reduced(reduction, pairs.batched, rows, None, numbers, None, scale, 0)
    offset = rank_in(_OP, group) * rows.shape[1]
    keys, key_labels = gathered(rows, group, 1), gathered(numbers, group, 1)
    return _loss.reduced(reduction, pairs.batched, rows, keys, numbers, key_labels, scale, offset)


# ---- module ----------------------------------------------------------------------------------------------------------


class SupervisedContrastiveLoss(PairwiseLossModule):
    """:func:`supervised_contrastive_loss` as a module.

    Args:
        temperature, normalize, reduction, group: see :func:`supervised_contrastive_loss`; checked here, so that a
            mistake shows at construction. A temperature that is learnt is given at each call:
            ``loss(embeddings, labels, temperature)``.

    Example:
        >>> loss = SupervisedContrastiveLoss(temperature=0.5)
        >>> loss(torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1]))
        tensor(0.2395)
    """

    def __init__(
        self, temperature: float = 0.1, normalize: bool = True, reduction: str = "mean", group: Any = None
    ) -> None:
        super().__init__(
            supervised_contrastive_loss, reduction, temperature=temperature, normalize=normalize, group=group
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def supervised_contrastive_loss_reference(
    queries: Tensor, keys: Tensor, labels: Tensor, key_labels: Tensor | None, scale: Tensor, offset: int
) -> Tensor:
    """Plain PyTorch, the loss of each row. To be trusted because it is the paper's mean, over rows that have one."""
    key_labels = labels if key_labels is None else key_labels
    own, columns = row_numbers(queries, keys, offset)
    positive = (labels.unsqueeze(2) == key_labels.unsqueeze(1)) & (columns != own)
    log_p = torch.log_softmax(logits_of(queries, keys, scale).masked_fill(columns == own, -torch.inf), 2)
    count = positive.to(log_p.dtype).sum(2)
    total = torch.where(positive, log_p, 0).sum(2)
    return torch.where(count > 0, -total / count.clamp(min=1), 0)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = PairwiseLoss("handgrad::supervised_contrastive_loss", supervised_contrastive_loss_reference)
