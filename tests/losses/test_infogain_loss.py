"""Infogain loss: its spec, and what is peculiar to it."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import InfogainLoss, infogain_loss
from handgrad.losses.infogain_loss import infogain_loss_reference
from handgrad.sdk.loading import LOADED
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

INFINITY = float("inf")


def reference(inputs, targets, matrix, ignore_index=-100, reduction="mean"):
    losses = infogain_loss_reference(inputs, targets, matrix, ignore_index, 0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (targets != ignore_index).sum()


def numbered(*shape, dtype=torch.float64, ignored=None):
    """Logits, the class of each row, every fourth of which is ``ignored``, and a matrix."""
    generator = reseeded(len(shape))
    logits = 2 * torch.randn(*shape, dtype=dtype, generator=generator)
    targets = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    if ignored is not None:
        targets.view(-1)[::4] = ignored
    return logits, targets, torch.randn(shape[1], shape[1], dtype=dtype, generator=generator)


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors, create_graph=True)


def the_identity_is_cross_entropy():
    for shape, reduction in itertools.product([(7, 4), (2, 4, 3, 5)], ["none", "mean", "sum"]):
        inputs, targets, _ = numbered(*shape, ignored=2)
        ours, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
        loss = infogain_loss(ours, targets, torch.eye(4), 2, reduction)
        expected = F.cross_entropy(theirs, targets, ignore_index=2, reduction=reduction)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradients(loss.sum(), ours), gradients(expected.sum(), theirs))


def a_diagonal_is_of_class_weights():
    inputs, targets, _ = numbered(7, 4)
    weight = torch.tensor([0.5, 2.0, 1.0, 0.25], dtype=torch.float64)
    expected = F.cross_entropy(inputs, targets, weight, reduction="sum")
    torch.testing.assert_close(infogain_loss(inputs, targets, weight.diag(), reduction="sum"), expected)


def rows_of_the_matrix_are_soft_targets():
    inputs, targets, given = numbered(3, 5, 4)
    soft = given[targets].movedim(-1, 1)
    torch.testing.assert_close(infogain_loss(inputs, targets, given), F.cross_entropy(inputs, soft))


def shifted_logits_are_the_same():
    inputs, targets, given = numbered(3, 5, 4)
    shift = torch.randn(3, 1, 4, dtype=torch.float64, generator=reseeded(8))
    torch.testing.assert_close(infogain_loss(inputs, targets, given), infogain_loss(inputs + shift, targets, given))


def numel_beyond_int32():
    classes, positions = 64, 2**25 + 8
    inputs = torch.linspace(-1, 1, classes).view(1, classes, 1)
    targets, given = torch.tensor([[3]]), torch.eye(classes) + 0.1
    many = infogain_loss(inputs.expand(1, classes, positions), targets.expand(1, positions), given)
    torch.testing.assert_close(many, infogain_loss(inputs, targets, given))


def sums_of_many(n):
    """Of n equal rows, most of one class, the mean is that of one, and so is the gradient of the matrix, which is
    summed in parts that depend on no number of threads."""
    targets = torch.ones(n, dtype=torch.int64)
    targets[::1000] = 0
    inputs, given = torch.tensor([0.1, 0.2, 0.3]).expand(n, 3), torch.eye(3, requires_grad=True)
    loss = infogain_loss(inputs, targets, given)
    (grad,) = torch.autograd.grad(loss * n, given)
    of_one = -inputs[0].double().log_softmax(0)
    of_first = (targets == 0).sum()
    torch.testing.assert_close(loss.double() * n, of_first * of_one[0] + (n - of_first) * of_one[1], rtol=3e-7, atol=0)
    wanted = torch.stack([of_first * of_one, (n - of_first) * of_one, 0 * of_one])
    torch.testing.assert_close(grad.double(), wanted, rtol=3e-7, atol=0)


INPUTS, TARGETS, MATRIX = numbered(4, 3)

SPEC = OpSpec(
    name="infogain_loss",
    operator="handgrad::infogain_loss",
    function=infogain_loss,
    reference=reference,
    module=InfogainLoss,
    module_kwargs=lambda sample: {**sample.kwargs, "matrix": sample.tensors[2]},
    own=["matrix"],
    samples=[
        Sample("rows", numbered(3, 4), {"reduction": "none"}),
        Sample("ignored_mean", numbered(2, 4, 3, ignored=1), {"ignore_index": 1}),
        Sample("images_sum", numbered(2, 3, 2, 2), {"reduction": "sum"}),
    ],
    large=Sample("large", numbered(3, 21, 61, 29, dtype=torch.float32, ignored=-100), {"reduction": "sum"}),
    empty=[
        Sample("no_batch_none", numbered(0, 3), {"reduction": "none"}),
        Sample("no_positions_sum", numbered(2, 3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", numbered(0, 3, 2), {"reduction": "mean"}),
    ],
    rows=("batch", "batch", ""),
    shards=[((0, 0, None), 0)],
    autocast=torch.float32,
    widens=True,
    lenient={"ignore_index": lambda value: isinstance(value, int) and value == -1000},
    bad=[
        Bad("reduction", lambda: InfogainLoss(MATRIX, reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad("ignore_index", lambda: InfogainLoss(MATRIX, 1.5), TypeError, r"ignore_index must be .*got 1\.5"),
        Bad(
            "rows",
            lambda: infogain_loss(INPUTS, TARGETS[:2], MATRIX),
            RuntimeError,
            r"targets must be class numbers, int64 of shape \(4,\), .* got \(2,\) of int64",
        ),
        Bad(
            "probabilities",
            lambda: infogain_loss(INPUTS, INPUTS.softmax(1), MATRIX),
            RuntimeError,
            "targets must be class numbers, .* of float64",
        ),
        Bad(
            "no_classes",
            lambda: infogain_loss(INPUTS[:, :0], TARGETS, MATRIX[:0, :0]),
            RuntimeError,
            r"inputs must have shape \(batch, classes, ...\) with 1 to .*got \(4, 0\)",
        ),
        Bad(
            "matrix_shape",
            lambda: infogain_loss(INPUTS, TARGETS, MATRIX[:2]),
            RuntimeError,
            r"matrix must have shape \(classes, classes\), here \(3, 3\); got \(2, 3\)",
        ),
        Bad(
            "matrix_dtype",
            lambda: infogain_loss(INPUTS, TARGETS, torch.ones(3, 3, dtype=torch.int64)),
            RuntimeError,
            "matrix must be float64 beside inputs of float64; got int64",
        ),
    ],
    identities={
        "cross_entropy": the_identity_is_cross_entropy,
        "weights": a_diagonal_is_of_class_weights,
        "soft": rows_of_the_matrix_are_soft_targets,
        "shifted": shifted_logits_are_the_same,
    },
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=lambda: sums_of_many(2**19),
    # The gradient of the matrix is summed by a second kernel, from two numbers of each row.
    device_scratch=48 * 1024,
    device_calls={"backward": (2, 3, 0), "double_backward": (2, 3, 0)},
    # For the gradient of the matrix each of up to a thousand blocks looks for its own among all class numbers, which
    # are in the second level of the cache then; and the matrix' rows are read as often as there are rows of its class.
    floor_factors={"forward": 1.7, "backward": 13.9, "double_backward": 10.3},
)

test_matrix = matrix(SPEC)


def both_layouts(inputs):
    """Logits with positions innermost, and with classes innermost."""
    return inputs, inputs.movedim(1, -1).contiguous().movedim(-1, 1)


def derivatives(loss, inputs, given):
    """Both gradients, and both second derivatives along two directions."""
    first = gradients(loss, inputs, given)
    directions = [torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape) for x in (inputs, given)]
    return [grad.detach() for grad in first] + list(torch.autograd.grad(first, (inputs, given), directions))


# ---- any number of classes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 1, 4), (3, 2, 5), (2, 15, 40), (2, 16, 7), (5, 33, 3), (6, 140)])
def test_any_number_of_classes(shape):
    """Rows that fill a part of a tile, a tile, several; on a device those of a thread, a warp."""
    inputs, targets, given = numbered(*shape, ignored=-100)
    exact = [x.clone().requires_grad_() for x in (inputs, given)]
    expected = derivatives(reference(exact[0], targets, exact[1]), *exact)
    for arranged, dtype in itertools.product(both_layouts(inputs), (torch.float64, torch.float32)):
        ours = [arranged.to(dtype).requires_grad_(), given.to(dtype).requires_grad_()]
        loss = infogain_loss(ours[0], targets, ours[1])
        torch.testing.assert_close(loss.double(), reference(exact[0], targets, exact[1]), rtol=1e-5, atol=1e-5)
        for actual, wanted in zip(derivatives(loss, *ours), expected, strict=True):
            torch.testing.assert_close(actual.double(), wanted, rtol=1e-4, atol=1e-5)


def test_many_classes():
    """On a device a row of logits has a block."""
    inputs, targets, given = numbered(2, 2100, dtype=torch.float32)
    inputs.requires_grad_()
    (grad,) = torch.autograd.grad(infogain_loss(inputs, targets, given), inputs)
    (wanted,) = torch.autograd.grad(reference(inputs, targets, given), inputs)
    torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)


def test_sums_of_many_rows_go_on_in_double():
    sums_of_many(40_000)


# ---- Caffe's layer ---------------------------------------------------------------------------------------------------


def test_the_gradient_of_the_identity_is_that_of_softmax():
    """caffe#3573: the layer's gradient was divided by the probability, which made it large or infinite; caffe#3855: so
    the softmax belongs into the loss."""
    inputs = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    for target in range(3):
        loss = infogain_loss(inputs, torch.tensor([target]), torch.eye(3))
        (grad,) = torch.autograd.grad(loss, inputs)
        torch.testing.assert_close(grad[0], inputs.detach()[0].softmax(0) - torch.eye(3)[target])
        torch.testing.assert_close(loss.detach(), 200 - inputs.detach()[0, target])


def test_maps():
    """caffe#4652, caffe#4800: the layer took one label for each image."""
    inputs, targets, given = numbered(2, 3, 4, 5)
    losses = infogain_loss(inputs, targets, given, reduction="none")
    each = torch.stack(
        [
            infogain_loss(x, t, given)
            for x, t in zip(inputs.permute(0, 2, 3, 1).reshape(-1, 3), targets.flatten(), strict=True)
        ]
    )
    torch.testing.assert_close(losses.flatten(), each)


