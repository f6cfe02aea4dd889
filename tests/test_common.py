"""csrc/common, function by function, against numpy and torch: at every level that handgrad builds for."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from handgrad import _library

ROOT = Path(__file__).resolve().parent.parent
LEVELS = [level for level in ("v2", "v3", "v4") if int(level[1]) <= int(_library.LOADED.processor_level[1:])]


def compiled(library, sources, *flags):
    subprocess.run(
        [
            *(os.environ.get("CXX", "g++"), "-std=c++20", "-shared", "-fPIC", "-fopenmp-simd", "-fvisibility=hidden"),
            *("-fno-math-errno", "-fno-trapping-math", *flags, "-DTORCH_TARGET_VERSION=0x020a000000000000"),
            *(f"-I{ROOT / 'csrc/common'}", f"-isystem{Path(torch.__file__).parent / 'include'}"),
            *("-x", "c++", *map(str, sources), "-o", str(library)),
            *(f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu"),
        ],
        check=True,
    )
    return str(library)


@pytest.fixture(scope="module", params=LEVELS)
def probe(request, tmp_path_factory):
    library = tmp_path_factory.mktemp("probe") / f"probe_{request.param}.so"
    flags = ("-O3", "-fvisibility=default", f"-march=x86-64-{request.param}")
    return ctypes.CDLL(compiled(library, [ROOT / "tests/common/probe.cpp"], *flags))


def call(probe, name, *arrays, dtype=None):
    out = np.empty(arrays[0].shape, dtype or arrays[0].dtype)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (*arrays, out)]
    getattr(probe, name)(*pointers, ctypes.c_int64(out.size))
    return out


def ulps(actual, exact):
    """Units in the last place of the actual result's type by which it misses ``exact``, given in higher precision."""
    spacing = np.spacing(np.abs(exact).astype(actual.dtype))
    return np.abs(actual.astype(np.longdouble) - exact) / spacing


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan]
TYPES = [("float", np.float32), ("double", np.float64)]


@pytest.mark.parametrize(("c_type", "dtype"), TYPES, ids=["float", "double"])
def test_exp(probe, c_type, dtype):
    low, high = (-87.3, 88.7) if dtype is np.float32 else (-708.3, 709.7)
    x = np.linspace(low, high, 400_001).astype(dtype)
    assert ulps(call(probe, f"exp_{c_type}", x), np.exp(x.astype(np.longdouble))).max() <= 1.5
    # subnormal results are off by no more than their spacing
    x = np.linspace(low - 20, low, 10_001).astype(dtype)
    exact = np.exp(x.astype(np.longdouble))
    assert (
        np.abs(call(probe, f"exp_{c_type}", x) - exact).max()
        <= 1.5 * np.finfo(dtype).smallest_normal * np.finfo(dtype).eps
    )
    x = np.array([*SPECIAL, 1e30, -1e30], dtype)
    np.testing.assert_array_equal(call(probe, f"exp_{c_type}", x), [1, 1, np.inf, 0, np.nan, np.inf, 0])


@pytest.mark.parametrize(("c_type", "dtype"), TYPES, ids=["float", "double"])
def test_exp_decay(probe, c_type, dtype):
    normal, zero = (87.3, 88.0) if dtype is np.float32 else (708.3, 709.0)
    x = np.concatenate([np.linspace(0, normal, 400_001), np.logspace(-40, 0, 1000)]).astype(dtype)
    assert ulps(call(probe, f"exp_decay_{c_type}", x), np.exp(-x.astype(np.longdouble))).max() <= 1.5
    # from there on it falls to 0 within the smallest normal number
    x = np.linspace(normal, zero, 10_001).astype(dtype)
    missed = np.abs(call(probe, f"exp_decay_{c_type}", x) - np.exp(-x.astype(np.longdouble)))
    assert missed.max() <= np.finfo(dtype).smallest_normal
    x = np.array([0.0, zero, np.inf, np.nan, 1e4, np.finfo(dtype).max], dtype)
    np.testing.assert_array_equal(call(probe, f"exp_decay_{c_type}", x), [1, 0, 0, np.nan, 0, 0])


