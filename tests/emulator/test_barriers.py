"""Every barrier of the library's own kernels is needed, and its absence is noticed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from handgrad.sdk.loading import folder_of
from handgrad.testing.tiers import chosen

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for end in ("cu", "cuh") for path in ROOT.glob(f"csrc/*/*/*.{end}"))
BARRIERS = [
    f"{path.relative_to(ROOT)}:{number}"
    for path in SOURCES
    for number, line in enumerate(path.read_text().splitlines(), 1)
    if re.search(r"__syncthreads\w*\(", line)
]

# Run where the CUDA kernels are loaded in place of the CPU kernels. For each barrier: the same calls without it, in a
# few orders of the threads, and what was noticed: a sentence of the emulator, or other numbers.
PROGRAM = """
import importlib.util, json, sys
import torch
from handgrad import _library
from handgrad.boxes import box_iou, nms, soft_nms, weighted_boxes_fusion
from handgrad.layers import bilateral_filter, carafe, correlation, correlation_lookup, dcnv3, filtered_lrelu
from handgrad.layers import grid_sample, guided_filter, layer_norm_2d, local_response_norm, median_filter
from handgrad.layers import multi_scale_deformable_attention, ps_roi_align, roi_align, roi_align_rotated, roi_pool
from handgrad.layers import spatial_pyramid_pool_2d, upfirdn2d
from handgrad.losses import lovasz_softmax_loss, margin_softmax_loss, overlap_sums, sigmoid_focal_loss
from handgrad.losses import softmax_focal_loss, ssim
from handgrad.transforms import adjust_colors, adjust_sharpness, adjust_tones, gaussian_blur, paste, resized_crop

