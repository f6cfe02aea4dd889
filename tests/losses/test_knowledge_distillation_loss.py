"""The knowledge distillation loss: its spec, and what is peculiar to it."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import KnowledgeDistillationLoss, knowledge_distillation_loss
from handgrad.losses.knowledge_distillation_loss import knowledge_distillation_loss_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

INFINITY = float("inf")


def reference(student, teacher, temperature=4.0, reduction="mean"):
    losses = knowledge_distillation_loss_reference(student, teacher, temperature, 0)
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def logits(*shape, dtype=torch.float64, scale=2.0):
    generator = reseeded(len(shape))
    student, teacher = (scale * torch.randn(*shape, dtype=dtype, generator=generator) for _ in range(2))
    return student, teacher


def by_torch(student, teacher, temperature, reduction="batchmean"):
    """The lines that stand in most repositories."""
    log_p, log_t = (F.log_softmax(x / temperature, 1) for x in (student, teacher))
    return F.kl_div(log_p, log_t, reduction=reduction, log_target=True) * temperature**2


def torch_has_the_same():
    student, teacher = logits(6, 5)
    for temperature in (0.5, 1.0, 4.0):
        ours, theirs = (pair[0].clone().requires_grad_() for pair in [(student,), (student,)])
        loss, expected = knowledge_distillation_loss(ours, teacher, temperature), by_torch(theirs, teacher, temperature)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs))


def nothing_between_equals():
    """Neither a loss nor a gradient, at any temperature, though their sums are of many roundings."""
    for dtype, temperature in itertools.product((torch.float32, torch.float64), (0.1, 1.0, 30.0)):
        student = logits(50, 37, dtype=dtype)[0].requires_grad_()
        teacher = student.detach().clone().requires_grad_()
        loss = knowledge_distillation_loss(student, teacher, temperature)
        assert loss == 0
        for grad in torch.autograd.grad(loss, (student, teacher)):
            assert grad.eq(0).all()


def shifted_logits_are_the_same():
    student, teacher = logits(3, 5, 4)
    shift = torch.randn(3, 1, 4, dtype=torch.float64, generator=reseeded(8))
    torch.testing.assert_close(
        knowledge_distillation_loss(student + shift, teacher - 2 * shift),
        knowledge_distillation_loss(student, teacher),
    )


def a_certain_teacher_is_a_label():
    """Of a teacher that is sure the loss is the cross entropy of its class."""
    student, _ = logits(6, 5)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    teacher = 1e4 * F.one_hot(labels, 5).double()
    torch.testing.assert_close(knowledge_distillation_loss(student, teacher, 1.0), F.cross_entropy(student, labels))


def numel_beyond_int32():
    classes, positions = 64, 2**25 + 8
    student = torch.linspace(-1, 1, classes).view(1, classes, 1)
    many = student.expand(1, classes, positions)
    torch.testing.assert_close(
        knowledge_distillation_loss(many, (-student).expand(1, classes, positions)),
        knowledge_distillation_loss(student, -student),
    )


STUDENT, TEACHER = logits(4, 3)

SPEC = OpSpec(
    name="knowledge_distillation_loss",
    operator="handgrad::knowledge_distillation_loss",
    function=knowledge_distillation_loss,
    reference=reference,
    module=KnowledgeDistillationLoss,
    samples=[
        Sample("rows", logits(3, 8), {"reduction": "none", "temperature": 1.0}),
        Sample("positions_mean", logits(2, 4, 3), {"temperature": 2.0}),
        Sample("images_sum", logits(2, 3, 2, 2), {"reduction": "sum", "temperature": 0.75}),
    ],
    large=Sample("large", logits(3, 21, 61, 29, dtype=torch.float32), {"reduction": "sum"}),
    empty=[
        Sample("no_batch_none", logits(0, 3), {"reduction": "none"}),
        Sample("no_positions_sum", logits(2, 3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", logits(0, 3, 2), {"reduction": "mean"}),
    ],
    autocast=torch.float32,
    widens=True,
    bad=[
        Bad(
            "temperature",
            lambda: KnowledgeDistillationLoss(0.0),
            ValueError,
            r"temperature must be a number from 1e-6 to 1e6; got 0\.0",
        ),
        Bad(
            "reduction",
            lambda: KnowledgeDistillationLoss(reduction="avg"),
            ValueError,
            "reduction must be .*batchmean.* got 'avg'",
        ),
        Bad(
            "classes",
            lambda: knowledge_distillation_loss(STUDENT, TEACHER[:, :2]),
            RuntimeError,
            r"teacher must have the shape of student, \(4, 3\); got \(4, 2\)",
        ),
        Bad(
            "no_classes",
            lambda: knowledge_distillation_loss(STUDENT[:, :0], TEACHER[:, :0]),
            RuntimeError,
            r"student must have shape \(batch, classes, ...\) with 1 to .*got \(4, 0\)",
        ),
        Bad(
            "labels",
            lambda: knowledge_distillation_loss(STUDENT, torch.ones(4, 3, dtype=torch.int64)),
            RuntimeError,
            "teacher must have the dtype of student, float64; got int64",
        ),
    ],
    identities={
        "kl_div": torch_has_the_same,
        "equals": nothing_between_equals,
        "shifted": shifted_logits_are_the_same,
        "certain": a_certain_teacher_is_a_label,
    },
    numel_beyond_int32=numel_beyond_int32,
    # The directions are read once for their means, which the second derivatives need, and once for these.
    floor_factors={"double_backward": 1.4},
)

test_matrix = matrix(SPEC)


def both_layouts(inputs):
    """Logits with positions innermost, and with classes innermost."""
    return inputs, inputs.movedim(1, -1).contiguous().movedim(-1, 1)


def derivatives(loss, student, teacher):
    """Both gradients, and both second derivatives along two directions."""
    first = torch.autograd.grad(loss, (student, teacher), create_graph=True)
    directions = [
        torch.linspace(-1, slope, student.numel(), dtype=student.dtype).view(student.shape) for slope in (1, 3)
    ]
    return [grad.detach() for grad in first] + list(torch.autograd.grad(first, (student, teacher), directions))


# ---- any number of classes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 1, 4), (3, 2, 5), (2, 15, 40), (2, 16, 7), (5, 33, 3), (3, 1000), (3, 7001)])
def test_any_number_of_classes(shape):
    """Rows that fill a part of a tile, a tile, several; on a device those of a thread, a warp, a block, and those that
    no shared memory holds."""
    given = logits(*shape)
    exact = [x.clone().requires_grad_() for x in given]
    expected = derivatives(reference(*exact), *exact)
    for arrange, dtype in itertools.product((0, 1), (torch.float64, torch.float32)):
        ours = [both_layouts(x)[arrange].to(dtype).requires_grad_() for x in given]
        loss = knowledge_distillation_loss(*ours)
        torch.testing.assert_close(loss.double(), reference(*exact), rtol=1.3e-6, atol=1e-7)
        for actual, wanted in zip(derivatives(loss, *ours), expected, strict=True):
            torch.testing.assert_close(actual.double(), wanted, rtol=1e-4, atol=1e-7)


# ---- what a loss is a mean of ----------------------------------------------------------------------------------------


def test_no_mean_over_classes():
    """knowledge-distillation-pytorch#2, Teacher-free-Knowledge-Distillation#41, LD#74, attention-transfer#30,
    continual-learning#5: the mean of ``kl_div`` divides by the number of classes too. Here it never does."""
    student, teacher = logits(6, 5)
    wanted = by_torch(student, teacher, 4.0, "sum") / 6
    for reduction in ("mean", "batchmean"):
        torch.testing.assert_close(knowledge_distillation_loss(student, teacher, reduction=reduction), wanted)
    with pytest.warns(UserWarning, match="batchmean"):
        theirs = by_torch(student, teacher, 4.0, "mean")
    torch.testing.assert_close(theirs, wanted / 5)


