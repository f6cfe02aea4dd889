"""softsplat: its spec, and what is peculiar to it."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import softsplat
from handgrad.layers.softsplat import softsplat_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INF = float("nan"), float("inf")
MODES, NORMALIZATIONS = ("sum", "average", "linear", "softmax"), ("addeps", "zeroeps", "clipeps")


def reference(input, flow, metric=None, mode="softmax", normalization="addeps", eps=1e-7):
    wide = torch.float64 if input.dtype is torch.float64 else torch.float32
    metric = None if metric is None else metric.to(wide)
    return softsplat_reference(
        input, flow.to(wide), metric, MODES.index(mode), NORMALIZATIONS.index(normalization), eps
    )


def own_pixels(height, width, dtype=torch.float64):
    """(2, height, width): each pixel's x, y."""
    rows, columns = torch.arange(height, dtype=dtype), torch.arange(width, dtype=dtype)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1])


def tensors(batch, channels, height, width, mode="softmax", dtype=torch.float64, seed=0, beyond=1.6):
    """An image, a flow and a metric; no pixel lands nearer to a kink, one at each pixel, than 0.1; some are outside."""
    generator = reseeded(seed)
    image = torch.randn(batch, channels, height, width, dtype=torch.float64, generator=generator)
    sizes = torch.tensor([width, height], dtype=torch.float64).view(1, 2, 1, 1)
    points = torch.rand(batch, 2, height, width, dtype=torch.float64, generator=generator)
    points = points * (sizes - 1 + 2 * beyond) - beyond
    points = points.floor() + 0.1 + 0.8 * (points - points.floor())
    metric = torch.randn(batch, 1, height, width, dtype=torch.float64, generator=generator)
    metric = metric.exp() if mode == "linear" else metric
    made = (image, points - own_pixels(height, width), metric)[: 3 if mode in ("linear", "softmax") else 2]
    return tuple(tensor.to(dtype) for tensor in made)


def sample(name, *sizes, mode="softmax", seed=0, **kwargs):
    made = tensors(*sizes, mode=mode, seed=seed)
    return Sample(name, made, {**({} if len(made) == 3 else {"metric": None}), "mode": mode, **kwargs})


def modes_and_normalizations():
    return [("sum", "addeps"), *itertools.product(MODES[1:], NORMALIZATIONS)]


# ---- identities ------------------------------------------------------------------------------------------------------


def standing_still_is_the_image():
    image, _, metric = tensors(2, 5, 4, 6)
    still = torch.zeros(2, 2, 4, 6, dtype=torch.float64)
    for mode, normalization in modes_and_normalizations():
        output = softsplat(image, still, metric.exp() if MODES.index(mode) > 1 else None, mode, normalization)
        torch.testing.assert_close(output, image, rtol=1e-5, atol=1e-5)


