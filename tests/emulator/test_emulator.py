"""The emulator of csrc/emulator: right kernels give right values, and each planted fault its sentence."""

import ctypes
import fcntl
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EMULATOR, KERNELS = ROOT / "csrc/emulator", Path(__file__).parent / "kernels"
COMPILER = os.environ.get("CXX", "g++")
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
COMMON = ["-std=c++20", "-fPIC", "-fno-gnu-unique", "-I", str(EMULATOR / "include"), "-I", str(KERNELS), *WARNINGS]
UNDEFINED = "alignment,bounds,signed-integer-overflow,shift,integer-divide-by-zero"
BUILDS = {
    "plain": ["-O2"],
    "checked": [
        "-O1",
        "-g",
        "-fno-tree-loop-im",
        "--param",
        "tsan-distinguish-volatile=1",
        "-fsanitize=thread",
        f"-fsanitize={UNDEFINED}",
    ],
    "address": ["-O0", "-g", "-fsanitize=address"],
    "ucontext": ["-O2"],
}

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which(COMPILER) is None, reason=f"needs Linux and {COMPILER}"
)

spec = importlib.util.spec_from_file_location("emulator_control", EMULATOR / "control.py")
control = importlib.util.module_from_spec(spec)
spec.loader.exec_module(control)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Compiles what is asked for, once, even if several processes share the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "emulator"
    folder.mkdir(exist_ok=True)

    def make(target: str, command: list[str]) -> Path:
        path = folder / target
        with (folder / f"{target}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                unfinished = folder / f"unfinished_{target}"
                subprocess.run([COMPILER, *command, "-o", str(unfinished)], check=True, timeout=300)
                unfinished.rename(path)
        return path

    def engine(build: str) -> list[str]:
        kind, flags = ("address", BUILDS["address"]) if build == "address" else ("plain", ["-O2"])
        if build == "ucontext":
            kind, flags = build, ["-O0", "-DHANDGRAD_EMULATOR_UCONTEXT"]

        def compiled(source: Path) -> str:
            # Of the engine's files, only one knows how contexts are switched.
            if build == "ucontext" and source.stem != "fiber":
                return compiled_as("plain", ["-O2"], source)
            return compiled_as(kind, flags, source)

        def compiled_as(kind: str, flags: list[str], source: Path) -> str:
            return str(make(f"{kind}_{source.stem}.o", [*COMMON, *flags, "-c", str(source)]))

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(compiled, sorted((EMULATOR / "src").glob("*.cpp"))))

    @functools.cache
    def build(kernels: str, build: str = "plain", *defines: str) -> Path:
        name = "_".join([build, kernels, *defines])
        program = build == "address"
        flags = [*COMMON, *BUILDS[build], *(f"-D{define}" for define in defines)]
        object_file = make(f"{name}.o", [*flags, "-x", "c++", "-c", str(KERNELS / f"{kernels}.cu")])
        link = ["-fsanitize=address", "-pthread"] if program else ["-shared", "-pthread", "-Wl,-z,defs"]
        return make(name if program else f"lib{name}.so", [str(object_file), *engine(build), *link])

    return build


class Kernels:
    """A library of tests/emulator/kernels; faults are exceptions."""

    def __init__(self, path: Path):
        self.library = ctypes.CDLL(str(path))
        self.library.message_of_call.restype = ctypes.c_char_p
        self.emulator = control.Emulator(path)

    def __getattr__(self, name):
        function = getattr(self.library, name)

        def call(*arguments):
            if function(*(pointer(a) if isinstance(a, np.ndarray) else a for a in arguments)):
                raise RuntimeError(self.library.message_of_call().decode())

        return call


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


@pytest.fixture
def load(built):
    """Loads a build, and puts its schedule back afterwards."""
    loaded = []

    def load(*build):
        loaded.append(Kernels(built(*build)))
        return loaded[-1]

    yield load
    for kernels in loaded:
        kernels.emulator.set_schedule("forward")
        kernels.emulator.set_os_threads(1)
        kernels.emulator.reset_counters()


@pytest.fixture
def random():
    return np.random.default_rng(7)


