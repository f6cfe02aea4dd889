"""InfoNCE. Mathematics, derivatives and numerics: docs/losses/info_nce_loss.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handgrad.kinds.pairwise_gathering import gathered, rank_in
from handgrad.kinds.pairwise_loss import Pairs, PairwiseLoss, PairwiseLossModule, logits_of, temperature_scale
from handgrad.tracing import traceable

_OP = "info_nce_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def info_nce_loss(
    queries: Tensor,
    keys: Tensor,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    reduction: str = "mean",
    group: Any = None,
) -> Tensor:
    r"""Cross entropy of finding each query's own key among all keys (van den Oord et al., `Representation Learning with
    Contrastive Predictive Coding <https://arxiv.org/abs/1807.03748>`_, 2018), without the matrix of their products in
    memory.

    .. math:: loss_i = -\log \frac{\exp(q_i \cdot k_i / \tau)}{\sum_j \exp(q_i \cdot k_j / \tau)}

    The other queries' keys are the negatives; keys beyond them, a queue or hard negatives, are negatives of all.

    Args:
        queries: embeddings, (N, features), or (batch, N, features) of problems apart from each other; float32, float64,
            bfloat16 or float16, any strides.
        keys: (M, features) with M at least N, and the batch of ``queries``: key i belongs to query i, and those from N
            on to none. ``torch.cat([positives, negatives])`` takes negatives of one's own.
        temperature: what products are divided by, a number above 0; or a tensor, () or (batch,), which has gradients:
            of float32 beside half embeddings.
        normalize: whether rows are divided by their lengths, so that products are cosines; for rows that have length 1
            it changes nothing.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        group: the process group whose processes have a part of the batch each, of one size: keys are gathered from all
            of them. The mean of the losses and, as data-parallel training averages them, the gradients are those of
            one process with the whole batch. None: this process alone.

    Returns:
        Under ``"none"`` the loss of each query, otherwise a scalar; float32, of float64 embeddings float64. The mean of
        no queries is NaN, as in torch.

    Raises:
        ValueError: a ``temperature`` that is a number and not above 0, or an unknown ``reduction``.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> info_nce_loss(torch.eye(3), torch.eye(3), temperature=0.5)
        tensor(0.2395)
    """
    pairs = Pairs(_OP, normalize).add("queries", queries).add("keys", keys)
    scale = temperature_scale(pairs, temperature)
    offset = 0
    if group is not None:
        offset = rank_in(_OP, group) * keys.shape[-2]
        pairs.tensors[1] = gathered(pairs.tensors[1], group, 1)
    return _loss.reduced(reduction, pairs.batched, *pairs.tensors, scale, offset)


# ---- module ----------------------------------------------------------------------------------------------------------


class InfoNCELoss(PairwiseLossModule):
    """:func:`info_nce_loss` as a module.

    Args:
        temperature, normalize, reduction, group: see :func:`info_nce_loss`; checked here, so that a mistake shows at
            construction. A temperature that is learnt is given at each call: ``loss(queries, keys, temperature)``.

    Example:
        >>> loss = InfoNCELoss(temperature=0.5)
        >>> loss(torch.eye(3), torch.eye(3))
        tensor(0.2395)
    """

    def __init__(
        self, temperature: float = 0.1, normalize: bool = True, reduction: str = "mean", group: Any = None
    ) -> None:
        super().__init__(info_nce_loss, reduction, temperature=temperature, normalize=normalize, group=group)

    def forward(self, queries: Tensor, keys: Tensor, temperature: Tensor | None = None) -> Tensor:
        return self.loss(queries, keys, temperature)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def info_nce_loss_reference(queries: Tensor, keys: Tensor, scale: Tensor, offset: int) -> Tensor:
    """Plain PyTorch, the loss of each query. To be trusted because it is the cross entropy of its own key's number."""
    log_p = torch.log_softmax(logits_of(queries, keys, scale), 2)
    own = torch.arange(queries.shape[1], device=queries.device).unsqueeze(1) + offset
    return -log_p.gather(2, own.expand(queries.shape[0], -1, 1)).squeeze(2)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = PairwiseLoss("handgrad::info_nce_loss", info_nce_loss_reference)