def test_the_mean_of_maps_is_that_of_their_positions():
    """sparseml#592: a batch mean of maps grows with their size."""
    student, teacher = logits(2, 5, 3, 4)
    losses = knowledge_distillation_loss(student, teacher, reduction="none")
    assert losses.shape == (2, 3, 4)
    torch.testing.assert_close(knowledge_distillation_loss(student, teacher), losses.mean())
    batchmean = KnowledgeDistillationLoss(reduction="batchmean")(student, teacher)
    torch.testing.assert_close(batchmean, by_torch(student, teacher, 4.0))


def test_gradients_keep_their_size_when_the_temperature_changes():
    """scenic#706 asks why T^2: with it, at high temperatures the gradient is that of half the squared difference of
    centred logits, over the number of classes."""
    student, teacher = (x - x.mean(1, keepdim=True) for x in logits(6, 5))
    student.requires_grad_()
    (grad,) = torch.autograd.grad(knowledge_distillation_loss(student, teacher, 1e5, reduction="sum"), student)
    torch.testing.assert_close(grad, (student.detach() - teacher) / 5, rtol=1e-3, atol=1e-4)


def test_one_row_without_a_batch():
    student, teacher = logits(1, 3)
    for reduction in ("none", "mean", "sum", "batchmean"):
        ours = knowledge_distillation_loss(student[0], teacher[0], reduction=reduction)
        assert ours.shape == ()
        torch.testing.assert_close(ours, reference(student, teacher, reduction="sum"))