SCHEDULES = ["forward", "reverse", "random:0", "random:1", "random:2"]
# The barriers of barriers.cu; each can be left out with -DWITHOUT_BARRIER_n.
LEFT_OUT = {1: "sum", 2: "sum", 3: "transpose", 4: "scan", 5: "scan", 6: "rotate_warp"}


def run_sum(kernels):
    x = np.random.default_rng(1).normal(size=5000).astype(np.float32)
    partial = np.full(3, np.nan, np.float32)
    kernels.run_block_sum(x, partial, ctypes.c_int64(x.size), 3)
    np.testing.assert_allclose(partial.sum(), x.sum(dtype=np.float64), rtol=1e-5)


def run_transpose(kernels):
    x = np.random.default_rng(2).normal(size=(70, 45)).astype(np.float32)
    out = np.full((45, 70), np.nan, np.float32)
    kernels.run_transpose(x, out, *x.shape)
    np.testing.assert_array_equal(out, x.T)


def run_scan(kernels):
    x = np.arange(3, 203, dtype=np.int32)
    out = np.zeros_like(x)
    kernels.run_scan(x, out, x.size)
    np.testing.assert_array_equal(out, np.cumsum(x))


def run_rotate_warp(kernels):
    x = np.arange(128, dtype=np.int32)
    out = np.zeros_like(x)
    kernels.run_rotate_warp(x, out)
    np.testing.assert_array_equal(out.reshape(4, 32), np.roll(x.reshape(4, 32), -1, axis=1))


RUNS = {"sum": run_sum, "transpose": run_transpose, "scan": run_scan, "rotate_warp": run_rotate_warp}


# ---- right kernels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("build", ["plain", "checked"])
@pytest.mark.parametrize("name", RUNS)
def test_right_kernels_are_right_in_every_order(load, name, build, schedule):
    kernels = load("barriers", build)
    kernels.emulator.set_schedule(schedule)
    RUNS[name](kernels)


@pytest.mark.parametrize("build", ["plain", "checked"])
def test_templates_have_their_own_shared_memory(load, build, random):
    kernels = load("barriers", build)
    x = random.normal(size=5000)
    partial = np.full(3, np.nan)
    kernels.run_block_sum_double(x, partial, ctypes.c_int64(x.size), 3)
    np.testing.assert_allclose(partial.sum(), x.sum(), rtol=1e-12)
    run_sum(kernels)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("build", ["plain", "checked"])
def test_histogram_with_shared_atomics(load, build, schedule, random):
    kernels = load("features", build)
    kernels.emulator.set_schedule(schedule)
    x = random.integers(0, 256, 4000, dtype=np.uint8)
    counts = np.zeros(256, np.uint32)
    kernels.run_histogram(x, counts, ctypes.c_int64(x.size))
    np.testing.assert_array_equal(counts, np.bincount(x, minlength=256))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("build", ["plain", "checked"])
