"""What ``python -m handgrad new`` and ``add`` accept and refuse, and that a refusal leaves nothing behind.

That what they write works is in test_templates.py.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from handgrad import _scaffold
from handgrad.__main__ import main
from handgrad._scaffold import naming, rendering, words, writing
from tools.environments import ROOT, run

LOSS = ("--op", "my_loss", "--kind", "elementwise_loss")


def new(path: Path | str, *arguments: str) -> int:
    return main(["new", str(path), *arguments])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, *arguments: str) -> str:
    """The error message of a command that fails; it is one line, and there is no traceback."""
    assert main(list(arguments)) == 1
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.count("\n") == 1
    return printed.err


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("elementwise_loss", "gamma", "must give each name a number, as in gamma=2.0; got 'gamma'"),
        ("elementwise_loss", "gamma=two", "got 'gamma=two'"),
        ("elementwise_loss", "gamma=.", "got 'gamma=.'"),
        ("elementwise_loss", "gamma=1e", "got 'gamma=1e'"),
        ("elementwise_loss", "gamma=1e999", "a number that float64 can hold; got 'gamma=1e999'"),
        ("elementwise_loss", "gamma=2,clip=1", "got 'gamma=2,clip=1'"),
        ("elementwise_loss", "Gamma=2", "a name in --parameters must be small letters"),
        ("elementwise_loss", "lambda=2", "no word of Python or C++; got 'lambda'"),
        ("elementwise_loss", "decltype=2", "no word of Python or C++; got 'decltype'"),
        ("elementwise_loss", "gamma=2 gamma=3", "'gamma' is there already"),
        ("elementwise_loss", "", "must name at least one number"),
        ("elementwise_loss", "clip=0", "must begin with a number above 0"),
        ("elementwise_loss", "gamma=-2", "must begin with a number above 0"),
        ("sampling", "gamma=2", "--parameters must be left out unless --kind is elementwise_loss; got 'gamma=2'"),
    ],
)
def test_bad_parameters_get_an_error_message(tmp_path, capsys, kind, parameters, message):
    said = refused(
        capsys, "new", str(tmp_path / "some-ops"), "--op", "fine", "--kind", kind, "--parameters", parameters
    )
    assert message in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    # an import, an argument, Python's own, the op, attributes of modules, members and arguments in C++, the package
    [
        "torch",
        "self",
        "fine",
        "training",
        "half",
        "inputs",
        "targets",
        "reduction",
        "value",
        "std",
        "some_ops",
    ],
)
def test_a_parameter_that_means_something_else_is_refused(tmp_path, capsys, name):
    arguments = ("--op", "fine", "--kind", "elementwise_loss", "--parameters", f"gamma=2 {name}=1")
    said = refused(capsys, "new", str(tmp_path / "some-ops"), *arguments)
    assert f"a name in --parameters must be new to the op's files; {name!r} is there already" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["args", "info", "ctx", "grad", "output", "x", "t", "g", "r", "u", "v", "op", "spec"])
def test_a_parameter_is_refused_or_nothing_is_said_twice(tmp_path, name):
    """Which of these mean something else is the templates' to say; Python compiles no name that stands twice."""
    package = tmp_path / "some-ops"
    if new(package, "--op", "fine", "--kind", "elementwise_loss", "--parameters", f"gamma=2 {name}=1"):
        assert not list(tmp_path.iterdir())
        return
    for path in package.rglob("*.py"):
        compile(path.read_text(), str(path), "exec")


def test_every_name_in_an_ops_files_is_refused():
    """Derived from the templates as they are: none of the names that they use can be an author's."""
    named = naming.Named.of("some_ops", "fine", "elementwise_loss", "gamma=2.0 clip=0.05")
    texts = rendering.render_op(named)
    used = {name for path, text in texts.items() if path.endswith(".py") for name in words.in_python(text)}
    used |= {
        name for path, text in texts.items() if path.endswith((".cpp", ".h", ".cu")) for name in words.in_cpp(text)
    }
    used = {name for name in used if naming._is_name(name) and not name.startswith(("gamma", "clip"))}
    assert len(used) > 60
    for name in used:
        with pytest.raises(_scaffold.ScaffoldError, match=f"'{name}' is there already"):
            rendering.clashes(replace(named, parameters={"gamma": "2.0", name: "1.0"}), "package")