# ---- numerics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0, 100.0])
def test_small_divergences_keep_their_digits(temperature):
    """Near the teacher t log(t / p) is a sum of terms that cancel, and half of the time below 0: here it is a sum of
    what each class has at least."""
    _, teacher = logits(200, 21)
    student = teacher + 1e-3 * logits(200, 21, 1)[0].squeeze(-1)
    student, teacher = student.float(), teacher.float()
    exact = reference(student.double(), teacher.double(), temperature, "none")
    for arrange in (0, 1):
        ours = knowledge_distillation_loss(
            both_layouts(student)[arrange], both_layouts(teacher)[arrange], temperature, "none"
        )
        assert ours.ge(0).all()
        torch.testing.assert_close(ours.double(), exact, rtol=2e-3, atol=0)
    naive = by_torch(student, teacher, temperature, "none").sum(1)
    assert (naive - exact).abs().max() > 3 * (ours - exact).abs().max()


def test_certain_rows_keep_their_digits():
    """Where student and teacher are sure of the same class, their difference there is that of what they leave over."""
    student = torch.tensor([[20.0, 0.0, 1.0], [19.0, 2.0, -5.0]]).requires_grad_()
    teacher = torch.tensor([[18.0, 1.0, 0.5], [21.0, 0.0, 0.0]]).requires_grad_()
    exact = [x.detach().double().requires_grad_() for x in (student, teacher)]
    expected = derivatives(reference(*exact, 1.0, "sum"), *exact)
    loss = knowledge_distillation_loss(student, teacher, 1.0, "sum")
    actual = derivatives(loss, student, teacher)
    torch.testing.assert_close(loss.double(), reference(*exact, 1.0, "sum"), rtol=1e-5, atol=0)
    for ours, wanted in zip(actual[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-24)


@pytest.mark.parametrize("gap", [20.0, 90.0, 200.0, 1e4])
def test_certain_predictions_are_finite(gap):
    """CTKD#9: probabilities that underflow made NaN of a temperature's gradient, and of everything after it."""
    student = torch.tensor([[gap, 0.0, 1.0], [0.0, 1.0, gap]])
    teacher = torch.tensor([[0.0, gap, 1.0], [0.0, 1.0, gap]])
    for arrange in (0, 1):
        ours = [both_layouts(x)[arrange].clone().requires_grad_() for x in (student, teacher)]
        loss = knowledge_distillation_loss(*ours, 1.0, "none")
        torch.testing.assert_close(loss[0], torch.tensor(gap), rtol=0.2, atol=0)
        assert loss[1] == 0
        assert all(result.isfinite().all() for result in derivatives(loss.sum(), *ours))


def test_classes_that_are_ruled_out():
    """A logit of minus infinity of both is a class that is not there; of the teacher alone it is one that the student
    is to leave; of the student alone the divergence is infinite, and its gradient the limit. ``kl_div`` of two
    log-softmaxes has NaN for the first two."""
    student, teacher = (x.clone() for x in logits(4, 5))
    student[:, [0, 3]] = teacher[:, [0, 3]] = -INFINITY
    rest = [x[:, [1, 2, 4]].clone().requires_grad_() for x in (student, teacher)]
    expected = derivatives(knowledge_distillation_loss(*rest), *rest)[:2]
    for arrange in (0, 1):
        ours = [both_layouts(x)[arrange].clone().requires_grad_() for x in (student, teacher)]
        loss = knowledge_distillation_loss(*ours)
        torch.testing.assert_close(loss, knowledge_distillation_loss(*rest))
        for actual, wanted in zip(derivatives(loss, *ours)[:2], expected, strict=True):
            torch.testing.assert_close(actual[:, [1, 2, 4]], wanted)
            assert actual[:, [0, 3]].eq(0).all()

    teacher = torch.tensor([[-INFINITY, 0.0, 1.0]], requires_grad=True)
    student = torch.tensor([[1.0, 0.0, 1.0]], requires_grad=True)
    loss = knowledge_distillation_loss(student, teacher, 1.0)
    torch.testing.assert_close(loss, reference(student, teacher, 1.0))
    grads = torch.autograd.grad(loss, (student, teacher))
    torch.testing.assert_close(grads[0], student.softmax(1) - teacher.softmax(1))
    assert grads[1].isfinite().all()
    student = torch.tensor([[-INFINITY, 0.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, 1.0]])
    loss = knowledge_distillation_loss(student, teacher, 1.0)
    assert loss == INFINITY
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], student.softmax(1) - teacher.softmax(1))


