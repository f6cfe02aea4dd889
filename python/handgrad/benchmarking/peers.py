"""Our implementation and its peers on one case's inputs, compared before anything is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handgrad.benchmarking.declaring import PASSES, BenchmarkError, Case, Forward, Peer


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``torch.compile(function)`` with what favours it: static shapes, and an error rather than a graph break.

    The number of threads is written into the generated code, so :class:`Run` lets torch compile anew after changing it.
    """
    return torch.compile(function, dynamic=False, fullgraph=True, **options)


def as_tuple(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def as_peer(peer: Forward | Peer) -> Peer:
    return peer if isinstance(peer, Peer) else Peer(peer)


@dataclass(frozen=True)
class Runner:
    """One implementation on one case's inputs."""

    peer: Peer
    inputs: tuple[Tensor, ...]
    differentiable: tuple[Tensor, ...]
    grad_output: Tensor | None

    @property
    def passes(self) -> tuple[str, ...]:
        return PASSES if self.differentiable else PASSES[:1]

    def has(self, step: str) -> bool:
        return step != "forward" or self.peer.forward is not None

    def forward(self) -> Any:
        assert self.peer.forward is not None
        with torch.no_grad():
            return self.peer.forward(*self.inputs)

    def forward_backward(self) -> tuple[Any, Sequence[Tensor]]:
        if not self.differentiable:
            return self.forward(), ()
        if self.peer.with_gradients is not None:
            return self.peer.with_gradients(*self.inputs)
        assert self.peer.forward is not None
        output = self.peer.forward(*self.inputs)
        if self.grad_output is not None and output.shape != self.grad_output.shape:
            raise BenchmarkError(f"output has shape {tuple(output.shape)}, ours {tuple(self.grad_output.shape)}")
        return output, torch.autograd.grad(output, self.differentiable, self.grad_output)

    def step(self, step: str) -> Callable[[], Any]:
        return self.forward if step == "forward" else self.forward_backward


def _compare(case: Case, package: str, ours: Runner, name: str, theirs: Runner) -> None:
    output, gradients = ours.forward_backward()
    peer_output, peer_gradients = theirs.forward_backward()
    both = zip(as_tuple(output), as_tuple(peer_output), strict=True)
    pairs = [("output", a, b) for a, b in both]
    pairs += [(f"gradient {i}", a, b) for i, (a, b) in enumerate(zip(gradients, peer_gradients, strict=True))]
    for what, a, b in pairs:
        if a.shape != b.shape:
            raise BenchmarkError(f"{case.name}: {what} of {name} has shape {tuple(b.shape)}, ours {tuple(a.shape)}")
        if not a.is_floating_point():
            if not torch.equal(a, b) and not (case.levels and (a.int() - b.int()).abs().max() <= case.levels):
                raise BenchmarkError(f"{case.name}: {what} of {package} and {name} differ, and are integers")
            continue
        scale = b.detach().double().abs().max().item()
        difference = (a.detach().double() - b.detach().double()).abs().max().item()
        # Written so that NaN is a disagreement.
        if not difference <= case.tolerance * scale:
            raise BenchmarkError(
                f"{case.name}: {what} of {package} and {name} differ by {difference:.3g} where the largest value is "
                f"{scale:.3g}; one of them computes something else, so their times mean nothing"
            )


def prepare(case: Case, device: torch.device, package: str = "handgrad") -> tuple[dict[str, Runner], dict[str, str]]:
    """Runners by name, ours (``package``) first, all compared; and the reasons of those that cannot run."""
    torch.manual_seed(0)
    inputs = case.inputs(device)
    differentiable = tuple(x for x in inputs if x.requires_grad)
    output = case.handgrad(*inputs)
    grad_output = torch.rand_like(output) if differentiable and output.dim() else None
    ours = Runner(Peer(case.handgrad), inputs, differentiable, grad_output)
    runners, errors = {package: ours}, {}
    for name, function in case.peers.items():
        runner = Runner(as_peer(function), inputs, differentiable, grad_output)
        try:
            for step in runner.passes:
                if runner.has(step):
                    runner.step(step)()
        except BenchmarkError as error:
            raise BenchmarkError(f"{case.name}: {name}: {error}") from None
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            continue
        if runner.peer.same:
            _compare(case, package, ours, name, runner)
        runners[name] = runner
    return runners, errors


def tensor_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(tensor_bytes, value)) if isinstance(value, (tuple, list)) else 0
