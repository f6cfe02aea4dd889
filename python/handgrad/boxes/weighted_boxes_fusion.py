"""Weighted boxes fusion. Definition and numerics: docs/boxes/weighted_boxes_fusion.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._boxes import check_boxes, decreasing_order, dequantized, rounded_down
from handgrad.arguments import (
    FLOAT_MAX,
    check_bool,
    check_choice,
    check_integers,
    check_range,
    check_tensor,
    computed_dtype,
)
from handgrad.registration import dynamic_size, register, without_derivatives
from handgrad.tracing import traceable

_OP = "weighted_boxes_fusion"
_CONF_TYPES = ("avg", "max", "box_and_model_avg", "absent_model_aware_avg")
# Models are bits of a word.
_MOST_MODELS = 64

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def weighted_boxes_fusion(
    boxes: Tensor | Sequence[Tensor],
    scores: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    weights: Sequence[float] | None = None,
    iou_thr: float = 0.55,
    skip_box_thr: float = 0.0,
    conf_type: str = "avg",
    allows_overflow: bool = False,
    models: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Joins what several detectors found in an image: boxes of a label that overlap become one, their mean weighted by
    score, instead of one that is kept (Solovyev, Wang, Gabruseva, `Weighted boxes fusion
    <https://arxiv.org/abs/1910.13302>`_, 2021).

    From the highest score down (a score being multiplied by the weight of its model), a box joins the cluster of its
    label whose fused box it overlaps most, if by an IoU above ``iou_thr``, and moves it; or it begins a cluster.
    Arguments and values of ``ensemble_boxes.weighted_boxes_fusion``; beyond it: coordinates in pixels or from 0 to 1,
    any device, and a fixed choice among equal scores.

    Args:
        boxes: a list with a tensor for each model, or one tensor for all, (boxes, 4): rows of x1, y1, x2, y2; float32,
            float64, bfloat16 or float16 (computed in float32), any strides; or quantized, for the numbers that they
            stand for. Up to 64 models. A box without an inside, or with a corner or an area that is NaN or infinite, is
            left out.
        scores: likewise (boxes,), of the type of ``boxes``; under autocast both are taken in float32, unless they are
            float64. A box whose score is NaN is left out.
        labels: likewise (boxes,), integers.
        weights: a number for each model, at least 0 and not all 0; by default 1.
        iou_thr: from 0 to 1.
        skip_box_thr: boxes with a lower score are left out; at least 0.
        conf_type: how scores become one. ``"avg"``: their mean, times the number of boxes (of models if that is less),
            through the sum of the weights. ``"max"``: the highest, through the largest weight. ``"box_and_model_avg"``:
            the mean weighted by models, times the share of the models (by weight) that found it.
            ``"absent_model_aware_avg"``: their sum, through the weights of the boxes and of the models that did not
            find it.
        allows_overflow: under ``"avg"`` count all boxes, even if a model found several: scores may be above 1.
        models: where ``boxes`` is one tensor, (boxes,), integers: which of the models, from 0 on, found each box; by
            default there is one. ``weights`` then says how many there are.

    Returns:
        Fused boxes (clusters, 4) and scores (clusters,), of the type of the boxes, and labels (clusters,), int64, by
        decreasing score; of equal ones the lower label comes first, and of one label the cluster that began first. None
        has a derivative. How many they are depends on the values: under ``torch.compile`` and ``torch.export`` it is an
        unbacked size, and vmap refuses.

    Raises:
        ValueError: a number out of range, another ``conf_type``, lists of different lengths.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together; a model that has no weight.

    Example:
        >>> first, second = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[0.0, 0.0, 10.0, 12.0]])
        >>> scores, labels = [torch.tensor([0.9]), torch.tensor([0.3])], [torch.tensor([1]), torch.tensor([1])]
        >>> weighted_boxes_fusion([first, second], scores, labels)
        (tensor([[ 0.0000,  0.0000, 10.0000, 10.5000]]), tensor([0.6000]), tensor([1]))
    """
    count = 1
    if isinstance(boxes, Sequence):
        count, boxes, scores, labels, models = _joined(boxes, scores, labels, models)
        weights = [1.0] * count if weights is None else weights
    check_tensor(_OP, "boxes", boxes)
    check_tensor(_OP, "scores", scores)
    check_integers(_OP, "labels", labels, or_bool=True)
    assert isinstance(scores, Tensor)  # as was just checked
    assert isinstance(labels, Tensor)
    if models is None:
        models = torch.zeros_like(labels, dtype=torch.int64)
        weights = [1.0] if weights is None else weights
    elif weights is None:
        raise TypeError(f"{_OP}: weights must be a list with a number for each model, where models is given; got None")
    elif isinstance(weights, Sequence):
        check_integers(_OP, "models", models, or_bool=True)
        count = max(count, len(weights))
    check_range(_OP, "iou_thr", iou_thr, 0.0, 1.0, "a number from 0 to 1")
    check_range(_OP, "skip_box_thr", skip_box_thr, 0.0, FLOAT_MAX, "a finite number, at least 0")
    check_choice(_OP, "conf_type", conf_type, _CONF_TYPES)
    check_bool(_OP, "allows_overflow", allows_overflow)
    return _weighted_boxes_fusion(
        *dequantized(boxes, scores),
        labels.to(torch.int64),
        models.to(torch.int64),
        _weights(weights, count),
        iou_thr,
        skip_box_thr,
        _CONF_TYPES.index(conf_type),
        allows_overflow,
    )


