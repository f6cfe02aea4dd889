"""Matrix non-maximum suppression of masks: its spec, and what is peculiar to it."""

import inspect

import pytest
import torch

from handgrad.boxes import mask_matrix_nms, matrix_nms
from handgrad.boxes.mask_matrix_nms import mask_matrix_nms_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INFINITY = float("nan"), float("inf")


def reference(
    masks,
    labels,
    scores,
    mask_area=None,
    filter_thr=-1,
    nms_pre=-1,
    max_num=-1,
    kernel="gaussian",
    sigma=2.0,
):
    if mask_area is not None:
        mask_area = mask_area.to(torch.float64 if scores.dtype is torch.float64 else torch.float32)
    numbers = [number if number > 0 else None for number in (filter_thr, nms_pre, max_num)]
    numbers += [sigma, kernel == "gaussian"]
    indices, final = mask_matrix_nms_reference(masks, scores, labels.long(), mask_area, *numbers)
    return final, labels[indices], masks[indices], indices


def random_of(seed):
    generator = reseeded(seed)
    return lambda *shape: torch.rand(*shape, dtype=torch.float64, generator=generator)


def masks_of(count, height=9, width=11, seed=0):
    """Rectangles with their corners anywhere, with holes in them."""
    random = random_of(seed)
    y, x = torch.arange(height)[:, None], torch.arange(width)
    corner = random(count, 2) * torch.tensor([height, width]) * 0.7
    size = (0.2 + 0.5 * random(count, 2)) * torch.tensor([height, width])
    low, high = corner[..., None, None], (corner + size)[..., None, None]
    inside = (y >= low[:, 0]) & (y < high[:, 0]) & (x >= low[:, 1]) & (x < high[:, 1])
    return inside & (random(count, height, width) < 0.9)


def scores_of(count, seed=0):
    """No two scores are near to each other: which stands before which does not hang on a last bit."""
    order = torch.randperm(count, generator=reseeded(seed + 1)).double()
    return (order + 1) / (count + 1)


def labels_of(count, labels=3, seed=0):
    return torch.randint(-1, labels - 1, (count,), generator=reseeded(seed + 2))


def strange_masks():
    """Beside ordinary ones: none at all, all pixels, and one three times."""
    masks = masks_of(12)
    masks[1], masks[4], masks[7], masks[8] = False, False, True, masks[6]
    masks[9] = masks[6]
    return masks


def strange_areas():
    """Less and more pixels than there are; none, and what is no area."""
    areas = strange_masks().sum((1, 2)).double()
    areas[0], areas[2], areas[3], areas[5], areas[10], areas[11] = 1.0, 500.0, 0.0, -3.0, NAN, INFINITY
    return areas


def as_mmdet_has_it(masks, labels, scores, kernel, sigma):
    """The decayed scores in the order of scores, with matrices of all pairs, as the authors' own code has them."""
    scores, order = scores.sort(descending=True)
    flat, labels = masks[order].flatten(1).double(), labels[order]
    shared, areas = flat @ flat.T, flat.sum(1)
    iou = (shared / (areas[:, None] + areas - shared)).triu(1) * (labels[:, None] == labels).triu(1)
    cover = iou.max(0).values[:, None]
    if kernel == "gaussian":
        decay = torch.exp(-sigma * iou**2) / torch.exp(-sigma * cover**2)
    else:
        decay = (1 - iou) / (1 - cover)
    return order, scores * decay.min(0).values


def masks_of_boxes_are_boxes():
    random = random_of(3)
    corner = (random(40, 2) * 30).floor()
    boxes = torch.cat([corner, corner + (random(40, 2) * 20).floor() + 1], 1)
    y, x = torch.arange(60)[:, None], torch.arange(60)
    x1, y1, x2, y2 = boxes[..., None, None].unbind(1)
    masks = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    labels, scores = labels_of(40), scores_of(40)
    for kernel in ("linear", "gaussian"):
        indices, final = matrix_nms(boxes, scores, labels, kernel, min_score=0.05)
        result = mask_matrix_nms(masks, labels, scores, filter_thr=0.05, kernel=kernel)
        assert torch.equal(result[0], final)
        assert torch.equal(result[3], indices)


