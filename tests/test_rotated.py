"""examples/rotated.py, run whole on few small scenes, and its parts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from handgrad.boxes import rotated_box_iou

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="session")
def rotated() -> ModuleType:
    sys.path.insert(0, str(EXAMPLES))
    import rotated

    torch.set_num_threads(1)
    return rotated


def materials(rotated, value: float):
    """Dark ground, and surfaces of one level each."""
    surfaces = [torch.full((256, 256), value - 0.1 * k) for k in range(3)]
    return rotated.data.Materials([torch.full((3, 128, 128), 0.1)], surfaces)


@pytest.fixture
def made(rotated, monkeypatch):
    monkeypatch.setattr(
        rotated.data, "open_materials", lambda cache: (materials(rotated, 0.9), materials(rotated, 0.8))
    )


SMALL = ("--weights", "none", "--size", "64", "--steps", "2", "--batch", "2", "--scenes", "3")


def test_trains_measures_and_draws(rotated, made, tmp_path, capsys):
    losses = []
    for place in ("first", "second"):
        assert rotated.main([*SMALL, "--out", str(tmp_path / place)]) == 0
        losses.append(json.loads((tmp_path / place / "results.json").read_text())["losses"])
    said = capsys.readouterr()
    assert said.err == ""
    assert "loss of the classes" in said.out
    # Equal seeds give equal numbers.
    assert losses[0] == losses[1]
    results = json.loads((tmp_path / "first/results.json").read_text())
    assert set(results["measured"]) == {"training materials", "test materials"}
    assert {len(values) for values in results["losses"].values()} == {2}
    with Image.open(tmp_path / "first/scenes.png") as picture:
        assert picture.size == (3 * 128, 128)
    assert "boxes.weight" in torch.load(tmp_path / "first/detector.pt", weights_only=True)


def test_scenes_are_the_same_for_a_seed_and_their_boxes_are_where_the_things_are(rotated):
    data = rotated.data
    of_seed = [list(data.scenes(materials(rotated, 0.9), 4, 128, seed)) for seed in (3, 3, 4)]
    for a, b in zip(*of_seed[:2], strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.boxes, b.boxes)
    assert any(not torch.equal(a.pixels, b.pixels) for a, b in zip(of_seed[0], of_seed[2], strict=True))
    for scene in of_seed[0]:
        assert scene.boxes.shape[1] == 5
        assert (scene.boxes[:, 2] >= scene.boxes[:, 3]).all()
        # Things hardly overlap, and what is not of a box is as dark as the ground.
        overlaps = rotated_box_iou(scene.boxes, scene.boxes).fill_diagonal_(0)
        assert overlaps.max() <= 0.02
        covered = torch.zeros(scene.pixels.shape[1:], dtype=torch.bool)
        for x, y, width, height, degrees in scene.boxes.tolist():
            across, down = data.inside(scene.pixels.shape[1:], x, y, degrees)
            middle = (across.abs() < width / 2 - 1) & (down.abs() < height / 2 - 1)
            assert (scene.pixels[:, middle] > 0.2).all()
            covered |= (across.abs() < width / 2 + 1) & (down.abs() < height / 2 + 1)
        assert torch.allclose(scene.pixels[:, ~covered], torch.tensor(0.1))


def test_the_corners_are_those_that_the_overlap_goes_by(rotated):
    """A box, and the four triangles around it that make a larger upright one of it."""
    boxes = torch.tensor([[50.0, 40.0, 30.0, 10.0, 25.0]], dtype=torch.float64)
    corners = rotated.data.corners(boxes)[0]
    low, high = corners.amin(0), corners.amax(0)
    around = torch.cat([(low + high) / 2, high - low, torch.zeros(1)])[None]
    iou = 300.0 / (high - low).prod()
    torch.testing.assert_close(rotated_box_iou(boxes, around)[0, 0], iou)
    # Turned the other way it would not be inside this thin one along its own axis.
    along = torch.tensor([[50.0, 40.0, 300.0, 10.0, 25.0]], dtype=torch.float64)
    assert torch.isclose(rotated_box_iou(boxes, along)[0, 0], torch.tensor(0.1, dtype=torch.float64))
    across = (corners[1] - corners[0]) / 30
    # Counter-clockwise, and y goes down.
    torch.testing.assert_close(across, torch.tensor([0.9063077870, -0.4226182617], dtype=torch.float64))


def test_points_belong_to_the_thing_around_them(rotated):
    points = rotated.models.positions(8, 8)
    assert points[:2].tolist() == [[4, 4], [12, 4]]
    boxes = torch.tensor([[20.0, 20, 24, 16, 0], [44, 44, 4, 2, 30]])
    things = rotated.models.assign(boxes, points)
    assert points[things == 0].tolist() == [[20, 20]]
    # One that is smaller than the way between points has the nearest.
    assert points[things == 1].tolist() == [[44, 44]]
    assert (rotated.models.assign(boxes[:0], points) == -1).all()


def test_the_loss_is_none_where_boxes_are_right(rotated):
    points = rotated.models.positions(2, 2)
    things = torch.tensor([[4.0, 4, 20, 8, 30]])
    logits = torch.full((1, 4, 3), -20.0)
    logits[0, 0, 1] = 20.0
    answer = (logits, things.expand(4, 5)[None])
    for name in ("iou", "giou"):
        values = rotated.models.losses(answer, [(things, torch.tensor([2]))], points, name)
        assert values["boxes"] == 0
        assert values["classes"] < 1e-6


def test_average_precision_goes_by_the_rotated_boxes(rotated):
    """Two boxes that share centre and sides: turned by a right angle, a long one hardly covers itself."""
    truth = rotated.data.Scene(torch.zeros(3, 64, 64), torch.tensor([[32.0, 32, 40, 8, 0]]), torch.ones(1).long())
    answer = {"scores": torch.tensor([0.9]), "labels": truth.labels}
    for degrees, due in ((0.0, 1.0), (180.0, 1.0), (90.0, 0.0)):
        answer["boxes"] = torch.tensor([[32.0, 32, 40, 8, degrees]])
        precision = rotated.detections.average_precision([truth], [answer], 3, rotated_box_iou)
        assert precision["0.5"] == pytest.approx(due)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--loss", "l1"), "there is no loss 'l1'"),
        (("--steps", "0"), "expected a whole number from 1 to 1e.06, got '0'"),
        (("--lr", "1e9"), "expected a number above 0 to 100, got '1e9'"),
    ],
)
def test_wrong_arguments_get_a_message(rotated, made, tmp_path, capsys, arguments, message):
    assert rotated.main([*SMALL, "--out", str(tmp_path), *arguments]) == 2
    with pytest.raises(rotated.UserError, match=message):
        raise rotated.UserError(capsys.readouterr().err)
