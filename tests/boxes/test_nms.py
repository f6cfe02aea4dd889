"""Non-maximum suppression: its specs, plain and batched, and what is peculiar to it."""

import inspect
import math

import pytest
import torch

from handgrad.boxes import batched_nms, nms
from handgrad.boxes.nms import nms_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture
def torchvision():
    return pytest.importorskip("torchvision", exc_type=ImportError)


def reference(boxes, scores, iou_threshold):
    return nms_reference(boxes, scores, None, iou_threshold)


def boxes_of(count, spread=30.0, sizes=(5.0, 20.0), seed=0):
    """Boxes with their corners in a square of `spread`, sides as in `sizes`."""
    generator = reseeded(seed)
    corner = torch.rand(count, 2, dtype=torch.float64, generator=generator) * spread
    size = sizes[0] + torch.rand(count, 2, dtype=torch.float64, generator=generator) * (sizes[1] - sizes[0])
    return torch.cat([corner, corner + size], 1)


def scores_of(count, levels=0, seed=0):
    """Scores; `levels` of them if that is not 0, so that many are equal."""
    scores = torch.rand(count, dtype=torch.float64, generator=reseeded(seed + 1))
    return (scores * levels).round() / levels if levels else scores


def classes_of(count, classes=3, seed=0):
    return torch.randint(-1, classes - 1, (count,), generator=reseeded(seed + 2))


def around_one_place(count, seed=0):
    """Boxes that all hold the origin, and of which few suppress one another at a high threshold."""
    corners = torch.rand(count, 4, dtype=torch.float64, generator=reseeded(seed)) * 1000
    return corners * torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64)


def strange_boxes():
    """Beside ordinary ones: without an inside, inverted, infinite, and with NaN for a corner."""
    boxes = boxes_of(16)
    boxes[1, 2] = boxes[1, 0]
    boxes[3] = boxes[3, [2, 3, 0, 1]]
    boxes[5, [1, 3]] = boxes[5, [3, 1]]
    boxes[7, 2] = INFINITY
    boxes[8, 0], boxes[8, 2] = -INFINITY, INFINITY
    boxes[10, 1] = NAN
    boxes[12] = boxes[13]
    return boxes


def kept_boxes_do_not_suppress_each_other():
    boxes, scores = boxes_of(60), scores_of(60)
    kept = nms(boxes, scores, 0.3)
    assert nms(boxes[kept], scores[kept], 0.3).tolist() == list(range(len(kept)))
    assert scores[kept].diff().le(0).all()


def only_the_order_of_scores_counts():
    boxes, scores = boxes_of(60), scores_of(60, levels=9)
    assert torch.equal(nms(boxes, scores, 0.4), nms(boxes, 5 * scores - 2, 0.4))


def scale_and_place_do_not_count():
    boxes, scores = boxes_of(60).floor(), scores_of(60)
    expected = nms(boxes, scores, 0.4)
    assert torch.equal(nms(1024 * boxes, scores, 0.4), expected)
    assert torch.equal(nms(boxes - 4096, scores, 0.4), expected)
    assert torch.equal(nms(boxes[:, [1, 0, 3, 2]], scores, 0.4), expected)


def threshold_one_keeps_all():
    boxes = boxes_of(20).repeat(2, 1)
    assert len(nms(boxes, scores_of(40), 1.0)) == 40


def one_class_is_plain():
    boxes, scores = boxes_of(60), scores_of(60)
    assert torch.equal(batched_nms(boxes, scores, torch.full((60,), 7), 0.4), nms(boxes, scores, 0.4))


def classes_of_their_own_keep_all():
    boxes, scores = boxes_of(1).repeat(30, 1), scores_of(30)
    assert torch.equal(batched_nms(boxes, scores, torch.arange(30), 0.1), scores.argsort(descending=True))


def pairs_beyond_int32():
    """As many boxes have 2^32 pairs: what a matrix of pairs would be indexed by. (2^31 numbers are 2^29 boxes, whose
    order alone takes more memory than a test may.)"""
    side = 2**8
    steps = 2.0 * torch.arange(side)
    corners = torch.cartesian_prod(steps, steps)
    boxes = torch.cat([corners, corners + 1], 1)
    kept = nms(torch.cat([boxes, boxes]), torch.arange(2 * side**2, 0, -1).float(), 0.5)
    assert torch.equal(kept, torch.arange(side**2))


