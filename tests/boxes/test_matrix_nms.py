"""Matrix non-maximum suppression of boxes: its spec, and what is peculiar to it."""

import pytest
import torch

from handgrad.boxes import batched_nms, matrix_nms
from handgrad.boxes.matrix_nms import matrix_nms_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INFINITY = float("nan"), float("inf")


def reference(boxes, scores, idxs=None, kernel="gaussian", sigma=2.0, score_threshold=None, min_score=1e-3):
    idxs = None if idxs is None else idxs.long()
    return matrix_nms_reference(boxes, scores, idxs, score_threshold, min_score, sigma, kernel == "gaussian")


def boxes_of(count, spread=30.0, sizes=(5.0, 20.0), seed=0):
    generator = reseeded(seed)
    corner = torch.rand(count, 2, dtype=torch.float64, generator=generator) * spread
    size = sizes[0] + torch.rand(count, 2, dtype=torch.float64, generator=generator) * (sizes[1] - sizes[0])
    return torch.cat([corner, corner + size], 1)


def scores_of(count, seed=0):
    """No two scores are near to each other: which stands before which does not hang on a last bit."""
    order = torch.randperm(count, generator=reseeded(seed + 1)).double()
    return (order + 1) / (count + 1)


def classes_of(count, classes=3, seed=0):
    return torch.randint(-1, classes - 1, (count,), generator=reseeded(seed + 2))


def strange_boxes():
    """Beside ordinary ones: without an inside, inverted, infinite, with NaN for a corner, and one twice."""
    boxes = boxes_of(16)
    boxes[1, 2] = boxes[1, 0]
    boxes[3] = boxes[3, [2, 3, 0, 1]]
    boxes[5, [1, 3]] = boxes[5, [3, 1]]
    boxes[7, 2] = INFINITY
    boxes[8, 0], boxes[8, 2] = -INFINITY, INFINITY
    boxes[10, 1] = NAN
    boxes[12] = boxes[13]
    return boxes


def strange_scores():
    scores = scores_of(16)
    scores[2], scores[6] = NAN, 0.0
    return scores


def plain_loop(boxes, scores, classes, kernel, sigma):
    """Equations 4 to 6 in Python's numbers: the decayed score of each box."""
    boxes, scores, classes = boxes.tolist(), scores.tolist(), classes.tolist()
    count = len(boxes)

    def iou(a, b):
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(0.0, width) * max(0.0, height)
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    def f(x):
        return 1 - x if kernel == "linear" else float(torch.tensor(-sigma * x * x, dtype=torch.float64).exp())

    def above(i):
        return [j for j in range(count) if classes[j] == classes[i] and (scores[j], -j) > (scores[i], -i)]

    cover = [max((iou(boxes[k], boxes[j]) for k in above(j)), default=0.0) for j in range(count)]
    return [
        scores[i] * min((f(iou(boxes[j], boxes[i])) / f(cover[j]) for j in above(i)), default=1.0) for i in range(count)
    ]


def apart_boxes_are_sorted():
    boxes, scores = boxes_of(40, 1e6), scores_of(40)
    for kernel in ("linear", "gaussian"):
        indices, final = matrix_nms(boxes, scores, kernel=kernel)
        assert torch.equal(indices, scores.argsort(descending=True))
        assert torch.equal(final, scores[indices])


def three_boxes_by_hand():
    """The second overlaps the first by a third, the third both the second by a third and the first by nothing: what
    the second does to the third is relieved by what the first does to the second."""
    boxes = torch.tensor([[0.0, 0, 2, 1], [1, 0, 3, 1], [2, 0, 4, 1]], dtype=torch.float64)
    scores = torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64)
    for kernel, part in (("linear", 2 / 3), ("gaussian", torch.tensor(-2 / 9, dtype=torch.float64).exp())):
        indices, final = matrix_nms(boxes, scores, kernel=kernel)
        assert indices.tolist() == [0, 1, 2]
        torch.testing.assert_close(final, scores * torch.tensor([1.0, part, 1.0], dtype=torch.float64))


