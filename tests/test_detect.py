"""examples/detect.py, run whole on small photos with boxes, and its parts."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from handgrad.boxes import box_iou

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="session")
def detect() -> ModuleType:
    sys.path.insert(0, str(EXAMPLES))
    import detect

    torch.set_num_threads(1)
    return detect


def write_photo(folder: Path, name: str, boxes: list[tuple[str, int, int, int, int]], side: int = 96) -> None:
    """Dark noise with a bright square for each box, and the boxes as Pascal VOC has them: from 1, ends included."""
    pixels = np.random.default_rng(len(name)).integers(0, 60, (side, side, 3), dtype=np.uint8)
    things = ""
    for label, left, top, right, bottom in boxes:
        pixels[top:bottom, left:right] = 220
        corners = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        things += f"<object><name>{label}</name><bndbox>{corners}</bndbox></object>"
    Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / f"{name}.xml").write_text(f"<annotation>{things}</annotation>")


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    write_photo(folder, "first", [("square", 10, 10, 40, 40), ("square", 50, 20, 80, 60)])
    write_photo(folder, "second", [("square", 5, 30, 45, 70), ("block", 60, 60, 90, 90)])
    write_photo(folder, "third", [("square", 20, 20, 60, 60)])
    return folder


def run(detect, folder, tmp_path, *more: object) -> int:
    small = ("--weights", "none", "--size", "64", "--steps", "2", "--batch", "1", "--out", str(tmp_path / "out"))
    return detect.main(["--data", str(folder), *small, *map(str, more)])


def test_trains_measures_and_draws(detect, photos, tmp_path, capsys):
    assert run(detect, photos, tmp_path, "--test", "second") == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "train on: 2 photos with 3 boxes (first, third)" in said.out
    assert "filter_proposals calls batched_nms -> batched_nms" in said.out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["classes"] == ["block", "square"]
    assert set(results["measured"]) == {"training photos", "test photos"}
    assert len(results["losses"]) == 2
    # After two steps all scores are alike, and rounding decides which come first: test_transfer.py compares detections.
    assert set(results["ops"]) == {"detections", "same", "step_seconds"}
    with Image.open(tmp_path / "out" / "second.png") as picture:
        assert picture.size == (96, 96)
    assert "rpn.head.cls_logits.weight" in torch.load(tmp_path / "out" / "detector.pt", weights_only=True)


def test_equal_seeds_and_either_library_give_equal_losses(detect, photos, tmp_path, capsys):
    losses = []
    for place, ops in enumerate(("handgrad", "handgrad", "torchvision")):
        assert run(detect, photos, tmp_path / str(place), "--ops", ops) == 0
        losses.append(json.loads((tmp_path / str(place) / "out" / "results.json").read_text())["losses"])
    assert losses[0] == losses[1]
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-3)


def test_a_head_of_attention_trains_measures_and_draws(detect, photos, tmp_path, capsys):
    """Equal seeds give equal losses; with no answer that fits, a view without things is learnt from too."""
    losses = []
    for place in range(2):
        assert run(detect, photos, tmp_path / str(place), "--head", "deformable-detr") == 0
        results = json.loads((tmp_path / str(place) / "out" / "results.json").read_text())
        losses.append(results["losses"])
    said = capsys.readouterr()
    assert said.err == ""
    assert "torchvision's ops" not in said.out
    assert losses[0] == losses[1]
    assert results["settings"]["lr"] == 0.001
    assert results["settings"]["threshold"] == 0.3
    with Image.open(tmp_path / "0" / "out" / "third.png") as picture:
        assert picture.size == (96, 96)


def test_answers_are_matched_with_the_things_that_they_fit(detect):
    head = detect.models.DeformableDetector
    things = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.4, 0.2]])
    boxes = torch.tensor([[0.5, 0.5, 0.1, 0.1], [0.7, 0.68, 0.4, 0.2], [0.21, 0.2, 0.2, 0.2]])
    matching = sys.modules[head.__module__]
    rows, columns = matching._match(torch.zeros(3, 1), boxes, things, torch.zeros(2, dtype=torch.int64))
    assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == {1: 1, 2: 0}
    # No thing at all: what is left is the loss of answers that should be none.
    truth = [(things[:0], torch.zeros(0, dtype=torch.int64))]
    losses = matching._losses(torch.zeros(1, 3, 1), boxes[None], truth, 1)
    assert losses["classes"] > 0
    assert losses["corners"] == losses["overlap"] == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: (f / "second.png").unlink(), "second.xml has no photo of the same name beside it"),
        (lambda f: (f / "second.png").write_bytes(b"no picture"), "the photo .*second.png cannot be read"),
        (lambda f: (f / "second.xml").write_text("<annotation>"), "second.xml cannot be read as Pascal VOC boxes"),
        (
            lambda f: (f / "second.xml").write_text((f / "second.xml").read_text().replace("<xmax>45", "<xmax>5")),
            "second.xml has a box whose right or lower edge is missing or not beyond the other",
        ),
        (
            lambda f: [(f / f"{n}.xml").write_text("<annotation/>") for n in ("first", "second", "third")],
            "hold no object",
        ),
        (lambda f: [(f / f"{n}.xml").unlink() for n in ("first", "second")], "two photos with an .xml file .* has 1"),
    ],
)
def test_what_is_wrong_with_the_photos_is_said(detect, photos, tmp_path, capsys, change, sentence):
    change(photos)
    assert run(detect, photos, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("detect: ")
    assert error.count("\n") == 1
    with pytest.raises(detect.UserError, match=sentence):
        raise detect.UserError(error)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--data", "nowhere"), "--data must name a folder with photos .* but nowhere is not there"),
        (("--test", "fourth"), "--test names 'fourth', but the photos in .* are first, second, third"),
        (("--test", "first", "--test", "second", "--test", "third"), "--test names all photos"),
        (("--ops", "torch-vision"), "there is no library 'torch-vision': did you mean torchvision"),
        (("--steps", "0"), "expected a whole number from 1 to 1e.06, got '0'"),
    ],
)
def test_wrong_arguments_get_a_sentence(detect, photos, tmp_path, capsys, arguments, sentence):
    assert run(detect, photos, tmp_path, *arguments) == 2
    with pytest.raises(detect.UserError, match=sentence):
        raise detect.UserError(capsys.readouterr().err)


def test_a_loss_that_is_no_number_ends_the_training(detect, photos, tmp_path, capsys, monkeypatch):
    build = detect.models.build

    def broken(*arguments):
        model, said = build(*arguments)
        torch.nn.init.constant_(model.rpn.head.cls_logits.bias, float("nan"))
        return model, said

    monkeypatch.setattr(detect.models, "build", broken)
    assert run(detect, photos, tmp_path) == 2
    assert "detect: the loss is nan in step 1: try a smaller --lr" in capsys.readouterr().err


def photo_of(detect, boxes, side=100):
    found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    pixels = torch.randint(0, 255, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return detect.data.Photo("photo", pixels, found, torch.ones(len(found), dtype=torch.int64))


def test_a_cut_moves_boxes_and_leaves_out_what_is_hardly_in_it(detect):
    photo = photo_of(detect, [[10, 10, 30, 30], [45, 0, 65, 20], [90, 90, 99, 99]])
    pixels, target = detect.data.cut(photo, left=0, top=0, side=50)
    assert pixels.shape == (3, 50, 50)
    # A quarter of the second box is inside.
    assert target["boxes"].tolist() == [[10, 10, 30, 30]]
    _, target = detect.data.cut(photo, left=40, top=0, side=50)
    assert target["boxes"].tolist() == [[5, 0, 25, 20]]


def test_views_are_the_same_for_a_seed_and_hold_boxes_inside(detect):
    photo = photo_of(detect, [[10, 10, 30, 30], [50, 50, 90, 80]])
    views = [list(detect.data.training_views([photo], 8, 64, seed)) for seed in (3, 3, 4)]
    for (a, x), (b, y) in zip(*views[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(x["boxes"], y["boxes"], rtol=0, atol=0)
    boxes = torch.cat([target["boxes"] for _, target in views[0]])
    assert len(boxes)
    assert boxes.min() >= 0
    assert boxes.max() <= 64
    assert any(not torch.equal(a, b) for (a, _), (b, _) in zip(views[0], views[2], strict=True))


@pytest.mark.parametrize("side", [40, 64, 100, 200])
def test_tiles_cover_a_photo_and_overlap(detect, side):
    photo = photo_of(detect, [])
    seen = torch.zeros(100, 100, dtype=torch.int64)
    places = detect.data.tiles(photo, side)
    for left, top in places:
        assert left + min(side, 100) <= 100
        seen[top : top + side, left : left + side] += 1
    assert seen.min() >= 1
    starts = sorted({left for left, _ in places})
    assert all(b - a <= side * 3 // 4 for a, b in itertools.pairwise(starts))


def test_average_precision_of_known_detections(detect):
    photo = photo_of(detect, [[0, 0, 10, 10], [20, 20, 40, 40]])
    one = torch.ones(2, dtype=torch.int64)
    perfect = {"boxes": photo.boxes, "scores": torch.tensor([0.9, 0.8]), "labels": one}
    precision = detect.detections.average_precision([photo], [perfect], 1, box_iou)
    assert precision == pytest.approx({"0.5": 1.0, "0.75": 1.0, "0.5 to 0.95": 1.0})
    # The second covers 0.7 of its thing: right at 0.5 to 0.65 (and 0.7, which is met), wrong from 0.75 on.
    shifted = {**perfect, "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 34.5]])}
    precision = detect.detections.average_precision([photo], [shifted], 1, box_iou)
    assert precision["0.5"] == pytest.approx(1.0)
    assert precision["0.75"] == pytest.approx(51 / 101)
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": one[:0]}
    assert set(detect.detections.average_precision([photo], [nothing], 1, box_iou).values()) == {0.0}


def test_each_thing_is_matched_once(detect):
    photo = photo_of(detect, [[0, 0, 10, 10], [50, 50, 60, 60]])
    answer = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [80, 80, 90, 90], [50, 50, 60, 60]]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.1]),
        "labels": torch.ones(4, dtype=torch.int64),
    }
    matched = detect.detections.match(photo, answer, 0.5, box_iou)
    assert (len(matched.right), len(matched.wrong), len(matched.missed)) == (1, 2, 1)
    assert matched.precision == pytest.approx(1 / 3)
    assert matched.recall == pytest.approx(1 / 2)