@pytest.mark.parametrize("row", [[INFINITY, 0.0, 1.0], [-INFINITY] * 3, [float("nan"), 0.0, 1.0]])
@pytest.mark.parametrize("of_teacher", [False, True])
def test_rows_without_a_softmax_are_nan(row, of_teacher):
    """In that row alone: the loss, and both gradients."""
    pair = [torch.tensor([row, [0.0, 1.0, 2.0]]), torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 1.0]])]
    for arrange in (0, 1):
        ours = [both_layouts(x)[arrange].clone().requires_grad_() for x in (pair[::-1] if of_teacher else pair)]
        loss = knowledge_distillation_loss(*ours, reduction="none")
        assert loss.isnan().tolist() == [True, False]
        for grad in torch.autograd.grad(loss.sum(), ours):
            assert grad.isnan().all(1).tolist() == [True, False]
            assert grad[1].isfinite().all()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_teacher_of_another_type(half):
    """A teacher that ran in half precision beside a student that did not."""
    student, teacher = logits(5, 7, dtype=torch.float32)
    teacher = teacher.to(half)
    loss = knowledge_distillation_loss(student.requires_grad_(), teacher)
    torch.testing.assert_close(loss, reference(student, teacher.float()))
    assert torch.autograd.grad(loss, student)[0].dtype == torch.float32


def test_a_teacher_without_a_gradient_costs_none():
    """What is not asked for is not computed: the usual case."""
    student, teacher = logits(5, 7)
    ours = student.clone().requires_grad_()
    both = [x.clone().requires_grad_() for x in (student, teacher)]
    (alone,) = torch.autograd.grad(knowledge_distillation_loss(ours, teacher), ours)
    torch.testing.assert_close(alone, torch.autograd.grad(knowledge_distillation_loss(*both), both)[0])
