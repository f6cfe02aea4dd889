"""The layout and the room rules of csrc/README.md, as far as a machine can check them."""

import ast
import functools
import re
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection

from handgrad._scaffold import KINDS
from naming import names_op
from ops_table import BEGIN, END, table

ROOT = Path(__file__).resolve().parent.parent
# Packages of handgrad: with ops, whose kernels lie in a folder of the same name, and those that hold none.
PACKAGES = {path.parent.name for path in ROOT.glob("python/handgrad/*/__init__.py")}
FAMILIES = sorted(name for name in PACKAGES if (ROOT / "csrc" / name).is_dir())
MACHINERY = PACKAGES - set(FAMILIES)
OPS = sorted((p.parent.name, p.name) for family in FAMILIES for p in (ROOT / "csrc" / family).iterdir())
IDS = [op for _, op in OPS]
CSRC = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"})
# A kind may stand on an op of its own, which does for all of its ops what they have in common.
STANDS_ON = {
    "overlap_sums": "python/handgrad/kinds/overlap_loss.py",
    "info_nce_loss": "python/handgrad/kinds/pairwise_gathering.py",
}
# The emulated library is for development and carries an engine of its own.
LIBRARIES = sorted(p for p in (ROOT / "python/handgrad/lib").glob("*.so") if "emulated" not in p.name)


def code_of(path: Path) -> str:
    """C++ without its comments and texts."""
    return re.sub(r"//[^\n]*|/\*.*?\*/|\"[^\"\n]*\"", "", path.read_text(), flags=re.S)


def test_there_are_ops():
    assert len(OPS) >= 2


@pytest.mark.parametrize(("family", "op"), OPS, ids=IDS)
def test_an_ops_files_are_where_its_name_says(family, op):
    sources = {path.name for path in (ROOT / "csrc" / family / op).iterdir()}
    wanted = {f"{op}.cpp", f"{op}_math.h", f"{op}_cpu.cpp"}
    assert wanted <= sources
    # What the devices share, and rooms of a large op: a header says by its name whose it is.
    further = {name for name in sources - wanted if not re.fullmatch(rf"{op}_(cuda\.cu|[a-z0-9_]+\.(h|cuh))", name)}
    assert not further, f"of {op}'s folder, and not by their names: {further}"
    for path in (
        f"python/handgrad/{family}/{op}.py",
        f"tests/{family}/test_{op}.py",
        f"benchmarks/{family}/bench_{op}.py",
        f"docs/{family}/{op}.md",
    ):
        assert (ROOT / path).is_file(), f"{path} is missing"


@functools.cache
def machinery() -> dict[str, str]:
    """What finds ops by their files' names, and names none: the text of each of its files, by the file's name."""
    texts = {}
    for path in [
        ROOT / "CMakeLists.txt",
        ROOT / "setup.py",
        ROOT / "pyproject.toml",
        ROOT / "Makefile",
        *(ROOT / "python/handgrad").glob("*.py"),
        *(path for folder in MACHINERY for path in (ROOT / "python/handgrad" / folder).rglob("*.py")),
        *(ROOT / "cmake").iterdir(),
        *(path for path in (ROOT / "csrc/common").rglob("*") if path.is_file()),
    ]:
        text = path.read_text()
        if path.suffix == ".py":
            # Examples in docstrings may name an op; code may not.
            text = ast.unparse(_without_docstrings(ast.parse(text)))
        texts[path.relative_to(ROOT).as_posix()] = text
    return texts


@pytest.mark.parametrize(("family", "op"), OPS, ids=IDS)
def test_only_the_familys_init_lists_an_op(family, op):
    """CMake, setup.py and the machinery find ops by their files' names."""
    naming = {name for name, text in machinery().items() if names_op(text, family, op)}
    assert naming <= {STANDS_ON.get(op)}
    exports = (ROOT / f"python/handgrad/{family}/__init__.py").read_text()
    assert len(re.findall(rf"^    from handgrad\.{family}\.{op} import ", exports, re.M)) == 1


@pytest.mark.parametrize(
    ("family", "op"),
    [
        ("boxes", "iou"),
        ("losses", "dice"),
        ("layers", "warp"),
        ("layers", "gather"),
        ("layers", "median"),
        ("transforms", "flip"),
        ("transforms", "resize"),
        ("optim", "lamb"),
    ],
)
def test_an_op_may_have_a_name_that_is_a_word(family, op):
    """What stands there already is no mention of it; a mention is one."""
    assert not [name for name, text in machinery().items() if names_op(text, family, op)]
    for mention in (f"handgrad::{op}", f"handgrad::_{op}_backward", f"{family}.{op}", f"{family}/{op}/", f"{op}_cpu("):
        assert names_op(f"x = {mention}", family, op), mention
    assert names_op(f'OPS = ["{op}"]', family, op)
    assert names_op(f"from handgrad.{family} import {op}", family, op)


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return tree