def test_ignored_rows_are_not_looked_at():
    """They do not count in the mean, and no NaN of theirs reaches a gradient, that of the matrix included."""
    inputs, targets, given = numbered(6, 3)
    inputs[0], inputs[1] = float("nan"), INFINITY
    for ignored in (-100, 0, 2, 255):
        marked = torch.where(targets == ignored, (ignored + 1) % 3, targets)
        marked[:2] = ignored
        for arranged in both_layouts(inputs):
            ours = [arranged.clone().requires_grad_(), given.clone().requires_grad_()]
            kept = [inputs[2:].clone().requires_grad_(), given.clone().requires_grad_()]
            loss = infogain_loss(ours[0], marked, ours[1], ignored)
            expected = infogain_loss(kept[0], marked[2:], kept[1])
            torch.testing.assert_close(loss, expected)
            first, wanted = derivatives(loss, *ours), derivatives(expected, *kept)[:2]
            assert first[0][:2].eq(0).all()
            torch.testing.assert_close(first[0][2:], wanted[0])
            torch.testing.assert_close(first[1], wanted[1])
            assert all(result.isfinite().all() for result in first)


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_a_number_that_is_no_class(wrong):
    inputs, targets, given = numbered(4, 3, dtype=torch.float32)
    targets[1] = wrong
    inputs.requires_grad_()
    if not LOADED["handgrad"].emulated and inputs.is_cpu:
        with pytest.raises(RuntimeError, match=f"targets must be .* below 3, .* or ignore_index, -100; got {wrong}"):
            infogain_loss(inputs, targets, given)
        return
    # A device is not waited for: its rows are NaN.
    loss = infogain_loss(inputs, targets, given, reduction="none")
    assert loss.isnan().tolist() == [False, True, False, False]
    (grad,) = torch.autograd.grad(loss.sum(), inputs)
    assert grad.isnan().all(1).tolist() == [False, True, False, False]


