"""The checks that need more than one process: two of them on this machine, over gloo."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch

from handgrad.registration import OPERATORS
from handgrad.testing.spec import OpSpec, halved

WORLD = 2

# At its first backward torch decides whether autograd gets threads for devices, with which a process must not fork. A
# fake tensor makes it believe in a GPU that is not there; so the first backward comes before any of those.
if not torch.cuda.is_available():
    torch.zeros((), requires_grad=True).backward()


def run(check: Callable[[OpSpec, int], None], spec: OpSpec) -> None:
    """``check(spec, rank)`` in two processes; fails with the traceback of the first that fails."""
    # Once, before the processes part: each would import them again, which takes longer than the check.
    for module in ("torch.distributed.tensor", "torch.distributed.fsdp", "torch._dynamo"):
        importlib.import_module(module)
    # Forked, because a spec holds functions that cannot be pickled.
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(target=_work, args=(check, spec, rank, f"{folder}/store", failures))
            for rank in range(WORLD)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=120)
        stuck = [worker for worker in workers if worker.is_alive()]
        for worker in stuck:
            worker.kill()
        assert failures.empty(), failures.get()
        assert not stuck, "a process did not finish within two minutes"
        assert all(worker.exitcode == 0 for worker in workers), [worker.exitcode for worker in workers]


def forked(check: Callable[[], None], hint: str) -> None:
    """``check()`` in a process of its own, which may crash: ``hint`` says what that means."""
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()

    def work() -> None:
        torch.set_num_threads(1)
        try:
            check()
        except BaseException:
            failures.put(traceback.format_exc())
            os._exit(1)
        os._exit(0)

    worker = context.Process(target=work)
    worker.start()
    worker.join()
    assert failures.empty(), failures.get()
    assert worker.exitcode == 0, f"{hint}.\nThe process that tried ended with signal {-(worker.exitcode or 0)}."


def _work(check: Callable[[OpSpec, int], None], spec: OpSpec, rank: int, store: str, failures: Any) -> None:
    # The parent's pool of threads does not survive a fork: one thread never asks for it.
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
        check(spec, rank)
        torch.distributed.destroy_process_group()
    except BaseException:
        failures.put(f"process {rank}:\n{traceback.format_exc()}")
        os._exit(1)
    # Without the parent's exit handlers, pytest's among them.
    os._exit(0)


def dtensor(spec: OpSpec, rank: int) -> None:
    """Split over devices, forward and backward give what the whole tensors give, also where the op gathers."""
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (WORLD,))
    for sample in spec.samples:
        if sample.tensors[0].dim() == 0:
            continue
        # Twice the batch, so that it divides evenly.
        whole = spec.with_rows(sample, lambda tensor: torch.cat([tensor, halved(tensor)]))
        leaves = whole.leaves()
        outputs = spec.call(*leaves, **whole.kwargs)
        expected = outputs if isinstance(outputs, tuple) else (outputs,)
        moving = [leaf for leaf in leaves if leaf.requires_grad]
        expected_grads = torch.autograd.grad(sum(out.sum() for out in expected), moving) if spec.derivatives else ()
        count = len(whole.tensors)
        ways: list[tuple[Any, int | None]] = [*(spec.shards or [([0] * count, 0)]), ([None] * count, None)]
        for dims, output_dim in ways:
            shards = [
                distribute_tensor(t.detach(), mesh, [Replicate() if dim is None else Shard(dim)]).requires_grad_(
                    t.is_floating_point()
                )
                for t, dim in zip(whole.tensors, dims[:count], strict=True)
            ]
            outputs = spec.call(*shards, **whole.kwargs)
            actual = outputs if isinstance(outputs, tuple) else (outputs,)
            assert all(isinstance(out, DTensor) for out in actual)
            for out in actual:
                if out.dim() and output_dim is not None:
                    wanted = Replicate() if OPERATORS[spec.operator].gathers else Shard(output_dim)
                    assert out.placements[0] == wanted, f"gathered, or not split so: {out.placements}"
            torch.testing.assert_close(tuple(out.full_tensor() for out in actual), expected)
            if spec.derivatives:
                moving = [shard for shard in shards if shard.requires_grad]
                grads: Any = torch.autograd.grad(sum(out.sum() for out in actual), moving)
                torch.testing.assert_close(tuple(grad.full_tensor() for grad in grads), expected_grads)


class _Model(torch.nn.Module):
    """A model with the op in it, and parameters that an even number of processes can share."""

    def __init__(self, spec: OpSpec, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([0.6, 0.8], dtype=torch.float64))
        self.spec, self.kwargs = spec, kwargs

    def forward(self, first: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return self.spec.call(self.scale.mean() * first, *rest, **self.kwargs).mean()


def _trained(spec: OpSpec, rank: int, parallel: Callable[[torch.nn.Module], Any]) -> None:
    """In parallel, each process with half the batch, the model gets the gradients of the whole batch."""
    sample = next(sample for sample in spec.samples if sample.tensors[0].dim() > 0)
    whole = sample.map(lambda tensor: torch.cat([tensor, halved(tensor)]))
    model = _Model(spec, sample.kwargs)
    together = parallel(model)
    together(*(tensor.chunk(WORLD)[rank] for tensor in whole.tensors)).backward()
    alone = _Model(spec, sample.kwargs)
    # The average over processes.
    total = sum(alone(*(tensor.chunk(WORLD)[part] for tensor in whole.tensors)) for part in range(WORLD)) / WORLD
    total.backward()
    grad: Any = model.scale.grad
    torch.testing.assert_close(grad.full_tensor() if hasattr(grad, "full_tensor") else grad, alone.scale.grad)


def ddp(spec: OpSpec, rank: int) -> None:
    _trained(spec, rank, torch.nn.parallel.DistributedDataParallel)


def fsdp(spec: OpSpec, rank: int) -> None:
    """FSDP2 around activation checkpointing, which calls the op again in backward."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    mesh = init_device_mesh("cpu", (WORLD,))
    _trained(spec, rank, lambda model: fully_shard(checkpoint_wrapper(model), mesh=mesh))
