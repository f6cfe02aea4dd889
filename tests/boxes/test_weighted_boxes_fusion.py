"""Weighted boxes fusion: its spec, and what is peculiar to it."""

import pytest
import torch

from handgrad.boxes import weighted_boxes_fusion
from handgrad.boxes.weighted_boxes_fusion import weighted_boxes_fusion_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INFINITY = float("nan"), float("inf")
CONF_TYPES = ("avg", "max", "box_and_model_avg", "absent_model_aware_avg")


def reference(
    boxes,
    scores,
    labels,
    models,
    weights=(1.0, 2.0),
    iou_thr=0.55,
    skip_box_thr=0.0,
    conf_type="avg",
    allows_overflow=False,
):
    numbers = (iou_thr, skip_box_thr, CONF_TYPES.index(conf_type), allows_overflow)
    return weighted_boxes_fusion_reference(boxes, scores, labels, models, weights, *numbers)


def fused(boxes, scores, labels, weights=(1.0, 2.0), **options):
    """Of one table, whose first half is what the first model found."""
    half = len(boxes) // 2
    lists = ([boxes[:half], boxes[half:]], [scores[:half], scores[half:]], [labels[:half], labels[half:]])
    return weighted_boxes_fusion(*lists, weights, **options)


def found_twice(count, seed=0, spread=300.0):
    """Boxes, scores and labels of two models that look at the same things, each a little off."""
    generator = reseeded(seed)
    half = count // 2

    def random(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    corner, size = random(half, 2) * spread, 5 + 20 * random(half, 2)
    things = torch.cat([corner, corner + size], 1)
    boxes = torch.cat([things + random(half, 4) * 2, things[torch.randperm(half, generator=generator)]])
    boxes = torch.cat([boxes, boxes[: count - 2 * half]])
    # No two scores are near to each other: which box comes first does not hang on a last bit.
    scores = (torch.randperm(count, generator=generator).double() + 1) / (count + 1)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return boxes, scores, labels


def strange_boxes():
    """Beside ordinary ones: without an inside, inverted, infinite, with NaN for a corner; and scores that are none."""
    boxes, scores, labels = found_twice(16, spread=20.0)
    boxes[1, 2] = boxes[1, 0]
    boxes[3] = boxes[3, [2, 3, 0, 1]]
    boxes[7, 2] = INFINITY
    boxes[10, 1] = NAN
    scores[4], scores[12] = NAN, 0.0
    return boxes, scores, labels - 1


def one_model_whose_boxes_are_apart_is_sorted():
    boxes, scores, labels = found_twice(40, spread=1e6)
    for conf_type in CONF_TYPES:
        result = weighted_boxes_fusion([boxes[:20]], [scores[:20]], [labels[:20]], conf_type=conf_type)
        order = scores[:20].argsort(descending=True)
        for value, due in zip(result, (boxes, scores, labels), strict=True):
            assert torch.equal(value, due[:20][order])


def two_boxes_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10]], dtype=torch.float64)
    scores, labels = torch.tensor([0.9, 0.3], dtype=torch.float64), torch.tensor([5, 5])
    # In turn: the mean of 0.9 and 0.6 by two boxes of a sum of weights of 3; the highest by the largest weight; ...
    due = {"avg": 0.5, "max": 0.45, "box_and_model_avg": 0.5, "absent_model_aware_avg": 0.5}
    for conf_type, score in due.items():
        result = fused(boxes, scores, labels, conf_type=conf_type)
        assert result[0].tolist() == [[pytest.approx(x) for x in (0.8, 0, 10.8, 10)]]
        assert result[1].tolist() == [pytest.approx(score)]
        assert result[2].tolist() == [5]
    # Another label is another thing.
    assert len(fused(boxes, scores, torch.tensor([5, 6]))[0]) == 2
    assert len(fused(boxes, scores, labels, iou_thr=2 / 3)[0]) == 2


def a_factor_of_all_weights_changes_nothing():
    table = found_twice(60)
    once, twice = (fused(*table, weights=weights) for weights in ((1.0, 3.0), (2.0, 6.0)))
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a, b)


def boxes_beyond_int32():
    """As many boxes have 2^31 pairs; each is a label of its own. (2^31 numbers are 2^29 boxes, and as many to sort.)"""
    count = 2**16
    corners = torch.arange(count).float()[:, None].expand(-1, 2)
    boxes = torch.cat([corners, corners + 2], 1)
    scores = torch.arange(count, 0, -1).float() / count
    result = weighted_boxes_fusion([boxes], [scores], [torch.arange(count) * 2**32])
    assert torch.equal(result[0], boxes)
    assert torch.equal(result[2], torch.arange(count) * 2**32)


def sample(name, table, **options):
    """Every second box is the second model's."""
    models = torch.arange(len(table[0])) % 2
    return Sample(name, (*table, models), {"weights": (1.0, 2.0), **options})


BOXES, SCORES, LABELS = (tensor.float() for tensor in found_twice(4))
LABELS = LABELS.long()


