"""The templates, alive: each kind of op is written by ``python -m handgrad new`` and ``add``, built and tested, by
people who have handgrad from a wheel (made by `make wheel`)."""

import re

import pytest

from handgrad import _scaffold, sdk
from handgrad.__main__ import main
from handgrad.testing.tiers import chosen
from naming import names_op
from tools.environments import ROOT, TOOLS_PATH, fresh_environment, run

FIRST, *OTHERS = "elementwise_loss", "box_loss", "no_gradient", "normalisation", "pointwise_layer", "sampling"
# Of the kinds after the first, what their own kernels and formulas decide; the rest is the same code for all.
QUICK = (
    "01_cpu or 03_derivatives or 04_strides or 05_empty or opcheck or 08_autocast or vmap or 10_reference or 11_onnx "
    "or 12_deterministic or 13_messages or 16_documented"
)


def test_every_kind_builds_and_passes_its_tests(tmp_path):
    assert {FIRST, *OTHERS} == set(_scaffold.KINDS)
    python = fresh_environment(tmp_path / "venv")
    package = tmp_path / "living-ops"
    handgrad = (python, "-W", "ignore", "-m", "handgrad")
    run(*handgrad, "new", package, "--op", f"my_{FIRST}", "--kind", FIRST, "--parameters", "width=1e-3 spare=2.0")
    add_all = (
        "import sys; from handgrad.__main__ import main; [main(['add', f'my_{k}', '--kind', k]) for k in sys.argv[1:]]"
    )
    run(python, "-W", "ignore", "-c", add_all, *OTHERS, cwd=package)
    install = (python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", package)
    # All of a library in one file: names of one kind's templates must not be another's.
    as_one = "-DHANDGRAD_UNITY=9"
    run(*install, PATH=TOOLS_PATH, HANDGRAD_CPU_LEVELS="v3", HANDGRAD_CUDA_ARCHS="none", CMAKE_ARGS=as_one)
    built = {path.name for path in (package / "python/living_ops/lib").iterdir()}
    assert built == {"libliving_ops.so", "libliving_ops_cpu_v3.so", "libliving_ops_emulated.so"}
    # The tests of the first kind, of the emulated kernels of all, and what the others' own code decides.
    asked = f"my_{FIRST} or emulator or {QUICK}"
    passed = run(python, "-m", "pytest", "-q", "-n", "2", "-k", asked, cwd=package)
    assert int(re.search(r"(\d+) passed", passed)[1]) > 250, passed
    run(python, "-m", "benchmarks", "--quick", "--out", tmp_path / "results", cwd=package)


@pytest.mark.skipif(chosen() == "usual", reason="torch's own build and none of handgrad's: asked with TIER=whole")
def test_the_classic_style_builds_and_computes_the_same(tmp_path):
    """docs/from-cpp-extension.md: the same loss, by pybind11 and torch.utils.cpp_extension."""
    python = fresh_environment(tmp_path / "venv")
    package = tmp_path / "classic-ops"
    style = ("--op", "my_loss", "--kind", "elementwise_loss", "--style", "classic")
    run(python, "-W", "ignore", "-m", "handgrad", "new", package, *style)
    install = (python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", package)
    run(*install, PATH=TOOLS_PATH, MAX_JOBS="1")
    assert "3 passed" in run(python, "-m", "pytest", "-q", cwd=package)
    # What the page says is missing there.
    program = """
import torch
from classic_ops import my_loss
x, t = torch.randn(2, 5, requires_grad=True)
(grad,) = torch.autograd.grad(my_loss(x, t).sum(), x, create_graph=True)
for what, call in {
    "second": lambda: torch.autograd.grad(grad.sum(), x),
    "half": lambda: my_loss(x.half(), t.half()),
    "func": lambda: torch.func.grad(lambda x: my_loss(x, t).sum())(x),
}.items():
    try:
        call()
    except RuntimeError:
        print(what, "fails")
"""
    assert run(python, "-W", "ignore", "-c", program).split("\n")[:3] == ["second fails", "half fails", "func fails"]


@pytest.mark.parametrize("kind", sorted(_scaffold.KINDS))
def test_what_is_written_is_tidy(tmp_path, kind, capsys):
    package = tmp_path / "some-ops"
    assert main(["new", str(package), "--op", "my_own_op", "--kind", kind]) == 0
    capsys.readouterr()
    files = [path for path in package.rglob("*") if path.is_file()]
    texts = {path.relative_to(package).as_posix(): path.read_text() for path in files}
    for name, text in texts.items():
        assert not re.search(r"{{|{%|{#", text), f"{name} is not filled in"
        assert "OP" not in name
        assert "PACKAGE" not in name
        assert not re.search(r"[ \t]$", text, re.M), f"{name}: white space at the end of a line"
        assert text.endswith("\n") or not text, name
        assert not text.endswith("\n\n"), name
    family = _scaffold.KINDS[kind]
    op = {f"csrc/{family}/my_own_op/my_own_op{end}" for end in (".cpp", "_math.h", "_cpu.cpp", "_cuda.cu")}
    op |= {f"python/some_ops/{family}/my_own_op.py", f"docs/{family}/my_own_op.md"}
    op |= {f"tests/{family}/test_my_own_op.py", f"benchmarks/{family}/bench_my_own_op.py"}
    package_files = {"CMakeLists.txt", "LICENSE", "Makefile", "README.md", "pyproject.toml", "setup.py", ".gitignore"}
    assert op | package_files <= texts.keys()
    # Few places are the author's, and each file in which a formula stands has one.
    marked = {name for name, text in texts.items() if "TODO(author)" in text}
    assert {f"csrc/{family}/my_own_op/my_own_op_math.h", f"docs/{family}/my_own_op.md"} <= marked
    assert sum(text.count("TODO(author)") for text in texts.values()) <= 16
    sources = [path for path in files if path.suffix in {".cpp", ".h", ".cu"}]
    run("ruff", "check", "--no-cache", package)
    run("ruff", "format", "--no-cache", "--check", package)
    run("clang-format", "--dry-run", "--Werror", *sources)
    for page in package.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name} links to {link}"


def test_a_second_op_is_exported_beside_the_first(tmp_path, capsys):
    package = tmp_path / "some-ops"
    assert main(["new", str(package), "--op", "zeta", "--kind", "pointwise_layer"]) == 0
    assert main(["add", "alpha_norm", "--kind", "normalisation", "--root", str(package)]) == 0
    assert main(["add", "my_loss", "--kind", "elementwise_loss", "--root", str(package)]) == 0
    assert "csrc/losses/my_loss/my_loss_math.h" in capsys.readouterr().out
    layers = (package / "python/some_ops/layers/__init__.py").read_text()
    assert layers == (
        '"""Layers."""\n\n'
        "from typing import TYPE_CHECKING\n\n"
        "from handgrad.sdk import lazy\n\n"
        "if TYPE_CHECKING or not lazy.exports(__name__):\n"
        "    from some_ops.layers.alpha_norm import AlphaNorm, alpha_norm\n"
        "    from some_ops.layers.zeta import Zeta, zeta\n\n"
        '__all__ = ["AlphaNorm", "Zeta", "alpha_norm", "zeta"]\n'
    )
    everything = (package / "python/some_ops/__init__.py").read_text()
    assert "\n    from some_ops import layers, losses\n" in everything
    assert '__all__ = ["layers", "losses"]\n' in everything


def test_a_loss_has_the_numbers_that_its_author_names(tmp_path, capsys):
    """In every signature, tidy too; without --parameters nothing of it shows."""
    package = tmp_path / "some-ops"
    arguments = [
        "--op",
        "my_loss",
        "--kind",
        "elementwise_loss",
        "--parameters",
        "gamma_neg=4.0 gamma_pos=1.0 clip=5e-2",
    ]
    assert main(["new", str(package), *arguments]) == 0
    capsys.readouterr()
    schema = (package / "csrc/losses/my_loss/my_loss.cpp").read_text()
    schema = re.sub(r'"\s+"', "", schema)
    assert schema.count("Tensor targets, float gamma_neg, float gamma_pos, float clip, int reduction") == 3
    python = (package / "python/some_ops/losses/my_loss.py").read_text()
    signature = r"gamma_neg: float = 4.0,\s+gamma_pos: float = 1.0,\s+clip: float = 5e-2,\s+reduction: str"
    assert len(re.findall(signature, python)) == 2
    assert "def _check_numbers(gamma_neg: float, gamma_pos: float, clip: float) -> None:" in python
    assert not re.search(r"\bepsilon\b(?! in the formula)", python.split("Args:", 1)[1])
    formula = (package / "csrc/losses/my_loss/my_loss_math.h").read_text()
    assert "using Numbers = std::tuple<double, double, double>;" in formula
    run("ruff", "check", "--no-cache", package)
    run("ruff", "format", "--no-cache", "--check", package)
    run("clang-format", "--dry-run", "--Werror", *package.rglob("csrc/**/*.cpp"), *package.rglob("csrc/**/*.h"))


def test_templates_name_no_op_of_handgrad():
    ops = [path for path in ROOT.glob("csrc/*/*") if (path / f"{path.name}.cpp").exists()]
    for template in sdk.templates_dir().rglob("*.jinja"):
        for op in ops:
            assert not names_op(template.read_text(), op.parent.name, op.name), f"{template} names {op.name}"