def what_is_returned_goes_together():
    masks, labels, scores = masks_of(30), labels_of(30), scores_of(30)
    final, of_label, of_mask, indices = mask_matrix_nms(masks, labels, scores, 0.1)
    assert 0 < len(indices) < 30
    assert torch.equal(of_label, labels[indices])
    assert torch.equal(of_mask, masks[indices])
    assert (final <= scores[indices]).all()
    assert final.diff().le(0).all()
    best = mask_matrix_nms(masks, labels, scores, 0.1, max_num=4)
    assert torch.equal(best[3], indices[:4])


def the_highest_alone_are_looked_at():
    masks, labels, scores = masks_of(30), labels_of(30), scores_of(30)
    order = scores.argsort(descending=True)[:12]
    due = mask_matrix_nms(masks[order], labels[order], scores[order])
    result = mask_matrix_nms(masks, labels, scores, nms_pre=12)
    assert torch.equal(result[3], order[due[3]])
    assert torch.equal(result[0], due[0])
    assert len(mask_matrix_nms(masks, labels, scores, nms_pre=100)[0]) == 30


def pixels_beyond_int32():
    """Three masks of 2^30 pixels each: the last has its pixels at the end alone."""
    masks = torch.zeros(3, 2**15, 2**15, dtype=torch.bool)
    masks[0, -2:], masks[1, -1:], masks[2, :1] = True, True, True
    scores = torch.tensor([0.75, 0.5, 0.25])
    final, _, _, indices = mask_matrix_nms(masks, torch.zeros(3, dtype=torch.int64), scores, kernel="linear")
    assert indices.tolist() == [0, 1, 2]
    assert final.tolist() == [0.75, 0.25, 0.25]


MASKS, SCORES, LABELS = masks_of(4), scores_of(4).float(), labels_of(4)