def scale_and_place_do_not_count():
    boxes, scores = boxes_of(60).floor(), scores_of(60)
    for kernel in ("linear", "gaussian"):
        indices, final = matrix_nms(boxes, scores, kernel=kernel)
        for other in (1024 * boxes, boxes - 4096, boxes[:, [1, 0, 3, 2]]):
            again = matrix_nms(other, scores, kernel=kernel)
            assert torch.equal(again[0], indices)
            assert torch.equal(again[1], final)


def classes_are_by_themselves():
    boxes, scores, idxs = boxes_of(60), scores_of(60), classes_of(60)
    indices, final = matrix_nms(boxes, scores, idxs, min_score=None)
    for k in idxs.unique():
        own = (idxs == k).nonzero()[:, 0]
        of_class = matrix_nms(boxes[own], scores[own], min_score=None)
        chosen = idxs[indices] == k
        assert torch.equal(own[of_class[0]], indices[chosen])
        assert torch.equal(of_class[1], final[chosen])
    one = matrix_nms(boxes, scores, torch.full((60,), 7))
    assert torch.equal(one[0], matrix_nms(boxes, scores)[0])


def pairs_beyond_int32():
    """As many boxes have 2^31 pairs, of which those of a class are compared. (2^31 numbers are 2^29 boxes, whose order
    alone takes more memory than a test may.)"""
    count = 2**16
    corners = torch.arange(count).float()[:, None].expand(-1, 2)
    scores = torch.arange(count, 0, -1).float() / count
    idxs = torch.arange(count) % 2**10 * 2**40
    indices, final = matrix_nms(torch.cat([corners, corners + 2], 1), scores, idxs, min_score=0.25)
    assert torch.equal(indices, torch.arange(3 * count // 4 + 1))
    assert torch.equal(final, scores[indices])


BOXES, SCORES, IDXS = boxes_of(4).float(), scores_of(4).float(), classes_of(4)

SPEC = OpSpec(
    name="matrix_nms",
    operator="handgrad::matrix_nms",
    function=matrix_nms,
    reference=reference,
    module=None,
    tensors=("boxes", "scores", "idxs"),
    optional=("idxs",),
    samples=[
        Sample("gaussian", (boxes_of(24), scores_of(24), classes_of(24)), {"min_score": 0.05}),
        Sample("linear", (boxes_of(20), scores_of(20)), {"kernel": "linear", "min_score": 0.1}),
        Sample("all", (boxes_of(20), scores_of(20), classes_of(20)), {"sigma": 0.7, "min_score": None}),
        Sample("strange", (strange_boxes(), strange_scores()), {"kernel": "linear", "min_score": 0.0}),
        Sample("strange_all", (strange_boxes(), scores_of(16), classes_of(16, 2)), {"min_score": None}),
        Sample("one", (boxes_of(1), scores_of(1)), {"score_threshold": 0.3, "min_score": None}),
    ],
    large=Sample("large", (boxes_of(701, 300.0).float(), scores_of(701).float(), classes_of(701, 2)), {}),
    empty=[
        Sample("no_boxes", (boxes_of(0), scores_of(0), classes_of(0)), {}),
        Sample("no_boxes_of_all", (boxes_of(0), scores_of(0)), {"min_score": None}),
        Sample("none_is_high_enough", (boxes_of(5), scores_of(5)), {"min_score": 2.0}),
    ],
    autocast=torch.float32,
    channels_last=False,
    derivatives=False,
    bad=[
        Bad("sigma", lambda: matrix_nms(BOXES, SCORES, sigma=0), ValueError, "sigma must be a number above 0; got 0"),
        Bad(
            "min_score",
            lambda: matrix_nms(BOXES, SCORES, min_score=-1),
            ValueError,
            "min_score must be a finite number, at least 0; got -1",
        ),
        Bad(
            "score_threshold",
            lambda: matrix_nms(BOXES, SCORES, score_threshold=NAN),
            ValueError,
            "score_threshold must be a finite number; got nan",
        ),
        Bad("kernel", lambda: matrix_nms(BOXES, SCORES, kernel="hard"), ValueError, "kernel must be 'linear' or 'gau"),
        Bad("kernel_kind", lambda: matrix_nms(BOXES, SCORES, kernel=1), TypeError, "kernel must be 'linear' or 'gau"),
        Bad("columns", lambda: matrix_nms(BOXES[:, :3], SCORES), RuntimeError, r"boxes must have .* got \(4, 3\)"),
        Bad("count", lambda: matrix_nms(BOXES, SCORES[:3]), RuntimeError, r"scores must have .* \(4,\); got \(3,\)"),
        Bad("dtype", lambda: matrix_nms(BOXES, SCORES.double()), RuntimeError, "scores must have the dtype of boxes"),
        Bad("float", lambda: matrix_nms(BOXES, SCORES, SCORES), TypeError, "idxs must be a tensor of integers"),
        Bad("idxs", lambda: matrix_nms(BOXES, SCORES, IDXS[:3]), RuntimeError, r"idxs must have .* got \(3,\)"),
        Bad(
            "vmap",
            lambda: torch.vmap(matrix_nms)(BOXES[None], SCORES[None]),
            RuntimeError,
            "the sizes of an op's results must not depend on values",
        ),
    ],
    identities={
        "apart": apart_boxes_are_sorted,
        "by_hand": three_boxes_by_hand,
        "scale": scale_and_place_do_not_count,
        "classes": classes_are_by_themselves,
    },
    # None: no limit.
    lenient={"min_score": lambda value: value is None, "score_threshold": lambda value: value is None},
    numel_beyond_int32=pairs_beyond_int32,
    # Keys of classes, where classes begin, boxes in order, the two passes, how many, results; two sorts and a third.
    device_calls={"forward": (7, 17, 1)},
    not_applicable={
        3: "which box stands before which is a decision, and the scores returned are for ranking detections",
        9: "how many boxes are returned depends on the values, and vmap's results must have one size: it is refused "
        "with an error message",
        15: "nothing is saved, there is no backward",
    },
    # Every box is held against those of its class before it, twice, from the cache as a rule: 196 times for the large
    # sample.
    floor_factors={"forward": 200.0},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
@pytest.mark.parametrize("count", [2, 15, 16, 17, 34, 300])
def test_equals_the_paper(count, kernel):
    """300 boxes of two classes are more than are compared in one step."""
    for seed in range(2):
        boxes, scores = boxes_of(count, 60.0, seed=seed), scores_of(count, seed)
        classes = torch.arange(count) % 2 if seed else torch.zeros(count, dtype=torch.int64)
        due = torch.tensor(plain_loop(boxes, scores, classes, kernel, 1.3), dtype=torch.float64)
        indices, final = matrix_nms(boxes, scores, classes, kernel, 1.3, min_score=None)
        assert indices.tolist() == due.argsort(descending=True).tolist()
        torch.testing.assert_close(final, due[indices])


def test_more_boxes_than_a_step_of_many_threads_has():
    for count in (1300, 2049):
        boxes, scores = boxes_of(count, 300.0), scores_of(count)
        for kernel in ("linear", "gaussian"):
            ours, theirs = (f(boxes, scores, kernel=kernel, min_score=None) for f in (matrix_nms, reference))
            assert torch.equal(ours[0], theirs[0])
            torch.testing.assert_close(ours[1], theirs[1])


def test_the_same_box_many_times():
    """All but the best are covered wholly: mmdet's and SuperGradients' formula divides nothing by nothing there, and
    its scores are NaN; here nobody is lowered by who is himself out."""
    boxes = boxes_of(1).repeat(5, 1)
    scores = torch.tensor([0.7, 0.9, 0.8, 0.6, 0.5], dtype=torch.float64)
    indices, final = matrix_nms(boxes, scores, kernel="linear", min_score=None)
    assert indices.tolist() == [1, 2, 0, 3, 4]
    assert final.tolist() == [0.9, 0, 0, 0, 0]
    assert matrix_nms(boxes, scores, kernel="linear")[0].tolist() == [1]
    # A part of a box that is out: lowered by the best alone.
    part = torch.cat([boxes[:2], boxes[:1].clone()])
    part[2, 2] = (part[2, 0] + part[2, 2]) / 2
    _, final = matrix_nms(part, torch.tensor([0.9, 0.8, 0.6], dtype=torch.float64), kernel="linear")
    torch.testing.assert_close(final, torch.tensor([0.9, 0.3], dtype=torch.float64))


def test_scores_stay_between_nothing_and_what_they_were():
    """PaddlePaddle/PaddleDetection#1983: scores below 0 and above 1 after it."""
    for seed in range(5):
        boxes, scores = boxes_of(200, seed=seed).float(), scores_of(200, seed).float()
        for kernel in ("linear", "gaussian"):
            indices, final = matrix_nms(boxes, scores, kernel=kernel, min_score=None)
            assert (final >= 0).all()
            assert (final <= scores[indices]).all()
            assert final.diff().le(0).all()


def test_many_boxes_take_no_memory_of_pairs():
    """PaddlePaddle/Paddle#39742: 30 seconds for the boxes of an image; and their matrix of overlaps would be 3.6 GB."""
    count = 30_000
    boxes, scores = boxes_of(count, 4000.0).float(), scores_of(count).float()
    classes = classes_of(count, 80)
    indices, final = matrix_nms(boxes, scores, classes, kernel="linear", min_score=0.01)
    own = classes == 3
    few = matrix_nms(boxes[own], scores[own], kernel="linear", min_score=0.01)
    chosen = classes[indices] == 3
    assert torch.equal(own.nonzero()[:, 0][few[0]], indices[chosen])
    assert torch.equal(few[1], final[chosen])


def test_a_threshold_before_and_one_after():
    boxes, scores = boxes_of(50), scores_of(50)
    indices, final = matrix_nms(boxes, scores, min_score=None)
    for before, after in ((0.3, None), (None, 0.2), (0.4, 0.1), (0.1, 0.4)):
        chosen = (scores[indices] >= (before or 0)) & (final >= (after or 0))
        found = matrix_nms(boxes, scores, score_threshold=before, min_score=after)
        assert 0 < len(found[0]) < 50
        assert torch.equal(found[0], indices[chosen])
        assert torch.equal(found[1], final[chosen])


def test_scores_that_are_no_numbers():
    """One that is NaN lowers none, comes first where all are asked for, and is left out where there is a limit."""
    boxes = boxes_of(1).repeat(3, 1)
    scores = torch.tensor([0.5, NAN, 0.25], dtype=torch.float64)
    indices, final = matrix_nms(boxes, scores, min_score=None)
    assert indices.tolist() == [1, 0, 2]
    assert final[0].isnan()
    assert final[1] == 0.5
    torch.testing.assert_close(final[2], 0.25 * torch.tensor(-2.0, dtype=torch.float64).exp())
    assert matrix_nms(boxes, scores)[0].tolist() == [0, 2]
    infinite = torch.tensor([INFINITY, INFINITY, 0.25], dtype=torch.float64)
    # Infinity times nothing is no number.
    assert matrix_nms(boxes, infinite, kernel="linear", min_score=0.0)[1].tolist() == [INFINITY, 0.0]


def test_equal_scores_keep_their_order():
    boxes = boxes_of(300, 1e6)
    indices, _ = matrix_nms(boxes, torch.ones(300, dtype=torch.float64), torch.arange(300) % 3)
    assert indices.tolist() == list(range(300))
    # Of equal boxes with equal scores the first lowers the others.
    same = boxes[:1].repeat(3, 1)
    indices, final = matrix_nms(same, torch.ones(3, dtype=torch.float64), kernel="linear", min_score=0.0)
    assert indices.tolist() == [0, 1, 2]
    assert final.tolist() == [1, 0, 0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32], ids=str)
def test_classes_are_integers_of_any_kind(dtype):
    boxes, scores = boxes_of(40), scores_of(40)
    idxs = (classes_of(40) > 0).to(dtype)
    for ours, theirs in zip(
        matrix_nms(boxes, scores, idxs), matrix_nms(boxes, scores, idxs.long() * 2**62), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_what_is_dropped_elsewhere_is_lowered_most():
    """Of boxes that are each other's duplicates the best keeps its score, as with greedy suppression."""
    places = 100.0 * torch.arange(20)[:, None].expand(-1, 2).double()
    boxes = torch.cat([places, places + 20], 1).repeat_interleave(4, 0)
    boxes = boxes + torch.rand(80, 4, dtype=torch.float64, generator=reseeded(5))
    scores = scores_of(80)
    kept = batched_nms(boxes, scores, torch.zeros(80, dtype=torch.int64), 0.5)
    indices, final = matrix_nms(boxes, scores, kernel="linear", min_score=None)
    untouched = indices[final == scores[indices]]
    assert sorted(untouched.tolist()) == sorted(kept.tolist())
