"""What all overlap losses keep to, whatever their formula, and what people have reported of other people's."""

import pytest
import torch

from handgrad import losses
from overlap_losses import classes, one_hot, soft, with_grad

EACH = ["dice_loss", "jaccard_loss", "tversky_loss", "focal_tversky_loss"]
ALL = [*EACH, "generalized_dice_loss"]


@pytest.fixture(params=ALL)
def loss(request):
    return getattr(losses, request.param)


@pytest.fixture(params=EACH)
def loss_of_each_class(request):
    return getattr(losses, request.param)


@pytest.mark.parametrize("strange", [0.0, torch.nan, torch.inf])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_what_is_ignored_has_no_effect_and_no_gradient(loss, activation, strange):
    """Whatever stands there, and if it is beyond all classes too: kornia/kornia#839, PaddlePaddle/PaddleSeg#2270,
    qubvel-org/segmentation_models.pytorch#366."""
    logits, found = classes(2, 3, 20)
    kept, _ = with_grad(loss, logits[..., :15], found[:, :15], activation)
    whole = logits.clone()
    whole[..., 15:], found[:, 15:] = strange, 255
    dense = one_hot(found % 255, 3)
    dense[..., 15:] = 255
    for targets in (found, dense):
        actual, grad = with_grad(loss, whole, targets, activation, ignore_index=255)
        torch.testing.assert_close(actual, kept)
        assert not grad[..., 15:].any()
        torch.testing.assert_close(grad[..., :15], with_grad(loss, logits[..., :15], found[:, :15], activation)[1])


def test_sums_of_half_types_do_not_overflow(loss):
    """512 x 512 ones are more than float16 can count: qubvel-org/segmentation_models.pytorch#463."""
    ones = torch.ones(1, 1, 512, 512, dtype=torch.float16)
    assert loss(ones, ones, "none") == 0
    assert loss(20 * ones, ones, "sigmoid") < 1e-5
    assert loss(ones, ones, "none").dtype is torch.float32


def test_nothing_predicted_where_nothing_is_has_no_loss(loss):
    """It was 1: Project-MONAI/MONAI#7883."""
    nothing = torch.zeros(1, 2, 4, 4)
    value, grad = with_grad(loss, nothing, nothing, "none")
    assert value == 0
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("smooth", [0.0, 1e-5])
def test_what_becomes_of_a_class_without_a_target(loss_of_each_class, smooth):
    logits, found = classes(2, 4, 30)
    found[found == 3] = 0
    found[1] = 1
    there = one_hot(found, 4).sum(2) != 0
    each = {
        absent: with_grad(loss_of_each_class, logits, found, "sigmoid", absent=absent, smooth=smooth, reduction="none")
        for absent in ("count", "zero", "skip")
    }
    assert (each["count"][0][~there] > 0.99).all()
    torch.testing.assert_close(each["zero"][0], each["count"][0] * there)
    torch.testing.assert_close(each["skip"], each["zero"])
    assert not each["zero"][1][~there].any()
    means = [loss_of_each_class(logits, found, "sigmoid", absent=absent, smooth=smooth) for absent in ("zero", "skip")]
    torch.testing.assert_close(means[0], each["zero"][0].mean())
    torch.testing.assert_close(means[1], each["zero"][0].sum() / there.sum())


def test_with_no_class_at_all_skipping_is_zero(loss):
    logits = torch.randn(2, 3, 5)
    value, grad = with_grad(loss, logits, torch.full((2, 5), 9), "softmax", ignore_index=9, absent="skip")
    assert value == 0
    assert not grad.any()


def test_targets_of_a_softmax_in_every_shape(loss):
    """One-hot ones, and one channel: qubvel-org/segmentation_models.pytorch#889, #542."""
    logits, found = classes(2, 3, 4, 5)
    expected = loss(logits, found, "softmax")
    for targets in (found[:, None], one_hot(found, 3), one_hot(found, 3, torch.uint8), found.to(torch.uint8)):
        torch.testing.assert_close(loss(logits, targets, "softmax"), expected)


def test_nan_and_infinity_stay_where_they_are(loss_of_each_class):
    logits, targets = soft(2, 3, 8)
    logits[0, 1, 3], logits[1, 2, 5] = torch.nan, torch.inf
    found = loss_of_each_class(logits, targets, "sigmoid", reduction="none")
    assert found.isnan().tolist() == [[False, True, False], [False] * 3]
    # All classes of a position have a share in a softmax.
    assert loss_of_each_class(logits, targets, "softmax", reduction="none").isnan().all()


def test_weights_of_classes(loss_of_each_class):
    logits, targets = soft(3, 4, 20)
    weight = torch.tensor([0.0, 1.0, 2.0, 0.5], requires_grad=True)
    each = loss_of_each_class(logits, targets, "softmax", reduction="none")
    for reduction, expected in (
        ("none", each * weight),
        ("sum", (each * weight).sum()),
        ("mean", (each * weight).mean()),
    ):
        actual = loss_of_each_class(logits, targets, "softmax", weight=weight, reduction=reduction)
        torch.testing.assert_close(actual, expected)
    (grad,) = torch.autograd.grad(actual, weight)
    torch.testing.assert_close(grad, each.mean(0).float() / 4)
    for wrong in (weight[:2], weight.long()):
        with pytest.raises(ValueError, match=r"weight must have a number for each of the 4 classes, \(C,\); got"):
            loss_of_each_class(logits, targets, "softmax", weight=wrong)


@pytest.mark.parametrize("name", ["DiceLoss", "JaccardLoss", "TverskyLoss", "FocalTverskyLoss"])
def test_the_weight_of_a_module_is_a_buffer(name):
    module = getattr(losses, name)("softmax", weight=torch.tensor([1.0, 2.0]), batch=True)
    assert list(module.state_dict()) == ["weight"]
    logits, found = classes(2, 2, 9)
    expected = getattr(losses, module._function.__name__)(logits, found, "softmax", weight=module.weight, batch=True)
    torch.testing.assert_close(module(logits, found), expected)
    assert "activation='softmax'" in repr(module)


def test_perfect_probabilities_have_a_loss_of_zero_and_wrong_ones_of_one(loss):
    found = torch.tensor([[0, 1, 1, 0]])
    assert loss(one_hot(found, 2), found, "none", smooth=0.0) == 0
    assert loss(one_hot(1 - found, 2), found, "none", smooth=0.0) == 1


def test_channels_last_gradients_lie_as_inputs_do(loss):
    logits, found = classes(2, 3, 4, 5)
    last = logits.contiguous(memory_format=torch.channels_last)
    value, grad = with_grad(loss, last, found, "softmax")
    torch.testing.assert_close((value, grad), with_grad(loss, logits, found, "softmax"))
    assert grad.is_contiguous(memory_format=torch.channels_last)