BOXES, SCORES, IDXS = boxes_of(4).float(), scores_of(4).float(), classes_of(4)
NOT_APPLICABLE = {
    3: "indices have no derivative",
    9: "how many boxes are returned depends on the values, and vmap's results must have one size: it is refused "
    "with an error message",
    15: "nothing is saved, there is no backward",
}

SPEC = OpSpec(
    name="nms",
    operator="handgrad::nms",
    function=nms,
    reference=reference,
    module=None,
    samples=[
        Sample("overlapping", (boxes_of(24), scores_of(24)), {"iou_threshold": 0.3}),
        Sample("equal_scores", (boxes_of(20, seed=3), scores_of(20, levels=3)), {"iou_threshold": 0.5}),
        Sample("strange", (strange_boxes(), scores_of(16)), {"iou_threshold": 0.0}),
        Sample("one", (boxes_of(1), scores_of(1)), {"iou_threshold": 0.7}),
    ],
    large=Sample("large", (around_one_place(1501).float(), scores_of(1501).float()), {"iou_threshold": 0.9}),
    empty=[Sample("no_boxes", (boxes_of(0), scores_of(0)), {"iou_threshold": 0.5})],
    autocast=torch.float32,
    channels_last=False,
    derivatives=False,
    bad=[
        Bad(
            "threshold",
            lambda: nms(BOXES, SCORES, 50),
            ValueError,
            "iou_threshold must be a number from 0 to 1; got 50",
        ),
        Bad("threshold_below", lambda: nms(BOXES, SCORES, -0.1), ValueError, "iou_threshold must be .* got -0.1"),
        Bad("threshold_nan", lambda: nms(BOXES, SCORES, NAN), ValueError, "iou_threshold must be .* got nan"),
        Bad("columns", lambda: nms(BOXES[:, :3], SCORES, 0.5), RuntimeError, r"boxes must have shape .* got \(4, 3\)"),
        Bad("rank", lambda: nms(BOXES[None], SCORES, 0.5), RuntimeError, r"boxes must have shape .* got \(1, 4, 4\)"),
        Bad("count", lambda: nms(BOXES, SCORES[:3], 0.5), RuntimeError, r"scores must have .* \(4,\); got \(3,\)"),
        Bad("scores_rank", lambda: nms(BOXES, SCORES[None], 0.5), RuntimeError, r"scores must have .* got \(1, 4\)"),
        Bad("dtype", lambda: nms(BOXES, SCORES.double(), 0.5), RuntimeError, "scores must have the dtype of boxes"),
        Bad(
            "count_compiled",
            lambda: torch.compile(nms, backend="eager")(BOXES, SCORES[:3], 0.5),
            Exception,
            "scores must have one number for each of the boxes",
        ),
        Bad(
            "vmap",
            lambda: torch.vmap(nms, (0, 0, None))(BOXES[None], SCORES[None], 0.5),
            RuntimeError,
            "the sizes of an op's results must not depend on values",
        ),
    ],
    identities={
        "idempotent": kept_boxes_do_not_suppress_each_other,
        "order": only_the_order_of_scores_counts,
        "scale": scale_and_place_do_not_count,
        "threshold_one": threshold_one_keeps_all,
    },
    numel_beyond_int32=pairs_beyond_int32,
    # Keys and a sort; boxes in order, pairs, the pass over them, indices.
    device_calls={"forward": (5, 9, 1)},
    not_applicable=NOT_APPLICABLE,
    # Every box is held against those after it, tile by tile, from the cache as a rule: 32 times for the large sample.
    floor_factors={"forward": 33.0},
)

BATCHED_SPEC = OpSpec(
    name="nms",
    operator="handgrad::nms",
    function=batched_nms,
    reference=nms_reference,
    module=None,
    samples=[
        Sample("classes", (boxes_of(30), scores_of(30), classes_of(30)), {"iou_threshold": 0.3}),
        Sample("equal_scores", (boxes_of(20), scores_of(20, levels=3), classes_of(20, 2)), {"iou_threshold": 0.5}),
        Sample("strange", (strange_boxes(), scores_of(16), classes_of(16, 2)), {"iou_threshold": 0.2}),
    ],
    large=Sample(
        "large",
        (boxes_of(1501, 300.0).float(), scores_of(1501, 50).float(), classes_of(1501, 20) * 2**40),
        {"iou_threshold": 0.5},
    ),
    empty=[Sample("no_boxes", (boxes_of(0), scores_of(0), classes_of(0)), {"iou_threshold": 0.5})],
    autocast=torch.float32,
    channels_last=False,
    derivatives=False,
    bad=[
        Bad("float", lambda: batched_nms(BOXES, SCORES, SCORES, 0.5), TypeError, "idxs must be a tensor of integers"),
        Bad("count", lambda: batched_nms(BOXES, SCORES, IDXS[:3], 0.5), RuntimeError, r"idxs must have .* got \(3,\)"),
        Bad("threshold", lambda: batched_nms(BOXES, SCORES, IDXS, 1.5), ValueError, "iou_threshold must be .* got 1.5"),
    ],
    identities={"one_class": one_class_is_plain, "own_classes": classes_of_their_own_keep_all},
    numel_beyond_int32=pairs_beyond_int32,
    not_applicable=NOT_APPLICABLE,
)

