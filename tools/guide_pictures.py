"""Draws the pictures of docs/boxes.md and docs/layers.md: what each op does, drawn from what it returns.

python -m tools.guide_pictures   # writes docs/boxes/*.png and docs/layers/*.png
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from handgrad import boxes, layers
from tools.pictures import DOCS, plt, save

MATRICES = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")


# ---- boxes -----------------------------------------------------------------------------------------------------------


def draw_matrices() -> None:
    """A box of 4 by 2 at each place of the plane, against one of 3 by 3 in the middle."""
    fixed = torch.tensor([[-1.5, -1.5, 1.5, 1.5]], dtype=torch.float64)
    steps = torch.linspace(-5, 5, 201, dtype=torch.float64)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    moved = torch.stack([x - 2, y - 1, x + 2, y + 1], dim=-1).reshape(-1, 4)
    figure, axes = plt.subplots(1, len(MATRICES), figsize=(14, 3.8), layout="constrained", sharey=True)
    for ax, name in zip(axes, MATRICES, strict=True):
        values = getattr(boxes, name)(moved, fixed).reshape(x.shape)
        image = ax.contourf(steps, steps, values, levels=torch.linspace(-0.8, 0.6, 29), cmap="viridis", extend="both")
        ax.contour(steps, steps, values, levels=[0], colors="white", linewidths=0.8, linestyles="--")
        ax.plot([-1.5, 1.5, 1.5, -1.5, -1.5], [-1.5, -1.5, 1.5, 1.5, -1.5], color="white")
        ax.set(title=name, xlabel="centre x", aspect="equal")
    axes[0].set_ylabel("centre y")
    figure.colorbar(image, ax=axes)
    save(figure, DOCS / "boxes/matrices.png")


def detections() -> tuple[Tensor, Tensor]:
    """Boxes around three things, two of them side by side, and their scores."""
    things = torch.tensor([[20.0, 20.0, 60.0, 70.0], [40.0, 24.0, 78.0, 72.0], [100.0, 30.0, 150.0, 60.0]])
    generator = torch.Generator().manual_seed(0)
    found = things.repeat_interleave(5, 0) + 4 * torch.randn(15, 4, generator=generator)
    overlaps = boxes.box_iou(found, things).amax(1)
    return found, (overlaps + 0.1 * torch.randn(15, generator=generator)).clamp(0.3, 0.99)


def draw_suppression() -> None:
    found, scores = detections()
    # The threshold at which the two that stand side by side are taken for one.
    kept = boxes.nms(found, scores, iou_threshold=0.3)
    linear, of_linear = boxes.soft_nms(found, scores, iou_threshold=0.3, min_score=0.05)
    gaussian, of_gaussian = boxes.soft_nms(found, scores, method="gaussian", sigma=0.5, min_score=0.05)
    figure, axes = plt.subplots(2, 2, figsize=(11, 5.4), layout="constrained", sharex=True, sharey=True)
    for ax, title, which, of in (
        (axes[0, 0], "15 detections, as dark as their scores", torch.arange(15), scores),
        (axes[0, 1], "nms(iou_threshold=0.3)", kept, scores[kept]),
        (axes[1, 0], "soft_nms(iou_threshold=0.3)", linear, of_linear),
        (axes[1, 1], 'soft_nms(method="gaussian", sigma=0.5)', gaussian, of_gaussian),
    ):
        for box, score in zip(found[which], of, strict=True):
            _outline(ax, box, color=plt.cm.Greys(float(score) * 0.9 + 0.1))
        ax.set(title=title, xlim=(0, 170), ylim=(85, 5), aspect="equal")
    save(figure, DOCS / "boxes/suppression.png")


def _outline(ax: Axes, box: Tensor, color: Any) -> None:
    x1, y1, x2, y2 = box.tolist()
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=1.6, color=color))


# ---- layers ----------------------------------------------------------------------------------------------------------


def discs(side: int) -> Tensor:
    """A grey image of two discs, (1, 1, side, side)."""
    places = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(places, places, indexing="ij")
    shapes = [((x - cx) ** 2 + (y - cy) ** 2).sqrt() - r for cx, cy, r in ((-0.25, -0.2, 0.45), (0.55, 0.5, 0.3))]
    levels = torch.tensor([1.0, 0.6]).reshape(2, 1, 1)
    return ((0.5 - 20 * torch.stack(shapes)).clamp(0, 1) * levels).sum(0)[None, None]


def draw_sampling() -> None:
    figure, axes = plt.subplots(1, 4, figsize=(15, 4.1), layout="constrained")
    _draw_roi_align(axes[0], axes[1])
    _draw_deform_conv2d(axes[2])
    _draw_attention(axes[3])
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    save(figure, DOCS / "layers/sampling.png")


def _draw_roi_align(image_ax: Axes, pooled_ax: Axes) -> None:
    image, box = discs(48), torch.tensor([[0.0, 5.3, 7.6, 33.9, 31.2]])
    bins, samples = 7, 2
    image_ax.imshow(image[0, 0], cmap="gray", vmin=0, vmax=1.2)
    x1, y1, x2, y2 = box[0, 1:].tolist()
    _outline(image_ax, torch.tensor([x1 - 0.5, y1 - 0.5, x2 - 0.5, y2 - 0.5]), color="tab:red")
    ticks = (torch.arange(bins * samples) + 0.5) / (bins * samples)
    y, x = torch.meshgrid(y1 - 0.5 + ticks * (y2 - y1), x1 - 0.5 + ticks * (x2 - x1), indexing="ij")
    image_ax.scatter(x, y, s=3, color="tab:red")
    image_ax.set_title("roi_align: where a box is looked at,")
    pooled = layers.roi_align(image, box, bins, sampling_ratio=samples, aligned=True)
    pooled_ax.imshow(pooled[0, 0], cmap="gray", vmin=0, vmax=1.2)
    pooled_ax.set_title("and its 7x7 bins")


def _draw_deform_conv2d(ax: Axes) -> None:
    """Where the nine taps of one position look: the gradient of the output to the input is not 0 there."""
    side = 15
    image = torch.zeros(1, 1, side, side, requires_grad=True)
    generator = torch.Generator().manual_seed(3)
    offset = 1.6 * torch.randn(1, 18, side, side, generator=generator)
    output = layers.deform_conv2d(image, offset, torch.ones(1, 1, 3, 3), padding=1)
    (seen,) = torch.autograd.grad(output[0, 0, 7, 7], image)
    ax.imshow(seen[0, 0], cmap="Greys", vmin=0, vmax=1.2)
    y, x = torch.meshgrid(torch.arange(6.0, 9.0), torch.arange(6.0, 9.0), indexing="ij")
    moved = offset[0, :, 7, 7].reshape(9, 2)
    ax.scatter(x, y, facecolors="none", edgecolors="tab:blue", label="taps of a convolution")
    ax.scatter(x.flatten() + moved[:, 1], y.flatten() + moved[:, 0], s=18, color="tab:red", label="moved by offsets")
    ax.set_title("deform_conv2d: weights of the pixels")
    ax.legend(fontsize=8, loc="lower left")


def _draw_attention(ax: Axes) -> None:
    """The pixels of three levels that one query looks at, drawn over each other at one size."""
    shapes = [(16, 16), (8, 8), (4, 4)]
    value = torch.zeros(1, sum(h * w for h, w in shapes), 1, 1, requires_grad=True)
    generator = torch.Generator().manual_seed(1)
    reference = torch.tensor([0.55, 0.4])
    spread = torch.tensor([h for h, _ in shapes]).reciprocal().reshape(3, 1, 1)
    points = reference + 1.6 * spread * torch.randn(3, 4, 2, generator=generator)
    weights = torch.full((1, 1, 1, 3, 4), 1 / 12)
    output = layers.multi_scale_deformable_attention(value, shapes, points[None, None, None], weights)
    (seen,) = torch.autograd.grad(output.sum(), value)
    levels = seen.flatten().split([h * w for h, w in shapes])
    total = sum(
        torch.nn.functional.interpolate(level.reshape(1, 1, h, w), scale_factor=16 // h)[0, 0]
        for level, (h, w) in zip(levels, shapes, strict=True)
    )
    ax.imshow(total, cmap="Greys")
    for level, color in enumerate(("tab:blue", "tab:green", "tab:red")):
        x, y = (points[level] * 16 - 0.5).T
        ax.scatter(x, y, s=18, color=color, label="level of {}x{}".format(*shapes[level]))
    x, y = reference * 16 - 0.5
    ax.scatter(x, y, marker="+", s=120, color="black", label="reference point")
    ax.set(title="multi_scale_deformable_attention", xlim=(-0.5, 15.5), ylim=(15.5, -0.5))
    ax.legend(fontsize=8, loc="lower left")


def draw_reconstruction() -> None:
    figure, axes = plt.subplots(1, 5, figsize=(18, 4.0), layout="constrained")
    _draw_roi_align_rotated(axes[0], axes[1])
    _draw_softsplat(axes[2])
    _draw_guided_filter(axes[3], axes[4])
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    save(figure, DOCS / "layers/reconstruction.png")


def _draw_roi_align_rotated(image_ax: Axes, pooled_ax: Axes) -> None:
    image, box = discs(48), torch.tensor([[0.0, 26.5, 26.5, 40.0, 18.0, -42.0]])
    bins, samples = (6, 13), 2
    image_ax.imshow(image[0, 0], cmap="gray", vmin=0, vmax=1.2)
    # A map of the coordinates shows where each bin looks: their averages are its middle.
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    middles = layers.roi_align_rotated(torch.stack([x, y])[None], box, bins, sampling_ratio=samples)[0]
    image_ax.scatter(middles[0], middles[1], s=4, color="tab:red")
    image_ax.set_title("roi_align_rotated: the bins of a box,")
    pooled = layers.roi_align_rotated(image, box, bins, sampling_ratio=samples)
    pooled_ax.imshow(pooled[0, 0], cmap="gray", vmin=0, vmax=1.2)
    pooled_ax.set_title("and what they hold")


def _draw_softsplat(ax: Axes) -> None:
    """Two discs that move, one over the other: what is nearer has the larger metric. Where nothing arrives is red."""
    image = discs(48)
    is_small = (image > 0.05) & (torch.arange(48) + torch.arange(48)[:, None] > 51)
    is_large = (image > 0.05) & ~is_small
    flow = torch.zeros(1, 2, 48, 48)
    flow[:, 0] = torch.where(is_small[0], -12.0, torch.where(is_large[0], 6.0, 0.0))
    metric = torch.where(is_small, 8.0, torch.where(is_large, 4.0, 0.0))
    warped = layers.softsplat(image, flow, metric, mode="softmax")
    arrived = layers.softsplat(torch.ones_like(image), flow, None, mode="sum")
    picture = warped[0].expand(3, -1, -1).clamp(0, 1.2).clone() / 1.2
    holes = arrived[0, 0] == 0
    picture[:, holes] = torch.tensor([0.84, 0.15, 0.16])[:, None]
    ax.imshow(picture.permute(1, 2, 0))
    ax.set_title("softsplat: discs that moved, holes in red")


def _draw_guided_filter(noisy_ax: Axes, filtered_ax: Axes) -> None:
    image = discs(48)
    noisy = image + 0.25 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    noisy_ax.imshow(noisy[0, 0], cmap="gray", vmin=-0.2, vmax=1.2)
    noisy_ax.set_title("guided_filter: an image with noise,")
    filtered_ax.imshow(layers.guided_filter(image, noisy, 7, 1e-2)[0, 0], cmap="gray", vmin=-0.2, vmax=1.2)
    filtered_ax.set_title("and guided by one without")


def draw_pointwise() -> None:
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    x = torch.linspace(-4, 4, 401, requires_grad=True)
    for name, activation in (
        ("torch's gelu", torch.nn.functional.gelu),
        ("quick_gelu", layers.quick_gelu),
        ("quick_gelu(alpha=1)", lambda x: layers.quick_gelu(x, alpha=1.0)),
    ):
        values = activation(x)
        axes[0].plot(x.detach(), values.detach(), label=name)
        axes[1].plot(x.detach(), torch.autograd.grad(values.sum(), x)[0], label=name)
    axes[0].set(title="activations", xlabel="x")
    axes[1].set(title="their gradients", xlabel="x")
    axes[0].legend(fontsize=8)
    channels = torch.zeros(1, 32, 1, 1)
    channels[0, 10], channels[0, 12], channels[0, 22] = 30.0, 8.0, 8.0
    normalised = layers.local_response_norm(channels, size=5, alpha=1e-2, beta=0.75)
    axes[2].stem(range(32), channels.flatten(), linefmt="lightgrey", basefmt=" ", label="activations")
    axes[2].stem(range(32), normalised.flatten(), basefmt=" ", label="local_response_norm(size=5, alpha=0.01)")
    axes[2].set(title="a strong channel quietens its neighbours", xlabel="channel")
    axes[2].legend(fontsize=8, loc="center right")
    for ax in axes:
        ax.grid(alpha=0.3)
    save(figure, DOCS / "layers/pointwise.png")


def main() -> None:
    for draw in (draw_matrices, draw_suppression, draw_sampling, draw_reconstruction, draw_pointwise):
        draw()


if __name__ == "__main__":
    main()