@pytest.mark.parametrize(("c_type", "dtype"), TYPES, ids=["float", "double"])
def test_log1p_unit(probe, c_type, dtype):
    x = np.concatenate([np.linspace(0, 1, 400_001), np.logspace(-37, 0, 10_000)]).astype(dtype)
    exact = np.log1p(x.astype(np.longdouble))
    actual = call(probe, f"log1p_unit_{c_type}", x)
    assert ulps(actual, exact).max() <= 3
    assert actual[0] == 0


@pytest.mark.parametrize(("c_type", "dtype"), TYPES, ids=["float", "double"])
def test_log1p_positive(probe, c_type, dtype):
    largest = np.log10(np.finfo(dtype).max)
    x = np.concatenate([np.linspace(0, 20, 400_001), np.logspace(-37, largest - 1e-3, 100_000)]).astype(dtype)
    exact = np.log1p(x.astype(np.longdouble))
    actual = call(probe, f"log1p_positive_{c_type}", x)
    assert ulps(actual, exact).max() <= 3
    assert actual[0] == 0
    x = np.array([np.inf, np.nan, np.finfo(dtype).max, np.finfo(dtype).smallest_normal], dtype)
    expected = [np.inf, np.nan, np.log(np.finfo(dtype).max), np.finfo(dtype).smallest_normal]
    np.testing.assert_allclose(call(probe, f"log1p_positive_{c_type}", x), expected, rtol=np.finfo(dtype).eps)


@pytest.mark.parametrize(("c_type", "dtype"), TYPES, ids=["float", "double"])
def test_expm1_decay(probe, c_type, dtype):
    x = np.concatenate([np.linspace(0, 100, 400_001), np.logspace(-37, 0, 100_000)]).astype(dtype)
    actual = call(probe, f"expm1_decay_{c_type}", x)
    assert ulps(actual, np.expm1(-x.astype(np.longdouble))).max() <= 3
    x = np.array([0.0, np.inf, np.nan, 1e4, np.finfo(dtype).max], dtype)
    np.testing.assert_array_equal(call(probe, f"expm1_decay_{c_type}", x), [0, -1, np.nan, -1, -1])


@pytest.mark.parametrize(("c_type", "dtype"), TYPES, ids=["float", "double"])
def test_atan_of_ratio(probe, c_type, dtype):
    # b first below and then above a
    ratios = np.concatenate([np.linspace(0, 2, 200_001), np.logspace(-30, 30, 100_000)])
    b = np.random.default_rng(0).uniform(0.5, 2, ratios.size).astype(dtype)
    a = (ratios * b).astype(dtype)
    exact = np.arctan2(a.astype(np.longdouble), b.astype(np.longdouble))
    for sign_a, sign_b in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        actual = call(probe, f"atan_of_ratio_{c_type}", sign_a * a, sign_b * b)
        assert ulps(actual, sign_a * sign_b * exact).max() <= 3
    a, b = np.array([[0, 0], [0, 3], [3, 0], [-3, 0], [0, -3], [np.nan, 1], [1, np.nan]], dtype).T.copy()
    half = dtype(np.pi / 2)
    np.testing.assert_array_equal(call(probe, f"atan_of_ratio_{c_type}", a, b), [0, 0, half, -half, 0, np.nan, np.nan])


@pytest.mark.parametrize(("c_type", "dtype"), TYPES, ids=["float", "double"])
def test_log(probe, c_type, dtype):
    smallest = np.finfo(dtype).smallest_subnormal
    x = np.concatenate(
        [np.logspace(-37, 38, 200_000), np.linspace(0.5, 2, 200_000), [smallest, 100 * smallest, np.finfo(dtype).max]]
    ).astype(dtype)
    exact = np.log(x.astype(np.longdouble))
    # Near 1 the result itself is small; the error is measured against the larger of the two parts it is the sum of.
    actual = call(probe, f"log_{c_type}", x)
    assert np.max(np.abs(actual - exact) / np.maximum(np.abs(exact), np.finfo(dtype).tiny)) <= 4 * np.finfo(dtype).eps
    special = call(probe, f"log_{c_type}", np.array([*SPECIAL, -1.0], dtype))
    np.testing.assert_array_equal(special, [-np.inf, -np.inf, np.inf, np.nan, np.nan, np.nan])