test_matrix = matrix(SPEC)
test_matrix_of_batched = matrix(BATCHED_SPEC)


# ---- torchvision's results, whatever the boxes -----------------------------------------------------------------------

POOL = [0.0, -0.0, 1.0, 2.0, -1.0, 0.5, INFINITY, -INFINITY, NAN, 1e38, 3e38, -1e38, 1e19, 1e-38, 1e-45]
KINDS = {
    # Whole coordinates: thresholds are met exactly, and boxes are often the same.
    "grid": lambda n, random: (random(n, 4) * 6).floor(),
    "spread": lambda n, random: torch.cat([c := random(n, 2) * 100, c + random(n, 2) * 40], 1),
    "far": lambda n, random: torch.cat([c := 1e6 + random(n, 2) * 100, c + random(n, 2) * 40], 1),
    "sizes": lambda n, random: torch.cat([c := random(n, 2), c + random(n, 2)], 1) * 10 ** (36 * random(n, 1) - 18),
    "subnormal": lambda n, random: (random(n, 4) * torch.tensor([2.0, 2.0, 9.0, 9.0])).floor() * 3e-23,
    "huge": lambda n, random: torch.cat([-random(n, 2), random(n, 2)], 1) * 3e38,
    "special": lambda n, random: torch.tensor(POOL, dtype=torch.float64)[(random(n, 4) * len(POOL)).long()],
    "one_place": lambda n, random: (random(n, 4) - torch.tensor([1.0, 1.0, 0.0, 0.0])) * 1000,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torchvision(torchvision, kind, dtype):
    generator = reseeded(len(kind))

    def random(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    for count in (1, 2, 17, 300, 900):
        boxes = KINDS[kind](count, random).to(dtype)
        scores = random(count).to(dtype)
        ties = (scores * 8).round() / 8
        ties[random(count) < 0.1], ties[random(count) < 0.1], ties[random(count) < 0.05] = NAN, -0.0, INFINITY
        idxs = (random(count) * 5).long()
        for threshold in (0.0, 1e-9, 0.1, 0.3, 1 / 3, 0.5, 0.9, 1.0):
            for chosen in (scores, ties):
                expected = torchvision.ops.nms(boxes, chosen, threshold)
                assert torch.equal(nms(boxes, chosen, threshold), expected), f"{count} boxes at {threshold}"
        kept = torchvision.ops.boxes._batched_nms_vanilla(boxes, ties, idxs, 0.3).sort().values
        # Of equal scores torchvision's loop promises no order.
        expected = kept[ties[kept].sort(descending=True, stable=True).indices]
        assert torch.equal(batched_nms(boxes, ties, idxs, 0.3), expected), f"{count} boxes in classes"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_computed_in_float32(torchvision, dtype):
    """pytorch/vision#3371: areas overflow in float16 and nothing is suppressed. #8241: no kernel for bfloat16."""
    boxes, scores = (300 * boxes_of(300)).to(dtype), scores_of(300).to(dtype)
    assert (boxes[:, 2:] - boxes[:, :2]).prod(1).isinf().any() or dtype is torch.bfloat16
    assert torch.equal(nms(boxes, scores, 0.3), torchvision.ops.nms(boxes.float(), scores.float(), 0.3))


@pytest.mark.parametrize(("sizes", "kept"), [((4.0, 9.0), 2000), ((200.0, 900.0), 20)])
def test_many_boxes(torchvision, sizes, kept):
    """Both the list of few that are kept, and the tree of many; and the steps in between."""
    boxes, scores = boxes_of(5000, 1000.0, sizes).float(), scores_of(5000).float()
    found = nms(boxes, scores, 0.5)
    assert torch.equal(found, torchvision.ops.nms(boxes, scores, 0.5))
    assert len(found) >= kept


def test_more_pairs_than_fit_at_one_time(torchvision):
    """On a device the bits of all pairs are made in several steps then, here in two."""
    boxes, scores = boxes_of(9000, 900.0, (10.0, 60.0)).float(), scores_of(9000, 100).float()
    assert torch.equal(nms(boxes, scores, 0.4), torchvision.ops.nms(boxes, scores, 0.4))
    one_class = torch.zeros(9000, dtype=torch.int64)
    assert torch.equal(batched_nms(boxes, scores, one_class, 0.4), torchvision.ops.nms(boxes, scores, 0.4))


def test_the_signatures_are_torchvisions(torchvision):
    for ours, theirs in ((nms, torchvision.ops.nms), (batched_nms, torchvision.ops.batched_nms)):
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


# ---- reports about other implementations -----------------------------------------------------------------------------


def test_equal_scores_keep_the_first():
    """pytorch/vision#2157: another one on the device; #4488: quantised scores, and a sort that is not stable."""
    boxes = torch.tensor(
        [[0.3764, 0.0905, 0.6533, 0.4487], [0.3744, 0.0899, 0.6535, 0.4513], [0.3753, 0.0916, 0.6532, 0.4512]]
    )
    assert nms(boxes, torch.ones(3), 0.2).tolist() == [0]
    many = boxes_of(1, 0.0).repeat(700, 1)
    assert nms(many, torch.ones(700, dtype=torch.float64), 0.5).tolist() == [0]
    assert nms(many, torch.tensor([-0.0, 0.0] * 350, dtype=torch.float64), 1.0).tolist() == list(range(700))


def test_boxes_of_the_report_on_maskrcnn_benchmark():
    """facebookresearch/maskrcnn-benchmark#289: the device kept both. (Its boxes there held one pixel more.)"""
    boxes = torch.tensor([[7.0, 0.0, 12.0, 63.0], [7.0, 0.0, 12.0, 65.0]])
    assert nms(boxes, torch.tensor([0.0, 1.0]), 0.3).tolist() == [1]


def test_threshold_zero_drops_what_overlaps_at_all():
    """pytorch/vision#8949: an overlap of 0.003 was not expected to count."""
    boxes = torch.tensor([[2748.0, 618, 2830, 659], [2690, 642, 2749, 681], [2690, 639, 2746, 681]])
    scores = torch.tensor([1.0, 1.0, 0.5])
    assert nms(boxes, scores, 0).tolist() == [0, 2]
    assert nms(boxes, scores, 0.1).tolist() == [0, 1]
    # Boxes that only touch share nothing.
    touching = torch.tensor([[0.0, 0, 1, 1], [1, 0, 2, 1], [0, 1, 1, 2]])
    assert nms(touching, torch.ones(3), 0).tolist() == [0, 1, 2]


def test_a_threshold_that_is_met_is_not_passed(torchvision):
    """And one that no float32 is: 0.3 as float32 is above 0.3."""
    ten, three = [0.0, 0, 10, 1], [0.0, 0, 3, 1]
    boxes = torch.tensor([ten, three])
    for threshold in (0.3, math.nextafter(0.3, 0), math.nextafter(0.3, 1)):
        for dtype in (torch.float32, torch.float64):
            args = (boxes.to(dtype), torch.tensor([1, 0.5], dtype=dtype), threshold)
            assert torch.equal(nms(*args), torchvision.ops.nms(*args))
    halves = torch.tensor([[0.0, 0, 4, 1], [0, 0, 2, 1]])
    assert len(nms(halves, torch.ones(2), 0.5)) == 2
    assert len(nms(halves, torch.ones(2), math.nextafter(0.5, 0))) == 1


@pytest.mark.parametrize("place", [1e7, -500.0])
def test_classes_stay_apart_wherever_the_boxes_are(place):
    """The usual trick moves each class by its number times the largest coordinate. In half types or far from 0 that
    rounds the boxes (MultimediaTechLab/YOLO#234), and where all coordinates are negative it does not separate them."""
    boxes = (boxes_of(50) * 16).floor().float() + place
    scores, idxs = scores_of(50).float(), classes_of(50, 30) + 1
    found = batched_nms(boxes, scores, idxs, 0.3)
    one_by_one = [(idxs == k).nonzero()[:, 0] for k in idxs.unique()]
    kept = torch.cat([places[nms(boxes[places], scores[places], 0.3)] for places in one_by_one])
    assert sorted(found.tolist()) == sorted(kept.tolist())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64], ids=str)