def test_numbers_may_be_written_as_python_writes_them(tmp_path):
    given = "a1=.5 a2=1E5 a3=5. a4=-2 a5=007 a6=1e+3 a7=2.50 a8=1e-3"
    assert new(tmp_path / "some-ops", *LOSS, "--parameters", given) == 0
    text = (tmp_path / "some-ops/python/some_ops/losses/my_loss.py").read_text()
    for written in ("a1: float = 0.5,", "a2: float = 1e5,", "a3: float = 5.0,", "a4: float = -2,", "a5: float = 7,"):
        assert written in text
    for written in ("a6: float = 1e3,", "a7: float = 2.50,", "a8: float = 1e-3,"):
        assert written in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "My-Op"], "must be small letters, digits and underscores, no word of Python or C++; got 'My-Op'"),
        (["--op", "lambda"], "got 'lambda'"),
        (["--op", "template"], "got 'template'"),
        (["--op", ""], "got ''"),
        (["--op", "launch"], "'launch' is a word of handgrad's headers"),
        (["--op", "tensor"], "'Tensor', its class's name, is a word of handgrad's headers"),
        (["--op", "op_spec"], "nothing else in its files; 'OpSpec', its class's name, is there already"),
        (["--op", "tensors"], "nothing else in its files; 'tensors' is there already"),
        (["--op", "register"], "got 'register'"),
        (["--op", "some_ops"], "must differ from the package's, its namespace in C++; both are 'some_ops'"),
        (["--op", "fine", "--package", "json"], "--package must be a name that is not taken; 'json' can be imported"),
        (["--op", "fine", "--package", "2ops"], "--package must be small letters"),
        (["--op", "fine", "--package", "aten"], "'aten' is a namespace of torch's own"),
        (["--op", "fine", "--package", "prim"], "'prim' is a namespace of torch's own"),
        (["--op", "fine", "--package", "quantized"], "'quantized' is a namespace of torch's own"),
        (["--op", "fine", "--package", "std"], "'std' is a word of handgrad's headers"),
        (["--op", "fine", "--package", "widen"], "'widen' is a word of handgrad's headers"),
        (["--op", "fine", "--package", "index"], "'index' is a function of the C library"),
        (
            ["--op", "fine", "--package", "losses"],
            "differ from the folders of the package; 'losses' is one of them",
        ),
    ],
)
def test_bad_names_get_an_error_message(tmp_path, capsys, arguments, message):
    assert message in refused(capsys, "new", str(tmp_path / "some-ops"), "--kind", "sampling", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "op", ["print", "id", "match", "test", "main", "cpu", "nms", "conftest", "warp", "iou", "dice"]
)
def test_names_that_mean_nothing_else_are_taken(tmp_path, op):
    assert new(tmp_path / "some-ops", "--op", op, "--kind", "pointwise_layer") == 0


@pytest.mark.parametrize(
    ("folder", "suggestion"),
    [("My-Ops", "my_ops"), ("123ops", "ops"), ("2-fast ops", "fast_ops"), ("!", "my_ops"), ("class", "my_ops")],
)
def test_a_folder_whose_name_is_no_packages_gets_a_suggestion(tmp_path, capsys, folder, suggestion):
    said = refused(capsys, "new", str(tmp_path / folder), *LOSS)
    assert "the package's name is PATH's unless --package gives one, and must be small letters" in said
    assert f"got {folder!r}. Add, for example, --package {suggestion}\n" in said
    assert not list(tmp_path.iterdir())
    assert new(tmp_path / folder, *LOSS, "--package", suggestion) == 0
    assert (tmp_path / folder / "python" / suggestion / "losses/my_loss.py").is_file()


def test_the_classic_style_is_there_for_one_kind(tmp_path, capsys):
    classic = ("--kind", "sampling", "--style", "classic")
    said = refused(capsys, "new", str(tmp_path / "some-ops"), "--op", "my_op", *classic)
    assert "--style classic is there for the kind elementwise_loss alone; got sampling" in said
    said = refused(capsys, "new", str(tmp_path / "some-ops"), *LOSS, "--style", "classic", "--parameters", "gamma=2")
    assert "--parameters must be left out unless --style is stable; got 'gamma=2' with classic" in said
    said = refused(capsys, "new", str(tmp_path / "some-ops"), "--op", "px", *LOSS[2:], "--style", "classic")
    assert "'px' is there already" in said


# ---- where it goes --------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "file").touch()
    said = refused(capsys, "new", str(tmp_path), *LOSS)
    assert "PATH must be a folder that does not exist yet or is empty, or a fresh clone" in said
    assert f"{tmp_path} is none of these: it holds file." in said
    assert "is a file." in refused(capsys, "new", str(tmp_path / "file"), *LOSS)
    said = refused(capsys, "add", "my_op", "--kind", "sampling", "--root", str(tmp_path))
    assert "--root must be the root of a package of ops" in said
    said = refused(capsys, "add", "sigmoid_focal_loss", "--kind", "elementwise_loss", "--root", str(ROOT))
    assert "OP must be a new name" in said