def whole_steps_shift():
    image, _, metric = tensors(1, 3, 5, 6)
    flow = torch.tensor([2.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 5, 6)
    shifted = F.pad(image, (2, -2, -1, 1))
    torch.testing.assert_close(softsplat(image, flow, None, "sum"), shifted)
    torch.testing.assert_close(softsplat(image, flow, metric, "softmax", "zeroeps"), shifted)


def nothing_is_lost_or_made():
    """Of pixels that all stay inside."""
    generator = reseeded(3)
    image = torch.randn(2, 4, 6, 7, dtype=torch.float64, generator=generator)
    points = torch.rand(2, 2, 6, 7, dtype=torch.float64, generator=generator) * torch.tensor([6.0, 5.0]).view(2, 1, 1)
    output = softsplat(image, points - own_pixels(6, 7), None, "sum")
    torch.testing.assert_close(output.sum((2, 3)), image.sum((2, 3)))


def the_metric_may_be_shifted():
    """The paper's reason for an exponential: only differences count."""
    image, flow, metric = tensors(2, 3, 5, 7, seed=2)
    plain = softsplat(image, flow, metric, "softmax", "zeroeps")
    for shift in (-2000.0, 700.0, 1e5):
        torch.testing.assert_close(softsplat(image, flow, metric + shift, "softmax", "zeroeps"), plain)


def channels_do_not_see_each_other():
    """Whatever number there are: planes, few, and many."""
    for dtype in (torch.float32, torch.float64):
        image, flow, metric = tensors(1, 41, 5, 9, dtype=dtype, seed=5)
        alone = torch.cat([softsplat(image[:, c : c + 1], flow, metric) for c in range(41)], 1)
        for count in (1, 2, 3, 4, 8, 32, 41):
            torch.testing.assert_close(softsplat(image[:, :count], flow, metric), alone[:, :count])


def numel_beyond_int32():
    # One pixel for all, and all stand still: nothing but the output is in memory, 4.4 GB of it.
    side, channels = 2**13, 33
    image = torch.arange(1.0, channels + 1).bfloat16().view(1, channels, 1, 1).expand(1, channels, side, side)
    output = softsplat(image, torch.zeros(1, 1, 1, 1).expand(1, 2, side, side), None, "sum")
    assert output.numel() > 2**31
    for channel in range(channels):
        assert output[0, channel].view(-1)[:: 2**14 + 1].eq(channel + 1).all()
        assert output[0, channel, -1, -1] == channel + 1


def many_pixels_go_to_one():
    """Ninety thousand, and their mean."""
    flow = -own_pixels(300, 300, torch.float32)[None]
    output = softsplat(torch.full((1, 1, 300, 300), 0.125), flow, None, "sum")
    assert output[0, 0, 0, 0].item() == 0.125 * 300**2
    assert output.count_nonzero() == 1


# ---- spec ------------------------------------------------------------------------------------------------------------

IMAGE, FLOW, METRIC = tensors(2, 3, 4, 5, dtype=torch.float32)

SPEC = OpSpec(
    name="softsplat",
    operator="handgrad::softsplat",
    function=softsplat,
    reference=reference,
    module=None,
    samples=[
        # A batch of another size than the others: torch.compile takes equal sizes for the same.
        sample("softmax", 3, 5, 2, 4),
        sample("linear", 3, 2, 4, 3, mode="linear", normalization="zeroeps", seed=1),
        sample("average", 2, 4, 2, 5, mode="average", normalization="clipeps", seed=2),
        sample("sum", 3, 1, 3, 4, mode="sum", seed=3),
    ],
    large=Sample("large", tensors(3, 35, 31, 37, dtype=torch.float32, seed=4)),
    empty=[
        Sample("no_batch", tensors(0, 3, 4, 5)),
        Sample("no_channels", tensors(2, 0, 4, 5)),
    ],
    bad=[
        Bad("mode", lambda: softsplat(IMAGE, FLOW, METRIC, "soft"), ValueError, "mode must be .*; got 'soft'"),
        Bad("mode_kind", lambda: softsplat(IMAGE, FLOW, METRIC, 3), TypeError, "mode must be 'sum', .*; got 3"),
        Bad(
            "normalization",
            lambda: softsplat(IMAGE, FLOW, METRIC, "softmax", "eps"),
            ValueError,
            "normalization must be 'addeps', .*; got 'eps'",
        ),
        Bad(
            "normalization_kind",
            lambda: softsplat(IMAGE, FLOW, METRIC, "softmax", None),
            TypeError,
            "normalization must be 'addeps'",
        ),
        Bad(
            "eps", lambda: softsplat(IMAGE, FLOW, METRIC, eps=0.0), ValueError, "eps must be a finite number, at least"
        ),
        Bad("eps_kind", lambda: softsplat(IMAGE, FLOW, METRIC, eps="1"), TypeError, "eps must be a finite number"),
        Bad(
            "no_metric", lambda: softsplat(IMAGE, FLOW, None), TypeError, "metric must be a torch.Tensor; got NoneType"
        ),
        Bad("metric", lambda: softsplat(IMAGE, FLOW, METRIC, "sum"), ValueError, "metric must be None for mode 'sum'"),
        Bad(
            "rank", lambda: softsplat(IMAGE[0], FLOW, METRIC), RuntimeError, r"input must have 4 dim.* got \(3, 4, 5\)"
        ),
        Bad("flow", lambda: softsplat(IMAGE, FLOW[:, :1], METRIC), RuntimeError, "flow must have shape"),
        Bad("flow_batch", lambda: softsplat(IMAGE, FLOW[:1], METRIC), RuntimeError, "flow must have shape"),
        Bad("flow_last", lambda: softsplat(IMAGE, FLOW.permute(0, 2, 3, 1), METRIC), RuntimeError, "flow must have sh"),
        Bad("metric_size", lambda: softsplat(IMAGE, FLOW, METRIC[..., :4]), RuntimeError, "metric must have shape"),
        Bad("metric_channels", lambda: softsplat(IMAGE, FLOW, FLOW), RuntimeError, "metric must have shape"),
        Bad("flow_wide", lambda: softsplat(IMAGE, FLOW.double(), METRIC), TypeError, "flow must be of float32"),
        Bad("metric_wide", lambda: softsplat(IMAGE, FLOW, METRIC.double()), TypeError, "metric must be of float32"),
        Bad("flow_kind", lambda: softsplat(IMAGE, FLOW.long(), METRIC), TypeError, "flow must be of float32"),
        Bad(
            "no_pixels",
            lambda: softsplat(IMAGE[:, :, :0], FLOW[:, :, :0], METRIC[:, :, :0]),
            RuntimeError,
            "input must have at least one pixel",
        ),
        Bad(
            "long_axis",
            lambda: softsplat(
                torch.zeros(1).expand(1, 1, 1, 2**24 + 1), torch.zeros(1).expand(1, 2, 1, 2**24 + 1), None, "sum"
            ),
            RuntimeError,
            "input must have at most 2.24 pixels along an axis",
        ),
        Bad(
            "many_pixels",
            lambda: softsplat(
                torch.zeros(1).expand(1, 1, 2**16, 2**15), torch.zeros(1).expand(1, 2, 2**16, 2**15), None, "sum"
            ),
            RuntimeError,
            "input must have fewer than 2.31 pixels in an image",
        ),
    ],
    identities={
        "still": standing_still_is_the_image,
        "whole": whole_steps_shift,
        "mass": nothing_is_lost_or_made,
        "shift": the_metric_may_be_shifted,
        "channels": channels_do_not_see_each_other,
    },
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=many_pixels_go_to_one,
    lenient={"metric": lambda value: value is None},
    tolerances={
        # float32 tells points of an image of 37 pixels apart by 4e-6 pixels; shares are a tenth and its square.
        torch.float32: (1e-4, 1e-4),
    },
    # The order of the sources, and up to 14 numbers for each pixel; what torch's sort takes for itself.
    device_scratch=512 * 1024,
    # Four pixels of each are read where they are read once, from the cache as a rule; flow, metric and the order of the
    # sources by each eight channels; the search for where cells begin. 4.99, 3.21 and 5.85 times.
    # A sort of the sources by the cell where they arrive, by torch, and what finds and weighs them.
    device_calls={"forward": (4, 7, 0), "backward": (6, 10, 0), "double_backward": (6, 10, 0)},
    floor_factors={"forward": 5.1, "backward": 3.3, "double_backward": 6.0},
)

test_matrix = matrix(SPEC)


# ---- beside the authors' formula -------------------------------------------------------------------------------------


def author(image, flow, metric, mode, normalization):
    """The definition as the authors compose it, of an addition for each of the four pixels: with exp(metric) itself."""
    counts = {"average": torch.ones_like(flow[:, :1]), "linear": metric, "softmax": metric.exp()}.get(mode)
    if counts is not None:
        image = torch.cat([image * counts, counts], 1)
    batch, channels, height, width = image.shape
    output = image.new_zeros(batch, channels, (height + 2) * (width + 2))
    # With a frame of a pixel, in which what is outside is lost.
    points = (flow + own_pixels(height, width, flow.dtype)).clamp(-1, max(height, width) + 1)
    x, y = points[:, 0].clamp(-1, width - 1e-9), points[:, 1].clamp(-1, height - 1e-9)
    for dy, dx in itertools.product((0, 1), (0, 1)):
        column, row = x.floor() + dx, y.floor() + dy
        share = (1 - (x - column).abs()) * (1 - (y - row).abs())
        index = ((row + 1) * (width + 2) + column + 1).long().flatten(1)
        for n in range(batch):
            output[n] = output[n].index_add(1, index[n], (image[n] * share[n]).flatten(1))
    output = output.unflatten(2, (height + 2, width + 2))[:, :, 1:-1, 1:-1]
    if counts is None:
        return output
    total = output[:, -1:]
    if normalization == "addeps":
        total = total + 1e-7
    elif normalization == "zeroeps":
        total = torch.where(total == 0, 1.0, total)
    else:
        total = total.clip(1e-7, None)
    return output[:, :-1] / total


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_the_authors_formula(mode, normalization):
    for channels in (1, 3, 19):
        image, flow, metric = tensors(2, channels, 6, 7, seed=channels, beyond=0.8)
        metric = metric.exp() if mode == "linear" else metric
        given = metric if mode in ("linear", "softmax") else None
        leaves = [tensor.requires_grad_() for tensor in (image, flow, metric)[: 2 if given is None else 3]]
        ours, theirs = (
            softsplat(image, flow, given, mode, normalization),
            author(*leaves[:2], metric, mode, normalization),
        )
        torch.testing.assert_close(ours, theirs)
        along = torch.randn(ours.shape, dtype=ours.dtype, generator=reseeded())
        torch.testing.assert_close(torch.autograd.grad(ours, leaves, along), torch.autograd.grad(theirs, leaves, along))
        last = softsplat(image.contiguous(memory_format=torch.channels_last), flow, given, mode, normalization)
        torch.testing.assert_close(last, ours)


@pytest.mark.tiers("whole", "kernels")
def test_all_modes_are_differentiated_twice():
    for mode, normalization in modes_and_normalizations():
        leaves = [tensor.requires_grad_() for tensor in tensors(1, 2, 3, 4, mode=mode, seed=7)]
        given = leaves[2] if len(leaves) == 3 else None
        results = []
        for function in (softsplat, reference):
            grads = torch.autograd.grad(
                function(*leaves[:2], given, mode, normalization).square().sum(), leaves, create_graph=True
            )
            results.append(torch.autograd.grad(sum(grad.square().sum() for grad in grads), leaves))
        torch.testing.assert_close(*results)


# ---- metrics whose exponential is no number --------------------------------------------------------------------------


def meeting(*metrics, dtype=torch.float32, normalization="addeps"):
    """Pixels 1, 2, … of a row that all go to the first, each with a metric: what becomes of them, and the gradients."""
    count = len(metrics)
    image = torch.arange(1.0, count + 1, dtype=dtype).view(1, 1, 1, count).requires_grad_()
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    flow = torch.zeros(1, 2, 1, count, dtype=wide)
    flow[0, 0, 0] = -torch.arange(count)
    metric = torch.tensor(metrics, dtype=wide).view(1, 1, 1, count).requires_grad_()
    output = softsplat(image, flow.requires_grad_(), metric, "softmax", normalization)
    grads = torch.autograd.grad(output[..., 0].sum(), (image, flow, metric))
    return output.flatten()[0].item(), [grad.flatten() for grad in grads]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_large_metrics_do_not_overflow(dtype):
    """exp(metric) is infinite from 89 on in float32, and theirs NaN (softmax-splatting#38, #54)."""
    for metrics in ((100.0, 99.0), (3e4, 2.9999e4), (800.0, 799.0), (1e30, 1e30)):
        output, grads = meeting(*metrics, dtype=dtype)
        share = torch.tensor(metrics, dtype=torch.float64).softmax(0)
        expected = (share * torch.tensor([1.0, 2.0])).sum().item()
        assert output == pytest.approx(expected, rel=1e-2 if dtype in (torch.bfloat16, torch.float16) else 1e-6)
        torch.testing.assert_close(grads[0], share.to(dtype))
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("normalization", ["zeroeps"])
def test_small_metrics_leave_no_holes(normalization):
    """exp(metric) is 0 below -104 in float32; and beside a pixel anywhere else of the image with a large metric, where
    that of the image is subtracted."""
    output, grads = meeting(-300.0, -301.0, normalization=normalization)
    assert output == pytest.approx(1.2689414, rel=1e-5)
    assert all(grad.isfinite().all() for grad in grads)
    image, flow = torch.full((1, 1, 1, 9), 5.0), torch.zeros(1, 2, 1, 9)
    metric = torch.arange(9.0).view(1, 1, 1, 9) * 1000
    torch.testing.assert_close(softsplat(image, flow, metric, "softmax", normalization), image)


def test_eps_is_that_of_the_formula():
    """Beside sums of exp(metric) as they are: a metric of -20 is darkened by 1e-7, one of -300 goes out."""
    assert meeting(-20.0, -20.0)[0] == pytest.approx(1.5 / (1 + 1e-7 / (2 * 2.0611536e-9)), rel=1e-5)
    for normalization in ("addeps", "clipeps"):
        output, grads = meeting(-300.0, -300.0, normalization=normalization)
        assert output == 0
        assert all(grad.eq(0).all() for grad in grads)


def test_a_neighbour_without_weight_does_not_hide():
    """A pixel that stays on whole pixels has a share of 0 of its right neighbour's place, whatever its metric."""
    image = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3).requires_grad_()
    metric = torch.tensor([900.0, 0.0, -900.0]).view(1, 1, 1, 3).requires_grad_()
    flow = torch.zeros(1, 2, 1, 3, requires_grad=True)
    output = softsplat(image, flow, metric, "softmax", "zeroeps")
    torch.testing.assert_close(output, image)
    grads = torch.autograd.grad(output.sum(), (image, flow, metric))
    assert all(grad.isfinite().all() for grad in grads)


