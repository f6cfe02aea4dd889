"""Local normalised cross-correlation: its spec, and what is peculiar to it."""

import pytest
import torch

from handgrad.kinds.window_score import _reference_of, check_window
from handgrad.losses import LocalNormalizedCrossCorrelationLoss, local_normalized_cross_correlation_loss
from handgrad.losses.local_normalized_cross_correlation_loss import local_normalized_cross_correlation_loss_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix
from window_scores import all_derivatives, images

loss = local_normalized_cross_correlation_loss


def reference(input, target, window_size=9, sigma=1.5, window="uniform", padding="zeros", eps=1e-5, reduction="mean"):
    shape = check_window("loss", window_size, sigma, window, padding, reduction)
    of_window = _reference_of(local_normalized_cross_correlation_loss_reference)
    scores = of_window(input, target, *shape, False, eps / window_size ** (input.dim() - 2))
    if reduction == "none":
        return scores
    # The mean of nothing is 0.
    summed = scores.flatten(1).sum(1) if reduction == "image" else scores.sum()
    return summed / max(1, scores.numel() // (len(scores) if reduction == "image" else 1))


def brightness_and_contrast_change_nothing():
    one, other = images(2, 2, 9, 8)
    for change in (lambda x: 3 * x + 2, lambda x: -x):
        torch.testing.assert_close(
            loss(one, change(other), 3, padding="valid"), loss(one, other, 3, padding="valid"), rtol=1e-6, atol=1e-6
        )


def symmetric():
    one, other = images(2, 2, 9, 8)
    torch.testing.assert_close(loss(one, other, 3), loss(other, one, 3))


def sums_of_many():
    one, other = images(1, 1, 16, 16, dtype=torch.float32)
    many = [image.expand(1, 100, 16, 16) for image in (one, other)]
    torch.testing.assert_close(loss(*many, 3), loss(one, other, 3), rtol=1.3e-7, atol=0)


def numel_beyond_int32():
    one, other = images(1, 1, 64, 64, dtype=torch.float32)
    # One plane for all of them: nothing but a sum for each is in memory.
    many = [image.expand(64, 2**13 + 1, 64, 64) for image in (one, other)]
    torch.testing.assert_close(loss(*many, 1), loss(one, other, 1))


ONE, OTHER = images(2, 2, 6, 5)

SPEC = OpSpec(
    name="local_normalized_cross_correlation_loss",
    operator="handgrad::local_normalized_cross_correlation_loss",
    function=loss,
    reference=reference,
    module=LocalNormalizedCrossCorrelationLoss,
    # Of contrast: the gradient of dark windows is large, and all of its terms are.
    samples=[
        Sample("map", images(2, 2, 5, 3, high=10.0), {"window_size": 3, "reduction": "none"}),
        Sample(
            "image",
            images(2, 1, 4, 5, high=10.0),
            {"window_size": 3, "window": "gaussian", "padding": "reflect", "reduction": "image"},
        ),
        Sample("volume", images(1, 1, 3, 3, 4, high=10.0), {"window_size": 3, "padding": "valid"}),
    ],
    large=Sample("large", images(1, 2, 17, 33, 41, dtype=torch.float32, high=10.0), {"window_size": 5}),
    empty=[
        Sample("no_batch", images(0, 3, 4, 5), {}),
        Sample("no_channels", images(2, 0, 4, 5), {"reduction": "image"}),
    ],
    autocast=torch.float32,
    widens=True,
    bad=[
        Bad("even", lambda: loss(ONE, OTHER, 4), ValueError, "window_size must be an odd number, .*; got 4"),
        Bad("eps", lambda: loss(ONE, OTHER, eps=0.0), ValueError, r"eps must be a number from 1e-12 to .*; got 0\.0"),
        Bad(
            "reduction",
            lambda: LocalNormalizedCrossCorrelationLoss(reduction="sum"),
            ValueError,
            "reduction must be .*; got 'sum'",
        ),
        Bad(
            "small",
            lambda: loss(ONE, OTHER, padding="valid"),
            RuntimeError,
            r"input must be at least as large as the window.*; got \(2, 2, 6, 5\)",
        ),
        Bad("rank", lambda: loss(ONE[0], OTHER[0]), RuntimeError, r"\(N, C, H, W\) or \(N, C, D, H, W\); got"),
    ],
    identities={"affine": brightness_and_contrast_change_nothing, "symmetric": symmetric},
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    # The gradient of each plane's mean.
    saves=64,
    # Blocks read the pixels around their tiles again, which lie in the second-level cache; the double backward is two
    # passes.
    floor_factors={"forward": 3.2, "backward": 5.6, "double_backward": 10.6},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("padding", ["valid", "reflect", "zeros"])
@pytest.mark.parametrize("eps", [1e-5, 1.2])
@pytest.mark.parametrize(("shape", "size"), [((1, 2, 70, 37), 5), ((1, 1, 26, 5, 7), 3)])
def test_all_derivatives_over_several_tiles(shape, size, eps, padding):
    """With an eps that some windows are below, and some above."""
    one, other = images(*shape)

    def of(function):
        return lambda x, y: function(x, y, size, padding=padding, eps=eps, reduction="none")

    torch.testing.assert_close(all_derivatives(of(loss), one, other), all_derivatives(of(reference), one, other))


def test_images_without_contrast_are_worth_nothing():
    """Background of medical images is 0: no NaN, and no gradient."""
    flat = torch.zeros(1, 1, 14, 15).requires_grad_()
    for other in (torch.zeros(1, 1, 14, 15), torch.rand(1, 1, 14, 15)):
        scores = loss(flat, other, padding="valid", reduction="none")
        assert (scores == 0).all()
        assert (torch.autograd.grad(scores.sum(), flat)[0] == 0).all()


def test_bright_images_do_not_cancel():
    """Voxels of a scanner: values around 1,000 that differ by 1, whose squares float32 cannot tell apart."""
    generator = torch.Generator().manual_seed(0)
    x, y = (1000 + torch.rand(1, 1, 20, 22, 24, generator=generator) for _ in range(2))
    y = 0.5 * x + 0.5 * y
    expected = reference(x.double(), y.double(), padding="valid")
    torch.testing.assert_close(loss(x, y, padding="valid").double(), expected, rtol=1e-4, atol=0)


def test_a_voxel_that_is_nan_spoils_its_windows_alone():
    one, other = images(1, 1, 20, 20, dtype=torch.float32)
    expected = loss(one, other, 5, reduction="none")
    one[0, 0, 4, 6] = float("nan")
    scores = loss(one, other, 5, reduction="none")
    holds = torch.zeros(20, 20, dtype=torch.bool)
    holds[2:7, 4:9] = True
    assert scores[0, 0][holds].isnan().all()
    torch.testing.assert_close(scores[0, 0][~holds], expected[0, 0][~holds], rtol=1e-4, atol=1e-5)


@pytest.mark.tiers("whole")
@pytest.mark.parametrize(("shape", "size"), [((2, 1, 30, 28), 9), ((1, 2, 12, 11, 13), 3)])
def test_equals_monai(shape, size):
    losses = pytest.importorskip("monai.losses")
    one, other = images(*shape, dtype=torch.float32)
    theirs = losses.LocalNormalizedCrossCorrelationLoss(len(shape) - 2, size)(one, other)
    torch.testing.assert_close(loss(one, other, size), theirs, rtol=1e-4, atol=1e-5)
