"""The loss of SigLIP. Mathematics, derivatives and numerics: docs/losses/siglip_loss.md."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from handgrad.kinds.pairwise_gathering import gathered, rank_in
from handgrad.kinds.pairwise_loss import (
    HUGE,
    SCALE,
    TINY,
    Pairs,
    PairwiseLoss,
    PairwiseLossModule,
    logits_of,
    row_numbers,
)
from handgrad.tracing import traceable

_OP = "siglip_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor = 0.0,
    normalize: bool = True,
    reduction: str = "mean",
    group: Any = None,
) -> Tensor:
    r"""The loss of SigLIP (Zhai et al., `Sigmoid Loss for Language Image Pre-Training
    <https://arxiv.org/abs/2303.15343>`_, 2023): of each image and each text by itself, the binary cross entropy of
    whether they belong together, without the matrix of their products in memory.

    .. math:: loss_i = -\sum_j \log \sigma\big(z_{ij} (s\, x_i \cdot y_j + b)\big), \quad z_{ii} = 1, z_{ij} = -1

    Args:
        image_features: embeddings, (N, features), or (batch, N, features) of problems apart from each other; float32,
            float64, bfloat16 or float16, any strides.
        text_features: as many, of which text i belongs to image i. More are texts of no image.
        logit_scale: what products are multiplied by, a number above 0; or a tensor, () or (batch,), which has
            gradients: of float32 beside half features. As open_clip's loss takes it, which is the exponential of the
            parameter that is learnt.
        logit_bias: what is added, a finite number or such a tensor.
        normalize: whether features are divided by their lengths, so that products are cosines; for features of length
            1, as models return them, it changes nothing.
        reduction: ``"none"``, ``"mean"`` (over images, as in the paper, not over pairs) or ``"sum"``.
        group: the process group whose processes have a part of the batch each, of one size: texts are gathered from all
            of them. The mean of the losses and, as data-parallel training averages them, the gradients are those of one
            process with the whole batch. None: this process alone.

    Returns:
        Under ``"none"`` the loss of each image, otherwise a scalar; float32, of float64 features float64. The mean of
        no images is NaN, as in torch.

    Raises:
        ValueError: a ``logit_scale`` that is a number and not above 0, or an unknown ``reduction``.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> siglip_loss(torch.eye(3), torch.eye(3), 10.0, -5.0)
        tensor(0.0201)
    """
    pairs = Pairs(_OP, normalize).add("image_features", image_features).add("text_features", text_features)
    scale = pairs.number("logit_scale", logit_scale, TINY, SCALE)
    bias = pairs.number("logit_bias", logit_bias, -HUGE, "a finite number, or a tensor")
    images, texts = pairs.tensors
    offset = 0
    if group is not None:
        offset = rank_in(_OP, group) * texts.shape[1]
        texts = gathered(texts, group, 1)
    return _loss.reduced(reduction, pairs.batched, images, texts, scale, bias, offset)


# ---- module ----------------------------------------------------------------------------------------------------------


class SigLipLoss(PairwiseLossModule):
    """:func:`siglip_loss` as a module, in place of open_clip's.

    Args:
        normalize, reduction, group: see :func:`siglip_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = SigLipLoss()
        >>> loss(torch.eye(3), torch.eye(3), torch.tensor(10.0), torch.tensor(-5.0))
        tensor(0.0201)
    """

    def __init__(self, normalize: bool = True, reduction: str = "mean", group: Any = None) -> None:
        super().__init__(siglip_loss, reduction, normalize=normalize, group=group)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def siglip_loss_reference(queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor, offset: int) -> Tensor:
    """Plain PyTorch, the loss of each row. To be trusted because it is the paper's sum."""
    logits = logits_of(queries, keys, scale) + bias.unsqueeze(-1).unsqueeze(-1)
    own, columns = row_numbers(queries, keys, offset)
    signs = 2 * (columns == own).to(logits.dtype) - 1
    return -F.logsigmoid(signs * logits).sum(2)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = PairwiseLoss("handgrad::siglip_loss", siglip_loss_reference)