def test_metrics_that_are_no_numbers():
    # Minus infinity counts nothing; alone it leaves a hole.
    output, grads = meeting(-INF, 0.0)
    assert output == pytest.approx(2.0, rel=1e-6)
    assert all(grad.isfinite().all() for grad in grads)
    assert meeting(-INF, -INF)[0] == 0
    # Infinity and NaN are NaN where they arrive, and nowhere else.
    for metric in (INF, NAN):
        flow = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
        metrics = torch.tensor([0.0, 0.0, metric, 0.0]).view(1, 1, 1, 4)
        output = softsplat(torch.ones(1, 5, 1, 4), flow, metrics)
        assert output.isnan()[0, 0, 0].tolist() == [False, False, True, True]


# ---- flows that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 1e30, -1e30, 3e9])
@pytest.mark.parametrize("mode", MODES)
def test_pixels_that_go_nowhere(mode, bad):
    """Theirs writes beyond memory where a flow is NaN (softmax-splatting#38): the pixel is as if it were not there."""
    for channels in (1, 5, 33):
        image, flow, metric = (tensor.clone() for tensor in tensors(1, channels, 4, 6, dtype=torch.float32, seed=8))
        given = metric.exp() if mode == "linear" else metric if mode == "softmax" else None
        away = flow.clone()
        away[0, 0, 1, 2] = 100.0
        expected = softsplat(image, away, given, mode)
        flow[0, 1, 1, 2] = bad
        leaves = [tensor.requires_grad_() for tensor in (image, flow) + (() if given is None else (given,))]
        output = softsplat(image, flow, given, mode)
        torch.testing.assert_close(output, expected, rtol=0, atol=0)
        for grad in torch.autograd.grad(output.square().sum(), leaves):
            assert grad.isfinite().all()
            assert grad[0, :, 1, 2].eq(0).all()


