"""examples/cpp, by the commands of docs/cpp.md: a C++ program built against the torch at hand, and a packaged model."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from handgrad import _library

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/cpp.md").read_text()


def block(language: str) -> str:
    """The page's one block in this language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)
    return text


def run(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)


def scores_of_the_source() -> torch.Tensor:
    """What the model itself, before it is packaged, makes of the images of the page."""
    program = (
        "import package, torch\n"
        "images = torch.linspace(0, 1, 3 * 3 * 8 * 8).reshape(3, 3, 8, 8)\n"
        "print(*package.build()(images).flatten().tolist())\n"
    )
    done = run(sys.executable, "-c", program, cwd=ROOT / "examples/cpp")
    assert done.returncode == 0, done.stderr
    return torch.tensor([float(word) for word in done.stdout.split()]).reshape(3, 4)


def test_the_pages_commands_build_a_program_that_calls_an_op_and_runs_a_package(tmp_path):
    built = tmp_path / "built"
    done = run("bash", "-e", "-c", block("bash").replace("build/cpp", str(built)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout + done.stderr
    said = done.stdout
    assert re.findall(r"^loaded (.*)$", said, re.M) == [str(path) for path in _library.LOADED.libraries.values()]
    # ln 2 / 16, and -(1 + 2 ln 2) / 32 over three elements
    assert "focal loss: 0.043321698785, in closed form 0.043321698785\n" in said
    assert "derivative: -0.024857232928, in closed form -0.024857232928\n" in said

    expected = scores_of_the_source()
    rows = [[float(word) for word in row.split()] for row in re.findall(r"^image \d: (.*)$", said, re.M)]
    torch.testing.assert_close(torch.tensor(rows), expected, atol=2e-6, rtol=0)

    # In Python: a process that has never seen package.py.
    alone = tmp_path / "alone"
    alone.mkdir()
    (built / "model.pt2").rename(alone / "model.pt2")
    python = run(sys.executable, "-c", block("python"), cwd=alone)
    assert python.returncode == 0, python.stderr
    rows = [[float(word) for word in row.split(", ")] for row in re.findall(r"\[([^\[\]]+)\]", python.stdout)]
    torch.testing.assert_close(torch.tensor(rows), expected)

    # A copy of the two libraries will do, and what is missing is said in a sentence.
    program = built / "handgrad_cpp"
    copy = tmp_path / "copy"
    copy.mkdir()
    done = run(program, copy)
    assert done.returncode == 1
    assert re.match(r"handgrad's library does not load: .*copy/libhandgrad\.so", done.stderr)
    assert done.stderr.count("\n") == 1
    shutil.copy(_library.LOADED.libraries["libhandgrad"], copy)
    done = run(program, copy)
    assert done.returncode == 1
    assert re.match(r".*/copy holds no CPU kernels for this processor", done.stderr)
    (kernels,) = (name for name in _library.LOADED.libraries if name.startswith("libhandgrad_cpu"))
    shutil.copy(_library.LOADED.libraries[kernels], copy)
    done = run(program, copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert "derivative: " in done.stdout
    done = run(program, copy, alone / "missing.pt2")
    assert done.returncode == 1
    assert done.stderr == f"there is no package {alone / 'missing.pt2'}\n"
    done = run(program)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_what_the_build_and_the_packager_need_is_said(tmp_path):
    done = run("cmake", "-S", "examples/cpp", "-B", tmp_path / "built", f"-DTORCH_FOLDER={tmp_path}")
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert f"TORCH_FOLDER must be the folder of torch that holds include/ATen and lib; got '{tmp_path}'" in said
    done = run(sys.executable, "examples/cpp/package.py", tmp_path / "model.onnx")
    assert done.returncode == 2
    assert "the file's name must end in .pt2" in done.stderr
