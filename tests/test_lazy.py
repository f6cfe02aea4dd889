"""Families and ops are imported when they are first used, and whichever way leads to an op finds it whole."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

import handgrad
from handgrad.registration import OPERATORS
from handgrad.sdk import lazy

FAMILIES = {name: getattr(handgrad, name) for name in handgrad.__all__ if not name.startswith("_")}
MODULES = {module for family in FAMILIES.values() for module, _ in lazy._EXPORTS[family.__name__].values()}
# Of a family there may be more than ops.
SOURCES = Path(handgrad.__file__).parent.parent
OPS = sorted(
    m
    for m in MODULES
    if "\ndef " + m.rpartition(".")[2] + "_reference(" in (SOURCES / (m.replace(".", "/") + ".py")).read_text()
)


# A process with torch in it and no handgrad: each program runs in a copy of it, which is ready at once.
SERVER = """
import json, os, sys, tempfile, traceback, torch
for line in sys.stdin:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            try:
                exec(compile(json.loads(line), "<program>", "exec"), {"__name__": "__main__"})
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        said = [(file.seek(0), file.read())[1] for file in (out, err)]
    print(json.dumps([status, *said]), flush=True)
"""


@functools.cache
def server() -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error::UserWarning", "-c", SERVER]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module", autouse=True)
def _server_ends():
    yield
    server().communicate()


def program(text: str) -> list[str]:
    """What a process without handgrad prints that runs ``text``, line by line; it may not warn."""
    process = server()
    process.stdin.write(json.dumps(text) + "\n")
    process.stdin.flush()
    status, out, err = json.loads(process.stdout.readline())
    assert status == 0, err
    return out.splitlines()


def loaded(text: str) -> list[str]:
    """The modules of ops that a program has imported in the end."""
    shown = f"print('ops', *sorted(name for name in sys.modules if name in {MODULES!r}))"
    return program(f"import sys\n{text}\n{shown}")[-1].split()[1:]


def test_families_offer_what_they_list():
    assert len(MODULES) >= 7
    for family in FAMILIES.values():
        assert list(lazy._EXPORTS[family.__name__]) != []
        assert sorted(lazy._EXPORTS[family.__name__]) == sorted(family.__all__)
        assert set(family.__all__) <= set(dir(family))
        for name in family.__all__:
            assert getattr(family, name).__name__ == name
            assert getattr(family, name).__module__ == lazy._EXPORTS[family.__name__][name][0]


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("import handgrad", []),
        ("import handgrad; handgrad.losses; handgrad.layers; dir(handgrad.boxes)", []),
        ("from handgrad.losses import sigmoid_focal_loss", ["handgrad.losses.sigmoid_focal_loss"]),
        ("import handgrad; handgrad.layers.RoIAlign", ["handgrad.layers.roi_align"]),
        ("import handgrad.boxes.soft_nms", ["handgrad.boxes.soft_nms"]),
        ("import torch, handgrad; torch.ops.handgrad.nms", ["handgrad.boxes.nms"]),
        ("import torch, handgrad; hasattr(torch.ops.handgrad, '_soft_nms_private')", ["handgrad.boxes.soft_nms"]),
        (
            "import torch, handgrad; torch.ops.handgrad._sigmoid_focal_loss_double_backward",
            ["handgrad.losses.sigmoid_focal_loss"],
        ),
        ("import torch, handgrad; assert not hasattr(torch.ops.handgrad, 'unheard_of')", []),
        ("import torch, handgrad; assert not hasattr(torch.ops.handgrad, '__wrapped__')", []),
        ("import handgrad.onnx, handgrad.transfer, handgrad.benchmarking, handgrad.__main__", []),
        (
            "from handgrad import *; from handgrad.boxes import *; nms",
            sorted(module for module in MODULES if module.startswith("handgrad.boxes.")),
        ),
        ("from handgrad.sdk import lazy; lazy.load_all('handgrad')", OPS),
        ("import handgrad; from handgrad.sdk import lazy; lazy.load_all()", OPS),
    ],
)
def test_an_op_is_imported_when_it_is_used_and_no_other(text, modules):
    assert loaded(text) == modules


def test_a_name_means_the_function_and_not_its_module():
    """Python makes a module that is imported an attribute of its package: focal loss, the module, of losses."""
    lines = program(
        "import handgrad\n"
        "import handgrad.losses.sigmoid_focal_loss\n"
        "from handgrad.losses.asymmetric_loss import asymmetric_loss_reference\n"
        "print(type(handgrad.losses.sigmoid_focal_loss).__name__, type(handgrad.losses.asymmetric_loss).__name__)\n"
        "from handgrad.losses import asymmetric_loss, sigmoid_focal_loss\n"
        "print(callable(asymmetric_loss), callable(sigmoid_focal_loss))\n"
        "from handgrad import losses\n"
        "losses.mine = 3\n"
        "print(losses.mine)\n"
    )
    assert lines == ["function function", "True True", "3"]


def test_an_unknown_name_is_said():
    with pytest.raises(AttributeError, match=r"module 'handgrad\.losses' has no attribute 'unheard_of'"):
        handgrad.losses.unheard_of  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'handgrad' has no attribute 'unheard_of'"):
        handgrad.unheard_of  # noqa: B018
    with pytest.raises(ImportError, match=r"cannot import name 'unheard_of' from 'handgrad\.losses'"):
        exec("from handgrad.losses import unheard_of")


def test_it_can_be_looked_at():
    import inspect
    import pydoc

    members = dict(inspect.getmembers(handgrad.losses, inspect.isfunction))
    assert set(members) == {name for name in handgrad.losses.__all__ if name.islower()}
    text = pydoc.render_doc(handgrad.losses, renderer=pydoc.plaintext)
    assert "class SigmoidFocalLoss" in text
    assert "sigmoid_focal_loss(inputs: " in text
    assert "boxes" in pydoc.render_doc(handgrad, renderer=pydoc.plaintext)


ROUND_TRIPS = {
    "pickle": ("pickle.dump(module, open(path, 'wb'))", "module = pickle.load(open(path, 'rb'))"),
    "torch.save": ("torch.save(module, path)", "module = torch.load(path, weights_only=False)"),
    "torch.export": (
        "torch.export.save(torch.export.export(module, (x, t)), path)",
        "module = torch.export.load(path).module()",
    ),
    "fx": (
        "graph = torch.fx.Graph()\n"
        "args = graph.placeholder('x'), graph.placeholder('t'), 0.3, 2.0, 1\n"
        "graph.output(graph.call_function(torch.ops.handgrad.sigmoid_focal_loss.default, args))\n"
        "pickle.dump(torch.fx.GraphModule(torch.nn.Module(), graph), open(path, 'wb'))",
        "module = pickle.load(open(path, 'rb'))",
    ),
}


@pytest.mark.parametrize("road", ROUND_TRIPS)
def test_what_was_saved_finds_its_ops(tmp_path, road):
    """A process that has imported handgrad, and none of its ops, reads a file and trains with what is in it."""
    save, load = ROUND_TRIPS[road]
    start = f"import pickle, torch, handgrad\npath = {str(tmp_path / 'file.pt2')!r}\n"
    start += "x, t = torch.linspace(-2, 2, 12).reshape(3, 4).requires_grad_(), torch.zeros(3, 4)\n"
    end = "loss = module(x, t)\nloss.backward()\nprint(loss.item(), x.grad.sum().item())\n"
    written = program(f"{start}module = handgrad.losses.SigmoidFocalLoss(0.3)\n{save}\n{end}")
    text = f"{start}{load}\n{end}"
    assert program(text)[-1] == written[-1]
    assert loaded(text) == ["handgrad.losses.sigmoid_focal_loss"]


def test_a_torchscript_file_needs_all_ops_for_derivatives(tmp_path):
    """torch's C++ finds the kernels by itself; what Python registers it finds after load_all."""
    path = str(tmp_path / "traced.pt")
    start = "import torch, handgrad\nfrom handgrad.sdk import lazy\nx = torch.linspace(-2, 2, 12).reshape(1, 4, 3)\n"
    made = program(
        f"{start}module = handgrad.layers.LocalResponseNorm(3)\nprint(module(x).sum().item())\n"
        "import warnings; warnings.simplefilter('ignore')\n"
        f"with torch.no_grad(): torch.jit.save(torch.jit.trace(lambda x: torch.ops.handgrad.local_response_norm("
        f"x, 3, 1e-4, 0.75, 1.0), x), {path!r})\n"
    )
    read = f"import warnings; warnings.simplefilter('ignore')\n{start}module = torch.jit.load({path!r})\n"
    assert program(f"{read}print(module(x).sum().item())") == made
    assert loaded(f"{read}module(x)") == []
    gradient = "x.requires_grad_()\nmodule(x).sum().backward()\nprint(x.grad.abs().sum().item() > 1)"
    assert program(f"{read}lazy.load_all()\n{gradient}") == ["True"]


