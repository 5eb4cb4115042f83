"""``ctsynthesis evaluate`` on make-believe persons, end to end: table, figures, pictures, and going on where it was broken off."""

import json
import subprocess

import numpy as np
import pytest
from PIL import Image

from CTSynthesisLib.cli import main
from CTSynthesisLib.evaluation.evaluate import CEILINGS, ROWS, Plan, summary
from CTSynthesisLib.evaluation.evaluation_table import ROW_TITLES, TITLES
from Testing.evaluation.persons import a_person, regions_by_threshold, write_person
from Testing.synthesis.models import save_random_model


def simple_features(ct, inception):
    """Stands in for the re-segmenter's features: three numbers a slice, every other slice."""
    planes = {"axial": 0, "coronal": 1, "sagittal": 2}
    slices = {plane: np.moveaxis(ct.array.astype(float), axis, 0)[2:-2:2] for plane, axis in planes.items()}
    return {p: np.stack([s.mean((1, 2)), s.std((1, 2)), np.abs(np.diff(s, axis=1)).mean((1, 2))], 1) for p, s in slices.items()}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Folder of persons, arguments of the command, and its output folder."""
    root = tmp_path_factory.mktemp("evaluation")
    patch = pytest.MonkeyPatch()
    patch.setattr("CTSynthesisLib.evaluation.cases.segment_regions", regions_by_threshold)
    for n, name in enumerate(("ann", "bob")):
        write_person(a_person(name, organs=("heart",), seed=n), root / "data")
    patch.setattr("CTSynthesisLib.evaluation.evaluate._features", simple_features)
    save_random_model(root)
    out = root / "out"
    arguments = ["evaluate", "--data", root / "data", "--cases", "ann", "--model", root / "random.safetensors", "--device", "cpu",
                 "--conditions", "regions", "--modes", "given", "--rows", "model", "white", "real", "nearest", "-o", out]  # fmt: skip
    arguments = [str(a) for a in arguments]
    assert main(arguments) == 0
    yield root / "data", arguments, out
    patch.undo()


def row(page, title):
    return next(line for line in page.splitlines() if line.startswith(f"| {title} |"))


def test_the_table_has_a_row_a_method_with_targets_and_marks(evaluated):
    page = (evaluated[2] / "evaluation.md").read_text(encoding="utf-8")
    assert "≤ 10 / 15 / 40 HU" in row(page, "target") and "0.85-1.18; ≤ 25 HU" in row(page, "target")
    for method in ("model", "white", "nearest", "real"):
        assert row(page, ROW_TITLES[method])
    assert "✗" in row(page, ROW_TITLES["model"]), "a random network holds no target"
    assert "✗" not in row(page, ROW_TITLES["real"])
    cells = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert len(cells) <= 3, "each of the three tables has rows of one length"


def test_white_noise_of_the_right_means_is_seen_through(evaluated):
    result = json.loads((evaluated[2] / "evaluation.json").read_text(encoding="utf-8"))
    by_row = {entry["row"]: entry for entry in result["summary"]}
    white, real = by_row["white"], by_row["real"]
    assert white["median_error.lungs"] <= 2 and white["spread_ratio.lungs"] == pytest.approx(1, abs=0.05)
    assert white["spectrum"] > 2 * real["spectrum"] and white["change.i"] > 1.1, "its grain is not that of a scanner"
    assert result["real_ranges"]["spectrum"][1] >= real["spectrum"]


def test_frechet_distances_stand_beside_those_of_the_real_persons(evaluated):
    result = json.loads((evaluated[2] / "evaluation.json").read_text(encoding="utf-8"))
    by_row = {entry["row"]: entry for entry in result["summary"]}
    for plane in ("axial", "sagittal", "coronal"):
        assert by_row["real"][f"frechet_ratio.{plane}"] == pytest.approx(1)
        low, high = by_row["white"][f"frechet_range.{plane}"]
        assert low <= high
        lead = by_row["model"][f"frechet.{plane}"] / by_row["white"][f"frechet.{plane}"]
        assert by_row["model"][f"frechet_lead.{plane}"] == pytest.approx(lead, rel=1e-3)
    assert by_row["white"]["frechet_ratio.axial"] > 1


def test_what_could_not_be_measured_is_said_in_a_sentence(evaluated):
    result = json.loads((evaluated[2] / "evaluation.json").read_text(encoding="utf-8"))
    page = (evaluated[2] / "evaluation.md").read_text(encoding="utf-8")
    entry = next(e for e in result["summary"] if e["row"] == "model")
    if "dice_ratio" not in entry:
        assert any(sentence.startswith("fidelity to the mask (re-segmenter): not measured, because") for sentence in result["absent"])
    for sentence in result["absent"]:
        assert sentence in page


def test_pictures_show_real_above_synthetic_and_every_method(evaluated):
    result = json.loads((evaluated[2] / "evaluation.json").read_text(encoding="utf-8"))
    assert set(result["pictures"]) == {"pictures/ann-regions-given.png", "pictures/ann-regions-given-methods.png"}
    for name in result["pictures"]:
        with Image.open(evaluated[2] / name) as image:
            assert image.size[0] == 1500 and "real scan" in image.info["Description"]


def test_a_second_run_draws_and_measures_nothing_and_finds_the_same(evaluated, capfd):
    _, arguments, out = evaluated
    before = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert main(arguments) == 0
    printed = capfd.readouterr().out
    assert "drawn" not in printed and "measured in" not in printed
    assert json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["summary"] == before["summary"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--conditions", "rgions"], "'rgions' is none of the conditions; choose from contours, regions"),
        (["--cases", "eve"], "There is no case 'eve'"),
        (["--data", "nowhere"], "The folder 'nowhere' of --data does not exist"),
        (["--model", "best"], "There is no model 'best'"),
    ],
)
def test_what_does_not_exist_is_refused(evaluated, tmp_path, capfd, change, reason):
    data, _, _ = evaluated
    capfd.readouterr()
    assert main(["evaluate", "--data", str(data), "-o", str(tmp_path / "out"), *change]) == 2
    printed = capfd.readouterr().err
    assert reason in printed and printed.count("\n") == 1


def test_an_output_folder_that_git_would_commit_is_warned_of(evaluated, tmp_path, capfd):
    data, _, _ = evaluated
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    command = ["evaluate", "--data", str(data), "--cases", "ann", "--conditions", "body", "--modes", "blind", "--rows", "mean", "-o"]
    assert main([*command, str(tmp_path / "out")]) == 0
    assert "do not commit them" in capfd.readouterr().err
    (tmp_path / ".gitignore").write_text("out/\n")
    assert main([*command, str(tmp_path / "out")]) == 0
    assert "do not commit them" not in capfd.readouterr().err


def test_a_summary_is_the_mean_over_the_cases_and_half_is_held_against_the_whole():
    def record(case, condition, ratio):
        return {"case": case, "condition": condition, "mode": "given", "row": "model", "dice_ratio": ratio, "spectrum": float("nan")}

    whole, half = summary([record("a", "regions", 0.9), record("b", "regions", 1.0), record("a", "half", 0.85)])
    assert whole["dice_ratio"] == pytest.approx(0.95) and whole["cases"] == 2 and "spectrum" not in whole
    assert half["dice_fall"] == pytest.approx(0.10)


def test_the_command_line_knows_the_conditions_and_rows_of_the_library():
    from CTSynthesisLib.cli import evaluate as command

    plan = Plan(data=".", out=".")
    assert (command.CONDITIONS, command.MODES, set(command.ROWS)) == (plan.conditions, plan.modes, set(ROWS))
    assert set(TITLES) == set(plan.conditions) and set(ROW_TITLES) == set(plan.rows) and set(CEILINGS) <= set(ROWS)