def test_meetings_of_a_warp(load, build, schedule, random):
    kernels = load("features", build)
    kernels.emulator.set_schedule(schedule)
    x = random.integers(0, 9, 64).astype(np.int32)
    out = np.full((64, 12), 0xFFFFFFFF, np.uint32)
    kernels.run_meetings(x, out)
    mask_of = lambda flags: sum(int(flag) << lane for lane, flag in enumerate(flags))  # noqa: E731
    for thread in range(64):
        warp, lane = x[thread // 32 * 32 :][:32], thread % 32
        expected = [
            mask_of(warp > 3),
            (warp > 6).any(),
            (warp >= 0).all(),
            mask_of(warp == warp[lane]),
            warp.sum(),
            warp[lane // 8 * 8 + 5],
            warp[lane - 3 if lane >= 3 else lane],
            warp[lane ^ 9],
            warp[:16].max() if lane < 16 else mask_of(warp & 1) & 0xFFFF0000,
            (x > 3).sum(),
            (x == 7).any() + 2 * (x < 9).all(),
            0 if lane >= 24 else 0x00FFFFFF,
        ]
        assert out[thread].tolist() == [int(value) for value in expected]


@pytest.mark.parametrize("build", ["plain", "checked"])
def test_atomics_of_every_type(load, build):
    kernels = load("features", build)
    threads, per_block = 5 * 96, 96
    integers = np.array([0, 0, -5, 5, 0xFFFF, 0], np.int32)
    single, double = np.zeros(1, np.float32), np.zeros(1)
    half, bfloat16 = np.zeros(1, np.float16), np.zeros(1, np.uint16)
    word, wide = np.zeros(1, np.uint16), np.zeros(2, np.uint64)
    kernels.run_atomics(integers, single, double, half, bfloat16, word, wide)
    assert integers.tolist() == [threads, -2 * threads, per_block - 1, 1 - per_block, 0xFF00, 0xFF]
    assert single[0] == threads / 2
    assert double[0] == threads / 4
    assert half[0] == threads
    # In bfloat16, 256 + 1 rounds back to 256.
    assert (bfloat16.astype(np.uint32) << 16).view(np.float32)[0] == 256
    assert word[0] == 3 * threads
    assert wide.tolist() == [threads << 40, (per_block - 1) << 40]


def test_three_dimensions(load):
    kernels = load("features")
    out = np.full((4, 2, 3, 2, 3, 4), -1, np.int32)
    kernels.run_coordinates(out)
    bz, by, bx, tz, ty, tx = np.indices(out.shape)
    np.testing.assert_array_equal(out, tx + 10 * ty + 100 * tz + 1000 * (bx + 10 * by + 100 * bz))


def test_half_types_round_to_nearest_even(load, random):
    kernels = load("features")
    x = np.concatenate(
        [
            random.normal(size=2000) * 10.0 ** random.integers(-9, 6, 2000),
            np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.9, 65520, 2**-24, 2**-25, 2**-25 * 1.01, 1e-40]),
            np.arange(2000) * 2.0**-25,
        ]
    ).astype(np.float32)
    half, bfloat16, back = np.zeros(x.size, np.float16), np.zeros(x.size, np.uint16), np.zeros_like(x)
    kernels.run_convert(x, half, bfloat16, back, x.size)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    np.testing.assert_array_equal(half, expected)
    np.testing.assert_array_equal(np.signbit(half), np.signbit(expected))
    np.testing.assert_array_equal(back, expected.astype(np.float32))
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(
        (bfloat16.astype(np.uint32) << 16).view(np.float32), torch.from_numpy(x).bfloat16().float().numpy()
    )


def test_mathematics(load):
    kernels = load("features")
    x = np.linspace(0.01, 3, 256, dtype=np.float32)
    out = np.zeros((256, 12), np.float32)
    kernels.run_mathematics(x, out, x.size)
    v, i = x.astype(np.float64), np.arange(256)
    bits = (x.view(np.uint32) ^ np.uint32(0x00400000)).view(np.float32)
    first_bit = np.where(i == 0, 0, np.log2(np.maximum(i & -i, 1)).astype(int) + 1)
    counts = np.array([int(n).bit_count() for n in i]) + 100 * (32 - np.array([int(n + 1).bit_length() for n in i]))
    expected = [np.exp(v), np.log1p(v), v**0.75, v**-0.5, v * v + 1, np.maximum(v, 1) + np.minimum(v, 0.5), 1 / v, bits]
    expected += [counts + 10000 * first_bit, 1 + np.tanh(v), np.expm1(v), np.minimum(v * 3e9, 2**31 - 1)]
    np.testing.assert_allclose(out, np.stack(expected, 1), rtol=1e-6)


# ---- missing barriers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("barrier", LEFT_OUT)
def test_a_missing_barrier_changes_results_under_some_order(load, barrier):
    kernels = load("barriers", "plain", f"WITHOUT_BARRIER_{barrier}")
    wrong = []
    for seed in range(8):
        kernels.emulator.set_schedule(f"random:{seed}")
        try:
            RUNS[LEFT_OUT[barrier]](kernels)
        except AssertionError:
            wrong.append(seed)
    assert wrong, "no order of the threads shows it"


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random:3"])
@pytest.mark.parametrize("barrier", LEFT_OUT)
def test_a_missing_barrier_is_a_race_by_name_in_every_order(load, barrier, schedule):
    kernels = load("barriers", "checked", f"WITHOUT_BARRIER_{barrier}")
    kernels.emulator.set_schedule(schedule)
    # In some orders a thread comes to read before another has written: that is then what is seen first.
    with pytest.raises(
        RuntimeError,
        match=r"^kernel \w+, block \(\d+, \d+, 0\), thread \(\d+, \d+, 0\): "
        r"(a race: it (reads|writes) 4 bytes of shared memory that thread \(\d+, \d+, 0\) (wrote|read) since .*"
        r"|it reads 4 bytes of shared memory that no thread of the block has written), barriers.cu:\d+$",
    ):
        RUNS[LEFT_OUT[barrier]](kernels)
    for name, run in RUNS.items():
        if name != LEFT_OUT[barrier]:
            run(kernels)