def test_the_first_use_may_be_inside_a_compiled_function():
    lines = program(
        "import torch, handgrad\n"
        "x = torch.linspace(-2, 2, 12).reshape(1, 4, 3).requires_grad_()\n"
        "def f(x): return handgrad.losses.sigmoid_focal_loss(x, x.detach().sigmoid(), reduction='sum')\n"
        "compiled = torch.compile(f, fullgraph=True, backend='aot_eager')\n"
        "(grad,) = torch.autograd.grad(compiled(x), x)\n"
        "torch.testing.assert_close(grad, torch.autograd.grad(f(x), x)[0])\n"
        "def raw(x): return torch.ops.handgrad.local_response_norm(x, 3, 1e-4, 0.75, 1.0)\n"
        "compiled = torch.compile(raw, fullgraph=True, backend='aot_eager')\n"
        "(grad,) = torch.autograd.grad(compiled(x).sum(), x)\n"
        "torch.testing.assert_close(grad, torch.autograd.grad(raw(x).sum(), x)[0])\n"
        "print('same')"
    )
    assert lines[-1] == "same"


def test_the_first_use_may_be_under_a_mode():
    lines = program(
        "import torch, handgrad\n"
        "from torch._subclasses.fake_tensor import FakeTensorMode\n"
        "with FakeTensorMode(), torch.device('cpu'):\n"
        "    print(handgrad.layers.local_response_norm(torch.ones(1, 2, 3), 3).shape)\n"
        "x = torch.ones(2, 3)\n"
        "print(torch.func.grad(lambda x: handgrad.losses.asymmetric_loss(x, x.detach(), reduction='sum'))(x).shape)\n"
        "with torch.inference_mode():\n"
        "    print(handgrad.losses.sigmoid_focal_loss(x, x, reduction='sum').shape)\n"
        "with torch.device('meta'):\n"
        "    print(handgrad.layers.roi_align(torch.ones(1, 2, 4, 4), torch.ones(3, 5), 2).shape)\n"
    )
    assert lines == ["torch.Size([1, 2, 3])", "torch.Size([2, 3])", "torch.Size([])", "torch.Size([3, 2, 2, 2])"]