def test_an_empty_folder_of_the_current_directory_is_a_target(tmp_path):
    """Python takes it for a namespace package, and so for a name that can be imported."""
    (tmp_path / "plain_ops").mkdir()
    command = [sys.executable, "-W", "ignore", "-m", "handgrad", "new", "plain_ops", *LOSS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cd plain_ops && git init && git add .\n" in done.stdout
    assert (tmp_path / "plain_ops/python/plain_ops/losses/my_loss.py").is_file()


def test_a_fresh_clone_is_a_target_and_keeps_its_files(tmp_path, capsys):
    clone = tmp_path / "cloned-ops"
    run("git", "init", "-q", clone)
    (clone / "README.md").write_text("mine\n")
    (clone / "LICENSE").write_text("mine too\n")
    assert new(clone, *LOSS) == 0
    printed = capsys.readouterr().out
    assert f"cd {clone} && git add .\n" in printed
    assert "Your own LICENSE, README.md stayed. pyproject.toml says BSD-3-Clause" in printed
    assert (clone / "README.md").read_text() == "mine\n"
    assert (clone / "LICENSE").read_text() == "mine too\n"
    assert (clone / ".gitignore").is_file()
    assert (clone / "python/cloned_ops/losses/my_loss.py").is_file()


def test_a_path_with_spaces_is_quoted_in_what_to_do_next(tmp_path, capsys):
    path = tmp_path / "spare ops"
    assert new(path, *LOSS) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    cd ")]
    assert shlex.split(line)[:2] == ["cd", str(path)]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("file/ops", "Not a directory"), ("file/more/ops", "Not a directory"), ("/sys/some_ops", None)],
)
def test_a_path_that_cannot_be_written_gets_an_error_message(tmp_path, capsys, path, reason):
    if path.startswith("/sys") and not Path("/sys").is_dir():
        pytest.skip("only Linux has a /sys")
    (tmp_path / "file").touch()
    said = refused(capsys, "new", str(tmp_path / path), *LOSS)
    assert f"new: PATH must be a folder that can be written to; {tmp_path / path}: " in said
    assert reason is None or said.endswith(f"{reason}.\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_folder_that_must_not_be_written_stays_as_it_is(tmp_path, capsys, monkeypatch, error):
    """Root may write everywhere, so that the refusal is made here, at the third file that is moved."""
    assert new(tmp_path / "some-ops", *LOSS) == 0
    before = content(tmp_path)
    folders = {path for path in tmp_path.rglob("*") if path.is_dir()}
    capsys.readouterr()
    moved = []

    def move(source: Path, target: Path) -> None:
        if len(moved) == 2:
            raise error
        moved.append(target)
        os.rename(source, target)

    for command in (
        ["new", str(tmp_path / "other-ops"), *LOSS],
        ["add", "my_norm", "--kind", "normalisation", "--root", str(tmp_path / "some-ops")],
    ):
        moved.clear()
        with monkeypatch.context() as patched:
            patched.setattr(writing.os, "replace", move)
            assert f"must be a folder that can be written to; {tmp_path}" in refused(capsys, *command)
        assert len(moved) == 2
        assert content(tmp_path) == before
        assert {path for path in tmp_path.rglob("*") if path.is_dir()} == folders


def test_a_formatter_that_fails_leaves_nothing(tmp_path, capsys, monkeypatch):
    (tmp_path / "bin").mkdir()
    ruff = tmp_path / "bin" / "ruff"
    ruff.write_text("#!/bin/sh\necho no such syntax\nexit 2\n")
    ruff.chmod(0o755)
    monkeypatch.setattr(writing.sys, "executable", str(tmp_path / "bin" / "python"))
    assert new(tmp_path / "some-ops", *LOSS) == 1
    assert "ruff must accept the files, which it does not:\nno such syntax" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["bin"]


def test_a_family_that_cannot_be_shown_is_said(tmp_path, capsys):
    package = tmp_path / "some-ops"
    assert new(package, "--op", "zeta", "--kind", "pointwise_layer") == 0
    everything = package / "python/some_ops/__init__.py"
    everything.write_text('"""Mine."""\n')
    capsys.readouterr()
    assert main(["add", "my_loss", "--kind", "elementwise_loss", "--root", str(package)]) == 0
    assert capsys.readouterr().err == f"{everything}: import losses there.\n"
    assert everything.read_text() == '"""Mine."""\n'


def test_words_of_a_header_are_those_that_includers_see():
    header = """
    #pragma once
    #include <vector>  // not_this
    #define SHIFTED(x) shifted_by(x, kStep)
    namespace handgrad { inline namespace now {
    template <class T> T widened(T given) { return inner(given); }
    struct Point { double hidden; };
    extern "C" { int exported_one(int argument); }
    /* nor this */ constexpr int kStep = 3;
    }}
    """
    found = words.at_namespace_scope(header)
    assert {"SHIFTED", "shifted_by", "kStep", "handgrad", "now", "widened", "Point", "exported_one"} <= found
    assert not {"not_this", "nor", "given", "inner", "hidden", "argument", "vector"} & found