def imported(path):
    spec = importlib.util.spec_from_file_location("control", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

emulator = imported(sys.argv[1]).Emulator(_library.LOADED.libraries["libhandgrad_emulated"])
generator = torch.Generator().manual_seed(0)

def of_norm(*shape):
    x = torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
    def call():
        y = local_response_norm(x, 5, 0.5)
        (first,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
        return y, first, *torch.autograd.grad(first.square().sum(), x)
    return call

# Blocks that take one slab after another: more channels than shared memory holds, more positions than blocks.
wide = torch.randn(1, 7_500, 520, dtype=torch.float64, generator=generator)
slopes = torch.ones_like(wide)
def slabs_in_turn():
    return torch.ops.handgrad._local_response_norm_double_backward(wide, slopes, wide, 5, 0.5, 0.75, 1.0, [True, True])

logits = torch.randn(5000, dtype=torch.float64, generator=generator)
def of_sum():
    return (sigmoid_focal_loss(logits, (logits > 1).double(), reduction="sum"),)

# More boxes than a block looks at in a row, most of them elsewhere; more bins than it makes weights for at once.
boxes = torch.tensor([0.0, 90, 90, 99, 99], dtype=torch.float64).repeat(300, 1)
boxes[:2, 1:] = torch.tensor([0.3, 0.4, 4.1, 16.2], dtype=torch.float64)
boxes[298:, 1:] = torch.tensor([0.4, 0.7, 3.9, 15.8], dtype=torch.float64)
boxes.requires_grad_()
photo = torch.randn(1, 2, 17, 5, dtype=torch.float64, generator=generator, requires_grad=True)
def of_boxes():
    y = roi_align(photo, boxes, (18, 2), sampling_ratio=2, boxes_grad=True)
    first = torch.autograd.grad(y.square().sum(), (photo, boxes), create_graph=True)
    return *first, *torch.autograd.grad(sum(grad.square().sum() for grad in first), (photo, boxes))

# The same of rotated ones; and bins so small that a pixel is in reach of more of them than are weighed at a time.
turned = torch.tensor([0.0, 95, 95, 9, 9, 20], dtype=torch.float64).repeat(300, 1)
turned[:2, 1:] = torch.tensor([2.3, 8.4, 4.1, 16.2, 30], dtype=torch.float64)
turned[298:, 1:] = torch.tensor([2.4, 8.7, 3.9, 3.8, -50], dtype=torch.float64)
turned.requires_grad_()
def of_turned():
    y = roi_align_rotated(photo, turned, (18, 5), sampling_ratio=2, boxes_grad=True)
    first = torch.autograd.grad(y.square().sum(), (photo, turned), create_graph=True)
    return *first, *torch.autograd.grad(sum(grad.square().sum() for grad in first), (photo, turned))

corners = torch.rand(300, 2, dtype=torch.float64, generator=generator)
overlapping = torch.cat([corners, corners + 0.2], 1)
def of_nms():
    return (nms(overlapping, logits[:300], 0.5),)
def of_soft_nms():
    return soft_nms(overlapping, logits[:300].sigmoid(), min_score=0.3)

# More boxes than a round selects, two for each thread that does; more choices in a round than a block has threads.
places_apart = 8 * torch.rand(4500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
def of_rounds():
    return soft_nms(torch.cat([places_apart, places_apart + 0.2], 1), logits[:4500].sigmoid(), min_score=0.3)
# More boxes than a chunk has.
def of_chunks():
    return (nms(torch.cat([places_apart, places_apart + 0.2], 1), logits[:4500], 0.3),)

# More than one block of rows and of columns.
few = overlapping[:40].clone().requires_grad_()
def of_pairs():
    y = box_iou(few, overlapping[:140])
    return y, *torch.autograd.grad(y.square().sum(), few)

# Larger weights, and then smaller ones: who looks for the largest too soon finds one of the call before.
pixels = torch.randint(256, (1, 1, 40, 300), dtype=torch.uint8, generator=generator)
def of_crop():
    return tuple(resized_crop(pixels, 0, 0, 40, 300, size) for size in ((36, 270), (8, 60)))

# Several warps, whose sums one thread adds.
def of_colours():
    return (adjust_colors(pixels, ["contrast"], [0.5]),)

# Larger windows and then smaller ones, in two tiles and in more than one block takes, whose sums are added; filters
# of more taps than a block has threads.
smooth = torch.rand(1, 1, 70, 5, dtype=torch.float64, generator=generator, requires_grad=True)
widths = torch.rand(1, 2, dtype=torch.float64, generator=generator, requires_grad=True)
long = torch.rand(1, 1, 1, 600, dtype=torch.float64, generator=generator)
def of_blurs():
    y = gaussian_blur(smooth, 5, widths + 1)
    first = torch.autograd.grad(y.square().sum(), (smooth, widths), create_graph=True)
    return y, gaussian_blur(long, (1001, 1), 200.0), *first, *torch.autograd.grad(first[1].sum(), widths)

# Pixels that another warp has loaded, in several tiles: of a value, and of a gradient that other warps mask.
cut = torch.rand(1, 1, 40, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 - 1
cut.requires_grad_()
factors = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
def of_sharpness():
    y = adjust_sharpness(cut, factors)
    first = torch.autograd.grad(y.square().sum(), (cut, factors), create_graph=True)
    return y, *first, *torch.autograd.grad(first[0].square().sum() + first[1].sum(), (cut, factors))

# Levels that threads of several warps count, tables of which every thread reads what all have written; and steps of one
# channel after those of another: who reads them too soon finds the other's.
def of_tones():
    wide = torch.cat([pixels / 300, pixels / 900], 1)
    return adjust_tones(pixels, ["equalize", "autocontrast"], [0, 0]), adjust_tones(wide, ["autocontrast"], [0])

# More samples than a warp has lanes, and more in a level than a block has threads.
value = torch.randn(1, 14, 1, 2, dtype=torch.float64, generator=generator, requires_grad=True)
places = torch.rand(1, 60, 1, 7, 5, 2, dtype=torch.float64, generator=generator, requires_grad=True)
weights = torch.rand(1, 60, 1, 7, 5, dtype=torch.float64, generator=generator, requires_grad=True)
def of_attention():
    y = multi_scale_deformable_attention(value, [(1, 2)] * 7, places, weights)
    return y, *torch.autograd.grad(y.square().sum(), (value, places, weights))

# More points than a block lists at a time, in several tiles.
board = torch.randn(1, 1, 5, 20, dtype=torch.float64, generator=generator, requires_grad=True)
spots = (2 * torch.rand(1, 1, 300, 2, dtype=torch.float64, generator=generator) - 1).requires_grad_()
def of_samples():
    y = grid_sample(board, spots)
    return y, *torch.autograd.grad(y.square().sum(), (board, spots))

# So many classes that a block has a row.
rows = torch.randn(2, 2_100, dtype=torch.float64, generator=generator, requires_grad=True)
likely = torch.rand(2, 2_100, dtype=torch.float64, generator=generator, requires_grad=True)
def of_rows():
    y = softmax_focal_loss(rows, likely, reduction="none")
    first = torch.autograd.grad(y.square().sum(), (rows, likely), create_graph=True)
    return y, *first, *torch.autograd.grad(sum(grad.square().sum() for grad in first), (rows, likely))

# More positions than a tile has.
masks = torch.randn(1, 3, 600, dtype=torch.float64, generator=generator, requires_grad=True)
soft = torch.rand(1, 3, 600, dtype=torch.float64, generator=generator, requires_grad=True)
def of_overlaps():
    y = overlap_sums(masks, soft, "softmax")
    first = torch.autograd.grad(y.square().sum(), (masks, soft), create_graph=True)
    return y, *first, *torch.autograd.grad(sum(grad.square().sum() for grad in first), (masks, soft))

# More classes than a warp has lanes.
faces = torch.randn(2, 3, dtype=torch.float64, generator=generator)
centres = torch.randn(300, 3, dtype=torch.float64, generator=generator)
def of_margins():
    return (margin_softmax_loss(faces, centres, torch.tensor([0, 299]), 4.0),)

# Images of several tiles, of which one block takes one after another where they are large.
picture = torch.rand(1, 1, 14, 40, dtype=torch.float64, generator=generator, requires_grad=True)
def of_windows():
    y = ssim(picture, picture.detach().flip(3), 1.0, 3)
    (first,) = torch.autograd.grad(y, picture, create_graph=True)
    return y, first, *torch.autograd.grad(first.square().sum(), picture)

# Teams whose threads are in different warps, and more rows than one block has.
channels = torch.randn(1, 9, 40, dtype=torch.float64, generator=generator, requires_grad=True)
scales = torch.rand(9, dtype=torch.float64, generator=generator, requires_grad=True)
def of_channels():
    y = layer_norm_2d(channels, scales, scales)
    first = torch.autograd.grad(y.square().sum(), (channels, scales), create_graph=True)
    # And teams that are warps, which need not wait for each other.
    last = layer_norm_2d(channels.detach().mT.contiguous().mT, scales.detach(), scales.detach())
    return y, last, *first, *torch.autograd.grad(sum(grad.square().sum() for grad in first), (channels, scales))

# More classes than a warp has threads, and more positions than a tile has; then fewer classes that count.
scores = torch.randn(1, 34, 300, dtype=torch.float64, generator=generator, requires_grad=True)
numbers = torch.randint(34, (1, 300), generator=generator)
def of_sorted():
    y = lovasz_softmax_loss(scores, numbers) + lovasz_softmax_loss(scores, numbers % 5)
    return y, *torch.autograd.grad(y, scores)

# Rectangles that one thread of a block cuts off for all.
pages = torch.randint(256, (3, 1, 40, 40), dtype=torch.uint8, generator=generator)
def of_pasted():
    rows = [[0, 0, 40, 40, 0, 0, 0, 0], [3, 5, 30, 20, 0, 1, 0, 0], [9, 1, 12, 38, 0, 2, 4, 2]]
    return paste(pages, rectangles=rows), paste(pages, [0.3], rectangles=rows)

# Several clusters and models, found by several warps.
def of_fusion():
    return weighted_boxes_fusion(overlapping, logits[:300].sigmoid(), torch.zeros(300, dtype=torch.int64), iou_thr=0.3)

def differentiated(function, *tensors):
    # The result, and first and second derivatives.
    def call():
        y = function(*tensors)
        first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
        return y, *first, *torch.autograd.grad(sum(grad.square().sum() for grad in first), tensors)
    return call

def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)

# Several tiles of each, whose pixels other warps have loaded; more channels than a block takes at a time.
of_resampling = differentiated(lambda x, f: upfirdn2d(x, f, up=2, down=3, padding=2), random(1, 2, 70, 80), random(4))
of_matrix = differentiated(lambda x, f: upfirdn2d(x, f, padding=2), random(1, 1, 40, 70), random(3, 4))
# The same through a higher rate, with filters that are products of themselves and with others; both images of a
# derivative go through one room.
first_taps, last_taps, other_taps = random(4).detach(), random(3).detach(), random(2, 3).detach()
of_fused = differentiated(
    lambda x, b: filtered_lrelu(x, first_taps, last_taps, b, 2, 2, 3), random(1, 2, 40, 40), random(2)
)
of_fused_matrix = differentiated(lambda x: filtered_lrelu(x, other_taps, other_taps, padding=3), random(1, 1, 40, 40))
# More tiles than a kernel has blocks.
of_many = differentiated(lambda x, f: upfirdn2d(x, f), random(300, 1, 3, 3), random(2, 2))
# More boxes than a block looks at in a row, and of one tile more than it weighs at a time.
sides = torch.rand(300, 4, dtype=torch.float64, generator=generator) * torch.tensor([30.0, 12.0, 9.0, 5.0])
scattered = torch.cat([torch.zeros(300, 1), sides[:, :2], sides[:, :2] + sides[:, 2:] + 1], 1)
of_parts = differentiated(lambda x: ps_roi_align(x, scattered, 3, 1.0, 2), random(1, 18, 17, 40))
of_largest = differentiated(lambda x: roi_pool(x, scattered, 2, 1.0), random(1, 2, 17, 40))
maps = random(1, 40, 9, 40), random(1, 40, 9, 40)
of_volume = differentiated(lambda x, y: correlation(x, y, max_displacement=3), *maps)
of_lookup = differentiated(
    lambda x, y, at: correlation_lookup(x, y, at, radius=2),
    random(1, 40, 5, 9), random(1, 40, 9, 20), (random(1, 2, 5, 9).detach() * 4 + 6).requires_grad_(),
)
# Tiles that look into different chunks of samples: who reads their list too soon finds another tile's.
of_window = differentiated(
    lambda x, offset, mask: dcnv3(x, offset, mask, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1),
    random(1, 9, 40, 1), random(1, 9, 40, 18), random(1, 9, 40, 9),
)
spread = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
of_weighted = differentiated(lambda x, s: bilateral_filter(x, 5, s, (1.0, 1.5)), random(1, 3, 20, 70), spread)
# Channels of several warps, innermost, and more of them than are added at a time.
several = random(1, 12, 3, 9).detach().contiguous(memory_format=torch.channels_last).requires_grad_()
of_reassembled = differentiated(lambda x, m: carafe(x, m, 3, 1, 2), several, random(1, 9, 6, 18))
of_guided = differentiated(lambda x, s: guided_filter(x, x.flip(3), (3, 5), s), random(1, 2, 20, 70), spread)
of_medians = differentiated(lambda x: median_filter(x, 3), random(1, 1, 20, 70))
of_pyramid = differentiated(lambda x: spatial_pyramid_pool_2d(x, (1, 2, 3)), random(1, 40, 17, 19))

# By the op whose files they are for.
calls = {
    "local_response_norm": of_norm(2, 40, 9), "sigmoid_focal_loss": of_sum, "roi_align": of_boxes,
    "roi_align_rotated": of_turned,
    "local_response_norm_slabs": slabs_in_turn, "nms": of_nms, "soft_nms": of_soft_nms, "box_iou": of_pairs,
    "soft_nms_rounds": of_rounds, "suppression": of_chunks,
    "resized_crop": of_crop, "adjust_colors": of_colours, "adjust_tones": of_tones,
    "sampled_groups": of_attention, "sampled_groups_reach": of_window,
    "softmax_focal_loss": of_rows, "overlap_sums": of_overlaps,
    "margin_softmax_loss": of_margins, "ssim": of_windows, "layer_norm_2d": of_channels,
    "lovasz_softmax_loss": of_sorted, "gaussian_blur": of_blurs, "adjust_sharpness": of_sharpness, "paste": of_pasted,
    "grid_sample": of_samples, "weighted_boxes_fusion": of_fusion, "fir": of_resampling, "fir.cuh": of_matrix,
    "fir.cuh:": of_many,
    "position_roi": of_parts, "roi_pool": of_largest, "correlation": of_volume, "correlation_lookup": of_lookup,
    "joint_bilateral_filter": of_weighted, "median_filter": of_medians, "spatial_pyramid_pool_2d": of_pyramid,
    "carafe": of_reassembled,
    "filtered_lrelu": of_fused, "filtered_lrelu_cuda.cu": of_fused_matrix,
    "guided_filter": of_guided,
}
expected = {name: call() for name, call in calls.items()}

def noticed(barrier=""):
    # First those that are likely to come by it.
    for name in sorted(calls, key=lambda name: f"/{name}" not in barrier):
        call, right = calls[name], expected[name]
        for schedule in ("forward", "reverse", "random:0", "random:1"):
            if call is slabs_in_turn and schedule != "forward":
                continue
            emulator.set_schedule(schedule)
            try:
                outputs = call()
            except RuntimeError as error:
                return str(error).splitlines()[0]
            if not all(torch.equal(output, wanted) for output, wanted in zip(outputs, right)):
                return "other numbers"
    return ""

found = {"": noticed()}
for barrier in sys.argv[2:]:
    emulator.drop_barrier(barrier)
    found[barrier] = noticed(barrier)
print(json.dumps(found))
"""


@pytest.mark.skipif(
    not list(folder_of("handgrad").glob("libhandgrad_emulated*")), reason="no emulated library was built"
)
@pytest.mark.skipif(chosen() == "usual", reason="whether the matrix would see it: asked with TIER=whole")
def test_no_barrier_can_be_left_out():
    assert len(BARRIERS) >= 15
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(ROOT / "csrc/emulator/control.py"), *BARRIERS],
        env={**os.environ, "HANDGRAD_BACKEND": "emulated"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("") == "", "with all barriers the numbers do not depend on the order of threads"
    missed = [barrier for barrier, noticed in found.items() if not noticed]
    assert not missed, f"no test would notice if these barriers were gone: {missed}"
