"""NT-Xent. Mathematics, derivatives and numerics: docs/losses/nt_xent_loss.md."""

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

_OP = "nt_xent_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def nt_xent_loss(
    embeddings: Tensor,
    temperature: float | Tensor = 0.5,
    normalize: bool = True,
    reduction: str = "mean",
    group: Any = None,
) -> Tensor:
    r"""The loss of SimCLR (Chen et al., `A Simple Framework for Contrastive Learning of Visual Representations
    <https://arxiv.org/abs/2002.05709>`_, 2020): of two views of each image, cross entropy of finding the other one
    among all embeddings but the own one, without the matrix of their products in memory.

    .. math:: loss_i = -\log \frac{\exp(z_i \cdot z_{i'} / \tau)}{\sum_{j \ne i} \exp(z_i \cdot z_j / \tau)}

    Args:
        embeddings: (2 N, features), or (batch, 2 N, features) of problems apart from each other: the first views, and
            behind them the second ones in the same order, as ``model(torch.cat([first, second]))`` returns them;
            float32, float64, bfloat16 or float16, any strides.
        temperature: what products are divided by, a number above 0; or a tensor, () or (batch,), which has gradients:
            of float32 beside half embeddings.
        normalize: whether embeddings are divided by their lengths, so that products are cosines, as in the paper.
        reduction: ``"none"``, ``"mean"`` (over all 2 N, as in the paper) or ``"sum"``.
        group: the process group whose processes have both views of a part of the batch each, of one size: embeddings
            are gathered from all of them. The mean of the losses and, as data-parallel training averages them, the
            gradients are those of one process with the whole batch. None: this process alone.

    Returns:
        Under ``"none"`` the loss of each embedding, otherwise a scalar; float32, of float64 embeddings float64. The
        mean of none is NaN, as in torch.

    Raises:
        ValueError: a ``temperature`` that is a number and not above 0, or an unknown ``reduction``.
        TypeError: an argument of another kind.
        RuntimeError: an odd number of embeddings; shapes, dtypes or devices that do not go together.

    Example:
        >>> nt_xent_loss(torch.eye(2).repeat(2, 1))
        tensor(0.2395)
    """
    pairs = Pairs(_OP, normalize).add("embeddings", embeddings)
    if not torch.jit.is_tracing() and embeddings.shape[-2] % 2:
        raise RuntimeError(
            f"{_OP}: embeddings must be an even number of rows, all first views and behind them all second ones; got "
            f"{tuple(embeddings.shape)}"
        )
    scale = temperature_scale(pairs, temperature)
    (rows,) = pairs.tensors
    if group is None:
        return _loss.reduced(reduction, pairs.batched, rows, None, scale, 0)
    offset = rank_in(_OP, group) * rows.shape[1]
    return _loss.reduced(reduction, pairs.batched, rows, gathered(rows, group, 1), scale, offset)


# ---- module ----------------------------------------------------------------------------------------------------------


class NTXentLoss(PairwiseLossModule):
    """:func:`nt_xent_loss` as a module.

    Args:
        temperature, normalize, reduction, group: see :func:`nt_xent_loss`; checked here, so that a mistake shows at
            construction. A temperature that is learnt is given at each call: ``loss(embeddings, temperature)``.

    Example:
        >>> loss = NTXentLoss()
        >>> loss(torch.eye(2).repeat(2, 1))
        tensor(0.2395)
    """

    def __init__(
        self, temperature: float = 0.5, normalize: bool = True, reduction: str = "mean", group: Any = None
    ) -> None:
        super().__init__(nt_xent_loss, reduction, temperature=temperature, normalize=normalize, group=group)

    def forward(self, embeddings: Tensor, temperature: Tensor | None = None) -> Tensor:
        return self.loss(embeddings, temperature)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def nt_xent_loss_reference(queries: Tensor, keys: Tensor, scale: Tensor, offset: int) -> Tensor:
    """Plain PyTorch, the loss of each row. To be trusted because it is the definition: a softmax from which the row
    itself is left out."""
    views = max(1, queries.shape[1] // 2)
    own, columns = row_numbers(queries, keys, offset)
    logits = logits_of(queries, keys, scale)
    of_others = logits.masked_fill(columns == own, -torch.inf).logsumexp(2)
    rows = torch.arange(queries.shape[1], device=queries.device).unsqueeze(1)
    other = (rows + views) % (2 * views) + offset
    return of_others - logits.gather(2, other.expand(queries.shape[0], -1, 1)).squeeze(2)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = PairwiseLoss("handgrad::nt_xent_loss", nt_xent_loss_reference)
