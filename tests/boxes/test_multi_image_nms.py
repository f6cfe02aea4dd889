"""Non-maximum suppression of a batch of images: what the loop over images gives, in one call."""

import pytest
import torch

from handgrad.boxes import batched_nms, batched_rotated_nms, multi_image_nms, nms
from handgrad.testing import reseeded
from rotated_boxes import boxes as rotated_boxes


def images_of(counts, seed=0, dtype=torch.float32):
    generator = reseeded(seed)
    boxes, scores, idxs = [], [], []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 50
        boxes.append(torch.cat([corner, corner + 5 + 20 * torch.rand(count, 2, generator=generator)], 1).to(dtype))
        # Many are equal.
        scores.append(((torch.rand(count, generator=generator) * 20).round() / 20).to(dtype))
        idxs.append(torch.randint(-2, 5, (count,), generator=generator))
    return boxes, scores, idxs


def the_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


COUNTS = (40, 0, 300, 1, 77)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_it_is_the_loop(dtype):
    boxes, scores, idxs = images_of(COUNTS, dtype=dtype)
    loop = [nms(*image, 0.4) for image in zip(boxes, scores, strict=True)]
    the_same(multi_image_nms(boxes, scores, 0.4), loop)
    loop = [batched_nms(*image, 0.4) for image in zip(boxes, scores, idxs, strict=True)]
    the_same(multi_image_nms(boxes, scores, 0.4, idxs), loop)
    the_same(multi_image_nms(boxes, scores, 0.4, idxs, max_detections=9), [kept[:9] for kept in loop])
    # What is left out would have suppressed nothing above it.
    above = [kept[score[kept] >= 0.5] for kept, score in zip(loop, scores, strict=True)]
    the_same(multi_image_nms(boxes, scores, 0.4, idxs, score_threshold=0.5), above)
    the_same(multi_image_nms(boxes, scores, 0.4, idxs, 0.5, 9), [kept[:9] for kept in above])


def test_one_tensor_for_all_images():
    boxes, scores, idxs = (torch.stack(each) for each in images_of((60, 60, 60)))
    loop = [batched_nms(*image, 0.4) for image in zip(boxes, scores, idxs, strict=True)]
    the_same(multi_image_nms(boxes, scores, 0.4, idxs), loop)
    # As detectors have them: every other row of something larger.
    apart = torch.cat([boxes, boxes], 2)[:, :, :4]
    the_same(multi_image_nms(apart, scores, 0.4, idxs.int()), loop)


def test_rotated_boxes():
    boxes, scores, idxs = rotated_boxes(3, 50), *(torch.stack(each) for each in images_of((50, 50, 50))[1:])
    scores = scores.to(boxes.dtype)
    loop = [batched_rotated_nms(*image, 0.3) for image in zip(boxes, scores, idxs, strict=True)]
    the_same(multi_image_nms(boxes, scores, 0.3, idxs), loop)
    assert sum(map(len, loop)) < 150


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
def test_quantized_boxes():
    boxes, scores, _ = images_of((40, 30))
    boxes = [torch.quantize_per_tensor(each, 0.25, 0, torch.quint8) for each in boxes]
    scores = [torch.quantize_per_tensor(each, 0.05, 0, torch.quint8) for each in scores]
    the_same(
        multi_image_nms(boxes, scores, 0.4),
        [nms(box.dequantize(), score.dequantize(), 0.4) for box, score in zip(boxes, scores, strict=True)],
    )


def test_images_without_boxes():
    none = torch.zeros(3, 0, 4), torch.zeros(3, 0)
    for idxs in (None, torch.zeros(3, 0, dtype=torch.int64)):
        assert [kept.tolist() for kept in multi_image_nms(*none, 0.5, idxs)] == [[], [], []]
    assert multi_image_nms(torch.zeros(0, 5, 4), torch.zeros(0, 5), 0.5) == []
    boxes, scores, _ = images_of((5, 5))
    assert [kept.tolist() for kept in multi_image_nms(boxes, scores, 0.5, score_threshold=2.0)] == [[], []]
    scores[0][:] = float("nan")
    assert [len(kept) > 0 for kept in multi_image_nms(boxes, scores, 0.5, score_threshold=0.0)] == [False, True]


def test_classes_of_any_number():
    boxes, scores, idxs = images_of((50, 50))
    far = [each * 2**40 - 2**50 for each in idxs]
    the_same(multi_image_nms(boxes, scores, 0.4, far), multi_image_nms(boxes, scores, 0.4, idxs))
    two = [each > 0 for each in idxs]
    the_same(
        multi_image_nms(boxes, scores, 0.4, two), multi_image_nms(boxes, scores, 0.4, [each.int() for each in two])
    )


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"boxes": 3}, TypeError, "boxes must be a tensor, or a list with one for each image; got int"),
        ({"boxes": []}, ValueError, "boxes must be a list of at least one image; got none"),
        ({"boxes": torch.zeros(4, 4)}, RuntimeError, r"boxes must have shape \(images, boxes, 4\), or be a list; got"),
        ({"scores": [torch.zeros(2), None]}, TypeError, r"scores\[1\] must be a torch.Tensor; got NoneType"),
        ({"scores": [torch.zeros(2, 1)] * 2}, RuntimeError, r"scores\[0\] must have shape \(boxes,\); got \(2, 1\)"),
        (
            {"scores": torch.zeros(2, 5)},
            ValueError,
            r"scores must have one for each of the boxes, \[4, 3\] in the images",
        ),
        (
            {"idxs": [torch.zeros(4), torch.zeros(3)]},
            TypeError,
            "idxs must be a tensor of integers, as int64; got one of",
        ),
        ({"iou_threshold": 50}, ValueError, "iou_threshold must be a number from 0 to 1; got 50"),
        ({"score_threshold": float("nan")}, ValueError, "score_threshold must be a finite number; got nan"),
        ({"max_detections": -1}, ValueError, "max_detections must be .*at least 0; got -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(changed, error, message):
    boxes, scores, _ = images_of((4, 3))
    with pytest.raises(error, match=message):
        multi_image_nms(**{"boxes": boxes, "scores": scores, "iou_threshold": 0.5, **changed})