def test_numbers_that_are_none_reach_their_targets_alone():
    for value, channels in itertools.product((NAN, INF), (1, 5)):
        image = torch.zeros(1, channels, 5, 6)
        image[0, :, 2, 2] = value
        flow = torch.full((1, 2, 5, 6), 0.5)
        output = softsplat(image, flow, None, "sum")
        reached = [[2, 2], [2, 3], [3, 2], [3, 3]]
        assert output[0, 0].isfinite().logical_not().nonzero().tolist() == reached
        # A pixel that leaves the image takes it along.
        flow[0, 0, 2, 2] = 50.0
        leaves = image.requires_grad_(), flow.requires_grad_()
        output = softsplat(*leaves, None, "sum")
        assert output.eq(0).all()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(output.sum(), leaves))


# ---- kinks and holes -------------------------------------------------------------------------------------------------


def test_on_whole_pixels_derivatives_are_those_towards_larger_coordinates():
    image = torch.tensor([2.0, 5.0, 11.0]).view(1, 1, 1, 3)
    flow = torch.zeros(1, 2, 1, 3, requires_grad=True)
    weights = torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 1, 3)
    (grad,) = torch.autograd.grad((softsplat(image, flow, None, "sum") * weights).sum(), flow)
    # To the right 1 is exchanged for 10, 10 for 100, and 100 for what is outside; down all leave the image.
    assert grad[0, 0, 0].tolist() == [2 * 9, 5 * 90, -11 * 100]
    assert grad[0, 1, 0].tolist() == [-2, -50, -1100]


