"""Knowledge distillation loss: maps of a segmentation with 21 classes, rows of 1,000 and of 50,000 classes, beside
torch's kl_div of two log-softmaxes, eager and compiled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import knowledge_distillation_loss

TEMPERATURE = 4.0


def _by_torch(student: Tensor, teacher: Tensor) -> Tensor:
    log_p, log_t = F.log_softmax(student / TEMPERATURE, 1), F.log_softmax(teacher / TEMPERATURE, 1)
    total = F.kl_div(log_p, log_t, reduction="sum", log_target=True)
    return total * (TEMPERATURE**2 * student.shape[1] / student.numel())


def _case(name: str, shape: tuple[int, ...], both: bool = False) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        student = torch.randn(shape, device=device).requires_grad_()
        return student, torch.randn(shape, device=device).requires_grad_(both)

    one_map = 4 * torch.Size(shape).numel()
    return Case(
        name=name,
        inputs=inputs,
        handgrad=lambda student, teacher: knowledge_distillation_loss(student, teacher, TEMPERATURE),
        peers={"log_softmax and kl_div": _by_torch, "the same, torch.compile": compiled(_by_torch)},
        # Both logits are read; backward reads them again and writes a gradient, or both.
        forward_bytes=2 * one_map,
        backward_bytes=(4 if both else 3) * one_map,
    )


def benchmark(quick: bool) -> Benchmark:
    side = 16 if quick else 256
    maps = (8, 21, side, side)
    text = f"8x21x{side}x{side}"
    many = (4, 50_000) if quick else (256, 50_000)
    return Benchmark(
        op="knowledge_distillation_loss",
        cases=[
            _case(text, maps),
            _case(f"{text}, gradients of both", maps, both=True),
            _case("512x1000", (512, 1000)),
            _case(f"{many[0]}x{many[1]}", many),
        ],
    )
