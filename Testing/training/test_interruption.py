"""Ctrl-C and SIGTERM while a training runs, and what may lie in its folder after that."""

import os
import shutil
import signal
import threading
import time

import pytest
import torch

from CTSynthesisLib.cli import main
from CTSynthesisLib.cli.train import PRESETS
from CTSynthesisLib.errors import Assumption, Interrupted, UnusableInput
from CTSynthesisLib.training import loop
from Testing.training.test_loop import Walker, log_of


class Interrupting(Walker):
    """A signal comes while the steps of these batches are made."""

    def __init__(self, at, number=signal.SIGINT):
        super().__init__()
        self.at, self.number = at, number

    def step(self, batch):
        for _ in range(self.at.count(batch)):
            signal.raise_signal(self.number)
        return super().step(batch)


def batch_of(n):
    return n


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_a_training_that_is_interrupted_goes_on_as_if_it_had_not_been(number, tmp_path):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    torch.manual_seed(3)
    whole = Walker()
    loop.run(whole, batch_of, tmp_path / "whole", iterations=9, log_every=2)
    torch.manual_seed(3)
    with pytest.raises(Interrupted, match="keeps iteration 6") as caught:
        loop.run(Interrupting([5], number), batch_of, tmp_path / "parts", iterations=9, log_every=4)
    assert caught.value.number == number and [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert [path.name for path in tmp_path.glob("parts/checkpoint*")] == ["checkpoint-0000006"]
    torch.manual_seed(99)
    resumed = Walker()
    assert loop.run(resumed, batch_of, tmp_path / "parts", iterations=9, resume=True, log_every=4) == 9
    assert resumed.seen == [6, 7, 8] and torch.equal(resumed.position, whole.position)
    assert [line["batch"] for line in log_of(tmp_path / "parts")] == [1.5, 5.5]  # the means of four steps, of which two were made before


def test_the_second_signal_stops_at_once(tmp_path):
    with pytest.raises(Interrupted, match="at once"):
        loop.run(Interrupting([5, 5]), batch_of, tmp_path, iterations=9, checkpoint_every=3)
    assert loop.kept_iteration(tmp_path) == 3
    assert loop.run(Walker(), batch_of, tmp_path, iterations=9, resume=True) == 9
    assert loop.read_log(tmp_path)["iteration"] == list(range(1, 10))


def test_outside_the_main_thread_a_training_runs_without_hearing_signals(tmp_path):
    before, done = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: done.append(loop.run(Walker(), batch_of, tmp_path, iterations=3)))
    thread.start()
    thread.join()
    assert done == [3] and signal.getsignal(signal.SIGINT) == before


# ------------------------------------------------------------------------------------------------------------ what may lie in the folder




def only_a_log(out):
    for path in out.glob("checkpoint-*"):
        shutil.rmtree(path)


def a_damaged_checkpoint(out):
    (path,) = out.glob("checkpoint-*/rest.pt")
    path.write_bytes(path.read_bytes()[:200])


def a_checkpoint_without_progress(out):
    (path,) = out.glob("checkpoint-*/progress.json")
    path.unlink()


def half_the_weights(out):
    (path,) = out.glob("checkpoint-*/weights.safetensors")
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("leave", (only_a_log, a_damaged_checkpoint, a_checkpoint_without_progress, half_the_weights))
@pytest.mark.filterwarnings("ignore::CTSynthesisLib.errors.Assumption")
def test_where_nothing_can_be_resumed_a_fresh_start_works(leave, tmp_path):
    loop.run(Walker(), batch_of, tmp_path, iterations=8)
    leave(tmp_path)
    with pytest.raises(UnusableInput, match="no checkpoint to go on from; begin a training there .without --resume"):
        loop.run(Walker(), batch_of, tmp_path, iterations=9, resume=True)
    with pytest.raises(UnusableInput, match="no checkpoint"):
        loop.ready(tmp_path, True, "cpu")
    assert loop.ready(tmp_path, False, "cpu") == "cpu"
    model = Walker()
    assert loop.run(model, batch_of, tmp_path, iterations=4, checkpoint_every=2) == 4  # fewer: the old number is the greater
    assert model.seen == [0, 1, 2, 3] and loop.read_log(tmp_path)["iteration"] == [1, 2, 3, 4] and loop.kept_iteration(tmp_path) == 4
    assert loop.run(Walker(), batch_of, tmp_path, iterations=9, resume=True, checkpoint_every=2) == 9


def test_what_is_begun_anew_is_told(tmp_path):
    loop.run(Walker(), batch_of, tmp_path, iterations=2)
    only_a_log(tmp_path)
    with pytest.warns(Assumption, match="begins anew"):
        loop.run(Walker(), batch_of, tmp_path, iterations=2)