def test_classes_are_integers_of_any_kind(dtype):
    boxes, scores = boxes_of(40), scores_of(40)
    idxs = (classes_of(40) > 0).to(dtype)
    assert torch.equal(batched_nms(boxes, scores, idxs, 0.2), batched_nms(boxes, scores, idxs.long() * 2**62, 0.2))


def test_gradients_flow_through_what_was_kept():
    boxes = boxes_of(12).requires_grad_()
    scores = scores_of(12).requires_grad_()
    kept = nms(boxes, scores, 0.3)
    assert not kept.requires_grad
    grads = torch.func.grad(lambda b, s: (s[nms(b, s, 0.3)] ** 2).sum(), (0, 1))(boxes.detach(), scores.detach())
    expected = torch.zeros_like(scores)
    expected[kept] = 2 * scores.detach()[kept]
    torch.testing.assert_close(grads, (torch.zeros_like(boxes), expected))


class Detections(torch.nn.Module):
    """The end of a detector: what is kept, cut to the best."""

    def forward(self, boxes, scores, idxs):
        kept = batched_nms(boxes, scores, idxs, 0.4)[:5]
        return boxes[kept], scores[kept], idxs[kept]


@pytest.mark.tiers("whole")
def test_the_end_of_a_detector_compiles_and_exports():
    """pytorch/pytorch#108805, #121036, #146152: a loop over classes, or a branch on the number of boxes, ends a graph;
    and so does taking the result for an index, where its size has no name."""
    args = (boxes_of(40), scores_of(40), classes_of(40))
    expected = Detections()(*args)
    step = torch.compile(Detections(), fullgraph=True, dynamic=True)
    torch.testing.assert_close(step(*args), expected)
    batch = torch.export.Dim("boxes")
    program = torch.export.export(Detections(), args, dynamic_shapes=({0: batch}, {0: batch}, {0: batch}))
    torch.testing.assert_close(program.module()(*args), expected)
    none = tuple(tensor[:0] for tensor in args)
    torch.testing.assert_close(program.module()(*none), Detections()(*none))


