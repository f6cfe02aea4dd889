"""examples/embed.py, run whole on small images of bars, and its parts."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="session")
def embed() -> ModuleType:
    sys.path.insert(0, str(EXAMPLES))
    import embed

    torch.set_num_threads(1)
    return embed


def bars(number: int, seed: int, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images of three classes, one after the other: a bar that lies, one that stands, and both."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number, dtype=np.uint8) % 3
    images = rng.integers(0, 60, (number, side, side), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = rng.integers(4, side - 6, 2)
        if label != 1:
            image[row : row + 3] += 180
        if label != 0:
            image[:, column : column + 3] = 230
    return images, labels


def write_idx(path: Path, array: np.ndarray) -> None:
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def idx(tmp_path) -> Path:
    folder = tmp_path / "idx"
    folder.mkdir()
    for part, number, seed in (("train", 90, 0), ("t10k", 30, 1)):
        images, labels = bars(number, seed)
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


def write_photos(folder: Path, number: int, seed: int) -> None:
    for i, (image, label) in enumerate(zip(*bars(number, seed), strict=True)):
        (folder / "abc"[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "abc"[label] / f"{i}.png")


@pytest.fixture
def photos(tmp_path) -> Path:
    write_photos(tmp_path / "photos", 24, 0)
    return tmp_path / "photos"


SMALL = ("--size", "16", "--steps", "2", "--batch", "8", "--width", "4", "--repeats", "1", "--plane", "pca")
ALONE = ("--compare", "none")


def run(embed, folder, tmp_path, *more: object) -> int:
    return embed.main(["--data", str(folder), *SMALL, "--out", str(tmp_path / "out"), *map(str, more)])


def results_in(tmp_path) -> dict:
    return json.loads((tmp_path / "out" / "results.json").read_text())


def test_trains_compares_measures_and_draws(embed, idx, tmp_path, capsys):
    more = ("--images", "60", "--compare", "cross_entropy", "--plane", "tsne", "--points", "20")
    assert run(embed, idx, tmp_path, *more) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert f"{idx}, 3 classes: train on 60 images, measure on 30" in said.out
    assert "of one run each" in said.out
    results = results_in(tmp_path)
    assert set(results["measured"]) == set(results["pixels"]) == {"k-NN", "linear", "recall@1"}
    assert results["compared"]["supervised_contrastive"] == [results["measured"]]
    assert set(results["compared"]) == {"supervised_contrastive", "cross_entropy"}
    assert len(results["losses"]) == 2
    with Image.open(tmp_path / "out" / "embeddings.png") as picture:
        assert picture.size[0] > 1.5 * picture.size[1]  # a panel for each loss, side by side
    assert "body.0.weight" in torch.load(tmp_path / "out" / "encoder.pt", weights_only=True)


def test_enough_steps_part_the_classes(embed, idx, tmp_path, capsys):
    assert run(embed, idx, tmp_path, "--steps", "60", "--batch", "24", "--width", "8", *ALONE) == 0
    results = results_in(tmp_path)
    assert sum(results["losses"][-10:]) < 0.9 * sum(results["losses"][:10])
    assert all(results["measured"][name] > 0.9 for name in ("k-NN", "linear", "recall@1"))
    assert results["measured"]["recall@1"] > results["pixels"]["recall@1"] + 0.1


def test_equal_seeds_give_equal_numbers_and_others_do_not(embed, idx, tmp_path, capsys):
    losses = []
    for place, seed in enumerate((3, 3, 4)):
        assert run(embed, idx, tmp_path / str(place), "--seed", seed, *ALONE) == 0
        losses.append(results_in(tmp_path / str(place))["losses"])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_every_loss_trains_and_knows_its_views(embed, idx, tmp_path, capsys):
    names = list(embed.losses.LOSSES)
    assert run(embed, idx, tmp_path, "--steps", "1", "--loss", names[-1], "--compare", ",".join(names)) == 0
    assert set(results_in(tmp_path)["compared"]) == set(names)
    labels = torch.tensor([0, 0, 1, 1])
    near = torch.zeros(4, 8)
    near[range(4), range(4)] = 1
    for name in names:
        torch.manual_seed(0)
        criterion = embed.losses.LOSSES[name](8, 2)
        rows = near.repeat(2, 1).requires_grad_()
        value = criterion(rows, labels)
        assert value.dim() == 0
        assert all(x.any() for x in torch.autograd.grad(value, [rows, *criterion.parameters()]))
        # Views of another image in the second half: a loss that reads labels minds if these are of another class.
        assert criterion(near[[0, 1, 2, 3, 2, 3, 0, 1]], labels) > value


def test_the_formulas_are_the_papers(embed):
    rows = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 2])
    cosines = F.normalize(rows) @ F.normalize(rows).T / embed.losses.TEMPERATURE
    log_shares = cosines - cosines.masked_fill(torch.eye(8).bool(), -torch.inf).logsumexp(1, keepdim=True)

    def expected(numbers: torch.Tensor) -> torch.Tensor:
        alike = (numbers[:, None] == numbers).fill_diagonal_(False)
        return -torch.stack([row[same].mean() for row, same in zip(log_shares, alike, strict=True)]).mean()

    torch.testing.assert_close(embed.losses.supervised_contrastive(rows, labels), expected(labels.repeat(2)))
    torch.testing.assert_close(embed.losses.nt_xent(rows, labels), expected(torch.arange(4).repeat(2)))


# ---- what is wrong is said -------------------------------------------------------------------------------------------


def sentence_of(embed, capsys, pattern: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("embed: ")
    assert error.count("\n") == 1
    with pytest.raises(embed.UserError, match=pattern):
        raise embed.UserError(error)


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: (f / "t10k-labels-idx1-ubyte").unlink(), "t10k-labels-idx1-ubyte.gz cannot be read"),
        (lambda f: cut(f / "train-images-idx3-ubyte", 100), "train-images-idx3-ubyte is not a whole file of bytes"),
        (lambda f: cut(f / "train-images-idx3-ubyte", 3), "train-images-idx3-ubyte is not a whole file of bytes"),
        (
            lambda f: write_idx(f / "train-labels-idx1-ubyte", np.zeros(7, np.uint8)),
            r"images and labels of train in .* do not go together: \(90, 16, 16\), \(7,\)",
        ),
        (lambda f: write_idx(f / "train-labels-idx1-ubyte", np.zeros(90, np.uint8)), "two classes at least"),
        (
            lambda f: [write_idx(f / f"t10k-{n}-ubyte", np.zeros(s, np.uint8)) for n, s in NOTHING.items()],
            "must hold images to train on and to test on",
        ),
    ],
)
def test_what_is_wrong_with_the_files_is_said(embed, idx, tmp_path, capsys, change, sentence):
    change(idx)
    assert run(embed, idx, tmp_path) == 2
    sentence_of(embed, capsys, sentence)


NOTHING = {"images-idx3": (0, 16, 16), "labels-idx1": (0,)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: next((f / "b").iterdir()).write_bytes(b"no image"), "the image .*png cannot be read"),
        (lambda f: [p.unlink() for p in (f / "b").iterdir()], "/b must hold images of a class, 4 at least; it holds 0"),
        (lambda f: [p.rename(f / f"{p.parent.name}{p.name}") for p in f.glob("*/*")], "must hold images of a class"),
        (lambda f: (f / "train").mkdir() or (f / "test").mkdir(), "train must hold a folder of images for each class"),
    ],
)
def test_what_is_wrong_with_the_photos_is_said(embed, photos, tmp_path, capsys, change, sentence):
    change(photos)
    assert run(embed, photos, tmp_path) == 2
    sentence_of(embed, capsys, sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--data", "nowhere"), "--data must be fashion, digits or a folder of images, but nowhere is not there"),
        (("--loss", "nt_xnt"), "there is no loss 'nt_xnt': did you mean nt_xent"),
        (("--compare", "crossentropy"), "there is no loss 'crossentropy': did you mean cross_entropy"),
        (("--plane", "umap"), "there is no method 'umap'"),
        (("--batch", "1"), "expected a whole number from 2 to 100000, got '1'"),
    ],
)
def test_wrong_arguments_get_a_sentence(embed, idx, tmp_path, capsys, arguments, sentence):
    assert run(embed, idx, tmp_path, *arguments) == 2
    sentence_of(embed, capsys, sentence)


def test_a_loss_that_is_no_number_ends_the_training(embed, idx, tmp_path, capsys, monkeypatch):
    class Wrong(torch.nn.Linear):
        def forward(self, features, labels):
            return features.sum() * float("nan")

    monkeypatch.setitem(embed.losses.LOSSES, "cross_entropy", Wrong)
    assert run(embed, idx, tmp_path, "--loss", "cross_entropy") == 2
    sentence_of(embed, capsys, "the loss is nan in step 1: try a smaller --lr")


# ---- Fashion-MNIST out of its package --------------------------------------------------------------------------------


@pytest.fixture
def debian(embed, idx, tmp_path, monkeypatch) -> Path:
    """A place in which the package is installed, as far as the example knows, with its four files."""
    from shared import mnist

    place = tmp_path / "system" / "datasets"
    place.mkdir(parents=True)
    for file in idx.iterdir():
        (place / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    sums = {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in place.iterdir()}
    monkeypatch.setattr(mnist, "FASHION_FOLDER", place)
    monkeypatch.setattr(mnist, "_FASHION_FILES", sums)
    return place


def program(folder: Path, name: str, lines: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\nimport shutil, sys\nfrom pathlib import Path\n{lines}\n")
    (folder / name).chmod(0o755)


def test_fashion_mnist_is_read_where_it_is_installed(embed, debian, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    parts = embed.data.open_images("fashion", 40, 28, 0, tmp_path / "cache")
    assert (len(parts.train), len(parts.test)) == (40, 30)
    assert parts.classes[9] == "boot"
    assert parts.mirrored
    assert not (tmp_path / "cache").exists()


def test_fashion_mnist_is_taken_out_of_its_package_and_kept(embed, debian, tmp_path, monkeypatch):
    # Programs that do with a folder what apt-get and dpkg-deb do with a package.
    bin, away = tmp_path / "bin", tmp_path / "away"
    debian.rename(away)
    program(
        bin, "apt-get", "assert sys.argv[1:] == ['download', 'dataset-fashion-mnist']\nPath('a.deb').write_text('')"
    )
    target = f"Path(sys.argv[3], {str(debian)[1:]!r})"
    program(bin, "dpkg-deb", f"assert sys.argv[1] == '--extract'\nshutil.copytree({str(away)!r}, {target})")
    monkeypatch.setenv("PATH", str(bin))
    folder = embed.data.mnist.fashion_mnist(tmp_path / "cache")
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in away.iterdir())
    monkeypatch.setenv("PATH", "")
    assert embed.data.mnist.fashion_mnist(tmp_path / "cache") == folder
    assert len(embed.data.open_images("fashion", 90, 28, 0, tmp_path / "cache").train) == 90


@pytest.mark.skipif(not (Path("/usr/bin/dpkg-deb").is_file()), reason="dpkg-deb is Debian's")
def test_a_real_package_is_unpacked(embed, debian, tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: d\n"
    )
    (tree / str(debian.parent)[1:]).mkdir(parents=True)
    debian.rename(tree / str(debian)[1:])
    subprocess.run(["dpkg-deb", "--build", str(tree), str(tmp_path / "a.deb")], check=True, capture_output=True)
    program(tmp_path / "bin", "apt-get", f"shutil.copy({str(tmp_path / 'a.deb')!r}, 'a.deb')")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert len(embed.data.open_images("fashion", 90, 28, 0, tmp_path / "cache").train) == 90


@pytest.mark.parametrize(
    ("programs", "sentence"),
    [
        ({}, "which is not installed here, and there is no apt-get to fetch it; .*--data digits needs pip only"),
        (
            {"apt-get": "sys.exit('E: Unable to locate package')", "dpkg-deb": ""},
            r"which is not installed here, and apt-get could not download it \(E: Unable to locate package\)",
        ),
        (
            {
                "apt-get": "Path('a.deb').write_text('')",
                "dpkg-deb": "import os\nt = Path(sys.argv[3], PLACE)\nt.mkdir(parents=True)\n"
                "[Path(t, n + '.gz').write_text('other') for n in NAMES]",
            },
            "ubyte.gz in the package dataset-fashion-mnist is not the file",
        ),
    ],
)
def test_a_package_that_cannot_be_had_gets_a_sentence(embed, debian, tmp_path, capsys, monkeypatch, programs, sentence):
    for file in debian.iterdir():
        file.unlink()
    (tmp_path / "bin").mkdir()
    names = "['train-images-idx3-ubyte', 'train-labels-idx1-ubyte', 't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte']"
    for name, lines in programs.items():
        program(tmp_path / "bin", name, f"PLACE, NAMES = {str(debian)[1:]!r}, {names}\n{lines}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert run(embed, "fashion", tmp_path, "--cache", tmp_path / "cache") == 2
    sentence_of(embed, capsys, sentence)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_digits_are_split_in_every_class(embed, tmp_path, monkeypatch):
    rows = ["0," * 783 + f"{i % 250},{i % 10}" for i in range(120)]
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    monkeypatch.setattr(embed.data.mnist, "mnist_table", lambda cache: path)
    parts = embed.data.open_images("digits", 1000, 28, 0, tmp_path)
    assert parts.train.labels.bincount().tolist() == [9] * 10
    assert parts.test.labels.bincount().tolist() == [3] * 10
    numbers = torch.cat([part.pixels[:, 0, 27, 27] for part in (parts.train, parts.test)])
    assert sorted(numbers.tolist()) == list(range(120))
    other = embed.data.open_images("digits", 1000, 28, 7, tmp_path)
    assert torch.equal(other.test.pixels, parts.test.pixels)


@pytest.mark.parametrize("divided", [False, True])
def test_a_folder_of_photos_for_each_class(embed, photos, tmp_path, divided):
    if divided:
        for part, seed in (("train", 0), ("test", 1)):
            write_photos(tmp_path / "both" / part, 18 if part == "train" else 3, seed)
    parts = embed.data.open_images(str(tmp_path / "both" if divided else photos), 1000, 12, 0, tmp_path)
    assert parts.classes == ["a", "b", "c"]
    assert (len(parts.train), len(parts.test)) == (18, 3 if divided else 6)
    assert parts.test.labels.unique().tolist() == [0, 1, 2]
    assert parts.train.pixels.shape[1:] == (3, 12, 12)
    colours = Image.new("RGBA", (40, 20), (200, 100, 50, 255))
    colours.save(tmp_path / "colours.png")
    assert embed.data._read(tmp_path / "colours.png", 8)[:, 3, 3].tolist() == [200, 100, 50]


def test_views_are_the_same_for_a_seed_and_two_of_each_image(embed, idx, tmp_path):
    parts = embed.data.open_images(str(idx), 90, 16, 0, tmp_path)
    # The level of an image is its number, so that a view tells of which it is, whatever its box.
    levels = (40 + 2 * torch.arange(90)).to(torch.uint8)[:, None, None, None].expand(90, 1, 16, 16)
    train = embed.data.Images(levels, torch.arange(90))
    parts = embed.data.Parts("levels", parts.classes, train, parts.test, True)
    scale = embed.data.Scale([0.0], [1.0])
    drawn = [list(embed.data.training_views(parts, 4, 30, 12, scale, seed)) for seed in (3, 3, 4)]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(drawn[0], drawn[1], strict=True))
    assert any(not torch.equal(a, b) for (a, _), (b, _) in zip(drawn[0], drawn[2], strict=True))
    for views, labels in drawn[0]:
        assert views.shape == (60, 1, 12, 12)
        light = views[:, 0, 0, 0] / ((40 + 2 * labels.repeat(2)) / 255)
        assert light.min() > 0.88
        assert light.max() < 1.12
        assert (light[:30] != light[30:]).any()
    # All before any comes again.
    assert torch.cat([labels for _, labels in drawn[0][:3]]).unique().tolist() == list(range(90))


def test_boxes_lie_in_the_image_and_reach_everywhere(embed):
    boxes = embed.data._boxes(2000, 20, 30, torch.Generator().manual_seed(0))
    top, left, height, width = boxes.T
    assert (top + height).max() == 20
    assert (left + width).max() == 30
    assert boxes.min() == 0
    areas = height * width / 600
    assert areas.min() > 0.55
    assert areas.max() > 0.9


def test_what_mirrors_is_mirrored_and_nothing_else(embed, idx, tmp_path, monkeypatch):
    monkeypatch.setattr(embed.data, "_AREA", (1.0, 1.0))
    monkeypatch.setattr(embed.data, "_ASPECT", (1.0, 1.0))
    monkeypatch.setattr(embed.data, "_LIGHT", (1.0, 1.0))
    parts = embed.data.open_images(str(idx), 90, 16, 0, tmp_path)
    scale = embed.data.Scale.of(parts.train)
    for mirrored in (False, True):
        some = embed.data.Parts(parts.name, parts.classes, parts.train, parts.test, mirrored)
        ((views, _),) = embed.data.training_views(some, 1, 90, 16, scale, 0)
        originals = embed.data.whole(parts.train.pixels, 16, scale)
        plain, turned = (
            (views[:, None] - x).abs().amax((2, 3, 4)).amin(1) < 1e-4 for x in (originals, originals.flip(3))
        )
        assert (plain | turned).all()
        assert bool(plain.all()) is not mirrored


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(embed, idx, tmp_path):
    parts = embed.data.open_images(str(idx), 90, 16, 0, tmp_path)
    scale = embed.data.Scale.of(parts.train)
    encoder = embed.models.build(1, 4, seed=0)
    rows = embed.models.embed(encoder, parts.test.pixels, 16, scale)
    assert rows.shape == (30, encoder.features)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(30))
    torch.testing.assert_close(embed.models.embed(encoder, parts.test.pixels, 16, scale, batch=7), rows)


def test_measures_of_known_rows(embed, monkeypatch):
    angles = torch.tensor([0.0, 0.1, 0.25, 1.5, 1.6, 1.75])
    rows, labels = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 0, 0, 1, 1, 1])
    monkeypatch.setattr(embed.evaluation, "_CHUNK", 4)
    assert embed.evaluation.nearest_other(rows).tolist() == [1, 0, 1, 4, 3, 4]
    asked = torch.tensor([0.05, 1.55, 0.9])
    asked_rows = torch.stack([asked.cos(), asked.sin()], 1)
    assert embed.evaluation.neighbours(rows, labels, asked_rows).tolist() == [0, 1, 1]
    assert embed.evaluation.linear(rows, labels, asked_rows[:2]).tolist() == [0, 1]
    measured = embed.evaluation.measure(rows, labels, asked_rows, torch.tensor([0, 1, 0]))
    # The row at 0.9 is nearer to class 1, at 1.5, than to class 0, at 0.25, and of the other two to that of class 1.
    assert measured["k-NN"] == pytest.approx(2 / 3)
    assert measured["recall@1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_rows_on_the_plane_keep_their_neighbours(embed, method):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    rows = F.normalize(5 * F.one_hot(labels, 6).float() + torch.rand(30, 6, generator=generator))
    points = torch.from_numpy(embed.report.on_plane(rows, method, 0)).float()
    assert points.shape == (30, 2)
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
    assert torch.equal(labels[distances.argmin(1)], labels)