@pytest.mark.parametrize(("family", "op"), OPS, ids=IDS)
def test_no_op_knows_another(family, op):
    for path in [*(ROOT / "csrc" / family / op).iterdir(), ROOT / f"python/handgrad/{family}/{op}.py"]:
        for others, other in OPS:
            assert other == op or not names_op(path.read_text(), others, other), f"{path.name} names {other}"


@pytest.mark.parametrize(("family", "op"), OPS, ids=IDS)
def test_rooms_of_an_op(family, op):
    folder = ROOT / "csrc" / family / op
    schema, math = code_of(folder / f"{op}.cpp"), code_of(folder / f"{op}_math.h")
    cpu = code_of(folder / f"{op}_cpu.cpp")
    assert set(re.findall(r"\b(?:library\.)(\w+)\(", schema)) == {"def"}, "the schema file only names ops"
    for word in ("Tensor", "threadIdx", "std::vector", "stream"):
        assert word not in math, f"{op}_math.h knows a {word}"
    # Many ops' files are compiled as one, where `UNITY=8` asks for it: what is a file's own has the op's name in front.
    for path in folder.iterdir():
        for outer in re.findall(r"^namespace ([\w:]+) \{\nnamespace \{$", code_of(path), re.M):
            assert outer.startswith(f"handgrad::{op}"), f"{path.name} keeps names of its own in {outer}"
    # Formulas live in _math.h: a host entry that calls exp has one of its own.
    assert not re.search(r"\b(exp|log|log1p|pow|sqrt|tanh|sin|cos)\s*\(", cpu)
    sections = re.findall(r"^# ---- ([\w ]+)", (ROOT / f"python/handgrad/{family}/{op}.py").read_text(), re.M)
    firsts = [section.split()[0] for section in sections]
    order = ["public", "module", "reference", "fake", "autograd", "onnx", "registration"]
    assert firsts == [name for name in order if name in firsts], f"sections out of order: {firsts}"
    # A kind or handgrad.derivatives may have the rest.
    assert set(order) - set(firsts) <= {"module", "fake", "autograd", "onnx"}


def test_rooms_of_csrc():
    for path in CSRC:
        text = code_of(path)
        name = path.relative_to(ROOT)
        assert not re.search(r"#include <(ATen|c10|pybind11|Python\.h|torch/(torch|extension)\.h)", text), name
        if path.name != "torch_version.h":
            assert "TORCH_VERSION" not in text, f"{name} knows a torch version"
            assert "TORCH_TARGET_VERSION" not in text, f"{name} knows a torch version"
        assert not re.search(r"immintrin|arm_neon|__AVX|__SSE|_mm\d|__attribute__\(\(target", text), (
            f"{name} knows an ISA"
        )
        if "emulator" in path.parts:
            continue
        if path.suffix not in {".cu", ".cuh"}:
            assert not re.search(r"\bthreadIdx\b|<<<", text), f"{name} knows a thread index"
        assert not re.search(r"\bint (i|n|index|numel|size)\b", text), f"{name}: sizes and indices are int64_t"


def test_a_floor_of_common_knows_only_those_above_it():
    """abi, then math, then cpu and cuda side by side, then kinds, which know all."""
    above = {"abi": {"abi"}, "math": {"abi", "math"}}
    above["cpu"] = above["math"] | {"cpu"}
    # The walk over strides is the host's on both devices.
    above["cuda"] = above["math"] | {"cuda", "cpu"}
    above["kinds"] = above["cpu"] | {"cuda", "kinds"}
    for path in (ROOT / "csrc/common").rglob("*.*"):
        floor = path.parent.name
        for included in re.findall(r'#include "(\w+)/', path.read_text()):
            assert included in above[floor], f"{path.name} of {floor}/ includes from {included}/"


def test_templates_are_where_a_kinds_name_says():
    """The files of an op, once for each kind; what `new` and `add` write is in tests/test_templates.py."""
    kinds = {path.name for path in (ROOT / "templates/operator").iterdir()} - {"shared"}
    assert kinds == set(KINDS)
    for kind in kinds:
        names = {path.name.removesuffix(".jinja") for path in (ROOT / "templates/operator" / kind).iterdir()}
        wanted = {f"OP{end}" for end in (".cpp", "_math.h", "_cpu.cpp", "_cuda.cu")}
        wanted |= {"OP.py", "OP.md", "test_OP.py", "bench_OP.py"}
        # Where csrc/common has the kind, its host entries are there.
        assert names == wanted | (set() if (ROOT / f"csrc/common/kinds/{kind}.h").exists() else {"OP_host.h"}), kind
        assert KINDS[kind] in FAMILIES, kind