@pytest.mark.parametrize(("c_type", "dtype"), TYPES, ids=["float", "double"])
def test_pow(probe, c_type, dtype):
    generator = np.random.default_rng(0)
    base = np.exp(generator.uniform(-20, 20, 200_000)).astype(dtype)
    exponent = generator.uniform(-3, 3, 200_000).astype(dtype)
    exact = np.power(base.astype(np.longdouble), exponent.astype(np.longdouble))
    # float is computed in double and rounded once; double carries the logarithm's error times the exponent
    limit = 0.51 if dtype is np.float32 else 80
    assert ulps(call(probe, f"pow_{c_type}", base, exponent), exact).max() <= limit
    # at both ends of the range, around 1, and for subnormal numbers: of float, which double has room for
    if dtype is np.float32:
        base = np.concatenate([np.exp(generator.uniform(-103, -87, 100_000)), generator.uniform(0.99, 1.01, 100_000)])
        exponent = np.concatenate([generator.uniform(-0.9, 0.9, 100_000), generator.uniform(-9e3, 9e3, 100_000)])
        base, exponent = base.astype(dtype), exponent.astype(dtype)
        exact = np.power(base.astype(np.longdouble), exponent.astype(np.longdouble))
        actual = call(probe, "pow_float", base, exponent)
        finite = exact < np.finfo(dtype).max
        assert np.isposinf(actual[~finite]).all()
        normal = finite & (exact > np.finfo(dtype).smallest_normal)
        assert ulps(actual[normal], exact[normal]).max() <= 0.51
        step = np.finfo(dtype).smallest_subnormal
        assert np.abs(actual[finite & ~normal] - exact[finite & ~normal]).max() <= 0.51 * step
    base = np.array([0.0, 0.0, 0.0, np.inf, np.inf, 1.0, np.nan, -2.0, np.nan], dtype)
    exponent = np.array([2.0, 0.0, -1.0, 2.0, -1.0, 5.0, 1.0, 0.5, 0.0], dtype)
    expected = [0, 1, np.inf, np.inf, 0, 1, np.nan, np.nan, 1]
    np.testing.assert_array_equal(call(probe, f"pow_{c_type}", base, exponent), expected)


@pytest.mark.parametrize(("c_type", "dtype"), TYPES, ids=["float", "double"])
def test_transpose(probe, c_type, dtype):
    """Of every size around those of its squares; what is between the rows of the result stays."""
    for rows in (0, 1, 3, 4, 7, 8, 13, 16, 31, 37):
        for columns in (0, 1, 2, 5, 8, 12, 16, 29, 33):
            matrix = np.arange(rows * (columns + 3), dtype=dtype).reshape(rows, columns + 3)
            result = np.full((columns, rows + 5), -1, dtype)
            steps = ctypes.c_int64(columns + 3), ctypes.c_int64(rows), ctypes.c_int64(columns)
            pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (matrix, result)]
            getattr(probe, f"transpose_{c_type}")(pointers[0], *steps, pointers[1], ctypes.c_int64(rows + 5))
            np.testing.assert_array_equal(result[:, :rows], matrix[:, :columns].T)
            assert (result[:, rows:] == -1).all()


@pytest.mark.parametrize(
    ("c_type", "dtype"), [("Half", torch.float16), ("BFloat16", torch.bfloat16)], ids=["half", "bf16"]
)
def test_every_half_is_widened_as_torch_does(probe, c_type, dtype):
    every = np.arange(65536, dtype=np.uint16)
    expected = torch.from_numpy(every.view(np.int16)).view(dtype).float().numpy()
    actual = call(probe, f"widen_{c_type}", every, dtype=np.float32)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(actual.view(np.uint32)[known], expected.view(np.uint32)[known])


@pytest.mark.parametrize(
    ("c_type", "dtype"), [("Half", torch.float16), ("BFloat16", torch.bfloat16)], ids=["half", "bf16"]
)
def test_floats_are_narrowed_as_torch_does(probe, c_type, dtype):
    """Every 251st float there is, and around every half the ones that decide a rounding."""
    bits = np.arange(0, 2**32, 251, dtype=np.uint64).astype(np.uint32)
    every = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype).float().numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        middles = ((every[:-1].astype(np.float64) + every[1:]) / 2).astype(np.float32)
    near = np.concatenate(
        [middles, np.nextafter(middles, np.float32(np.inf)), np.nextafter(middles, np.float32(-np.inf))]
    )
    x = np.concatenate([bits.view(np.float32), every, near])
    expected = torch.from_numpy(x).to(dtype).view(torch.int16).numpy().view(np.uint16)
    actual = call(probe, f"narrow_{c_type}", x, dtype=np.uint16)
    nan = np.isnan(x)
    np.testing.assert_array_equal(actual[~nan], expected[~nan])
    assert torch.from_numpy(actual[nan].view(np.int16)).view(dtype).isnan().all()


