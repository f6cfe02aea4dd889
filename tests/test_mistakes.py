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

    def failures(self, *chosen: str, **environment: str) -> dict[str, str]:
        """What pytest prints about the tests that are chosen, which must all fail, by what each was chosen with."""
        files = [f"tests/{_scaffold.KINDS[kind]}/test_{op}.py" for op, kind in KINDS.items()]
        wanted = " or ".join(f"({each})" for each in chosen)
        done = self._run(["-m", "pytest", "-q", "-p", "no:xdist", *files, "-k", wanted], **environment)
        assert done.returncode not in (0, 5), f"nobody noticed:\n{done.stdout}"
        said = done.stdout + done.stderr
        if len(chosen) == 1:
            return {chosen[0]: said}
        assert f"{len(chosen)} failed" in said, said
        assert " passed" not in said, said
        # Each under a line of its own with its name.
        parts = re.split(r"^_+ test_matrix\[(.*?)\] _+$", said, flags=re.M)[1:]
        named = dict(zip(parts[::2], parts[1::2], strict=True))
        return {each: named[next(name for name in named if _chooses(each, name))] for each in chosen}

    def failure(self, chosen: str) -> str:
        return self.failures(chosen)[chosen]

    def _run(self, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return attempt(self.python, *arguments, cwd=self.root, PATH=TOOLS_PATH, **environment)


def _chooses(expression: str, name: str) -> bool:
    """pytest's -k, of words that are joined by `and` and `and not`."""
    return all((word.removeprefix("not ") in name) != word.startswith("not ") for word in expression.split(" and "))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return Package(tmp_path_factory.mktemp("mistakes"))


EMULATED = {"HANDGRAD_BACKEND": "emulated:wrong_ops"}


# One test, so that one worker builds the package once.
def test_each_mistake_is_reported_in_a_sentence_that_leads_to_it(package):
    of_cpu = {
        1: "wrong_sign and gradcheck_map and not gradgradcheck",
        2: "wrong_loop and any_images and not bfloat16",
        3: "wrong_loop and 01_cpu-large_bfloat16",
        4: "wrong_loop and addresses_beyond_int32",
    }
    of_cuda = {5: "wrong_loop and any_schedule_matrix", 6: "wrong_barrier and any_schedule_matrix"}
    found = package.failures(*of_cpu.values()) | package.failures(*of_cuda.values(), **EMULATED)
    said = {number: found[chosen] for number, chosen in (of_cpu | of_cuda).items()}

    # 1: a wrong sign in a slope
    assert "The gradient with respect to inputs is right." in said[1]
    assert "The gradient with respect to targets is off in 12 of 144 entries" in said[1]
    assert "-1 times the numeric one: a wrong sign" in said[1]
    assert "Look at the first derivative in csrc/losses/wrong_sign/wrong_sign_math.h" in said[1]

    # 2: a forgotten contiguous()
    assert "a contiguous() is missing; look at csrc/layers/wrong_loop" in said[2]

    # 3: a sum in the wrong type
    assert "'large' in bfloat16" in said[3]
    assert "half types are to be computed and summed in Compute<T>" in said[3]

    # 4: an offset of 32 bits
    assert "an offset is kept in 32 bits; look for int and int32_t in csrc/layers/wrong_loop" in said[4]

    # 5: an output that is not written to its end
    assert "not all of an output was written: in the emulator it begins as NaN" in said[5]

    # 6: a missing barrier
    assert "the results depend on the order of the threads; a barrier is missing" in said[6]
    assert "look at the kernels in csrc/layers/wrong_barrier" in said[6]

    # 7: a forgotten fake kernel
    source = "python/wrong_ops/layers/wrong_loop.py"
    text = package.change(source, "    fake=_contiguous_like,\n", "")
    said = package.failure("wrong_loop and opcheck")
    assert "Derivatives.__init__() missing 1 required keyword-only argument: 'fake'" in said
    (package.root / source).write_text(text)

    # 8: a fake kernel with another shape
    package.change(source, "torch.empty_like(input, memory_format=torch.contiguous_format)", "input.new_empty(1)")
    said = package.failure("wrong_loop and opcheck_wrong_loop")
    assert re.search(
        r"promises \(1,\) of torch.float64 for result 0, and the kernel returns \(.+\) of torch.float64", said
    )
    (package.root / source).write_text(text)

    # 9: a missing export
    exports = "python/wrong_ops/losses/__init__.py"
    text = package.change(exports, "from wrong_ops.losses.wrong_sign import WrongSign, wrong_sign\n", "pass\n")
    said = package.failure("wrong_sign and 01_cpu")
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
        r"that implements it: csrc/losses/wrong_sign/wrong_sign\.cpp:\d+, csrc/losses/wrong_sign/wrong_sign_math\.h",
        built.stdout + built.stderr,
    )