def _joined(boxes: Sequence[Tensor], *rows: Any) -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
    """The tensors of all models in one, and which is of which; ``rows`` are scores, labels and models."""
    *lists, models = rows
    if models is not None:
        raise TypeError(f"{_OP}: models must be None where boxes is a list with a tensor for each model; got a tensor")
    for name, some in zip(("scores", "labels"), lists, strict=True):
        if not isinstance(some, Sequence):
            raise TypeError(
                f"{_OP}: {name} must be a list with a tensor for each model, as boxes is; got {type(some).__name__}"
            )
        if len(some) != len(boxes):
            raise ValueError(f"{_OP}: {name} must have a tensor for each of the {len(boxes)} models; got {len(some)}")
    if not boxes:
        raise ValueError(f"{_OP}: boxes must be of 1 to {_MOST_MODELS} models; got 0")
    for k, of_model in enumerate(zip(boxes, *lists, strict=True)):
        for name, tensor in zip(("boxes", "scores", "labels"), of_model, strict=True):
            check_tensor(_OP, f"{name}[{k}]", tensor)
        check_boxes(_OP, of_model[0], scores=of_model[1], labels=of_model[2])
    numbers = [row.new_full(row.shape, k, dtype=torch.int64) for k, row in enumerate(lists[1])]
    return len(boxes), torch.cat(list(boxes)), torch.cat(list(lists[0])), torch.cat(list(lists[1])), torch.cat(numbers)


def _weights(weights: Sequence[float], models: int) -> list[float]:
    if isinstance(weights, str) or not isinstance(weights, Sequence):
        raise TypeError(f"{_OP}: weights must be a list with a number for each model; got {type(weights).__name__}")
    if len(weights) != models:
        raise ValueError(f"{_OP}: weights must have a number for each of the {models} models; got {len(weights)}")
    if not 1 <= models <= _MOST_MODELS:
        raise ValueError(f"{_OP}: weights must be of 1 to {_MOST_MODELS} models; got {models}")
    for k, weight in enumerate(weights):
        check_range(_OP, f"weights[{k}]", weight, 0.0, FLOAT_MAX, "a finite number, at least 0")
    if not any(weights):
        raise ValueError(f"{_OP}: weights must not all be 0")
    return [float(weight) for weight in weights]


# ---- reference -------------------------------------------------------------------------------------------------------


