"""What a run finds in its folder, and what it does about it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from mmim import checkpoint
from tests.mmim.test_run import metrics, refused, start, videos  # noqa: F401


@pytest.fixture
def data(videos, tmp_path) -> Path:  # noqa: F811
    """A folder of its own, so that a test may change it."""
    return Path(shutil.copytree(videos, tmp_path / "data"))


def test_other_data_at_the_same_place_are_refused(data, tmp_path, capsys):
    start(data, tmp_path / "run", "--steps", "2")
    shutil.copy(data / "0.mp4", data / "new.mp4")
    line = refused(capsys, data, tmp_path / "run", "--steps", "4")
    assert "the data were 6 files" in line
    assert "and are 7 files" in line


def test_checkpoints_without_a_recipe_are_not_trained_on(data, tmp_path, capsys):
    start(data, tmp_path / "run", "--steps", "2")
    (tmp_path / "run/recipe.yaml").unlink()
    assert "has checkpoints and no recipe.yaml" in refused(capsys, data, tmp_path / "run", "--steps", "4")
    start(data, tmp_path / "run", "--steps", "2", "--no-resume")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2]
    assert checkpoint.steps(tmp_path / "run.before-1/checkpoints") == [2]


def test_a_report_lost_to_a_kill_is_made_by_the_next_start(data, tmp_path):
    start(data, tmp_path / "run", "--steps", "2")
    before = (tmp_path / "run/metrics.jsonl").read_text()
    shutil.rmtree(tmp_path / "run/report")
    start(data, tmp_path / "run", "--steps", "2")
    assert (tmp_path / "run/report/reconstruction-video.png").exists()
    assert (tmp_path / "run/metrics.jsonl").read_text() == before


def test_two_runs_do_not_share_a_folder(data, tmp_path, capsys):
    with FileLock(tmp_path / ".run.lock"):
        assert "Another process trains into" in refused(capsys, data, tmp_path / "run", "--steps", "2")


def test_an_output_that_is_a_file_is_refused(data, tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert "is a file" in refused(capsys, data, tmp_path / "run", "--steps", "2")


def test_files_left_out_before_an_interruption_are_still_listed_after_it(data, tmp_path):
    start(data, tmp_path / "run", "--steps", "4")
    (tmp_path / "run/unreadable.jsonl").unlink()
    start(data, tmp_path / "run", "--steps", "5", "--max-bad", "0.9")
    assert json.loads((tmp_path / "run/unreadable.jsonl").read_text())["id"] == "broken.mp4"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget.ratio", "0.0"], "Nothing is left to predict"),
        (["--modalities.video.backend", "torchcodec"], "torchcodec"),
        (["--encoder.width", "51", "--encoder.heads", "3"], "even width"),
    ],
)
def test_what_only_shows_in_a_dry_run_is_one_line(options, message, data, tmp_path, capsys, monkeypatch):
    if message == "torchcodec":
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    assert message in refused(capsys, data, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_accelerates_own_accumulation_setting_changes_no_gradient(data, tmp_path, monkeypatch):
    start(data, tmp_path / "plain", "--steps", "2")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    start(data, tmp_path / "set", "--steps", "2")
    norms = [[line["grad_norm"] for line in metrics(tmp_path / name)] for name in ("plain", "set")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
