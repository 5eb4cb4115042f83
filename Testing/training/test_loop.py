"""The training loop, with a model that it knows nothing about."""

import json

import pytest
import torch

from CTSynthesisLib.errors import SynthesisFailed, UnusableInput
from CTSynthesisLib.training import loop


class Walker:
    """Adds each batch and a random number to its position, with a momentum that only a resumed state can carry on."""

    def __init__(self):
        self.position, self.momentum, self.seen = torch.zeros(2), 0.0, []

    def step(self, batch):
        self.seen.append(batch)
        self.momentum = 0.5 * self.momentum + batch
        self.position = self.position + self.momentum + torch.rand(2)
        return {"position": float(self.position.sum()), "batch": float(batch)}

    def state(self):
        return {"position": self.position, "same": self.position}, {"momentum": self.momentum}

    def load_state(self, weights, rest):
        self.position, self.momentum = weights["position"], rest["momentum"]


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_steps_through_the_batches_and_logs_their_means(tmp_path):
    model, told = Walker(), []
    done = loop.run(model, lambda n: n, tmp_path, iterations=6, log_every=2, on_log=lambda n, figures: told.append((n, figures["batch"])))
    assert done == 6 and model.seen == [0, 1, 2, 3, 4, 5]
    assert told == [(2, 0.5), (4, 2.5), (6, 4.5)]
    assert [(line["iteration"], line["batch"]) for line in log_of(tmp_path)] == told
    assert loop.read_log(tmp_path)["batch"] == [0.5, 2.5, 4.5]


def test_a_resumed_training_is_the_same_bit_for_bit(tmp_path):
    torch.manual_seed(3)
    whole = Walker()
    loop.run(whole, lambda n: n, tmp_path / "whole", iterations=9)
    torch.manual_seed(3)
    loop.run(Walker(), lambda n: n, tmp_path / "parts", iterations=4)
    torch.manual_seed(99)
    resumed = Walker()
    assert loop.run(resumed, lambda n: n, tmp_path / "parts", iterations=9, resume=True) == 9
    assert resumed.seen == [4, 5, 6, 7, 8]
    assert torch.equal(resumed.position, whole.position) and resumed.momentum == whole.momentum
    for name in ("position", "batch", "iteration"):
        assert loop.read_log(tmp_path / "parts")[name] == loop.read_log(tmp_path / "whole")[name]


def test_steps_after_the_last_checkpoint_are_made_and_logged_again(tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(n, figures):
        if n == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        loop.run(Walker(), lambda n: n, tmp_path, iterations=9, checkpoint_every=3, on_log=interrupt)
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-0000003"]
    assert loop.run(Walker(), lambda n: n, tmp_path, iterations=9, resume=True) == 9
    assert loop.read_log(tmp_path)["iteration"] == list(range(1, 10))
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-0000009"]


def test_stops_when_the_minutes_have_passed(tmp_path):
    done = loop.run(Walker(), lambda n: n, tmp_path, minutes=0.002)
    assert done > 0 and log_of(tmp_path)[-1]["seconds"] < 5
    assert torch.equal(loop.load_weights(tmp_path)["position"], loop.load_weights(tmp_path)["same"])


def test_refuses_to_overwrite_a_training(tmp_path):
    loop.run(Walker(), lambda n: n, tmp_path, iterations=2)
    with pytest.raises(UnusableInput, match="already holds a training"):
        loop.run(Walker(), lambda n: n, tmp_path, iterations=2)
    assert len(log_of(tmp_path)) == 2


def test_says_when_there_is_nothing_to_resume_or_no_end(tmp_path):
    with pytest.raises(UnusableInput, match="holds no checkpoint"):
        loop.run(Walker(), lambda n: n, tmp_path, iterations=2, resume=True)
    with pytest.raises(UnusableInput, match="how long"):
        loop.run(Walker(), lambda n: n, tmp_path)


def test_stops_at_a_loss_that_is_not_finite_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(SynthesisFailed, match="iteration 3: .* no longer finite"):
        loop.run(Walker(), lambda n: float("nan") if n == 3 else 0.0, tmp_path, iterations=9, checkpoint_every=2)
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-0000002"]
    assert torch.isfinite(loop.load_weights(tmp_path)["position"]).all()