def test_many_threads_may_be_the_first():
    lines = program(
        "import threading, torch, handgrad\n"
        "x, found = torch.ones(2, 3), []\n"
        "barrier = threading.Barrier(8)\n"
        "def first(index):\n"
        "    barrier.wait()\n"
        "    found.append((torch.ops.handgrad if index % 2 else handgrad.layers).local_response_norm)\n"
        "threads = [threading.Thread(target=first, args=(i,)) for i in range(8)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "print(len(found), len(set(found)))"
    )
    assert lines == ["8 2"]


def test_a_namespace_that_was_asked_before_is_watched_too():
    lines = program(
        "import sys, torch\n"
        "early = torch.ops.handgrad\n"
        "import handgrad\n"
        "early.nms\n"
        "print('handgrad.boxes.nms' in sys.modules, early is torch.ops.handgrad)\n"
        "from torch._ops import _OpNamespace\n"
        "print(isinstance(early, _OpNamespace), list(early))"
    )
    assert lines == ["True True", "True ['nms']"]


def test_an_op_that_was_handed_out_before_has_its_module():
    library = Path(handgrad.__file__).parent / "lib"
    lines = program(
        "import sys, torch\n"
        f"torch.ops.load_library({str(next(library.glob('libhandgrad.*')))!r})\n"
        "torch.ops.handgrad.nms\n"
        "import handgrad\n"
        "print('handgrad.boxes.nms' in sys.modules, 'handgrad.layers.roi_align' in sys.modules)"
    )
    assert lines == ["True False"]


