"""Structural similarity: its spec, and what is peculiar to it."""

import pytest
import torch

from handgrad.kinds.window_score import _reference_of, check_window, stabilisers
from handgrad.losses import SSIM, SSIMLoss, ssim, ssim_loss
from handgrad.losses.ssim import ssim_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix
from window_scores import all_derivatives, images

SETTINGS = {"data_range": 1.0, "window_size": 3, "sigma": 0.8, "window": "gaussian", "padding": "valid"}


def reference(
    input,
    target,
    data_range=1.0,
    window_size=11,
    sigma=1.5,
    window="gaussian",
    padding="valid",
    k1=0.01,
    k2=0.03,
    reduction="mean",
):
    shape = check_window("ssim", window_size, sigma, window, padding, reduction)
    scores = _reference_of(ssim_reference)(input, target, *shape, False, *stabilisers("ssim", data_range, k1, k2))
    if reduction == "none":
        return scores
    # The mean of nothing is 0.
    summed = scores.flatten(1).sum(1) if reduction == "image" else scores.sum()
    return summed / max(1, scores.numel() // (len(scores) if reduction == "image" else 1))


def symmetric():
    one, other = images(2, 2, 9, 8)
    torch.testing.assert_close(ssim(one, other, **SETTINGS), ssim(other, one, **SETTINGS))


def scaling_all_changes_nothing():
    one, other = images(2, 2, 9, 8)
    scaled = ssim(255 * one, 255 * other, **{**SETTINGS, "data_range": 255})
    torch.testing.assert_close(scaled, ssim(one, other, **SETTINGS))


def the_loss_is_the_rest():
    one, other = images(2, 2, 9, 8)
    for reduction in ("none", "image", "mean"):
        torch.testing.assert_close(
            ssim_loss(one, other, **SETTINGS, reduction=reduction),
            1 - ssim(one, other, **SETTINGS, reduction=reduction),
        )
    torch.testing.assert_close(SSIMLoss(**SETTINGS)(one, other), ssim_loss(one, other, **SETTINGS))


def sums_of_many():
    one, other = images(1, 1, 16, 16, dtype=torch.float32)
    many = [image.expand(1, 100, 16, 16) for image in (one, other)]
    # Of the planes' means torch makes one, in float32.
    torch.testing.assert_close(ssim(*many, 1.0, 3), ssim(one, other, 1.0, 3), rtol=3e-7, atol=0)


def numel_beyond_int32():
    # One plane for all of them: nothing but a score for each is in memory.
    one, other = images(1, 1, 3, 3, dtype=torch.float32)
    planes = 2**31 // 9 // 64 + 1
    many = ssim(one.expand(64, planes, 3, 3)[:, :, :1, :1], other.expand(64, planes, 3, 3)[:, :, :1, :1], 1.0, 1)
    torch.testing.assert_close(many, ssim(one[:, :, :1, :1], other[:, :, :1, :1], 1.0, 1))


ONE, OTHER = images(2, 2, 6, 5)

SPEC = OpSpec(
    name="ssim",
    operator="handgrad::ssim",
    function=ssim,
    reference=reference,
    module=SSIM,
    samples=[
        Sample("map", images(2, 2, 5, 3), {**SETTINGS, "reduction": "none"}),
        Sample("image", images(2, 3, 4, 5), {**SETTINGS, "padding": "reflect", "reduction": "image"}),
        Sample("volume", images(1, 2, 3, 3, 4), {**SETTINGS, "window": "uniform", "padding": "zeros"}),
    ],
    large=Sample("large", images(2, 3, 83, 171, dtype=torch.float32), {"data_range": 1.0}),
    empty=[
        Sample("no_batch", images(0, 3, 4, 5), SETTINGS),
        Sample("no_channels", images(2, 0, 4, 5), {**SETTINGS, "reduction": "image"}),
    ],
    autocast=torch.float32,
    widens=True,
    bad=[
        Bad("range", lambda: ssim(ONE, OTHER), ValueError, r"ssim: data_range must be given .* 255 .*; got None"),
        Bad("no_range", lambda: ssim(ONE, OTHER, 0), ValueError, "data_range must be a number from 1e-12 to .*; got 0"),
        Bad("even", lambda: ssim(ONE, OTHER, 1, 4), ValueError, "window_size must be an odd number, .*; got 4"),
        Bad("sigma", lambda: ssim(ONE, OTHER, 1, 3, 0), ValueError, "sigma must be a finite number, .*; got 0"),
        Bad("window", lambda: SSIM(1, window="box"), ValueError, "window must be 'gaussian' or 'uniform'; got 'box'"),
        Bad("padding", lambda: SSIM(1, padding="same"), ValueError, "padding must be 'valid', .*; got 'same'"),
        Bad("reduction", lambda: SSIMLoss(1, reduction="sum"), ValueError, "reduction must be .*; got 'sum'"),
        Bad("k1", lambda: ssim(ONE, OTHER, 1, 3, k1=0), ValueError, "k1 must be a number from 1e-06 to 1; got 0"),
        Bad(
            "small",
            lambda: ssim(ONE, OTHER, 1.0),
            RuntimeError,
            r"input must be at least as large as the window.*; got \(2, 2, 6, 5\)",
        ),
        Bad(
            "mirrored",
            lambda: ssim(ONE, OTHER, 1.0, padding="reflect"),
            RuntimeError,
            r"input must be larger than half the window, 5 along each axis, to be mirrored; got \(2, 2, 6, 5\)",
        ),
        Bad("rank", lambda: ssim(ONE[0], OTHER[0], 1.0), RuntimeError, r"\(N, C, H, W\) or \(N, C, D, H, W\); got"),
    ],
    identities={"symmetric": symmetric, "scaled": scaling_all_changes_nothing, "loss": the_loss_is_the_rest},
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    # The gradient of each plane's mean.
    saves=64,
    # Blocks read the pixels around their tiles again, which lie in the second-level cache; the double backward is two
    # passes.
    floor_factors={"forward": 2.0, "backward": 2.3, "double_backward": 3.5},
)

test_matrix = matrix(SPEC)


# ---- values and derivatives beyond the samples: several tiles, all borders -------------------------------------------


@pytest.mark.parametrize("padding", ["valid", "reflect", "zeros"])
@pytest.mark.parametrize(
    ("shape", "size", "window"),
    [((1, 2, 70, 37), 7, "gaussian"), ((1, 1, 9, 300), 5, "uniform"), ((1, 1, 26, 5, 7), 3, "gaussian")],
)
def test_all_derivatives_over_several_tiles(shape, size, window, padding):
    one, other = images(*shape)
    settings = {"data_range": 0.7, "window_size": size, "window": window, "padding": padding, "reduction": "none"}
    expected = all_derivatives(lambda x, y: reference(x, y, **settings), one, other)
    torch.testing.assert_close(all_derivatives(lambda x, y: ssim(x, y, **settings), one, other), expected)


def test_a_window_larger_than_a_tile():
    """On a device more than shared memory holds: scratch in global memory."""
    one, other = images(1, 1, 75, 72)
    settings = {"data_range": 1.0, "window_size": 71, "sigma": 20.0}
    expected = all_derivatives(lambda x, y: reference(x, y, **settings), one, other)
    torch.testing.assert_close(all_derivatives(lambda x, y: ssim(x, y, **settings), one, other), expected)


def test_the_gradient_of_one_image_is_that_of_both():
    one, other = images(1, 2, 12, 13)
    both = all_derivatives(lambda x, y: ssim(x, y, **SETTINGS), one, other)
    for index in (0, 1):
        leaf = (one, other)[index].clone().requires_grad_()
        pair = (leaf, other) if index == 0 else (one, leaf)
        (grad,) = torch.autograd.grad(ssim(*pair, **SETTINGS) * -1, leaf)
        torch.testing.assert_close(grad, both[1 + index])


# ---- what users of other implementations reported --------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.6, 1000.0, -1000.0])
def test_constant_images_are_alike_and_no_more(mean):
    """fused-ssim#37: images of 0.6 and 0.6 + 1e-7 scored 1.0000043, by a variance below 0."""
    image = torch.full((1, 3, 24, 24), mean)
    for other in (image, image + 1e-7, torch.nextafter(image, torch.tensor(2e3))):
        scores = ssim(image, other, 1.0, reduction="none")
        assert (scores <= 1).all()
        torch.testing.assert_close(scores, torch.ones_like(scores), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_identical_images_score_one_to_the_bit(dtype):
    """torchmetrics#2327: values above 1."""
    image = torch.rand(2, 3, 40, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    leaf = image.clone().requires_grad_()
    scores = ssim(leaf, image, 1.0, reduction="none")
    assert (scores == 1).all()
    assert (torch.autograd.grad(scores.sum(), leaf)[0] == 0).all()


def test_bright_images_of_low_contrast_do_not_cancel():
    """Contrast of a thousandth of the mean: squares that float32 could not tell apart."""
    generator = torch.Generator().manual_seed(0)
    x = (1000 + torch.rand(1, 2, 50, 60, generator=generator)).requires_grad_()
    y = 1000 + torch.rand(1, 2, 50, 60, generator=generator)
    score = ssim(x, y, 1.0)
    wide = x.detach().double().requires_grad_()
    expected = reference(wide, y.double())
    torch.testing.assert_close(score.double(), expected, rtol=0, atol=2e-5)
    (grad,), (wanted,) = torch.autograd.grad(score, x), torch.autograd.grad(expected, wide)
    assert (grad.double() - wanted).norm() < 1e-3 * wanted.norm()


def test_opposite_images_are_negative():
    """pytorch-msssim#7: X and 1 - X."""
    image = torch.rand(3, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    scores = ssim(image, 1 - image, 1.0, reduction="image")
    assert scores.shape == (3,)
    assert ((scores > -1) & (scores < -0.9)).all()


def test_a_mean_for_each_image_is_of_its_own_channels():
    """MONAI#6249: the scores of a batch came as one for each channel."""
    one, other = images(4, 2, 12, 12)
    other[1] = one[1]
    scores = ssim(one, other, 1.0, reduction="image")
    assert scores.shape == (4,)
    torch.testing.assert_close(scores, torch.stack([ssim(one[n : n + 1], other[n : n + 1], 1.0) for n in range(4)]))
    assert scores[1] == 1


def test_the_range_is_the_users():
    """torchmetrics#2327: a range guessed from images differs from batch to batch."""
    one, other = images(1, 1, 12, 12)
    assert ssim(one, other, 1.0) != ssim(one, other, 2.0)
    with pytest.raises(ValueError, match="data_range must be given"):
        ssim(one.half(), other.half())


def test_bytes_have_a_range():
    one, other = ((image * 255).round().to(torch.uint8) for image in images(1, 3, 14, 15))
    expected = ssim(one.float(), other.float(), 255.0)
    torch.testing.assert_close(ssim(one, other), expected, rtol=0, atol=0)
    torch.testing.assert_close(SSIM()(one, other), expected, rtol=0, atol=0)
    assert ssim(one, other, 100.0) != expected


# ---- non-finite pixels, memory orders --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("position", [(4, 6), (10, 10)])
def test_a_pixel_that_is_not_finite_spoils_its_windows_alone(value, position):
    one, other = images(1, 1, 20, 20, dtype=torch.float32)
    expected = ssim(one, other, 1.0, 5, reduction="none")
    one[0, 0, position[0], position[1]] = value
    leaf = one.clone().requires_grad_()
    scores = ssim(leaf, other, 1.0, 5, reduction="none")
    (grad,) = torch.autograd.grad(scores.sum(), leaf)
    holds = torch.zeros(16, 16, dtype=torch.bool)
    holds[max(0, position[0] - 4) : position[0] + 1, max(0, position[1] - 4) : position[1] + 1] = True
    assert not scores[0, 0][holds].isfinite().any()
    torch.testing.assert_close(scores[0, 0][~holds], expected[0, 0][~holds], rtol=1e-5, atol=1e-5)
    reached = torch.zeros(20, 20, dtype=torch.bool)
    reached[max(0, position[0] - 4) : position[0] + 5, max(0, position[1] - 4) : position[1] + 5] = True
    assert grad[0, 0][~reached].isfinite().all()
    assert not grad[0, 0][reached].isfinite().any()


def test_maps_and_gradients_keep_channels_last():
    for shape in [(2, 3, 6, 7), (2, 3, 4, 6, 5)]:
        one, other = images(*shape)
        last = one.movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
        scores = ssim(last, other, **SETTINGS, reduction="none")
        assert scores.movedim(1, -1).is_contiguous()
        (grad,) = torch.autograd.grad(scores.sum(), last)
        assert grad.movedim(1, -1).is_contiguous()
        torch.testing.assert_close(scores, ssim(one, other, **SETTINGS, reduction="none"), rtol=0, atol=0)


def test_the_mean_of_nothing_is_zero():
    nothing = torch.zeros(0, 3, 12, 12)
    assert ssim(nothing, nothing, 1.0) == 0
    assert ssim_loss(nothing, nothing, 1.0) == 0


# ---- values of others ------------------------------------------------------------------------------------------------


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_equals_kornia(padding):
    kornia = pytest.importorskip("kornia")
    one, other = images(2, 3, 40, 30, dtype=torch.float32)
    expected = kornia.metrics.ssim(one, other, 11, 1.0, padding=padding)
    ours = ssim(one, other, 1.0, padding={"valid": "valid", "same": "reflect"}[padding], reduction="none")
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.tiers("whole")
def test_equals_pytorch_msssim():
    theirs = pytest.importorskip("pytorch_msssim")
    for shape in [(2, 3, 40, 30), (1, 2, 20, 18, 17)]:
        one, other = images(*shape, dtype=torch.float32)
        ours = ssim(one, other, 1.0, reduction="image")
        torch.testing.assert_close(ours, theirs.ssim(one, other, 1.0, size_average=False), rtol=1e-4, atol=1e-5)


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("kernel", ["gaussian", "uniform"])
def test_equals_monai(kernel):
    metrics = pytest.importorskip("monai.metrics")
    one, other = images(2, 2, 24, 20, dtype=torch.float32)
    theirs = metrics.SSIMMetric(2, 1.0, kernel, 11, 1.5)(one, other)
    ours = ssim(one, other, 1.0, window=kernel, reduction="image")
    torch.testing.assert_close(ours[:, None], theirs, rtol=1e-4, atol=1e-5)