SPEC = OpSpec(
    name="mask_matrix_nms",
    operator="handgrad::mask_matrix_nms",
    function=mask_matrix_nms,
    reference=reference,
    module=None,
    tensors=("masks", "labels", "scores", "mask_area"),
    optional=("mask_area",),
    samples=[
        Sample("gaussian", (masks_of(20), labels_of(20), scores_of(20)), {"filter_thr": 0.1}),
        Sample("linear", (masks_of(20, seed=1), labels_of(20, 2), scores_of(20)), {"kernel": "linear", "nms_pre": 15}),
        Sample("bytes", (masks_of(10).byte() * 3, labels_of(10, 2), scores_of(10)), {"sigma": 0.7, "max_num": 6}),
        Sample("strange", (strange_masks(), labels_of(12, 1), scores_of(12)), {"kernel": "linear"}),
        Sample("areas", (strange_masks(), labels_of(12, 1), scores_of(12), strange_areas()), {"filter_thr": 0.01}),
        Sample("one", (masks_of(1), labels_of(1), scores_of(1)), {}),
    ],
    large=Sample("large", (masks_of(67, 61, 71), labels_of(67, 2), scores_of(67).float()), {"filter_thr": 0.05}),
    empty=[
        Sample("no_masks", (masks_of(0), labels_of(0), scores_of(0)), {}),
        Sample("no_masks_above", (masks_of(0), labels_of(0), scores_of(0)), {"filter_thr": 0.1}),
        Sample("no_pixels", (torch.zeros(3, 0, 5).bool(), labels_of(3), scores_of(3)), {"filter_thr": 0.1}),
        Sample("none_is_high_enough", (masks_of(5), labels_of(5), scores_of(5)), {"filter_thr": 2.0}),
    ],
    autocast=torch.float32,
    channels_last=False,
    derivatives=False,
    bad=[
        Bad(
            "sigma",
            lambda: mask_matrix_nms(MASKS, LABELS, SCORES, sigma=-1),
            ValueError,
            "sigma must be a number above 0; got -1",
        ),
        Bad(
            "filter_thr",
            lambda: mask_matrix_nms(MASKS, LABELS, SCORES, NAN),
            ValueError,
            "filter_thr must be a finite number; got nan",
        ),
        Bad(
            "nms_pre",
            lambda: mask_matrix_nms(MASKS, LABELS, SCORES, nms_pre=1.5),
            TypeError,
            "nms_pre must be a whole number, at least -1; got 1.5",
        ),
        Bad(
            "max_num",
            lambda: mask_matrix_nms(MASKS, LABELS, SCORES, max_num=-2),
            ValueError,
            "max_num must be a whole number, at least -1; got -2",
        ),
        Bad(
            "kernel",
            lambda: mask_matrix_nms(MASKS, LABELS, SCORES, kernel="mask"),
            ValueError,
            "kernel must be 'linear' or 'gaussian'; got 'mask'",
        ),
        Bad(
            "rank",
            lambda: mask_matrix_nms(MASKS[0], LABELS, SCORES),
            RuntimeError,
            r"masks must have 3 dimensions \(masks, height, width\); got \(9, 11\)",
        ),
        Bad(
            "labels",
            lambda: mask_matrix_nms(MASKS, LABELS[:3], SCORES),
            RuntimeError,
            r"labels must have one number for each of the masks, shape \(4,\); got \(3,\)",
        ),
        Bad(
            "scores",
            lambda: mask_matrix_nms(MASKS, LABELS, SCORES[None]),
            RuntimeError,
            r"scores must have one number for each of the masks, shape \(4,\); got \(1, 4\)",
        ),
        Bad(
            "float",
            lambda: mask_matrix_nms(MASKS, SCORES, SCORES),
            TypeError,
            "labels must be a tensor of integers, as int64; got one of float32",
        ),
        Bad(
            "areas",
            lambda: mask_matrix_nms(MASKS, LABELS, SCORES, mask_area=SCORES[:2]),
            RuntimeError,
            r"mask_area must have one number for each of the masks, shape \(4,\); got \(2,\)",
        ),
        Bad(
            "vmap",
            lambda: torch.vmap(mask_matrix_nms)(MASKS[None], LABELS[None], SCORES[None]),
            RuntimeError,
            "the sizes of an op's results must not depend on values",
        ),
    ],
    identities={
        "boxes": masks_of_boxes_are_boxes,
        "together": what_is_returned_goes_together,
        "nms_pre": the_highest_alone_are_looked_at,
    },
    lenient={"masks": lambda masks: isinstance(masks, torch.Tensor) and masks.is_floating_point()},
    numel_beyond_int32=pixels_beyond_int32,
    # Keys of labels, bits of masks, what they measure, where labels begin, the two passes, how many, results; two sorts
    # and a third.
    device_calls={"forward": (8, 19, 1)},
    not_applicable={
        3: "which mask stands before which is a decision, and the scores returned are for ranking detections",
        9: "how many masks are returned depends on the values, and vmap's results must have one size: it is refused "
        "with an error message",
        15: "nothing is saved, there is no backward",
    },
    # The masks as bits, each held against those of its label before it, twice, from the cache as a rule: 2.5 times.
    floor_factors={"forward": 3.6},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
@pytest.mark.parametrize("size", [(1, 1), (1, 63), (8, 8), (5, 13), (32, 32), (31, 67), (40, 130)], ids=str)
def test_equals_the_authors_formula(size, kernel):
    """Masks of less than a word of bits, of whole words, of a word and a pixel, of more than a chunk of words."""
    for count in (2, 16, 17, 45):
        masks, labels, scores = masks_of(count, *size, seed=count), labels_of(count, 2), scores_of(count)
        # No mask is empty, and none is another: the authors' formula knows neither.
        masks.view(count, -1)[:, 0] = True
        if masks.flatten(1).unique(dim=0).shape[0] < count:
            continue
        order, due = as_mmdet_has_it(masks, labels, scores, kernel, 1.5)
        final, of_label, of_mask, indices = mask_matrix_nms(masks, labels, scores, kernel=kernel, sigma=1.5)
        by_score = torch.empty_like(due).scatter_(0, order, due)
        torch.testing.assert_close(final, by_score.sort(descending=True).values)
        torch.testing.assert_close(final, by_score[indices])
        assert torch.equal(of_label, labels[indices])
        assert torch.equal(of_mask, masks[indices])


def test_the_signature_is_mmdets():
    """mmdet.models.layers.mask_matrix_nms, 3.x."""
    parameters = inspect.signature(mask_matrix_nms).parameters
    theirs = ["masks", "labels", "scores", "filter_thr", "nms_pre", "max_num", "kernel", "sigma", "mask_area"]
    assert list(parameters) == theirs
    defaults = [p.default for p in parameters.values() if p.default is not inspect.Parameter.empty]
    assert defaults == [-1, -1, -1, "gaussian", 2.0, None]


def test_masks_without_pixels_and_masks_twice():
    """mmdet divides nothing by nothing for both: their scores, and those of all compared with them, are NaN."""
    masks = torch.zeros(5, 6, 6).bool()
    masks[2:4, 1:3] = True
    masks[4, 1:3] = True
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    labels = torch.zeros(5, dtype=torch.int64)
    _, theirs = as_mmdet_has_it(masks, labels, scores, "linear", 2.0)
    assert theirs.isnan().any()
    final, _, _, indices = mask_matrix_nms(masks, labels, scores, kernel="linear")
    assert indices.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(final, torch.tensor([0.9, 0.8, 0.7, 0.0, 0.0]))
    assert mask_matrix_nms(masks, labels, scores, 0.1, kernel="linear")[3].tolist() == [0, 1, 2]


@pytest.mark.tiers("whole")
def test_many_masks_take_no_matrix_and_no_copy():
    """open-mmlab/mmdetection#6908: 259 GB for the masks of one image, as floating-point numbers."""
    count = 1500
    masks = torch.zeros(count, 100, 100).bool()
    for k in range(count):
        masks[k, k // 20 : k // 20 + 9, k % 20 * 4 : k % 20 * 4 + 9] = True
    scores, labels = scores_of(count).float(), labels_of(count, 5)
    final, _, _, indices = mask_matrix_nms(masks, labels, scores, 0.05)
    order, due = as_mmdet_has_it(masks, labels, scores, "gaussian", 2.0)
    by_score = torch.empty_like(due).scatter_(0, order, due)
    torch.testing.assert_close(final.double(), by_score[indices], rtol=1e-5, atol=1e-6)
    assert len(final) == (by_score >= 0.05).sum()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16], ids=str)
