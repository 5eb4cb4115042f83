"""The picture strip of a training: at which iterations the images are taken, and what it draws of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from CTSynthesisLib.training.strip import Strip, draw_planes, planes_of


class Counter:
    """A model that counts its steps."""

    def __init__(self):
        self.steps = 0

    def step(self, batch):
        self.steps += 1
        return {"loss": 0.0}

    def state(self):
        return {}, {"steps": self.steps}

    def load_state(self, weights, rest):
        self.steps = rest["steps"]


def strip_of(model, folder, iterations):
    return Strip(lambda: {"planes": torch.full((6, 2), float(model.steps))}, folder, iterations)


def test_images_are_taken_at_their_moments_and_where_a_training_ends_early(tmp_path):
    model, told = Counter(), []
    strip = strip_of(model, tmp_path / "samples", 20)
    assert strip.run(model, lambda n: n, tmp_path / "out", iterations=7, on_log=lambda done, figures: told.append(done)) == 7
    assert {done: float(images["planes"][0, 0]) for done, images in strip.taken().items()} == {0: 0, 2: 2, 5: 5, 7: 7}
    assert told == list(range(1, 8))
    again = Counter()
    strip = strip_of(again, tmp_path / "samples", 20)
    strip.run(again, lambda n: n, tmp_path / "out", iterations=20, resume=True)
    assert list(strip.taken()) == [0, 2, 5, 7, 10, 15, 20]


def test_three_planes_stand_below_one_another_head_up(tmp_path):
    cube = torch.arange(64.0).reshape(4, 4, 4)
    planes = planes_of(cube)
    assert torch.equal(planes[:4], cube[2]) and torch.equal(planes[4], cube[3, 2]) and torch.equal(planes[8], cube[3, :, 2])
    model = Counter()
    strip = strip_of(model, tmp_path / "samples", 4)
    strip.run(model, lambda n: n, tmp_path / "out", iterations=4)
    draw_planes(strip, tmp_path / "strip.png")
    picture = np.asarray(Image.open(tmp_path / "strip.png"))
    assert picture.shape == (6, 2 * len(strip.taken()))
    assert picture[0, 0] == pytest.approx(1000 / 1400 * 255, abs=1)