def of_tables(boxes=BOXES, scores=SCORES, labels=LABELS, **options):
    return weighted_boxes_fusion(boxes, scores, labels, **options)


def unknown_model():
    """The last box alone has a model without a weight."""
    of_tables(weights=[1, 1], models=torch.tensor([0, 1, 0, 2]))


SPEC = OpSpec(
    name="weighted_boxes_fusion",
    operator="handgrad::weighted_boxes_fusion",
    function=weighted_boxes_fusion,
    reference=reference,
    module=None,
    tensors=("boxes", "scores", "labels", "models"),
    optional=("models",),
    samples=[
        sample("average", found_twice(24)),
        sample("maximum", found_twice(16, 1), conf_type="max", skip_box_thr=0.2),
        sample("models", found_twice(16, 2), conf_type="box_and_model_avg", iou_thr=0.4),
        sample("absent", found_twice(16, 3), conf_type="absent_model_aware_avg"),
        sample("overflow", found_twice(20, 4, 25.0), iou_thr=0.1, allows_overflow=True),
        sample("strange", strange_boxes()),
    ],
    large=sample("large", tuple(t.float() if t.is_floating_point() else t for t in found_twice(401))),
    empty=[
        sample("no_boxes", found_twice(0)),
        sample("none_is_high_enough", found_twice(6), skip_box_thr=2.0),
    ],
    autocast=torch.float32,
    channels_last=False,
    derivatives=False,
    bad=[
        Bad("threshold", lambda: of_tables(iou_thr=55), ValueError, "iou_thr must be a number from 0 to 1; got 55"),
        Bad("skip", lambda: of_tables(skip_box_thr=-1), ValueError, "skip_box_thr must be a finite number, at least 0"),
        Bad(
            "conf_type", lambda: of_tables(conf_type="mean"), ValueError, "conf_type must be 'avg', 'max', .*got 'mean'"
        ),
        Bad(
            "overflow", lambda: of_tables(allows_overflow=1), TypeError, "allows_overflow must be True or False; got 1"
        ),
        Bad(
            "weights",
            lambda: of_tables(weights=[1, 2]),
            ValueError,
            "weights must have a number for each of the 1 models",
        ),
        Bad(
            "negative", lambda: of_tables(weights=[-1]), ValueError, r"weights\[0\] must be a finite number, at least 0"
        ),
        Bad("zeros", lambda: of_tables(weights=[0]), ValueError, "weights must not all be 0"),
        Bad("kind", lambda: of_tables(weights=1.0), TypeError, "weights must be a list with a number for each"),
        Bad("unknown_model", unknown_model, RuntimeError, "models must be from 0 to 1, as many as .* weights"),
        Bad("models", lambda: of_tables(models=LABELS), TypeError, "weights must be a list .* where models is given"),
        Bad(
            "no_model", lambda: weighted_boxes_fusion([], [], []), ValueError, "boxes must be of 1 to 64 models; got 0"
        ),
        Bad("many", lambda: of_tables(weights=[1] * 65, models=LABELS), ValueError, "of 1 to 64 models; got 65"),
        Bad(
            "lists",
            lambda: weighted_boxes_fusion([BOXES], [SCORES] * 2, [LABELS]),
            ValueError,
            "scores must have a tensor for each of the 1 models; got 2",
        ),
        Bad(
            "table_of_lists",
            lambda: weighted_boxes_fusion([BOXES], SCORES, [LABELS]),
            TypeError,
            "scores must be a list with a tensor for each model, as boxes is; got Tensor",
        ),
        Bad(
            "models_of_lists",
            lambda: weighted_boxes_fusion([BOXES], [SCORES], [LABELS], models=LABELS),
            TypeError,
            "models must be None where boxes is a list",
        ),
        Bad("listed", lambda: weighted_boxes_fusion([1], [SCORES], [LABELS]), TypeError, r"boxes\[0\] must be"),
        Bad("columns", lambda: of_tables(BOXES[:, :3]), RuntimeError, r"boxes must have shape .* got \(4, 3\)"),
        Bad("count", lambda: of_tables(scores=SCORES[:3]), RuntimeError, r"scores must have .* \(4,\); got \(3,\)"),
        Bad("labels", lambda: of_tables(labels=SCORES), TypeError, "labels must be a tensor of integers"),
        Bad("dtype", lambda: of_tables(scores=SCORES.double()), RuntimeError, "scores must have the dtype of boxes"),
        Bad(
            "vmap",
            lambda: torch.vmap(of_tables)(BOXES[None], SCORES[None], LABELS[None]),
            RuntimeError,
            "the sizes of an op's results must not depend on values",
        ),
    ],
    identities={
        "apart": one_model_whose_boxes_are_apart_is_sorted,
        "by_hand": two_boxes_by_hand,
        "weights": a_factor_of_all_weights_changes_nothing,
    },
    numel_beyond_int32=boxes_beyond_int32,
    # Five kernels, the largest of which is one label after the other, and the number of clusters.
    device_calls={"forward": (5, 17, 1)},
    not_applicable={
        3: "which boxes are one is a decision, and the scores returned are for ranking detections",
        9: "how many boxes are returned depends on the values, and vmap's results must have one size: it is refused "
        "with an error message",
        11: "ONNX has no such operator, and torch's exporter writes no loop whose length is open; a fixed number of "
        "boxes can be exported",
        15: "nothing is saved, there is no backward",
    },
    # For each box, each of 128 threads reads which it is, what it is and one fused box, from the cache as a rule: 132
    # times.
    floor_factors={"forward": 140.0},
)