# ---- planted faults -------------------------------------------------------------------------------------------------

LIMITS = {
    "1025 threads per block, and the device allows 1024": (1, 1, 1, 1025, 1, 1, 0, 0),
    "2048 threads per block, and the device allows 1024": (1, 1, 1, 32, 8, 8, 0, 0),
    "the device allows blocks up to (1024, 1024, 64)": (1, 1, 1, 1, 1, 65, 0, 0),
    "the device allows grids up to (2147483647, 65535, 65535)": (1, 65536, 1, 1, 1, 1, 0, 0),
    "a grid of no blocks": (3, 0, 1, 32, 1, 1, 0, 0),
    "a block of no threads": (1, 1, 1, 0, 1, 1, 0, 0),
    "232449 bytes of dynamic shared memory, and the device has 232448": (1, 1, 1, 1, 1, 1, 232449, 0),
    "49153 bytes of dynamic shared memory; above 49152 the kernel must be allowed to": (1, 1, 1, 1, 1, 1, 49153, 0),
    "65 threads per block, and its __launch_bounds__ promised at most 64": (1, 1, 1, 65, 1, 1, 0, 64),
}


@pytest.mark.parametrize("sentence", LIMITS)
def test_limits_of_a_launch(load, sentence):
    kernels = load("faults")
    out = np.zeros(1, np.int32)
    with pytest.raises(RuntimeError, match=rf"^kernel nothing: {re.escape(sentence)}"):
        kernels.launch_nothing(out, *LIMITS[sentence])
    assert out[0] == 0, "nothing ran"
    kernels.launch_nothing(out, 1, 1, 1, 1, 1, 1, 49152, 64)
    assert out[0] == 1


def test_more_shared_memory_for_those_who_ask(load):
    kernels, out = load("faults"), np.zeros(1, np.int32)
    kernels.launch_allowed(out, 232448)
    assert out[0] == 1


