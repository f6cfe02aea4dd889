"""The loss of CLIP. Mathematics, derivatives and numerics: docs/losses/clip_loss.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handgrad.kinds.pairwise_gathering import gathered, of_each_query, rank_in
from handgrad.kinds.pairwise_loss import SCALE, TINY, Pairs, PairwiseLoss, PairwiseLossModule, logits_of
from handgrad.tracing import traceable

_OP = "clip_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    normalize: bool = True,
    reduction: str = "mean",
    group: Any = None,
) -> Tensor:
    r"""The loss of CLIP (Radford et al., `Learning Transferable Visual Models From Natural Language Supervision
    <https://arxiv.org/abs/2103.00020>`_, 2021): the mean of the cross entropies of finding each image's text among all
    texts and each text's image among all images, without the matrix of their products in memory.

    .. math:: loss_i = -\tfrac12 \log \frac{e^{s\, x_i \cdot y_i}}{\sum_j e^{s\, x_i \cdot y_j}}
        - \tfrac12 \log \frac{e^{s\, x_i \cdot y_i}}{\sum_j e^{s\, x_j \cdot y_i}}

    Args:
        image_features: embeddings, (N, features), or (batch, N, features) of problems apart from each other; float32,
            float64, bfloat16 or float16, any strides.
        text_features: as many, of which text i belongs to image i.
        logit_scale: what products are multiplied by, a number above 0; or a tensor, () or (batch,), which has
            gradients: of float32 beside half features. As open_clip's loss takes it, which is the exponential of the
            parameter that is learnt: ``model.logit_scale.exp()``.
        normalize: whether features are divided by their lengths, so that products are cosines; for features of length
            1, as CLIP's models return them, it changes nothing.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        group: the process group whose processes have a part of the batch each, of one size: features are gathered from
            all of them. The mean of the losses and, as data-parallel training averages them, the gradients are those of
            one process with the whole batch. None: this process alone.

    Returns:
        Under ``"none"`` the loss of each pair, otherwise a scalar; float32, of float64 features float64. The mean of no
        pairs is NaN, as in torch.

    Raises:
        ValueError: a ``logit_scale`` that is a number and not above 0, or an unknown ``reduction``.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> clip_loss(torch.eye(3), torch.eye(3), 2.0)
        tensor(0.2395)
    """
    pairs = Pairs(_OP, normalize).add("image_features", image_features)
    pairs.add("text_features", text_features, as_many=True)
    scale = pairs.number("logit_scale", logit_scale, TINY, SCALE)
    images, texts = pairs.tensors
    if group is None:
        return _loss.reduced(reduction, pairs.batched, images, texts, scale, 0)
    offset = rank_in(_OP, group) * images.shape[1]
    of_images = of_each_query(reduction, pairs.batched, images, gathered(texts, group, 1), scale, offset)
    of_texts = of_each_query(reduction, pairs.batched, texts, gathered(images, group, 1), scale, offset)
    return (of_images + of_texts) / 2


# ---- module ----------------------------------------------------------------------------------------------------------


class ClipLoss(PairwiseLossModule):
    """:func:`clip_loss` as a module, in place of open_clip's.

    Args:
        normalize, reduction, group: see :func:`clip_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = ClipLoss()
        >>> loss(torch.eye(3), torch.eye(3), torch.tensor(2.0))
        tensor(0.2395)
    """

    def __init__(self, normalize: bool = True, reduction: str = "mean", group: Any = None) -> None:
        super().__init__(clip_loss, reduction, normalize=normalize, group=group)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def clip_loss_reference(queries: Tensor, keys: Tensor, scale: Tensor, offset: int) -> Tensor:
    """Plain PyTorch, the loss of each pair. To be trusted because it is the definition: a softmax over rows, one over
    columns, and the diagonal of both."""
    logits = logits_of(queries, keys, scale)
    of_rows, of_columns = torch.log_softmax(logits, 2), torch.log_softmax(logits, 1)
    return -((of_rows + of_columns) / 2).diagonal(offset, 1, 2)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = PairwiseLoss("handgrad::clip_loss", clip_loss_reference)
