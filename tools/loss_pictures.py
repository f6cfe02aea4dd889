"""Draws the pictures of docs/losses.md: what each loss makes of a prediction, and which way its gradient pulls.

python -m tools.loss_pictures   # writes docs/losses/*.png
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from torch import Tensor

from handgrad import losses
from tools.pictures import DOCS, plt, save

Loss = Callable[[Tensor, Tensor], Tensor]

CLASSIFICATION: dict[str, Loss] = {
    "cross entropy": lambda x, t: torch.nn.functional.binary_cross_entropy_with_logits(x, t, reduction="none"),
    "sigmoid_focal_loss": lambda x, t: losses.sigmoid_focal_loss(x, t, alpha=-1),
    "asymmetric_loss": lambda x, t: losses.asymmetric_loss(x, t, reduction="none"),
    "quality_focal_loss": lambda x, t: losses.quality_focal_loss(x, t, reduction="none"),
    "varifocal_loss": lambda x, t: losses.varifocal_loss(x, t, reduction="none"),
    "gaussian_focal_loss": lambda x, t: losses.gaussian_focal_loss(x, t, reduction="none"),
}
BOXES: dict[str, Loss] = {
    name: getattr(losses, name)
    for name in (
        "generalized_box_iou_loss",
        "distance_box_iou_loss",
        "complete_box_iou_loss",
        "efficient_box_iou_loss",
        "scylla_box_iou_loss",
    )
}
OVERLAP: dict[str, Loss] = {
    "mean of the cross entropy": lambda x, t: torch.nn.functional.binary_cross_entropy(
        x.clamp(1e-3, 1 - 1e-3), t, reduction="none"
    ).mean((1, 2, 3)),
    "dice_loss": lambda x, t: losses.dice_loss(x, t, "none", reduction="none")[:, 0],
    "jaccard_loss": lambda x, t: losses.jaccard_loss(x, t, "none", reduction="none")[:, 0],
    "tversky_loss": lambda x, t: losses.tversky_loss(x, t, "none", reduction="none")[:, 0],
    "tversky_loss, alpha=0.3, beta=0.7": lambda x, t: losses.tversky_loss(
        x, t, "none", alpha=0.3, beta=0.7, reduction="none"
    )[:, 0],
    "focal_tversky_loss": lambda x, t: losses.focal_tversky_loss(x, t, "none", reduction="none")[:, 0],
}
LANDMARKS: dict[str, Loss] = {
    "smooth_l1_loss": lambda x, t: torch.nn.functional.smooth_l1_loss(x, t, reduction="none"),
    "wing_loss": lambda x, t: losses.wing_loss(x, t, reduction="none"),
}
HEAT_MAPS: dict[str, Loss] = {
    "mse_loss, 10 times": lambda x, t: 10 * torch.nn.functional.mse_loss(x, t, reduction="none"),
    "adaptive_wing_loss": lambda x, t: losses.adaptive_wing_loss(x, t, reduction="none"),
}


def with_gradient(loss: Loss, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each row or element, and its gradient with respect to the inputs."""
    inputs = inputs.clone().requires_grad_()
    values = loss(inputs, targets)
    (gradient,) = torch.autograd.grad(values.sum(), inputs)
    return values.detach(), gradient


def curves(ax: Axes, x: Tensor, values: dict[str, Tensor], title: str, label: str) -> None:
    for number, (name, curve) in enumerate(values.items()):
        # Of losses that are equal here, the last is drawn over the others: thinner, so that they show.
        style = {"color": "grey", "linestyle": "--"} if number == 0 else {"linewidth": 4.2 - 0.6 * number}
        ax.plot(x, curve, label=name, **style)
    ax.set(title=title, xlabel=label)
    ax.grid(alpha=0.3)


def draw_classification() -> None:
    logits = torch.linspace(-6, 6, 601, dtype=torch.float64)
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), sharex=True, layout="constrained")
    for column, target in zip(axes.T, (1.0, 0.0, 0.6), strict=True):
        targets = torch.full_like(logits, target)
        for ax, part, what in zip(column, (0, 1), ("loss", "gradient"), strict=True):
            values = {name: with_gradient(loss, logits, targets)[part] for name, loss in CLASSIFICATION.items()}
            curves(ax, logits, values, f"{what}, target {target:g}", "logit" if part else "")
        column[0].set_ylim(-0.1, 4)
    axes[0, 0].legend(fontsize=8)
    save(figure, DOCS / "losses/classification.png")