# ---- loops over elements, on both devices ----------------------------------------------------------------------------

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
WHOLE = 2**31 - 1


@pytest.fixture(scope="module", params=["cpu", "emulated"])
def loops(request, tmp_path_factory):
    """The ops of tests/common/elements.cu and pairs.cu, and the library that they are in."""
    library = tmp_path_factory.mktemp("loops") / f"{request.param}.so"
    sources = [ROOT / "tests/common/elements.cu", ROOT / "tests/common/pairs.cu"]
    flags = [f"-DHANDGRAD_PROBE=probe_{request.param}", "-O2"]
    if request.param == "emulated":
        emulator = ROOT / "csrc/emulator"
        sources += sorted(emulator.glob("src/*.cpp"))
        flags += ["-DHANDGRAD_EMULATED", "-O1", f"-I{emulator / 'include'}", "-Wno-unknown-pragmas"]
    torch.ops.load_library(compiled(library, sources, *flags))
    ops = getattr(torch.ops, f"probe_{request.param}")
    return ops, library


@pytest.fixture
def elements(loops):
    """`sum_and_product(a, b, scalar, summed, limit)`."""
    return loops[0].sum_and_product


def layouts(dtype):
    """Pairs of tensors that a loop reaches in every way that it has, and beyond the end of a run or a vector."""
    generator = torch.Generator().manual_seed(0)

    def values(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    for count in (0, 1, 3, 31, 32, 33, 511, 512, 513, 4096, 4097):
        yield values(count), values(count)
    yield values(7, 9).t(), values(9, 7)
    yield values(5, 6, 7).permute(2, 0, 1), values(7, 5, 6).transpose(0, 0)
    yield values(40, 50)[::2, 1::3], values(20, 17)
    yield values(1, 50).expand(60, 50), values(60, 50)
    yield values(1025)[1:], values(1024)  # not aligned to a vector
    yield values().expand(3, 4), values(3, 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_loop_reaches_every_element_once(elements, dtype):
    scalar = torch.tensor(3.0).to(dtype)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    for a, b in layouts(dtype):
        in_sum, in_product = a.to(wide) + b.to(wide) + 0.75, a.to(wide) * b.to(wide)
        # Pieces that are cut for indices of few bits, here of a few elements, give what the whole gives.
        for limit in (WHOLE, 100, 7):
            total, product = elements(a, b, scalar, False, limit)
            torch.testing.assert_close(total, in_sum.to(dtype), msg=f"{a.shape}, {a.stride()}, {limit}")
            torch.testing.assert_close(product, in_product.to(dtype), msg=f"{a.shape}, {a.stride()}, {limit}")
            total, product = elements(a, b, scalar, True, limit)
            torch.testing.assert_close(total, (in_sum.double().sum() / 2).to(dtype), msg=f"{a.shape}, {limit}")
            torch.testing.assert_close(product, in_product.to(dtype))
            again = elements(a, b, scalar, True, limit)[0]
            assert torch.equal(again, total)


def test_a_sum_of_many_equal_terms_is_right_to_the_last_place(elements):
    """However many there are: a thread or a run adds a few of them in float, and goes on in double."""
    a, b = torch.full((2**24,), 0.3), torch.full((2**24,), 0.4123)
    for scalar in (-0.7, 0.2, 5.1):
        element = elements(a[:8], b[:8], torch.tensor(scalar), False, WHOLE)[0][0].double()
        total = elements(a, b, torch.tensor(scalar), True, WHOLE)[0].double()
        assert abs(total / (element * a.numel() / 2) - 1) < 1.5 * 2**-24


def box_layouts(dtype):
    """Pairs of sets of boxes that a loop reaches in every way that it has, and beyond the end of a run."""
    generator = torch.Generator().manual_seed(0)

    def values(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    for count in (0, 1, 3, 31, 32, 33, 511, 512, 513, 4096, 4097):
        yield values(count, 4), values(count, 4)
    yield values(4, 600).t(), values(600, 4)  # each coordinate by itself
    yield values(600, 4), values(600, 6)[:, 1:5]
    yield values(600, 8)[:, ::2], values(4, 600).t()
    yield values(7, 9, 4).transpose(0, 1), values(9, 7, 4)
    yield values(40, 50, 4)[::2, 1::3], values(20, 17, 4)
    yield values(1, 4).expand(700, 4), values(700, 4)
    yield values(700, 1).expand(700, 4), values(700, 4)
    yield values(2801)[1:].view(700, 4), values(700, 4)  # not aligned to a box


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_loop_reaches_every_pair_of_boxes_once(loops, dtype):
    mixture = loops[0].mixture
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    factors = torch.tensor([1.0, 2, 3, 4], dtype=wide)
    for first, second in box_layouts(dtype):
        a, b = first.to(wide), second.to(wide)
        grad = torch.randn(first.shape[:-1], dtype=wide, generator=torch.Generator().manual_seed(1))
        losses = (a * factors).sum(-1) - b[..., 0] - b[..., 3]
        for direction in (second.flip(-1), None):
            expected = (b + grad[..., None]).to(dtype), (a if direction is None else a + b.flip(-1)).to(dtype)
            # Pieces that are cut for indices of few bits, here of a few pairs, give what the whole gives.
            for limit in (WHOLE, 100, 30):
                where = f"{first.shape}, {first.stride()}, {second.stride()}, {limit}"
                loss, *boxes = mixture(first, second, direction, grad, False, limit)
                torch.testing.assert_close((loss, *boxes), (losses, *expected), msg=where)
                loss, *boxes = mixture(first, second, direction, torch.tensor(3.0, dtype=wide), True, limit)
                torch.testing.assert_close(loss, (losses.double().sum() / 2).to(wide), msg=where)
                torch.testing.assert_close(boxes, [(b + 0.75).to(dtype), expected[1]], msg=where)
                assert torch.equal(mixture(first, second, None, grad, True, limit)[0], loss)


def test_a_failed_call_of_the_runtime_is_not_blamed_on_the_next(loops):
    library = loops[1]
    if library.stem == "emulated":
        assert ctypes.CDLL(str(library)).error_after_a_failure() == 0


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_a_loss_computes_what_is_asked_for(backend):
    """output_mask: every result that is asked for is the one of all of them, and the others have no elements."""
    program = """
import itertools, torch, handgrad.losses
ops, numbers = torch.ops.handgrad, {
    "sigmoid_focal_loss": [(0.25, 2.0), (0.25, 1.5)],
    "asymmetric_loss": [(4.0, 1.0, 0.05), (4.5, 1.0, 0.0)],
}
torch.manual_seed(0)
x, t, u, v = torch.randn(4, 33, dtype=torch.float64).unbind()
t = t.sigmoid()

def masked(op, mask, *args):
    whole, part = op(*args, [True] * len(mask)), op(*args, list(mask))
    for asked, one, other in zip(mask, whole, part, strict=True):
        assert other.dtype == one.dtype and (asked or other.shape == (0,)), (args, mask)
        if asked:
            torch.testing.assert_close(other, one)

for name, choices in numbers.items():
    backward, double_backward = (getattr(ops, f"_{name}_{end}backward").default for end in ("", "double_"))
    for chosen, reduction in itertools.product(choices, (0, 1, 2)):
        g = torch.randn(33).double() if reduction == 0 else torch.tensor(0.7).double()
        for mask in itertools.product((False, True), repeat=2):
            masked(backward, mask, g, x, t, *chosen, reduction)
        for mask in itertools.product((False, True), repeat=3):
            for directions in ((u, v), (u, None), (None, v), (None, None)):
                masked(double_backward, mask, *directions, g, x, t, *chosen, reduction)
    try:
        backward(g, x, t, *chosen, 2, [True])
    except RuntimeError as error:
        print(error)
"""
    environment = {**os.environ, **({"HANDGRAD_BACKEND": "emulated"} if backend == "emulated" else {})}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    message = "output_mask must have one bool for each result, 2; got 1"
    assert done.stdout.splitlines() == [f"sigmoid_focal_loss: {message}", f"asymmetric_loss: {message}"]