def test_a_pixel_outside_by_one_comes_back():
    """At -1 it has no weight yet, and a derivative: it is the last point where it is looked at."""
    image, flow = torch.ones(1, 1, 1, 2), torch.full((1, 2, 1, 2), -1.0)
    flow[:, 1] = 0
    flow.requires_grad_()
    output = softsplat(image, flow, None, "sum")
    assert output.tolist() == [[[[1.0, 0.0]]]]
    (grad,) = torch.autograd.grad(output.sum(), flow)
    assert grad[0, 0, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_holes_are_zeros(normalization):
    image, flow, metric = tensors(1, 5, 6, 8, dtype=torch.float32, seed=9)
    flow[:, 0] = flow[:, 0].abs() + 3
    for mode in MODES:
        given = metric.exp() if mode == "linear" else metric if mode == "softmax" else None
        leaves = [tensor.clone().requires_grad_() for tensor in (image, flow)]
        output = softsplat(*leaves, given, mode, normalization)
        assert output[..., :3].eq(0).all()
        assert output[..., 3:].ne(0).any()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(output.sum(), leaves))


def test_tiny_shares():
    """The authors name weights of 1e-9 as a source of instability (softmax-splatting#40)."""
    for share in (1e-9, 1e-20, 1e-30, 1e-38):
        image = torch.tensor([3.0, 7.0]).view(1, 1, 1, 2).requires_grad_()
        # The first pixel gives a tiny share to the place of the second, which leaves.
        flow = torch.tensor([[share, 50.0], [0.0, 0.0]]).view(1, 2, 1, 2).requires_grad_()
        metric = torch.zeros(1, 1, 1, 2, requires_grad=True)
        output = softsplat(image, flow, metric, "softmax", "zeroeps")
        assert output.isfinite().all()
        assert output[0, 0, 0, 0] == 3
        assert share < 1e-37 or output[0, 0, 0, 1].item() == pytest.approx(3, rel=1e-6)
        grads = torch.autograd.grad(output.sum(), (image, flow, metric))
        assert all(grad.isfinite().all() for grad in grads[::2])