def test_masked_classes():
    """A logit of minus infinity costs nothing where the matrix has 0, and is infinitely wrong elsewhere."""
    inputs, targets, _ = numbered(4, 5)
    inputs[:, 3], targets[targets == 3] = -INFINITY, 0
    leaf = inputs.clone().requires_grad_()
    loss = infogain_loss(leaf, targets, torch.eye(5))
    torch.testing.assert_close(loss, F.cross_entropy(inputs, targets))
    (grad,) = torch.autograd.grad(loss, leaf)
    assert grad[:, 3].eq(0).all()
    assert infogain_loss(inputs, targets, torch.ones(5, 5)) == INFINITY


def test_a_matrix_that_is_learnt():
    """A parameter stays one; a tensor is a buffer, which moves with the module and is saved."""
    learnt, given = InfogainLoss(torch.nn.Parameter(torch.eye(3))), InfogainLoss(torch.eye(3))
    assert [name for name, _ in learnt.named_parameters()] == ["matrix"]
    assert [name for name, _ in given.named_buffers()] == ["matrix"]
    learnt(INPUTS.float(), TARGETS).backward()
    assert learnt.matrix.grad.isfinite().all()


def test_one_row_without_a_batch():
    inputs, targets, given = numbered(1, 3)
    for reduction in ("none", "mean", "sum"):
        ours = infogain_loss(inputs[0], targets[0], given, reduction=reduction)
        assert ours.shape == ()
        torch.testing.assert_close(ours, reference(inputs, targets, given, reduction="sum"))