@pytest.mark.filterwarnings("ignore::CTSynthesisLib.errors.Assumption")
def test_an_older_whole_checkpoint_is_taken_where_the_latest_is_damaged(tmp_path):
    loop.run(Walker(), batch_of, tmp_path, iterations=2)
    shutil.copytree(tmp_path / "checkpoint-0000002", tmp_path / "checkpoint-0000005")
    (tmp_path / "checkpoint-0000005" / "rest.pt").unlink()
    with pytest.raises(UnusableInput, match="already holds a training; go on with it"):
        loop.run(Walker(), batch_of, tmp_path, iterations=9)
    model = Walker()
    assert loop.run(model, batch_of, tmp_path, iterations=5, resume=True) == 5
    assert model.seen == [2, 3, 4] and [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-0000005"]


def test_a_log_whose_last_line_was_cut_off_is_mended(tmp_path):
    loop.run(Walker(), batch_of, tmp_path, iterations=4)
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"iteration": 5, "sec')
    loop.run(Walker(), batch_of, tmp_path, iterations=6, resume=True)
    assert loop.read_log(tmp_path)["iteration"] == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    class Other(Walker):
        def load_state(self, weights, rest):
            super().load_state(weights, {"momentum": rest["speed"]})

    loop.run(Walker(), batch_of, tmp_path, iterations=2)
    with pytest.raises(UnusableInput, match="another kind of training"):
        loop.run(Other(), batch_of, tmp_path, iterations=4, resume=True)


# ------------------------------------------------------------------------------------------------------------------- on the command line


def interrupt_in_the_loop(out, number):
    """Send the signal as soon as the training in ``out`` has begun."""

    def wait():
        ends = time.monotonic() + 120
        while not (out / "log.jsonl").exists() and time.monotonic() < ends:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("preset, number", [("default", 2), ("completion", 15), ("segmenter", 2), ("style_encoder", 15)])
def test_every_recipe_keeps_what_it_has_learned_and_names_the_way_on(preset, number, a_folder_of_scans, tmp_path, capfd):
    out = tmp_path / "out"
    command = ["train", preset, "--data", str(a_folder_of_scans), "-o", str(out), "--device", "cpu", "--iterations"]
    thread = interrupt_in_the_loop(out, number)
    assert main([*command, "1000"]) == 128 + number
    thread.join()
    told = capfd.readouterr().err
    kept = loop.kept_iteration(out)
    assert f"keeps iteration {kept}, and the same command with --resume goes on" in told and "Stopping after this iteration" in told
    assert kept < 1000 and not list(out.glob("*.safetensors"))
    assert main([*command, "1000"]) == 2 and "already holds a training; go on with it (--resume)" in capfd.readouterr().err
    assert main([*command, str(kept + 1), "--resume"]) == 0 and loop.kept_iteration(out) == kept + 1
    assert len(list(out.glob("*.safetensors"))) == 1
    assert main([*command, str(kept + 1), "--resume"]) == 0  # a finished one writes its model again
    for path in out.glob("checkpoint-*"):
        path.rename(out / "elsewhere")
    assert main([*command, "1", "--resume"]) == 2 and "holds no checkpoint" in capfd.readouterr().err


def test_ctrl_c_while_data_are_prepared_says_that_the_same_command_begins_again(a_folder_of_scans, monkeypatch, tmp_path, capfd):
    from CTSynthesisLib.training import completion

    def interrupted(*args, **more):
        (tmp_path / "out" / "cases").mkdir(parents=True)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(completion, "load_cases", interrupted)
    assert main(["train", "completion", "--data", str(a_folder_of_scans), "-o", str(tmp_path / "out")]) == 143
    assert "the same command begins again" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("preset", PRESETS)
def test_a_device_that_is_not_there_and_a_folder_that_is_taken_are_told_before_any_data_are_read(preset, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "data" / "case").mkdir(parents=True)
    (tmp_path / "data" / "case" / "ct.nrrd").write_text("not to be read")
    loop.run(Walker(), batch_of, tmp_path / "taken", iterations=2)
    more = ["--style", str(tmp_path / "data" / "case" / "ct.nrrd")] if preset == "krishna2019" else []
    command = ["train", preset, "--data", str(tmp_path / "data"), *more]
    assert main([*command, "-o", str(tmp_path / "out"), "--device", "cuda"]) == 1
    told = capfd.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "There is no usable cuda device" in told[0] and not (tmp_path / "out").exists()
    assert main([*command, "-o", str(tmp_path / "taken")]) == 2 and "already holds a training" in capfd.readouterr().err
    assert main([*command, "-o", str(tmp_path / "out"), "--resume"]) == 2 and "holds no checkpoint" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


