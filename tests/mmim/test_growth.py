"""What a model forgets that learns further modalities, from the command line to the report."""

import csv
import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import yaml
from rich.console import Console

from mmim import run
from mmim.errors import OptionError, TrainingError
from mmim.growth import Comparison, Score, scores_in, verdict
from mmim.parts import register
from mmim.plan import compared_on
from tests.mmim.test_using import Stranger
from tests.toy import TOY


@register("second")
@dataclass(frozen=True, kw_only=True)
class Second(Stranger):
    """Another one, of other files."""

    suffixes: ClassVar[tuple[str, ...]] = (".second.npy",)


def write(folder: Path, count: int = 48) -> Path:
    """Noise around one of two values that the label names, of three modalities."""
    folder.mkdir()
    with (folder / "index.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "sign", "fold"])
        for number in range(count):
            sign = number % 2
            rng = np.random.default_rng(number)
            for suffix in (".npy", ".stranger.npy", ".second.npy"):
                noise = rng.normal(size=(8, 4)) + 3 * (2 * sign - 1) * np.linspace(-1, 1, 32).reshape(8, 4)
                np.save(folder / f"{number:02}{suffix}", noise.astype(np.float32))
            table.writerow([f"{number:02}", sign, number // 2 % 4])
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "files")


def start(data: Path, output: Path, *options: str) -> None:
    argv = ["--data", str(data), "--output", str(output), "--workers", "0", "--threads", "1", *options]
    run.main(TOY, sizes={}, demo={}, argv=argv)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trained"
    start(data, folder, "--use", "toy,stranger", "--steps", "2")
    return folder


GROW = ("--use", "toy,stranger,second", "--steps", "3")


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit, match="2"):
        start(*arguments)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_grown_model_is_compared_with_the_one_that_it_began_as(data, trained, tmp_path, capsys):
    labels = ("--compare.labels", "sign", "--compare.split", "fold=3")
    start(data, tmp_path / "run", *GROW, "--init", str(trained), "--freeze", "trunk", *labels)
    said = capsys.readouterr().out
    assert "Held to the end" in said
    scores = scores_in(tmp_path / "run/report")
    assert [score.what for score in scores] == [
        "toy, kNN of sign",
        "stranger, kNN of sign",
        "toy -> stranger, R@5",
        "stranger -> toy, R@5",
    ]
    assert all(score.lost == 0 for score in scores), "the trunk was held"
    assert "Largest loss of 4 numbers" in said
    report = json.loads((tmp_path / "run/report/growth.json").read_text())
    assert report["toy"]["rows"][0]["num_test"] == 12
    assert (tmp_path / "run/report/reconstruction-second.png").is_file()


def test_a_run_that_forgot_too_much_fails_once_all_is_written_and_again_when_asked_again(
    data, trained, tmp_path, capsys
):
    options = (*GROW, "--init", str(trained), "--compare.labels", "sign", "--compare.most-lost", "3")
    hard = (*options, "--optimiser.base-lr", "1.0", "--clip-grad", "1")  # so that all is forgotten
    line = refused(capsys, data, tmp_path / "run", *hard)
    assert "got worse by more than --compare.most-lost 3" in line
    assert "kNN of sign" in line
    assert (tmp_path / "run/checkpoints/step-3").is_dir()
    assert scores_in(tmp_path / "run/report")
    assert refused(capsys, data, tmp_path / "run", *hard) == line
    start(data, tmp_path / "run", *hard, "--compare.most-lost", "100")
    assert "Largest loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--compare.labels", "size"), "No column 'size'"),
        (("--compare.labels", "sign", "--compare.split", "fold=9"), "column 'fold' of"),
        (("--compare.split", "fold=3"), "--compare.split fold=3 needs --compare.labels"),
        (("--freeze", "trunk.nothing"), "--freeze trunk.nothing names no weights from --init"),
    ],
)
def test_what_can_not_be_compared_or_held_is_refused_before_training(options, message, data, trained, tmp_path, capsys):
    assert message in refused(capsys, data, tmp_path / "run", *GROW, "--init", str(trained), *options)
    assert not (tmp_path / "run").exists()


def test_a_comparison_needs_a_model_to_compare_with(data, tmp_path, capsys):
    line = refused(capsys, data, tmp_path / "run", *GROW, "--compare.most-lost", "3")
    assert "--compare without --init" in line


@pytest.mark.parametrize("how", [{"labels": ("shape",)}, {"split": "fold=3"}, {"samples": 64}])
def test_the_demo_is_compared_on_its_own_samples(how, trained, tmp_path):
    recipe = replace(TOY, init=trained, compare=Comparison(**how))
    with pytest.raises(OptionError, match="are for your own --data: the demo has its own"):
        compared_on(recipe, [], tmp_path, Console())


