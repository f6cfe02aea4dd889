"""Non-maximum suppression of rotated boxes: its specs, plain and batched, and what is peculiar to it."""

import torch

from handgrad.boxes import batched_nms, batched_rotated_nms, nms, rotated_box_iou, rotated_nms
from handgrad.boxes.rotated_nms import rotated_nms_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from rotated_boxes import boxes, turned

NAN, INFINITY = float("nan"), float("inf")


def reference(boxes, scores, iou_threshold):
    return rotated_nms_reference(boxes, scores, None, iou_threshold)


def scores_of(count, levels=0, seed=0):
    """Scores; `levels` of them if that is not 0, so that many are equal."""
    scores = torch.rand(count, dtype=torch.float64, generator=reseeded(seed + 1))
    return (scores * levels).round() / levels if levels else scores


def classes_of(count, classes=3, seed=0):
    return torch.randint(-1, classes - 1, (count,), generator=reseeded(seed + 2))


def strange_boxes():
    """Beside ordinary ones: without an inside, infinite, and with NaN."""
    table = boxes(16)
    table[1, 2] = 0
    table[3, 3] = -5
    table[5, 4] = INFINITY
    table[7, 2] = INFINITY
    table[8, 0] = -INFINITY
    table[10, 1] = NAN
    table[12] = table[13]
    return table


def kept_boxes_do_not_suppress_each_other():
    table, scores = boxes(60), scores_of(60)
    kept = rotated_nms(table, scores, 0.3)
    assert rotated_nms(table[kept], scores[kept], 0.3).tolist() == list(range(len(kept)))
    assert scores[kept].diff().le(0).all()
    assert rotated_box_iou(table[kept], table[kept]).triu(1).le(0.3).all()


def threshold_one_keeps_all():
    assert len(rotated_nms(boxes(20).repeat(2, 1), scores_of(40), 1.0)) == 40


def a_box_is_dropped_by_itself_however_it_is_written():
    table = boxes(20)
    table[:, 4] = table[:, 4].round()
    again = table[:, [0, 1, 3, 2, 4]] + torch.tensor([0.0, 0, 0, 0, 90], dtype=table.dtype)
    for index in range(20):
        both = torch.stack([table[index], again[index]])
        assert rotated_nms(both, torch.ones(2, dtype=torch.float64), 1 - 1e-9).tolist() == [0]


def one_class_is_plain():
    table, scores = boxes(60), scores_of(60)
    one = torch.full((60,), 7)
    assert torch.equal(batched_rotated_nms(table, scores, one, 0.4), rotated_nms(table, scores, 0.4))


def classes_of_their_own_keep_all():
    table, scores = boxes(1).repeat(30, 1), scores_of(30)
    found = batched_rotated_nms(table, scores, torch.arange(30), 0.1)
    assert torch.equal(found, scores.argsort(descending=True))


