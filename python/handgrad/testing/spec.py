"""How an op describes itself to the test matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

#: Why tick 2 is pending where nothing else is said.
NOT_ON_A_DEVICE = "the CUDA kernels pass the matrix in the emulator and have not run on a device"


@dataclass(frozen=True)
class Sample:
    """One call of an op: tensors by position, everything else by name.

    Args:
        name: what is special about it; becomes part of the tests' names.
        tensors: the tensor arguments; the op, if it has derivatives, is differentiable in all of them. Tensors of
            integers (class numbers, say) keep their type where the others are cast.
        kwargs: the other arguments, as the public function takes them.
    """

    name: str
    tensors: tuple[Tensor, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> Sample:
        return self.map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    def map(self, change: Callable[[Tensor], Tensor]) -> Sample:
        return Sample(self.name, tuple(change(tensor) for tensor in self.tensors), self.kwargs)

    def leaves(self) -> tuple[Tensor, ...]:
        """The tensors as fresh leaves that require grad, strides kept."""
        return tuple(tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in self.tensors)


@dataclass(frozen=True)
class Bad:
    """One call that must fail: ``call()`` raises ``error`` with a message that matches ``message`` (a regex)."""

    name: str
    call: Callable[[], Any]
    error: type[Exception]
    message: str


@dataclass(frozen=True)
class OpSpec:
    """Everything the matrix asks about an op.

    Args:
        name: the op's name without namespace; names of tests begin with it.
        operator: its qualified name, ``"handgrad::name"``. Private ops of the derivatives follow the pattern
            ``_name_backward`` and ``_name_double_backward`` and are found by it.
        function: the public function.
        tensors: the names of its tensors, in the order in which samples have them, where they are not its first
            arguments. A sample may have fewer.
        reference: a function of the same arguments in plain PyTorch.
        samples: small float64 samples (tens of elements: gradcheck is quadratic), away from kinks.
        large: one float32 sample big enough for several threads, its sizes no multiples of anything.
        empty: samples with no elements in one way or another.
        module: the module class that computes ``function``, made from a sample's kwargs; None for an op that has none.
        own: the names of the tensors that the module has as parameters of its own: a weight, a bias. Where a parameter
            is named otherwise, a mapping of names to its.
        module_kwargs: the keyword arguments that the module is made with, from a sample, where they are not its kwargs
            alone: sizes of a weight.
        bad: calls that must fail, with their error messages.
        identities: named properties that must hold: callables that assert.
        numel_beyond_int32: a callable that asserts the op right for more than 2^31 elements, cheaply (expanded
            tensors).
        dtypes: what the kernels take; a type of integers where all tensors of the samples are of integers.
        autocast: the dtype that the op computes and returns under autocast; None if it keeps its input's.
        widens: True if of half types it returns float32.
        channels_last: True if the layout means something to the op.
        onnx: names of the samples to export; None exports all.
        optional: names of the tensors that may be None.
        rows: what the first dimension of each tensor counts, a word for each tensor; tensors of one word have one size.
            Empty: all count the same, the batch. A word may be empty, for a tensor whose size is tied to the classes or
            channels of the others.
        calls: how many times the function calls its op for a sample; None: once.
        shards: the ways in which a call can be split over devices, each the dimension that every tensor is split along,
            None for one that all devices have whole, and the dimension that outputs are split along then.
            Empty: the first of all.
        private_ops: suffixes of the private ops that the samples' derivatives come through.
        scratch: bytes that a pass over the large sample may take and give back, where that is more than the next lines
            have; the op's page says what for.
        device_scratch: bytes that the CUDA kernels may take from torch's allocator beside the results, tensors of a few
            numbers and the partial sums of common/cuda/elementwise.cuh at least. The CPU kernels may take 4 KiB.
        device_calls: what one call of a pass on the first sample asks of a device, by the pass' name: launches,
            allocations, and how often the host waits, where it is not one launch, an allocation for each result and no
            wait. Where the host waits, a call cannot be captured in a CUDA graph.
        saves: bytes that the forward may keep for the backward beside the inputs, and the backward for the double
            backward: sums over samples, say, which one step of an op hands to the next.
        sums_of_many: a callable that asserts that sums of many elements go on in double, where the mean of equal
            elements, or of equal rows, is not what shows it. The emulated kernels are asked.
        lenient: by the name of an argument, which values it takes that look like a mistake: images of integers, say,
            beside the floating-point ones of the samples.
        any_rank: True if an op of one tensor takes it with any number of dimensions: further ones are then no mistake.
        derivatives: False for an op that has none, because it returns indices or other decisions. Ticks 3 and 15 are
            then not applicable, and every comparison is of the outputs alone. Decisions at a threshold depend on
            rounding, so the reference computes in the type that the kernels compute in: float32, or float64 for
            float64.
        tolerances: (rtol, atol) by dtype where torch.testing's own are wrong for the op, with the reason beside them.
        floor: the bytes that each pass of a sample must move, by the pass' name (forward, backward, double_backward),
            where it is not that every tensor that goes in is read once and every one that comes out is written once.
        floor_factors: how many times those bytes the CUDA kernels may move, by the pass' name, where it is more than
            1.05, with the reason beside it.
        not_applicable: ticks that make no sense for the op, with the reason.
        pending: ticks that are not done yet, with the reason; they are skipped and shown as missing. Unless told, the
            CUDA kernels on a device.
    """

    name: str
    operator: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    samples: Sequence[Sample]
    large: Sample
    empty: Sequence[Sample]
    module: Callable[..., torch.nn.Module] | None
    bad: Sequence[Bad]
    identities: dict[str, Callable[[], None]]
    numel_beyond_int32: Callable[[], None]
    tensors: Sequence[str] = ()
    own: Sequence[str] | Mapping[str, str] = ()
    module_kwargs: Callable[[Sample], dict[str, Any]] | None = None
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    autocast: torch.dtype | None = None
    widens: bool = False
    channels_last: bool = True
    onnx: Sequence[str] | None = None
    optional: Sequence[str] = ()
    rows: Sequence[str] = ()
    calls: Callable[[Sample], int] | None = None
    shards: Sequence[tuple[Sequence[int | None], int]] = ()
    private_ops: Sequence[str] = ("backward", "double_backward")
    scratch: int = 0
    device_scratch: int = 16 * 1024
    device_calls: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    saves: int = 0
    sums_of_many: Callable[[], None] | None = None
    lenient: dict[str, Callable[[Any], bool]] = field(default_factory=dict)
    any_rank: bool = False
    derivatives: bool = True
    tolerances: dict[torch.dtype, tuple[float, float]] = field(default_factory=dict)
    floor: Callable[[Sample], dict[str, int]] | None = None
    floor_factors: dict[str, float] = field(default_factory=dict)
    not_applicable: dict[int, str] = field(default_factory=dict)
    pending: dict[int, str] = field(default_factory=lambda: {2: NOT_ON_A_DEVICE})

    def __post_init__(self) -> None:
        for tick in (3, 15):
            if not self.derivatives and tick not in self.not_applicable:
                raise ValueError(f"{self.name}: not_applicable must say why tick {tick} is not asked: no derivatives")

    @property
    def namespace(self) -> str:
        return self.operator.split("::")[0]

    def compute_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What the reference computes in, for kernels that are given ``dtype``."""
        return torch.float64 if self.derivatives or dtype is torch.float64 else torch.float32

    def takes(self, name: str) -> Callable[[Any], bool]:
        """Which values that look like a mistake the argument ``name`` takes."""
        return self.lenient.get(name, lambda value: False)

    def counted(self, index: int) -> str:
        """What the first dimension of the tensor at ``index`` counts."""
        return self.rows[index] if self.rows else "batch"

    def grown(self, sample: Sample, times: int) -> Sample:
        """``sample`` with as many rows ``times`` over; more for each further kind of rows, so that all sizes differ."""
        kinds = list(dict.fromkeys(self.rows))
        counted = [self.counted(index) for index in range(len(sample.tensors))]
        factors = [(times + (kinds.index(word) if kinds else 0)) if word else 1 for word in counted]
        tensors = tuple(torch.cat([t] * factor) for t, factor in zip(sample.tensors, factors, strict=True))
        return Sample(sample.name, tensors, sample.kwargs)

    def with_rows(self, sample: Sample, change: Callable[[Tensor], Tensor]) -> Sample:
        """``sample`` with other rows, what ``change`` makes of each tensor; those of no word stay."""
        counted = (self.counted(index) for index in range(len(sample.tensors)))
        tensors = (change(t) if word else t for t, word in zip(sample.tensors, counted, strict=True))
        return Sample(sample.name, tuple(tensors), sample.kwargs)

    def on(self, device: str) -> OpSpec:
        """The same spec with its samples on ``device``."""

        def there(samples: Sequence[Sample]) -> list[Sample]:
            return [sample.map(lambda tensor: tensor.to(device)) for sample in samples]

        return replace(self, samples=there(self.samples), large=there([self.large])[0], empty=there(self.empty))

    @cached_property
    def call(self) -> Callable[..., Any]:
        """The public function, with the tensors of a sample by position and everything else by name."""
        if not self.tensors:
            return self.function
        function, names = self.function, tuple(self.tensors)

        def call(*tensors: Tensor, **kwargs: Any) -> Any:
            return function(**dict(zip(names, tensors, strict=False)), **kwargs)

        return call

    def tensor_names(self, count: int) -> list[str]:
        """What the public function calls the first ``count`` tensors of a sample."""
        return list(self.tensors or self.function.__code__.co_varnames)[:count]

    def as_module(self, sample: Sample) -> tuple[torch.nn.Module, tuple[int, ...]]:
        """The op as a module, its own if it has one, and which of the sample's tensors that is called with."""
        indices = tuple(range(len(sample.tensors)))
        if self.module is None:
            return _FunctionModule(self.call, sample.kwargs), indices
        module = self.module(**(self.module_kwargs(sample) if self.module_kwargs else sample.kwargs))
        names = self.tensor_names(len(indices))
        for name, tensor in zip(names, sample.tensors, strict=True):
            if name in self.parameters:
                setattr(module, self.parameters[name], torch.nn.Parameter(tensor, requires_grad=False))
        return module, tuple(index for index in indices if names[index] not in self.own)

    @property
    def parameters(self) -> Mapping[str, str]:
        """What the module's own parameters are called, by the tensors that they are."""
        return self.own if isinstance(self.own, Mapping) else {name: name for name in self.own}

    def private(self, suffix: str) -> str:
        return f"{self.namespace}::_{self.name}_{suffix}"

    def close(self, actual: Any, expected: Any, dtype: torch.dtype, **kwargs: Any) -> None:
        """``actual`` equals ``expected`` (computed in float64) as closely as ``dtype`` allows."""
        rtol, atol = self.tolerances.get(dtype, (None, None))
        torch.testing.assert_close(
            actual,
            torch.utils._pytree.tree_map(lambda e, a: e.to(a.dtype), expected, actual),
            rtol=rtol,
            atol=atol,
            equal_nan=True,
            **kwargs,
        )


class _FunctionModule(torch.nn.Module):
    def __init__(self, function: Callable[..., Any], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function = function
        self.kwargs = kwargs

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors, **self.kwargs)


def reseeded(seed: int = 0) -> torch.Generator:
    """A generator for samples, the same on every run."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def halved(tensor: Tensor) -> Tensor:
    """Another sample like ``tensor``: half of it. Integers stay, since they may be the numbers of something."""
    return 0.5 * tensor if tensor.is_floating_point() else tensor


def far_apart(tensor: Tensor) -> Tensor:
    """The same values, the slices of the outermost dimension spread over more than 2^31 elements of address space.

    The pages between them are never touched, so this costs next to no memory.
    """
    if tensor.dim() == 0 or tensor.shape[0] < 2:
        return tensor
    step = (2**31 + 4096) // (tensor.shape[0] - 1)
    inner = tensor[0].contiguous()
    memory = tensor.new_empty(step * (tensor.shape[0] - 1) + inner.numel())
    view = memory.as_strided(tensor.shape, (step, *inner.stride()))
    return view.copy_(tensor)
