"""Soft non-maximum suppression: its spec, and what is peculiar to it."""

import pytest
import torch

from handgrad.boxes import soft_nms
from handgrad.boxes.soft_nms import soft_nms_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INFINITY = float("nan"), float("inf")


def reference(boxes, scores, iou_threshold=0.3, sigma=0.5, min_score=1e-3, method="linear"):
    return soft_nms_reference(boxes, scores, iou_threshold, sigma, min_score, method == "gaussian")


def boxes_of(count, spread=30.0, sizes=(5.0, 20.0), seed=0):
    generator = reseeded(seed)
    corner = torch.rand(count, 2, dtype=torch.float64, generator=generator) * spread
    size = sizes[0] + torch.rand(count, 2, dtype=torch.float64, generator=generator) * (sizes[1] - sizes[0])
    return torch.cat([corner, corner + size], 1)


def scores_of(count, seed=0):
    """No two scores are near to each other: choices do not hang on a last bit."""
    order = torch.randperm(count, generator=reseeded(seed + 1)).double()
    return (order + 1) / (count + 1)


def strange_boxes():
    """Beside ordinary ones: without an inside, inverted, infinite, and with NaN for a corner."""
    boxes = boxes_of(16)
    boxes[1, 2] = boxes[1, 0]
    boxes[3] = boxes[3, [2, 3, 0, 1]]
    boxes[5, [1, 3]] = boxes[5, [3, 1]]
    boxes[7, 2] = INFINITY
    boxes[8, 0], boxes[8, 2] = -INFINITY, INFINITY
    boxes[10, 1] = NAN
    return boxes


def apart_boxes_are_sorted():
    boxes, scores = boxes_of(40, 1e6), scores_of(40)
    for method in ("linear", "gaussian"):
        places, final = soft_nms(boxes, scores, method=method)
        assert torch.equal(places, scores.argsort(descending=True))
        assert torch.equal(final, scores[places])


def two_boxes_by_hand():
    boxes = torch.tensor([[0.0, 0, 2, 1], [1, 0, 3, 1]], dtype=torch.float64)
    scores = torch.tensor([0.5, 0.75], dtype=torch.float64)
    for method, kwargs, part in (
        ("linear", {"iou_threshold": 0.3}, 2 / 3),
        ("linear", {"iou_threshold": 0.34}, 1.0),
        ("gaussian", {"sigma": 0.25}, torch.tensor(-4 / 9, dtype=torch.float64).exp()),
    ):
        places, final = soft_nms(boxes, scores, method=method, **kwargs)
        assert places.tolist() == [1, 0]
        torch.testing.assert_close(final, torch.stack([scores[1], part * scores[0]]))


def scores_fall_and_scale():
    boxes, scores = boxes_of(50), scores_of(50)
    places, final = soft_nms(boxes, scores, min_score=0.0)
    assert final.diff().le(0).all()
    assert sorted(places.tolist()) == list(range(50))
    halved = soft_nms(boxes, scores / 2, min_score=0.0)
    assert torch.equal(halved[0], places)
    assert torch.equal(halved[1], final / 2)