def test_without_sources_everything_is_imported_at_once(tmp_path):
    """As an application is frozen: compiled files alone."""
    import compileall

    source = Path(handgrad.__file__).parent
    for path in source.rglob("*.py"):
        target = tmp_path / "handgrad" / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (tmp_path / "handgrad/lib").symlink_to(source / "lib")
    assert compileall.compile_dir(tmp_path / "handgrad", quiet=1, legacy=True)
    for path in (tmp_path / "handgrad").rglob("*.py"):
        path.unlink()
    lines = program(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import torch, handgrad\n"
        "print(handgrad.__file__, 'handgrad.boxes.nms' in sys.modules)\n"
        "print(torch.ops.handgrad.nms(torch.ones(1, 4), torch.ones(1), None, 0.5).tolist())\n"
        "print(handgrad.losses.SigmoidFocalLoss())"
    )
    assert lines[0] == f"{tmp_path}/handgrad/__init__.pyc True"
    assert lines[1:] == ["[0]", "SigmoidFocalLoss(alpha=0.25, gamma=2, reduction='mean')"]


PLUGIN = {
    "__init__.py": "from typing import TYPE_CHECKING\nimport torch\nfrom handgrad.sdk import lazy\n"
    "library = torch.library.Library('lazy_plugin', 'DEF')\n"
    "library.define('doubled(Tensor x) -> Tensor')\nlibrary.impl('doubled', lambda x: 2 * x, 'CPU')\n"
    "if TYPE_CHECKING or not lazy.exports(__name__):\n    from lazy_plugin import layers\n__all__ = ['layers']\n",
    "layers/__init__.py": "from typing import TYPE_CHECKING\nfrom handgrad.sdk import lazy\n"
    "if TYPE_CHECKING or not lazy.exports(__name__):\n"
    "    from .doubled import doubled as twice, doubled\n__all__ = ['doubled', 'twice']\n",
    "layers/doubled.py": "import torch\nimport lazy_plugin.layers\n"
    "doubled = torch.ops.lazy_plugin.doubled\n"
    "torch.library.register_fake('lazy_plugin::doubled', torch.empty_like)\n",
}


def test_a_plugin_is_lazy_too(tmp_path):
    """Relative imports and other names included."""
    for name, text in PLUGIN.items():
        (tmp_path / "lazy_plugin" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lazy_plugin" / name).write_text(text)
    lines = program(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import torch, lazy_plugin\n"
        "print('lazy_plugin.layers' in sys.modules)\n"
        "print(torch.ops.lazy_plugin.doubled(torch.ones(2, device='meta')).shape)\n"
        "print('lazy_plugin.layers.doubled' in sys.modules, 'handgrad.boxes.nms' in sys.modules)\n"
        "print(lazy_plugin.layers.twice is lazy_plugin.layers.doubled)"
    )
    assert lines == ["False", "torch.Size([2])", "True False", "True"]


def test_all_ops_are_registered_after_load_all():
    lazy.load_all()
    public = {name for name in OPERATORS if name.startswith("handgrad::") and "::_" not in name}
    assert len(OPS) > 7
    assert public == {f"handgrad::{module.rpartition('.')[2]}" for module in OPS}


def test_a_table_of_decompositions_holds_ops_that_nobody_has_used():
    lines = program(
        "import handgrad.onnx, torch\n"
        "table = handgrad.onnx.decompositions()\n"
        "print(torch.ops.handgrad.roi_align.default in table)"
    )
    assert lines == ["True"]


def test_import_stays_cheap():
    """A few modules of handgrad's own beside torch's, none of them an op's, whatever the number of ops (DESIGN
    allows 25 ms)."""
    text = "import sys, torch\nbefore = {*sys.modules}\nimport handgrad\nprint(*sorted({*sys.modules} - before))"
    imported = program(text)[-1].split()
    assert "handgrad.sdk.lazy" in imported
    assert all(name.partition(".")[0] == "handgrad" for name in imported), imported
    assert len(imported) <= 10, imported