ANY = "plain", "checked"
# The call, its arguments beside the array, the builds that see it, and the sentence after "kernel NAME, ".
FAULTS = [
    ("promises_128", (), ANY, r"block \(0, 0, 0\), thread \(0, 0, 0\): 129 threads per block, and .* at most 128"),
    (
        "early_return",
        (40,),
        ANY,
        r"block \(0, 0, 0\), thread \(0, 0, 0\): a barrier that not all threads of the block reach: "
        r"thread \(0, 0, 0\) and 39 others: waits at __syncthreads, faults.cu:\d+; "
        r"thread \(40, 0, 0\) and 23 others: returned from the kernel",
    ),
    (
        "two_barriers",
        (),
        ANY,
        r"block \(0, 0, 0\), thread \(63, 0, 0\): threads of one block wait at different barriers: this one at "
        r"faults.cu:\d+, thread \(0, 0, 0\) at faults.cu:\d+",
    ),
    (
        "barrier_in_half",
        (),
        ANY,
        r"block \(0, 0, 0\), thread \(0, 0, 0\): a barrier that not all threads of the block reach: .*32, 0, 0\) and "
        r"31 others: returned from the kernel",
    ),
    (
        "shuffle_after_return",
        (20,),
        ANY,
        r"block \(0, 0, 0\), thread \(0, 0, 0\): a meeting of a warp from which lanes are absent: .*"
        r"waits at __shfl_down_sync of mask 0xffffffff, faults.cu:\d+; .* and 11 others: returned from the kernel",
    ),
    (
        "shuffle_in_part_of_a_warp",
        (),
        ANY,
        r"block \(0, 0, 0\), thread \(32, 0, 0\): __shfl_xor_sync at faults.cu:\d+ with mask 0xffffffff names lane 16, "
        r"which the block does not have",
    ),
    (
        "shuffle_in_a_branch",
        (),
        ANY,
        r"block \(0, 0, 0\), thread \(0, 0, 0\): threads that wait for one another: "
        r".*waits at __shfl_xor_sync.*waits at __syncthreads",
    ),
    (
        "shuffle_without_itself",
        (),
        ANY,
        r"block \(0, 0, 0\), thread \(16, 0, 0\): __shfl_sync at .* which leaves out the caller, lane 16",
    ),
    (
        "syncwarp_without_itself",
        (),
        ANY,
        r"block \(0, 0, 0\), thread \(0, 0, 0\): __syncwarp at .* 0xfffffffe, which leaves out the caller, lane 0",
    ),
    (
        "syncwarp_of_two_minds",
        (),
        ANY,
        r"block \(0, 0, 0\), thread \(0, 0, 0\): threads that wait for one another: "
        r".* 7 others: waits at __syncthreads, .*; "
        r"thread \(8, 0, 0\) and 23 others: waits at __syncwarp of mask 0xffffffff, faults.cu:\d+$",
    ),
    ("trap_at_five", (), ANY, r"block \(0, 0, 0\), thread \(1, 1, 0\): the kernel called __trap\(\)"),
    ("throws", (), ANY, r"block \(0, 0, 0\), thread \(0, 0, 0\): thrown by a kernel"),
    (
        "unwritten_static",
        (),
        ("checked",),
        r"block \(1, 0, 0\), thread \(0, 0, 0\): it reads 4 bytes of shared memory that no thread of the block has "
        r"written, faults.cu:\d+",
    ),
    (
        "unwritten_dynamic",
        (),
        ("checked",),
        r"block \(0, 0, 0\), thread \(3, 0, 0\): it reads 4 bytes of shared memory that no thread of the block has "
        r"written, faults.cu:\d+",
    ),
    (
        "dynamic_out_of_bounds",
        (),
        ("checked",),
        r"block \(0, 0, 0\), thread \(31, 0, 0\): it writes 4 bytes at offset 128 of dynamic shared memory, of which "
        r"there are 128: out of bounds, faults.cu:\d+",
    ),
    (
        "static_out_of_bounds",
        (),
        ("checked",),
        r"block \(0, 0, 0\), thread \(31, 0, 0\): index 32 is out of bounds of 'float \[32\]', faults.cu:\d+",
    ),
    (
        "index_overflow",
        (),
        ("checked",),
        r"block \(0, 0, 0\), thread \(0, 0, 0\): integer overflow: 70000 \* 40000 does not fit 'int', faults.cu:\d+",
    ),
    (
        "global_race",
        (),
        ("checked",),
        r"block \(0, 0, 0\), thread \(1, 0, 0\): a race: it writes 4 bytes of global memory that thread \(0, 0, 0\) "
        r"wrote since the kernel began",
    ),
    (
        "blocks_race",
        (),
        ("checked",),
        r"block \(1, 0, 0\), thread \(0, 0, 0\): a race: it writes 4 bytes of global memory that another block wrote",
    ),
    (
        "half_atomic",
        (),
        ("checked",),
        r"block \(0, 0, 0\), thread \(1, 0, 0\): a race: it reads 4 bytes of global memory that thread \(0, 0, 0\) "
        r"changed atomically",
    ),
]


@pytest.mark.parametrize(
    ("name", "arguments", "build", "sentence"),
    [pytest.param(n, a, b, s, id=f"{n}-{b}") for n, a, builds, s in FAULTS for b in builds],
)
def test_planted_faults(load, name, arguments, build, sentence):
    kernels = load("faults", build)
    out = np.zeros(64, np.int32)
    # Twice, and then a kernel that is right: a fault leaves nothing behind.
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"^kernel {name}, {sentence}"):
            getattr(kernels, f"launch_{name}")(out, *arguments)
    kernels.launch_early_return(out, 64)
    assert (out == 1).all()