def boxes_beyond_int32():
    """As many boxes and choices have 2^31 pairs. (2^31 numbers are 2^29 boxes: too many choices for any test.)"""
    side = 2**8
    steps = 2.0 * torch.arange(side)
    corners = torch.cartesian_prod(steps, steps)
    scores = torch.arange(side**2, 0, -1).float() / side**2
    places, final = soft_nms(torch.cat([corners, corners + 1], 1), scores, min_score=0.25)
    assert torch.equal(places, torch.arange(3 * side**2 // 4 + 1))
    assert torch.equal(final, scores[places])


BOXES, SCORES = boxes_of(4).float(), scores_of(4).float()

SPEC = OpSpec(
    name="soft_nms",
    operator="handgrad::soft_nms",
    function=soft_nms,
    reference=reference,
    module=None,
    samples=[
        Sample("linear", (boxes_of(24), scores_of(24)), {"iou_threshold": 0.3, "min_score": 0.05}),
        Sample("gaussian", (boxes_of(20), scores_of(20)), {"sigma": 0.4, "min_score": 0.1, "method": "gaussian"}),
        Sample("strange", (strange_boxes(), scores_of(16)), {"iou_threshold": 0.0, "min_score": 0.0}),
        Sample("one", (boxes_of(1), scores_of(1)), {"method": "gaussian"}),
    ],
    large=Sample("large", (boxes_of(701, 300.0).float(), scores_of(701).float()), {"iou_threshold": 0.4}),
    empty=[
        Sample("no_boxes", (boxes_of(0), scores_of(0)), {}),
        Sample("none_is_high_enough", (boxes_of(5), scores_of(5)), {"min_score": 2.0}),
    ],
    autocast=torch.float32,
    channels_last=False,
    derivatives=False,
    bad=[
        Bad("threshold", lambda: soft_nms(BOXES, SCORES, 30), ValueError, "iou_threshold must be a number from 0 to 1"),
        Bad("sigma", lambda: soft_nms(BOXES, SCORES, sigma=0), ValueError, "sigma must be a number above 0; got 0"),
        Bad("min_score", lambda: soft_nms(BOXES, SCORES, min_score=-1), ValueError, "min_score must be .* at least 0"),
        Bad(
            "method",
            lambda: soft_nms(BOXES, SCORES, method="naive"),
            ValueError,
            "method must be 'linear' or 'gau",
        ),
        Bad("method_kind", lambda: soft_nms(BOXES, SCORES, method=1), TypeError, "method must be 'linear' or 'gau"),
        Bad("columns", lambda: soft_nms(BOXES[:, :3], SCORES), RuntimeError, r"boxes must have shape .* got \(4, 3\)"),
        Bad("count", lambda: soft_nms(BOXES, SCORES[:3]), RuntimeError, r"scores must have .* \(4,\); got \(3,\)"),
        Bad("dtype", lambda: soft_nms(BOXES, SCORES.double()), RuntimeError, "scores must have the dtype of boxes"),
        Bad(
            "vmap",
            lambda: torch.vmap(soft_nms)(BOXES[None], SCORES[None]),
            RuntimeError,
            "the sizes of an op's results must not depend on values",
        ),
    ],
    identities={"apart": apart_boxes_are_sorted, "by_hand": two_boxes_by_hand, "fall": scores_fall_and_scale},
    numel_beyond_int32=boxes_beyond_int32,
    # What the choices are made from, the choices, and a copy of as many as there are.
    device_calls={"forward": (3, 4, 1)},
    not_applicable={
        3: "a choice has no derivative, and the scores returned are for ranking detections",
        9: "how many boxes are returned depends on the values, and vmap's results must have one size: it is refused "
        "with an error message",
        11: "ONNX has no such operator, and torch's exporter writes no loop whose length is open; a fixed number of "
        "boxes can be exported",
        15: "nothing is saved, there is no backward",
    },
    # Boxes are in registers, but each of 256 threads reads its best one once more for each choice, from the cache as a
    # rule: 98 times.
    floor_factors={"forward": 100.0},
)

test_matrix = matrix(SPEC)


def plain_loop(boxes, scores, iou_threshold, sigma, min_score, method):
    """The algorithm as the paper prints it, in Python's numbers."""
    boxes, scores = boxes.tolist(), scores.tolist()
    left = [place for place, score in enumerate(scores) if score >= min_score]
    chosen = []
    while left:
        best = max(left, key=lambda place: (scores[place], -place))
        chosen.append((best, scores[best]))
        left.remove(best)
        a = boxes[best]
        for place in left:
            b = boxes[place]
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            shared = max(0.0, width) * max(0.0, height)
            iou = shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
            if method == "gaussian":
                scores[place] *= float(torch.tensor(-iou * iou / sigma, dtype=torch.float64).exp())
            elif iou >= iou_threshold:
                scores[place] *= 1 - iou
        left = [place for place in left if scores[place] >= min_score]
    return [place for place, _ in chosen], [score for _, score in chosen]


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("count", [2, 15, 16, 17, 150])
def test_equals_the_paper(count, method):
    """open-mmlab/mmcv#1469: a result that is not that of the definition."""
    for seed in range(3):
        boxes, scores = boxes_of(count, seed=seed), scores_of(count, seed)
        parameters = {"iou_threshold": 0.3, "sigma": 0.3, "min_score": 0.02, "method": method}
        places, final = soft_nms(boxes, scores, **parameters)
        expected = plain_loop(boxes, scores, **parameters)
        assert places.tolist() == expected[0]
        torch.testing.assert_close(final, torch.tensor(expected[1], dtype=torch.float64))


def test_min_score_is_asked_of_every_box():
    """open-mmlab/mmcv#1726: the highest score was 0.298, and the box was returned in spite of min_score=0.3."""
    places, final = soft_nms(boxes_of(9, 1e5).float(), torch.full((9,), 0.298848), min_score=0.3)
    assert len(places) == len(final) == 0
    places, _ = soft_nms(boxes_of(3, 1e5), torch.tensor([0.3, 0.29, NAN], dtype=torch.float64), min_score=0.3)
    assert places.tolist() == [0]


def test_equal_scores_choose_the_first():
    boxes = boxes_of(200, 1e6)
    places, _ = soft_nms(boxes, torch.ones(200, dtype=torch.float64), method="gaussian")
    assert places.tolist() == list(range(200))


def test_covered_boxes_end_at_zero():
    boxes = boxes_of(1).repeat(3, 1)
    scores = torch.tensor([0.9, 0.8, INFINITY], dtype=torch.float64)
    assert soft_nms(boxes, scores, min_score=0.0)[1].tolist() == [INFINITY, 0.0, 0.0]
    assert soft_nms(boxes, scores)[0].tolist() == [2]


def equals_the_reference(boxes, scores, **parameters):
    ours, theirs = (function(boxes, scores, **parameters) for function in (soft_nms, reference))
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])
    return ours