@pytest.mark.tiers("whole")
def test_onnx_of_the_end_of_a_detector(tmp_path):
    """pytorch/pytorch#141568: no ONNX function for the op. pytorch/vision#2251, #2380 and open-mmlab/mmcv#1689: a file
    that fails where there are no boxes."""
    hg_onnx = pytest.importorskip("handgrad.onnx")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    boxes, scores, idxs = strange_boxes().float(), scores_of(16, levels=4).float(), classes_of(16)
    scores[3] = NAN
    path = tmp_path / "detections.onnx"
    hg_onnx.export(Detections(), (boxes, scores, idxs), path, verify=True)
    assert "NonMaxSuppression" in [node.op_type for node in onnx.load(path).graph.node]
    for count in (0, 1, 2, 9):
        hg_onnx.verify(Detections(), path, (boxes[:count], scores[:count], idxs[:count]))
    boxes, scores, idxs = boxes_of(500, 100.0).float(), scores_of(500, 20).float(), classes_of(500)
    hg_onnx.verify(Detections(), path, (boxes, scores, idxs))


def test_onnx_orders_nan_before_infinity(tmp_path):
    """As the kernel does: NaN, infinity, the largest number, ..., minus infinity."""
    hg_onnx = pytest.importorskip("handgrad.onnx")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    class Kept(torch.nn.Module):
        def forward(self, boxes, scores):
            return nms(boxes, scores, 0.5)

    largest = torch.finfo(torch.float32).max
    scores = torch.tensor([INFINITY, 0.5, NAN, -INFINITY, largest, NAN, INFINITY, -largest, 1e-45, 0.0])
    boxes = (torch.arange(10.0)[:, None] * 5 + torch.tensor([0.0, 0.0, 1.0, 1.0])).float()
    path = tmp_path / "nms.onnx"
    hg_onnx.export(Kept(), (boxes, torch.rand(10)), path)
    assert nms(boxes, scores, 0.5).tolist() == [2, 5, 0, 6, 4, 1, 8, 9, 7, 3]
    hg_onnx.verify(Kept(), path, (boxes, scores), rtol=0, atol=0)
    hg_onnx.verify(Kept(), path, (boxes[:3], scores[:3]), rtol=0, atol=0)