def test_nothing_can_be_lost_of_one_modality_without_labels(data, trained, tmp_path, capsys):
    options = ("--use", "toy,second", "--steps", "3", "--init", str(trained), "--compare.most-lost", "3")
    assert "--compare.most-lost with toy alone needs --compare.labels" in refused(
        capsys, data, tmp_path / "run", *options
    )


def test_to_hold_all_that_there_is_is_refused(data, trained, tmp_path, capsys):
    options = ("--use", "toy,stranger", "--steps", "3", "--init", str(trained), "--freeze", "trunk", "decoders")
    assert "holds all weights, and nothing is left to learn" in refused(capsys, data, tmp_path / "run", *options)


def test_the_largest_loss_is_said_with_its_sign():
    said = Console(file=io.StringIO(), width=100)
    verdict([], ["image"], None, said)
    verdict([Score("a", ("image",), 0.5, 0.6), Score("b", ("image",), 0.5, 0.45)], ["image"], None, said)
    assert said.file.getvalue() == "Largest loss of 2 numbers: b 50.0 -> 45.0 % (-5.0).\n"


def test_an_earlier_runs_recipe_without_the_newer_fields_is_the_same_run(data, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run/recipe.yaml"
    plain = yaml.safe_load(file.read_text())
    for field in ("freeze", "freeze_steps", "compare", "weight"):
        del plain[field]
    file.write_text(yaml.safe_dump(plain))
    start(data, tmp_path / "run", "--use", "toy,stranger", "--steps", "2")


def test_a_finished_run_that_is_to_be_compared_otherwise_is_compared_again(data, trained, tmp_path, capsys):
    options = (*GROW, "--init", str(trained), "--freeze", "trunk")
    start(data, tmp_path / "run", *options)
    assert [score.what for score in scores_in(tmp_path / "run/report")] == [
        "toy -> stranger, R@5",
        "stranger -> toy, R@5",
    ]
    start(data, tmp_path / "run", *options, "--compare.labels", "sign", "--compare.most-lost", "50")
    assert "toy, kNN of sign" in [score.what for score in scores_in(tmp_path / "run/report")]
    assert "This run is finished" not in capsys.readouterr().out
    start(data, tmp_path / "run", *options, "--compare.labels", "sign")
    assert "This run is finished" in capsys.readouterr().out


def test_a_comparison_of_an_earlier_version_is_made_anew(data, trained, tmp_path, capsys):
    options = (*GROW, "--init", str(trained), "--freeze", "trunk")
    start(data, tmp_path / "run", *options)
    file = tmp_path / "run/report/growth.json"
    made = json.loads(file.read_text())
    file.write_text(json.dumps(made).replace('"of"', '"unknown"'))
    start(data, tmp_path / "run", *options)
    assert "This run is finished" not in capsys.readouterr().out
    assert json.loads(file.read_text()) == made


def test_a_run_goes_on_without_the_model_that_it_started_from(data, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "init")
    options = ("--use", "toy,stranger,second", "--init", str(tmp_path / "init"), "--freeze", "trunk")
    start(data, tmp_path / "run", *options, "--steps", "2")
    shutil.rmtree(tmp_path / "init")
    capsys.readouterr()
    start(data, tmp_path / "run", *options, "--steps", "3")
    assert "is gone, so the run is not compared with it" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "run/checkpoints/step-3").is_dir()
    start(data, tmp_path / "run", *options, "--steps", "3")
    assert "This run is finished" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        start(data, tmp_path / "new", *options, "--steps", "3")
    assert "There is no checkpoint at" in capsys.readouterr().err


def test_a_run_that_goes_on_is_compared_with_what_it_started_from_though_that_has_gone_on_since(
    data, trained, tmp_path, capsys
):
    shutil.copytree(trained, tmp_path / "init")
    grow = (*GROW[:2], "--init", str(tmp_path / "init"))
    start(data, tmp_path / "run", *grow, "--steps", "2")
    shutil.copytree(tmp_path / "init/checkpoints/step-2", tmp_path / "init/checkpoints/step-3")
    capsys.readouterr()
    start(data, tmp_path / "run", *grow, "--steps", "3")
    assert "init/checkpoints/step-2,whichtherunstartedfrom" in "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("scores", [[], [Score("a", ("text",), 0.5, 0.6)]])
def test_a_loss_that_can_not_be_told_is_no_pass(scores):
    with pytest.raises(TrainingError, match="nothing of image could be compared"):
        verdict(scores, ["image"], 3.0, Console(file=io.StringIO()))