def draw_boxes() -> None:
    """A box of 4 by 2 is moved over the plane, its target is one of 3 by 3 in the middle."""
    target = torch.tensor([-1.5, -1.5, 1.5, 1.5], dtype=torch.float64)
    steps = torch.linspace(-5, 5, 121, dtype=torch.float64)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    moved = torch.stack([x - 2, y - 1, x + 2, y + 1], dim=-1)
    figure, axes = plt.subplots(1, len(BOXES), figsize=(16, 3.6), layout="constrained", sharey=True)
    for ax, (name, loss) in zip(axes, BOXES.items(), strict=True):
        values, gradient = with_gradient(loss, moved, target.expand_as(moved))
        image = ax.contourf(steps, steps, values, levels=torch.linspace(0.4, 1.8, 29), cmap="viridis")
        ax.plot([-1.5, 1.5, 1.5, -1.5, -1.5], [-1.5, -1.5, 1.5, 1.5, -1.5], color="white")
        # A step against the gradient moves the centre by the mean of both corners' steps.
        to_x, to_y = -(gradient[..., 0] + gradient[..., 2]) / 2, -(gradient[..., 1] + gradient[..., 3]) / 2
        some = slice(10, None, 20)
        ax.quiver(steps[some], steps[some], to_x[some, some], to_y[some, some], color="white", scale=2, width=0.006)
        ax.set(title=name, xlabel="centre x", aspect="equal")
    axes[0].set_ylabel("centre y")
    figure.colorbar(image, ax=axes, label="loss")
    save(figure, DOCS / "losses/boxes.png")


def draw_overlap() -> None:
    """Of a disc of 12 pixels, a smaller or a larger one is predicted; or its own in another place."""
    places = torch.arange(96, dtype=torch.float64) - 47.5
    y, x = torch.meshgrid(places, places, indexing="ij")

    def disc(radius: Tensor, shift: Tensor) -> Tensor:
        """Between 0 and 1 at its edge, (N, 1, 96, 96)."""
        distance = ((x - shift[:, None, None]) ** 2 + y**2).sqrt()
        return (radius[:, None, None] - distance + 0.5).clamp(0, 1)[:, None]

    radii, shifts = torch.linspace(1, 40, 157, dtype=torch.float64), torch.linspace(0, 40, 161, dtype=torch.float64)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for ax, x_axis, predicted, label in (
        (axes[0], radii, disc(radii, torch.zeros_like(radii)), "predicted radius; the true one is 12"),
        (axes[1], shifts, disc(torch.full_like(shifts, 12), shifts), "shift of the prediction, in pixels"),
    ):
        truth = disc(torch.full_like(x_axis, 12), torch.zeros_like(x_axis))
        curves(ax, x_axis, {name: loss(predicted, truth) for name, loss in OVERLAP.items()}, "loss", label)
    axes[0].set_ylim(-0.03, 1.3)
    axes[1].legend(fontsize=8)
    save(figure, DOCS / "losses/overlap.png")


def draw_landmarks() -> None:
    figure, axes = plt.subplots(2, 3, figsize=(13, 6.5), layout="constrained")
    errors, heat = (
        torch.linspace(-30, 30, 1201, dtype=torch.float64),
        torch.linspace(-0.5, 1.5, 1001, dtype=torch.float64),
    )
    cases = (
        (errors, 0.0, LANDMARKS, "prediction - target, in pixels"),
        (heat, 0.0, HEAT_MAPS, "heat, target 0"),
        (heat, 1.0, HEAT_MAPS, "heat, target 1"),
    )
    for column, (x_axis, target, of, label) in zip(axes.T, cases, strict=True):
        targets = torch.full_like(x_axis, target)
        for ax, part, what in zip(column, (0, 1), ("loss", "gradient"), strict=True):
            values = {name: with_gradient(loss, x_axis, targets)[part] for name, loss in of.items()}
            curves(ax, x_axis, values, what, label if part else "")
        column[0].legend(fontsize=8)
    save(figure, DOCS / "losses/landmarks.png")


def main() -> None:
    for draw in (draw_classification, draw_boxes, draw_overlap, draw_landmarks):
        draw()


if __name__ == "__main__":
    main()