def test_more_choices_than_a_launch_makes():
    """A device makes 4,096 in a launch; the next goes on where the last has ended, also where nothing is left to do."""
    for count, min_score in ((4096, 0.0), (4097, 0.0), (4200, 0.5)):
        equals_the_reference(boxes_of(count, spread=600.0).float(), scores_of(count).float(), min_score=min_score)


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_more_boxes_than_a_block_of_threads_holds(method):
    """A device's block holds 2,048 boxes of doubles: of more, it chooses among the best, which all blocks select, round
    after round. Where boxes are crowded, few of these are the next; where all scores are equal, none is known to be."""
    for count, spread, min_score in ((2048, 300.0, 0.5), (2049, 300.0, 0.0), (2500, 60.0, 0.1), (2500, 5.0, 0.01)):
        equals_the_reference(boxes_of(count, spread), scores_of(count), min_score=min_score, method=method)
    equal = torch.full((2100,), 0.75, dtype=torch.float64)
    places, _ = equals_the_reference(boxes_of(2100, 1e6), equal, method=method)
    assert places.tolist() == list(range(2100))
    equals_the_reference(boxes_of(2100, 100.0), equal, min_score=0.4, method=method)


def test_of_many_boxes_few_scores_are_high_enough():
    """Rounds launched after the last choice do nothing; zeros of either sign are equal, and chosen in order."""
    scores = scores_of(3000)
    places, _ = equals_the_reference(boxes_of(3000, 300.0), scores, min_score=0.99)
    assert 0 < len(places) < 31
    assert len(equals_the_reference(boxes_of(3000), torch.full_like(scores, NAN))[0]) == 0
    zeros = torch.zeros(2100, dtype=torch.float64)
    zeros[::2] = -0.0
    assert equals_the_reference(boxes_of(2100), zeros, min_score=0.0)[0].tolist() == list(range(2100))


def test_the_inputs_are_left_alone():
    """Other implementations lower the scores where they are."""
    boxes, scores = boxes_of(30), scores_of(30)
    before = scores.clone()
    soft_nms(boxes, scores)
    assert torch.equal(scores, before)


@pytest.mark.tiers("whole")
def test_onnx_of_a_fixed_number_of_boxes(tmp_path):
    hg_onnx = pytest.importorskip("handgrad.onnx")
    pytest.importorskip("onnxruntime")

    class Softened(torch.nn.Module):
        def forward(self, boxes, scores):
            return soft_nms(boxes, scores, min_score=0.1, method="gaussian")

    args = (boxes_of(6).float(), scores_of(6).float())
    path = tmp_path / "soft.onnx"
    hg_onnx.export(Softened(), args, path, dynamic_batch=False, verify=True)
    hg_onnx.verify(Softened(), path, (boxes_of(6, seed=1).float(), scores_of(6, 1).float()))