# ---- types, threads, sizes -------------------------------------------------------------------------------------------


def test_half_images_beside_float32_flows():
    """A half type cannot say where a pixel is; the sums are those of float32, rounded once."""
    for mode in MODES:
        made = tensors(2, 9, 14, 17, mode=mode, dtype=torch.float32, seed=7)
        image, flow, metric = (*made, None)[:3]
        for low in (torch.bfloat16, torch.float16):
            narrow = image.to(low)
            leaves = narrow.clone().requires_grad_(), flow.clone().requires_grad_()
            wide = narrow.float().requires_grad_(), flow.clone().requires_grad_()
            output, expected = softsplat(*leaves, metric, mode), softsplat(*wide, metric, mode)
            assert output.dtype is low
            torch.testing.assert_close(output, expected.to(low), rtol=0, atol=0)
            along = torch.randn(output.shape, generator=reseeded()).to(low)
            grads = torch.autograd.grad(output, leaves, along)
            expected_grads = torch.autograd.grad(expected, wide, along.float())
            assert [grad.dtype for grad in grads] == [low, torch.float32]
            torch.testing.assert_close(grads[0], expected_grads[0].to(low))
            torch.testing.assert_close(grads[1], expected_grads[1])


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("channels", [1, 3, 8, 64])
def test_the_same_bits_for_any_number_of_threads(channels):
    """Theirs adds atomically."""
    made = tensors(2, channels, 121, 134, dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            leaves = [tensor.clone().requires_grad_() for tensor in made]
            output = softsplat(*leaves)
            results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_images_do_not_see_each_other():
    """More than are taken together on the CPU; each with pixels of all others' bands. Metrics of every other image are
    so far apart that exponentials are taken of what is above a target's largest, not above the image's."""
    image, flow, metric = tensors(7, 2, 300, 305, dtype=torch.float32, seed=3)
    metric[::2] *= 40
    leaves = [tensor.requires_grad_() for tensor in (image, flow, metric)]
    output = softsplat(*leaves)
    direction = torch.randn(output.shape, generator=reseeded())
    together = (output, *torch.autograd.grad(output, leaves, direction))
    for n in (0, 1, 3, 6):
        alone = [tensor[n : n + 1].detach().requires_grad_() for tensor in leaves]
        output = softsplat(*alone)
        results = (output, *torch.autograd.grad(output, alone, direction[n : n + 1]))
        assert all(torch.equal(result, whole[n : n + 1]) for result, whole in zip(results, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_near_and_far_metrics_are_the_same_softmax(dtype):
    """A pixel that goes nowhere, whose metric alone is far from all others, changes nothing."""
    for channels in (3, 5):
        image, flow, metric = tensors(1, channels, 24, 30, dtype=dtype, seed=4)
        flow[..., -1, -1] = 1000
        results = []
        for lost in (0.0, -60.0):
            metric[..., -1, -1] = lost
            leaves = [tensor.clone().requires_grad_() for tensor in (image, flow, metric)]
            output = softsplat(*leaves)
            results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
        for near, far in zip(*results, strict=True):
            # Gradients of the flow are differences: digits are lost of the largest, not of each number.
            assert (near - far).abs().max() <= 16 * torch.finfo(dtype).eps * far.abs().max()


def test_all_pixels_on_one():
    """Lists as long as the image."""
    flow = -own_pixels(40, 50, torch.float32)[None] + torch.tensor([20.25, 10.5]).view(1, 2, 1, 1)
    image = torch.randn(1, 3, 40, 50, generator=reseeded())
    metric = torch.randn(1, 1, 40, 50, generator=reseeded(1))
    output = softsplat(image, flow, metric, "softmax", "zeroeps")
    share = metric.flatten().double().softmax(0)
    expected = (image.flatten(2)[0].double() * share).sum(1).float()
    torch.testing.assert_close(output[0, :, 10:12, 20:22], expected.view(3, 1, 1).expand(3, 2, 2))
    output[0, :, 10:12, 20:22] = 0
    assert output.eq(0).all()


# ---- a use -----------------------------------------------------------------------------------------------------------


def test_a_flow_is_found_by_descent():
    """What the paper wants derivatives for: a flow that takes one image to the other."""
    rows = torch.arange(24.0)
    blob = torch.exp(-((rows - 11)[:, None] ** 2 + (rows - 10) ** 2) / 18)[None, None]
    target = torch.exp(-((rows - 11)[:, None] ** 2 + (rows - 12.5) ** 2) / 18)[None, None]
    move = torch.zeros(1, 2, 1, 1, requires_grad=True)
    descent = torch.optim.Adam([move], lr=0.2)
    for _ in range(60):
        descent.zero_grad()
        output = softsplat(blob, move.expand(1, 2, 24, 24) + 0.01, None, "average")
        F.mse_loss(output[..., 4:20], target[..., 4:20]).backward()
        descent.step()
    torch.testing.assert_close(move.detach().flatten(), torch.tensor([2.5, 0.0]), rtol=0, atol=0.1)
