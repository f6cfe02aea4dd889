"""Eleven mistakes that authors make: each is planted in ops that the templates have written, and what the kit then says
must lead to it."""

import re
import subprocess
from pathlib import Path

import pytest

from handgrad import _scaffold
from tools.environments import TOOLS_PATH, attempt, fresh_environment, run

# In which op, in which of its files, what is changed into what.
IN_KERNELS = [
    # A wrong sign in a slope.
    ("wrong_sign", "_math.h", "return {by_x, -by_x};", "return {by_x, by_x};"),
    # A forgotten contiguous(): the rows of any tensor are taken for evenly spaced.
    ("wrong_loop", "_host.h", "if (!evenly_spaced()) {", "if (false) {"),
    ("wrong_loop", "_host.h", "data = keep_alive", "evenly_spaced();\n    data = keep_alive"),
    # A sum in the wrong type: rounded to the tensor's own after every element.
    (
        "wrong_loop",
        "_cpu.cpp",
        "#pragma omp simd reduction(+ : sum)\n    for (int64_t i = 0; i < count; ++i) sum +=",
        "    for (int64_t i = 0; i < count; ++i) sum = widen(narrow<T>(static_cast<C>(sum))) +",
    ),
    # An offset of 32 bits.
    ("wrong_loop", "_cpu.cpp", "from.data + row * from.row_stride +", "from.data + int(row * from.row_stride) +"),
    # An output of which the end of each row is not written.
    (
        "wrong_loop",
        "_cuda.cu",
        "i < shape.length; i += kThreads) {\n      store(output",
        "i < shape.length - 1; i += kThreads) {\n      store(output",
    ),
    # A missing barrier: some threads read what the first has yet to write.
    ("wrong_barrier", "_cuda.cu", "of_block = total;\n  __syncthreads();", "of_block = total;"),
]
KINDS = {"wrong_sign": "elementwise_loss", "wrong_loop": "normalisation", "wrong_barrier": "normalisation"}


