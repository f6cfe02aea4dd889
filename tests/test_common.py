"""csrc/common, function by function, against numpy and torch: at every level that handgrad builds for."""

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from handgrad import _library

ROOT = Path(__file__).resolve().parent.parent
LEVELS = [level for level in ("v2", "v3", "v4") if int(level[1]) <= int(_library.LOADED.processor_level[1:])]


@pytest.fixture(scope="module", params=LEVELS)
def probe(request, tmp_path_factory):
    library = tmp_path_factory.mktemp("probe") / f"probe_{request.param}.so"
    subprocess.run(
        [
            *(os.environ.get("CXX", "g++"), "-std=c++20", "-O3", "-shared", "-fPIC", "-fopenmp-simd"),
            *("-fno-math-errno", "-fno-trapping-math", f"-march=x86-64-{request.param}"),
            "-DTORCH_TARGET_VERSION=0x020a000000000000",
            *(f"-I{ROOT / 'csrc/common'}", f"-isystem{Path(torch.__file__).parent / 'include'}"),
            *(str(ROOT / "tests/common/probe.cpp"), "-o", str(library)),
            *(f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu"),
        ],
        check=True,
    )
    return ctypes.CDLL(str(library))


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