test_matrix = matrix(SPEC)


def plain_loop(boxes, scores, labels, models, weights, iou_thr):
    """The algorithm as the paper tells it, in Python's numbers: clusters as lists of their boxes."""
    rows = [(s * weights[m], b, m) for b, s, m in zip(boxes.tolist(), scores.tolist(), models.tolist(), strict=True)]
    results = []
    for label in sorted(set(labels.tolist())):
        clusters, means = [], []
        own = [row for row, of in zip(rows, labels.tolist(), strict=True) if of == label]
        for row in sorted(own, key=lambda row: -row[0]):
            overlaps = [iou(mean, row[1]) for mean in means]
            best = max(range(len(means)), key=lambda k: overlaps[k], default=None)
            if best is None or overlaps[best] <= iou_thr:
                clusters.append([])
                means.append(None)
                best = len(clusters) - 1
            clusters[best].append(row)
            total = sum(s for s, _, _ in clusters[best])
            means[best] = [sum(s * b[k] for s, b, _ in clusters[best]) / total for k in range(4)]
        for cluster, mean in zip(clusters, means, strict=True):
            score = sum(s for s, _, _ in cluster) / len(cluster)
            results.append((score * min(len(weights), len(cluster)) / sum(weights), mean, label))
    return sorted(results, key=lambda result: -result[0])


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("count", [2, 15, 16, 17, 34, 200])
def test_equals_the_paper(count):
    for seed in range(3):
        boxes, scores, labels = found_twice(count, seed, spread=40.0)
        result = fused(boxes, scores, labels, iou_thr=0.3)
        models = torch.arange(count) >= count // 2
        due = plain_loop(boxes, scores, labels, models.long(), (1.0, 2.0), 0.3)
        assert result[2].tolist() == [label for _, _, label in due]
        torch.testing.assert_close(result[1], torch.tensor([score for score, _, _ in due], dtype=torch.float64))
        torch.testing.assert_close(result[0], torch.tensor([mean for _, mean, _ in due], dtype=torch.float64))


def test_three_models_are_told_apart():
    """Three models, of which two found the thing, one of them twice."""
    one = torch.tensor([[0.0, 0, 10, 10]], dtype=torch.float64)
    lists = [one.expand(2, 4), one, one + 100], [torch.tensor(s).double() for s in ([0.8, 0.4], [0.6], [0.5])]
    labels = [torch.zeros(len(boxes), dtype=torch.int64) for boxes in lists[0]]
    weights = [1.0, 2.0, 4.0]
    for conf_type, first, second in (
        # Sums of 0.8, 0.4 and 1.2; of 2.0.
        ("avg", 0.8 * 3 / 7, 2 * 1 / 7),
        ("max", 1.2 / 4, 2 / 4),
        ("box_and_model_avg", 2.4 / 4 * 3 / 7, 2 / 4 * 4 / 7),
        ("absent_model_aware_avg", 2.4 / 8, 2 / 7),
    ):
        boxes, scores, _ = weighted_boxes_fusion(*lists, labels, weights, conf_type=conf_type)
        due = {100.0: second, 0.0: first}
        assert scores.tolist() == [pytest.approx(due[x]) for x in boxes[:, 0].tolist()]
        assert scores.diff().le(0).all()


def test_scores_of_zero_are_fused_too():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]])
    result = fused(boxes, torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    # A mean of boxes that weigh nothing is none: the first stays.
    assert result[0].tolist() == [[0, 0, 10, 10]]
    assert result[1].tolist() == [0]


def test_equal_scores_choose_the_first():
    corner = 1000.0 * torch.arange(200)[:, None].expand(-1, 2)
    boxes, labels = torch.cat([corner, corner + 9], 1), torch.arange(200) % 2
    result = weighted_boxes_fusion(boxes, torch.ones(200), labels)
    assert torch.equal(result[0], torch.cat([boxes[::2], boxes[1::2]]))


def test_coordinates_need_not_be_from_zero_to_one():
    """ensemble_boxes clips them to there; the same boxes, a thousand times as large, give the same clusters."""
    boxes, scores, labels = found_twice(60)
    small, large = fused(boxes / 1024, scores, labels), fused(boxes, scores, labels)
    assert torch.equal(small[0] * 1024, large[0])
    assert torch.equal(small[1], large[1])


def test_what_models_say_needs_not_be_of_one_type():
    boxes, scores, labels = found_twice(20)
    result = weighted_boxes_fusion(
        [boxes[:10].float(), boxes[10:]], [scores[:10], scores[10:]], [labels[:10].int(), labels[10:]]
    )
    assert result[0].dtype is torch.float64