class Package:
    """A package with the mistakes in its kernels, built, and ways to ask for its tests."""

    def __init__(self, folder: Path) -> None:
        self.python = fresh_environment(folder / "venv")
        self.root = folder / "wrong-ops"
        (first, kind), *others = KINDS.items()
        handgrad = (self.python, "-W", "ignore", "-m", "handgrad")
        run(*handgrad, "new", self.root, "--op", first, "--kind", kind)
        for op, kind in others:
            run(*handgrad, "add", op, "--kind", kind, cwd=self.root)
        for op, end, right, wrong in IN_KERNELS:
            self.change(f"csrc/{_scaffold.KINDS[KINDS[op]]}/{op}/{op}{end}", right, wrong)
        built = self.build()
        assert built.returncode == 0, built.stderr

    def change(self, name: str, right: str, wrong: str) -> str:
        path = self.root / name
        text = path.read_text()
        assert text.count(right) == 1, f"{right!r} is {text.count(right)} times in {name}"
        path.write_text(text.replace(right, wrong))
        return text

    def build(self) -> subprocess.CompletedProcess[str]:
        install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", "."]
        return self._run(install, HANDGRAD_CPU_LEVELS="v3", HANDGRAD_CUDA_ARCHS="none")

    def failure(self, op: str, chosen: str, **environment: str) -> str:
        """What pytest prints about the one test of ``op`` that is chosen, which must fail."""
        family = _scaffold.KINDS[KINDS[op]]
        done = self._run(
            ["-m", "pytest", "-q", "-p", "no:xdist", f"tests/{family}/test_{op}.py", "-k", chosen], **environment
        )
        assert done.returncode not in (0, 5), f"nobody noticed:\n{done.stdout}"
        return done.stdout + done.stderr

    def _run(self, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return attempt(self.python, *arguments, cwd=self.root, PATH=TOOLS_PATH, **environment)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return Package(tmp_path_factory.mktemp("mistakes"))


EMULATED = {"HANDGRAD_BACKEND": "emulated:wrong_ops"}


# One test, so that one worker builds the package once.
def test_each_mistake_is_reported_in_a_sentence_that_leads_to_it(package):
    # 1: a wrong sign in a slope
    said = package.failure("wrong_sign", "gradcheck_map and not gradgradcheck")
    assert "The gradient with respect to inputs is right." in said
    assert "The gradient with respect to targets is off in 12 of 144 entries" in said
    assert "-1 times the numeric one: a wrong sign" in said
    assert "Look at the first derivative in csrc/losses/wrong_sign/wrong_sign_math.h" in said

    # 2: a forgotten contiguous()
    said = package.failure("wrong_loop", "any_images and not bfloat16")
    assert "a contiguous() is missing; look at csrc/layers/wrong_loop" in said

    # 3: a sum in the wrong type
    said = package.failure("wrong_loop", "01_cpu-large_bfloat16")
    assert "'large' in bfloat16" in said
    assert "half types are to be computed and summed in Compute<T>" in said

    # 4: an offset of 32 bits
    said = package.failure("wrong_loop", "addresses_beyond_int32")
    assert "an offset is kept in 32 bits; look for int and int32_t in csrc/layers/wrong_loop" in said

    # 5: an output that is not written to its end
    said = package.failure("wrong_loop", "any_schedule_matrix", **EMULATED)
    assert "not all of an output was written: in the emulator it begins as NaN" in said

    # 6: a missing barrier
    said = package.failure("wrong_barrier", "any_schedule_matrix", **EMULATED)
    assert "the results depend on the order of the threads; a barrier is missing" in said
    assert "look at the kernels in csrc/layers/wrong_barrier" in said

    # 7: a forgotten fake kernel
    source = "python/wrong_ops/layers/wrong_loop.py"
    text = package.change(source, "    fake=_contiguous_like,\n", "")
    said = package.failure("wrong_loop", "opcheck")
    assert "Derivatives.__init__() missing 1 required keyword-only argument: 'fake'" in said
    (package.root / source).write_text(text)

    # 8: a fake kernel with another shape
    package.change(source, "torch.empty_like(input, memory_format=torch.contiguous_format)", "input.new_empty(1)")
    said = package.failure("wrong_loop", "opcheck_wrong_loop")
    assert re.search(
        r"promises \(1,\) of torch.float64 for result 0, and the kernel returns \(.+\) of torch.float64", said
    )
    (package.root / source).write_text(text)

    # 9: a missing export
    exports = "python/wrong_ops/losses/__init__.py"
    text = package.change(exports, "from wrong_ops.losses.wrong_sign import WrongSign, wrong_sign\n", "pass\n")
    said = package.failure("wrong_sign", "01_cpu")
    assert re.search(r"cannot import name 'WrongSign' from 'wrong_ops.losses' \(.*__init__.py\)", said)
    (package.root / exports).write_text(text)

    # 10: a typo in a schema
    schema = "csrc/losses/wrong_sign/wrong_sign.cpp"
    text = package.change(
        schema, "wrong_sign(Tensor inputs, Tensor targets, float", "wrong_sign(Tenso inputs, Tensor targets, float"
    )
    built = package.build()
    assert built.returncode != 0
    assert "wrong_ops: a schema cannot be read by torch: unknown type specifier" in built.stdout + built.stderr
    assert re.search(r"It is written in csrc/losses/wrong_sign/wrong_sign\.cpp:\d+", built.stdout + built.stderr)
    (package.root / schema).write_text(text)

    # 11: another type in a schema than in the function that implements it
    package.change(
        schema, "wrong_sign(Tensor inputs, Tensor targets, float", "wrong_sign(Tensor inputs, Tensor targets, int"
    )
    built = package.build()
    assert built.returncode != 0
    assert re.search(
        r"wrong_ops: argument 3 \(epsilon\) of wrong_ops::wrong_sign is int in its schema, and double in the function "
        r"that implements it: csrc/losses/wrong_sign/wrong_sign\.cpp:\d+, .*wrong_sign_cpu\.cpp:\d+",
        built.stdout + built.stderr,
    )