def pairs_beyond_int32():
    """As many boxes have 2^32 pairs: what a matrix of pairs would be indexed by."""
    side = 2**8
    steps = 2.0 * torch.arange(side)
    table = torch.cat([torch.cartesian_prod(steps, steps), torch.ones(side**2, 2), torch.zeros(side**2, 1)], 1)
    # Of one class each the CPU need not look at all pairs.
    idxs = (torch.arange(side**2) // 64).repeat(2)
    kept = batched_rotated_nms(torch.cat([table, table]), torch.arange(2 * side**2, 0, -1).float(), idxs, 0.5)
    assert torch.equal(kept, torch.arange(side**2))


BOXES, SCORES, IDXS = boxes(4).float(), scores_of(4).float(), classes_of(4)
NOT_APPLICABLE = {
    3: "indices have no derivative",
    9: "how many boxes are returned depends on the values, and vmap's results must have one size: it is refused "
    "with an error message",
    11: "ONNX's NonMaxSuppression knows no angles, and torch's exporter writes no loop whose length is open; a fixed "
    "number of boxes can be exported",
    15: "nothing is saved, there is no backward",
}

SPEC = OpSpec(
    name="rotated_nms",
    operator="handgrad::rotated_nms",
    function=rotated_nms,
    reference=reference,
    module=None,
    samples=[
        Sample("overlapping", (boxes(24), scores_of(24)), {"iou_threshold": 0.3}),
        Sample("strange", (strange_boxes(), scores_of(16, levels=3)), {"iou_threshold": 0.0}),
    ],
    large=Sample("large", (boxes(901).float(), scores_of(901).float()), {"iou_threshold": 0.7}),
    empty=[Sample("no_boxes", (boxes(0), scores_of(0)), {"iou_threshold": 0.5})],
    autocast=torch.float32,
    channels_last=False,
    derivatives=False,
    bad=[
        Bad(
            "threshold",
            lambda: rotated_nms(BOXES, SCORES, 50),
            ValueError,
            "iou_threshold must be a number from 0 to 1; got 50",
        ),
        Bad(
            "columns",
            lambda: rotated_nms(BOXES[:, :4], SCORES, 0.5),
            RuntimeError,
            r"boxes must have shape \(boxes, 5\), a row for cx, cy, w, h, angle; got \(4, 4\)",
        ),
        Bad("count", lambda: rotated_nms(BOXES, SCORES[:3], 0.5), RuntimeError, r"scores must have .* got \(3,\)"),
        Bad("dtype", lambda: rotated_nms(BOXES, SCORES.double(), 0.5), RuntimeError, "scores must have the dtype of"),
        Bad(
            "vmap",
            lambda: torch.vmap(rotated_nms, (0, 0, None))(BOXES[None], SCORES[None], 0.5),
            RuntimeError,
            "the sizes of an op's results must not depend on values",
        ),
    ],
    identities={
        "idempotent": kept_boxes_do_not_suppress_each_other,
        "threshold_one": threshold_one_keeps_all,
        "itself": a_box_is_dropped_by_itself_however_it_is_written,
    },
    numel_beyond_int32=pairs_beyond_int32,
    # Keys and a sort; boxes in order, pairs, the pass over them, indices.
    device_calls={"forward": (5, 9, 1)},
    not_applicable=NOT_APPLICABLE,
    # Every box is held against those after it, tile by tile, from the cache as a rule.
    floor_factors={"forward": 45.0},
)

BATCHED_SPEC = OpSpec(
    name="rotated_nms",
    operator="handgrad::rotated_nms",
    function=batched_rotated_nms,
    reference=rotated_nms_reference,
    module=None,
    samples=[Sample("classes", (boxes(30), scores_of(30, 9), classes_of(30)), {"iou_threshold": 0.3})],
    large=Sample(
        "large",
        (boxes(901).float(), scores_of(901, 50).float(), classes_of(901, 20) * 2**40),
        {"iou_threshold": 0.5},
    ),
    empty=[Sample("no_boxes", (boxes(0), scores_of(0), classes_of(0)), {"iou_threshold": 0.5})],
    autocast=torch.float32,
    channels_last=False,
    derivatives=False,
    bad=[
        Bad(
            "float",
            lambda: batched_rotated_nms(BOXES, SCORES, SCORES, 0.5),
            TypeError,
            "idxs must be a tensor of integers",
        ),
        Bad(
            "count",
            lambda: batched_rotated_nms(BOXES, SCORES, IDXS[:3], 0.5),
            RuntimeError,
            r"idxs must have .* got \(3,\)",
        ),
        Bad(
            "threshold",
            lambda: batched_rotated_nms(BOXES, SCORES, IDXS, 1.5),
            ValueError,
            "iou_threshold must be .* got 1.5",
        ),
    ],
    identities={"one_class": one_class_is_plain, "own_classes": classes_of_their_own_keep_all},
    numel_beyond_int32=pairs_beyond_int32,
    not_applicable=NOT_APPLICABLE,
)

test_matrix = matrix(SPEC)
test_matrix_of_batched = matrix(BATCHED_SPEC)


def test_of_axis_parallel_boxes_it_keeps_what_nms_keeps():
    generator = reseeded(5)
    corner = torch.rand(700, 2, dtype=torch.float64, generator=generator) * 200
    straight = torch.cat([corner, corner + 5 + 40 * torch.rand(700, 2, dtype=torch.float64, generator=generator)], 1)
    scores, idxs = scores_of(700), classes_of(700, 5)
    for degrees in (0.0, 30.0):
        table = turned(straight, degrees)
        for threshold in (0.0, 0.31, 0.7):
            assert torch.equal(rotated_nms(table, scores, threshold), nms(straight, scores, threshold))
            expected = batched_nms(straight, scores, idxs, threshold)
            assert torch.equal(batched_rotated_nms(table, scores, idxs, threshold), expected)


def test_more_boxes_than_a_step():
    table, scores = boxes(1500, seed=3), scores_of(1500, 100)
    table[:, :2] *= 10
    found = rotated_nms(table, scores, 0.2)
    assert torch.equal(found, reference(table, scores, 0.2))
    assert 500 < len(found) < 1500


def test_boxes_that_nearly_coincide_are_duplicates():
    """facebookresearch/detectron2#2154, open-mmlab/mmcv#2621: an overlap of 0, and both are kept."""
    first = boxes(200)
    near = first + 1e-7 * (2 * torch.rand(200, 5, dtype=torch.float64, generator=reseeded(9)) - 1)
    for a, b in zip(first, near, strict=True):
        assert rotated_nms(torch.stack([a, b]), torch.ones(2, dtype=torch.float64), 0.99).tolist() == [0]


def test_what_is_no_box_is_kept_and_drops_none():
    table = boxes(1).repeat(7, 1)
    for row, (column, value) in enumerate([(2, 0.0), (3, -1.0), (0, NAN), (2, INFINITY), (4, INFINITY), (1, INFINITY)]):
        table[row, column] = value
    assert rotated_nms(table, torch.linspace(1, 0, 7, dtype=torch.float64), 0.0).tolist() == list(range(7))