def weighted_boxes_fusion_reference(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    models: Tensor,
    weights: Sequence[float],
    iou_threshold: float,
    skip_box_threshold: float,
    conf_type: int,
    allows_overflow: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Plain PyTorch. To be trusted because it is the definition, one box after the other, each cluster a list of the
    boxes in it: which box is in which is a matrix. It never asks for a value on the way: there may be as many clusters
    as boxes, and those that nothing is in are left out in the end."""
    dtype = computed_dtype(boxes)
    sizes = (boxes[:, 2:] - boxes[:, :2]).to(dtype)
    area = sizes.prod(1)
    counts = (sizes > 0).all(1) & (area > 0) & (area < torch.inf) & (scores >= skip_box_threshold)
    table = torch.stack([boxes.new_full((), weight, dtype=dtype) for weight in weights])
    weighted = torch.where(counts, scores.to(dtype) * table.index_select(0, models), -torch.inf)
    order = decreasing_order(weighted)
    boxes, weighted, counts = boxes.to(dtype)[order], weighted[order], counts[order]
    labels, models = labels[order], models[order]

    count = len(order)
    weighted = torch.where(counts, weighted, 0.0)
    # A box that is left out may be anything.
    boxes = torch.where(counts[:, None], boxes, 0.0)
    member = torch.zeros(count, count, dtype=torch.bool, device=boxes.device)  # [cluster, box]
    fused = torch.zeros_like(boxes)
    found = torch.zeros(1, dtype=torch.int64, device=boxes.device)
    numbers = torch.arange(count, device=boxes.device)
    label_of = torch.zeros_like(labels)
    for i in range(count):
        low, high = torch.maximum(fused[:, :2], boxes[i, :2]), torch.minimum(fused[:, 2:], boxes[i, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        areas = (fused[:, 2:] - fused[:, :2]).prod(1), (boxes[i, 2:] - boxes[i, :2]).prod()
        iou = torch.where(shared > 0, shared / (areas[0] + areas[1] - shared), 0.0)
        iou = torch.where((numbers < found) & (label_of == labels[i]), iou, -1.0)
        best = iou.argmax(keepdim=True)
        joins = iou.index_select(0, best) > rounded_down(iou_threshold, dtype)
        cluster = torch.where(joins, best, found)
        chosen = (numbers == cluster) & counts[i]
        member = member | (chosen[:, None] & (numbers == i))
        own = (numbers == cluster)[:, None] & member
        parts = torch.where(own.any(0), weighted, 0.0)
        mean = (parts[:, None] * boxes).sum(0) / parts.sum()
        moved = torch.where(joins & (parts.sum() > 0), mean, torch.where(joins, fused.index_select(0, best), boxes[i]))
        fused = torch.where(chosen[:, None], moved, fused)
        label_of = torch.where(chosen, labels[i], label_of)
        found = found + (counts[i] & ~joins)

    confidence = _confidence_reference(member, weighted, models, table, _CONF_TYPES[conf_type], allows_overflow)
    order = decreasing_order(confidence, label_of)
    # Clusters that nothing is in are left out in the last step: how many remain depends on the values.
    order = order[member.any(1)[order]]
    return fused[order].to(scores.dtype), confidence[order].to(scores.dtype), label_of[order]


def _confidence_reference(
    member: Tensor, weighted: Tensor, models: Tensor, table: Tensor, conf_type: str, allows_overflow: bool
) -> Tensor:
    """The score of each cluster; ``member`` (clusters, boxes) says which boxes are in which."""
    size = member.sum(1).to(table.dtype)
    total = torch.where(member, weighted, 0.0).sum(1)
    weight = torch.where(member, table.index_select(0, models), 0.0).sum(1)
    of_models = (member[:, :, None] & (models[:, None] == torch.arange(len(table), device=table.device))).any(1)
    present = torch.where(of_models, table, 0.0).sum(1)
    if conf_type == "max":
        return torch.where(member, weighted, 0.0).amax(1) / table.max() if len(models) else total
    if conf_type == "box_and_model_avg":
        return total / weight * (present / table.sum())
    if conf_type == "absent_model_aware_avg":
        return total / (weight + (table.sum() - present))
    counted = size if allows_overflow else size.clamp(max=len(table))
    return total / size * (counted / table.sum())


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    models: Tensor,
    weights: Sequence[float],
    iou_threshold: float,
    skip_box_threshold: float,
    conf_type: int,
    allows_overflow: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    check_boxes(_OP, boxes, scores=scores, labels=labels, models=models)
    size = dynamic_size(boxes.shape[0])
    return boxes.new_empty(size, 4), boxes.new_empty(size), boxes.new_empty(size, dtype=torch.int64)


# ---- registration ----------------------------------------------------------------------------------------------------

_weighted_boxes_fusion = register(
    "handgrad::weighted_boxes_fusion",
    # Which boxes are one is a decision, and not all samples have the same number of clusters.
    autograd=without_derivatives(),
    fake=_fake,
    reference=weighted_boxes_fusion_reference,
    # Boxes may come in float32 from a regression beside scores in a half type from a classifier.
    autocast=torch.float32,
    gathers=True,
)