def test_handgrads_own_build_is_the_packages():
    """CMakeLists.txt and setup.py call what every package of ops calls, and know nothing more."""
    commands = re.findall(r"^(\w+)\(", (ROOT / "CMakeLists.txt").read_text(), re.M)
    assert commands == ["cmake_minimum_required", "project", "find_package", "handgrad_add_library"]
    assert "setup(" in (ROOT / "setup.py").read_text()
    assert "Extension" not in (ROOT / "setup.py").read_text()


def test_python_families_only_export():
    """A docstring, the imports that handgrad.sdk.lazy makes happen on first use, and their names."""
    for family in FAMILIES:
        doc, *imports, ops, everything = ast.parse((ROOT / f"python/handgrad/{family}/__init__.py").read_text()).body
        assert isinstance(doc, ast.Expr)
        assert [ast.unparse(node) for node in imports] == [
            "from typing import TYPE_CHECKING",
            "from handgrad.sdk import lazy",
        ]
        assert isinstance(ops, ast.If)
        assert ast.unparse(ops.test) == "TYPE_CHECKING or not lazy.exports(__name__)"
        assert not ops.orelse
        assert all(isinstance(node, ast.ImportFrom) for node in ops.body), family
        # As ruff sorts them (RUF022): names of capitals alone first.
        names = sorted(
            (alias.name for node in ops.body for alias in node.names), key=lambda name: (not name.isupper(), name)
        )
        assert ast.unparse(everything) == f"__all__ = {names}"


def test_libraries_exist():
    assert len(LIBRARIES) >= 2, "run make build"


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.stem)
def test_undefined_symbols_are_the_stable_abi(library):
    """torch's C shims and the C and C++ runtime, not newer than manylinux_2_34 has; nothing of ATen, c10 or Python."""
    with library.open("rb") as file:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".dynsym")
        versions = next(s for s in elf.iter_sections() if isinstance(s, GNUVerSymSection))
        needed = next(s for s in elf.iter_sections() if isinstance(s, GNUVerNeedSection))
        names = {aux["vna_other"]: aux.name for _, auxes in needed.iter_versions() for aux in auxes}
        linked = next(s for s in elf.iter_sections() if isinstance(s, DynamicSection))
        dependencies = {tag.needed for tag in linked.iter_tags("DT_NEEDED")}
        paths = [tag.entry.d_tag for tag in linked.iter_tags() if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH")]

        torch_symbols = []
        for place, symbol in enumerate(symbols.iter_symbols()):
            if symbol["st_shndx"] != "SHN_UNDEF" or not symbol.name:
                continue
            version = names.get(versions.get_symbol(place)["ndx"], "")
            if version:
                runtime, _, number = version.partition("_")
                assert runtime in {"GLIBC", "GLIBCXX", "CXXABI", "GCC"}, f"{symbol.name}@{version}"
                newest = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29)}.get(runtime)
                if newest:
                    assert tuple(map(int, number.split("."))) <= newest, f"{symbol.name} needs {version}"
            elif symbol["st_info"]["bind"] == "STB_WEAK":
                assert symbol.name in {"__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"}
            else:
                assert re.match(r"(aoti_torch|torch)_\w+$", symbol.name), f"{library.name} wants {symbol.name}"
                torch_symbols.append(symbol.name)
    assert torch_symbols, "a library of handgrad registers something"
    # The CUDA runtime is linked in; the driver is found when a kernel is launched, not when the library is loaded.
    assert ("libtorch_cuda.so" in dependencies) == ("cuda" in library.name)
    assert dependencies <= {
        "libtorch_cpu.so",
        "libtorch_cuda.so",
        "libstdc++.so.6",
        "libgcc_s.so.1",
        "libm.so.6",
        "libc.so.6",
        "ld-linux-x86-64.so.2",
    }
    assert not paths, "no path of the build machine is written into a library"


def test_readme_has_the_table_of_today():
    readme = (ROOT / "README.md").read_text()
    current = readme.split(BEGIN)[1].split(END)[0].strip()
    assert current == table().strip(), "run make table"


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), ROOT / "csrc/README.md"],
    ids=lambda p: p.name,
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_changelog_names_the_version():
    version = re.search(r'"(.+)"', (ROOT / "python/handgrad/_version.py").read_text())[1]
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)