def test_a_pixel_is_in_a_mask_where_it_is_not_nothing(dtype):
    masks, labels, scores = masks_of(20), labels_of(20), scores_of(20)
    numbers = masks.to(dtype) * 255
    due, result = mask_matrix_nms(masks, labels, scores), mask_matrix_nms(numbers, labels, scores)
    for k in (0, 1, 3):
        assert torch.equal(result[k], due[k])
    assert torch.equal(result[2], numbers[due[3]])


def test_an_area_may_be_given():
    """As SOLOv2's head does, which has counted its masks' pixels already."""
    masks, labels, scores = masks_of(20), labels_of(20), scores_of(20)
    due = mask_matrix_nms(masks, labels, scores)
    for areas in (masks.sum((1, 2)), masks.sum((1, 2)).float()):
        result = mask_matrix_nms(masks, labels, scores, mask_area=areas)
        assert torch.equal(result[0], due[0])
        assert torch.equal(result[3], due[3])
    # Larger ones overlap less.
    larger = mask_matrix_nms(masks, labels, scores, mask_area=10 * masks.sum((1, 2)))
    assert (larger[0].sort().values >= due[0].sort().values).all()
    assert larger[0].sum() > due[0].sum()


def test_scores_that_are_no_numbers():
    masks = masks_of(1).repeat(3, 1, 1)
    scores, labels = torch.tensor([0.5, NAN, 0.25]), torch.zeros(3, dtype=torch.int64)
    final, _, _, indices = mask_matrix_nms(masks, labels, scores, kernel="linear")
    assert indices.tolist() == [1, 0, 2]
    assert final.tolist()[1:] == [0.5, 0.0]
    assert mask_matrix_nms(masks, labels, scores, 0.01)[3].tolist() == [0, 2]


class Segmented(torch.nn.Module):
    """The end of SOLOv2's head."""

    def forward(self, masks, labels, scores):
        return mask_matrix_nms(masks > 0.5, labels, scores, filter_thr=0.05, nms_pre=500, max_num=100)


@pytest.mark.tiers("whole")
def test_the_end_of_a_head_compiles_and_exports(tmp_path):
    args = (masks_of(30).double() * 0.7, labels_of(30), scores_of(30))
    expected = Segmented()(*args)
    torch.testing.assert_close(torch.compile(Segmented(), fullgraph=True, dynamic=True)(*args), expected)
    count = torch.export.Dim("masks")
    program = torch.export.export(Segmented(), args, dynamic_shapes=({0: count},) * 3)
    torch.testing.assert_close(program.module()(*args), expected)
    fewer = tuple(tensor[:7] for tensor in args)
    torch.testing.assert_close(program.module()(*fewer), Segmented()(*fewer))