def test_unwritten_dynamic_shared_memory_is_nan_in_the_plain_build(load):
    out = np.zeros(32, np.float32)
    load("faults").launch_unwritten_dynamic(out)
    assert np.isnan(out[3])
    assert (np.delete(out, 3) == 1).all()


@pytest.mark.parametrize(("build", "name"), [("plain", "accessor"), ("checked", "accessor"), ("checked", "vector")])
def test_misaligned_vectors(load, build, name):
    kernels = load("faults", build)
    x, out = np.zeros(80, np.float32), np.zeros(32, np.float32)
    x = x[(-x.ctypes.data % 16) // 4 :][:64]
    what = {
        "accessor": r"thread \(1, 0, 0\): an access of 16 bytes to an address that is not a multiple of 16 \(it is 4 ",
        "vector": r"thread \(0, 0, 0\): an access to .*float4.* at an address that is not a multiple of 16, faults.cu",
    }
    with pytest.raises(RuntimeError, match=rf"^kernel misaligned_{name}, block \(0, 0, 0\), {what[name]}"):
        getattr(kernels, f"launch_misaligned_{name}")(x, out)


def test_outputs_never_written(load):
    kernels = load("faults")
    out = np.zeros(64, np.float32)
    kernels.library.poison(pointer(out), ctypes.c_int64(out.nbytes))
    assert np.isnan(out).all()
    kernels.launch_leaves_one_out(out)
    kernels.library.find_poison.restype = ctypes.c_int64
    assert kernels.library.find_poison(pointer(out), ctypes.c_int64(out.nbytes), ctypes.c_int64(4)) == 31
    out[31] = out[63] = 0
    assert kernels.library.find_poison(pointer(out), ctypes.c_int64(out.nbytes), ctypes.c_int64(4)) == -1


def test_device_functions_outside_of_a_kernel(load):
    with pytest.raises(RuntimeError, match=r"^__syncthreads was called outside of a kernel$"):
        load("faults").barrier_outside()


def test_address_sanitizer(built):
    def run(which):
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        return subprocess.run(
            [str(built("out_of_bounds", "address")), which], capture_output=True, text=True, timeout=60, env=environment
        )

    last = r"block \(0, 0, 0\), thread \(31, 0, 0\)"
    for which, kind, thread in [
        ("global_memory", "heap-buffer-overflow", last),
        ("static_shared", "global-buffer-overflow", r"block \(0, 0, 0\), thread \(0, 0, 0\)"),
        ("dynamic_shared", "use-after-poison", last),
    ]:
        result = run(which)
        assert result.returncode == 1, result.stderr
        assert kind in result.stderr
        assert re.search(rf"out of bounds in kernel {which}, {thread}", result.stderr), result.stderr
    result = run("through_accessor")
    assert result.returncode == 2
    assert re.search(
        rf"^kernel through_accessor, {last}: an access of 4 bytes that is out of bounds from byte 0 on$",
        result.stderr.strip(),
    )
    result = run("nothing_wrong")
    assert result.returncode == 0, result.stderr


# ---- control --------------------------------------------------------------------------------------------------------


def test_counters(load, random):
    kernels = load("features")
    x, out = np.ones(4000, np.float32), np.zeros(4000, np.float32)
    x, out = x[(-x.ctypes.data % 16) // 4 :][:3200], out[(-out.ctypes.data % 16) // 4 :][:3200]
    kernels.emulator.reset_counters()
    for _ in range(2):
        kernels.run_scale(x, out, ctypes.c_float(3), ctypes.c_int64(800))
    assert (out == 3).all()
    counters = kernels.emulator.counters()
    assert list(counters) == ["scale"]
    expected = {"launches": 2, "blocks": 14, "threads": 1792, "bytes_loaded": 25600, "bytes_stored": 25600}
    assert {name: value for name, value in counters["scale"].items() if value} == expected

    kernels.emulator.reset_counters()
    bytes_in = random.integers(0, 256, 1000, dtype=np.uint8)
    kernels.run_histogram(bytes_in, np.zeros(256, np.uint32), ctypes.c_int64(1000))
    counters = kernels.emulator.counters()["histogram"]
    assert counters["atomics"] == 1000 + 7 * 256
    assert counters["barriers"] == 7 * 2


def test_the_checked_build_counts_what_it_sees(load):
    kernels = load("barriers", "checked")
    kernels.emulator.reset_counters()
    run_sum(kernels)
    counters = kernels.emulator.counters()["block_sum"]
    assert counters["global_bytes_read"] == 4 * 5000
    assert counters["global_bytes_written"] == 4 * 3
    assert counters["shared_bytes_written"] == counters["shared_bytes_read"] == 4 * 3 * 2 * 8
    assert counters["shuffles"] == 3 * 2 * 5 * 256
    assert counters["barriers"] == 3 * 2 * 2


@pytest.mark.parametrize("build", ["plain", "checked"])
def test_operating_system_threads_change_nothing(load, build):
    kernels = load("barriers", build)
    x = np.random.default_rng(3).normal(size=200000).astype(np.float32)
    results = []
    for count in (1, 3):
        kernels.emulator.set_os_threads(count)
        partial = np.full(200, np.nan, np.float32)
        kernels.run_block_sum(x, partial, ctypes.c_int64(x.size), 200)
        results.append(partial)
    np.testing.assert_array_equal(*results)


def test_bad_settings(load):
    emulator = load("faults").emulator
    for schedule in ("backwards", "random", "random:", "random:x", "random:-1"):
        with pytest.raises(ValueError, match=f"a schedule is forward, reverse or random:SEED; got {schedule}$"):
            emulator.set_schedule(schedule)
    with pytest.raises(ValueError, match="cannot be negative"):
        emulator.set_os_threads(-1)


def test_the_environment_sets_the_schedule(built):
    code = (
        "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); out = (ctypes.c_int * 64)();"
        "library.message_of_call.restype = ctypes.c_char_p;"
        "library.launch_trap_at_five(out); print(library.message_of_call().decode(), list(out[:8]))"
    )
    for schedule, order in (("forward", [1, 1, 1, 1, 1, 0, 0, 0]), ("reverse", [0, 0, 0, 0, 0, 0, 1, 1])):
        environment = {**os.environ, "HANDGRAD_EMULATOR_SCHEDULE": schedule}
        command = [sys.executable, "-c", code, str(built("faults"))]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        assert "the kernel called __trap()" in answer
        assert answer.strip().endswith(str(order))


# ---- both worlds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", sorted(KERNELS.glob("*.cu")), ids=lambda path: path.stem)
def test_nvcc_takes_the_same_sources(source, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on PATH")
    command = [nvcc, "-std=c++20", "-arch=sm_90", "-ptx", "-Werror", "all-warnings", "-I", str(EMULATOR / "include")]
    target = tmp_path / "kernels.ptx"
    subprocess.run([*command, str(source), "-o", str(target)], check=True, timeout=300)
    assert ".entry" in target.read_text()


@pytest.mark.parametrize("name", RUNS)
def test_switching_without_assembly(load, name):
    """The way for other processors: the same kernels on ucontext."""
    RUNS[name](load("barriers", "ucontext"))


def test_the_example_of_the_documentation(tmp_path):
    page = (ROOT / "docs/emulator.md").read_text()
    blocks = re.findall(r"```(\S+)\n(.*?)```", page, re.S)
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc/emulator").symlink_to(EMULATOR)
    for language, text in blocks:
        if language in ("c++", "python"):
            (tmp_path / re.match(r"(?://|#) (\S+)", text)[1]).write_text(text)
    script = next(text for language, text in blocks if language == "sh")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = functools.partial(
        subprocess.run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    result = run(["bash", "-e", "-c", script])
    assert re.search(r"^largest error: 0\.\d+$", result.stdout.strip()), result.stderr
    assert result.returncode == 1
    assert result.stderr.strip() == next(text for language, text in blocks if "a race" in text).strip()

    # The cure that the page names.
    source = tmp_path / "row_softmax.cu"
    source.write_text(source.read_text().replace("  return value;", "  __syncthreads();\n  return value;"))
    result = run(["bash", "-e", "-c", re.sub(r".* -c csrc/.*", "", script)])
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^largest error: \d\.\d+e-0[789]$", result.stdout, re.M)) == 2
