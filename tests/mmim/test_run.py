import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from mmim import checkpoint, run
from mmim.cli.main import main
from mmim.data.media_write import write_video
from mmim.data.sample import Sample
from mmim.modality import Source
from mmim.parts import names
from recipes.videomae import DEMO, SIZES, VIDEOMAE
from tests.videomae import fresh_accelerate, linear_dtypes
from tests.videos import shared_data

ROOT = Path(__file__).parents[2]
TINY = [
    *(
        "--size",
        "tiny",
        "--modalities.video.size",
        "32",
        "--modalities.video.patch",
        "8",
        "--modalities.video.frames",
        "4",
    ),
    *("--modalities.video.stride", "1", "--budget.ratio", "0.75", "--batch", "4", "--precision", "fp32"),
    *("--workers", "0", "--threads", "1", "--log-every", "1", "--checkpoint-every", "2"),
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for i in range(5):
        write_video(folder / f"{i}.mp4", rng.integers(0, 256, (10, 40, 48, 3), dtype=np.uint8), fps=10)
    (folder / "broken.mp4").write_text("no video")
    return folder


def start(videos: Path, output: Path, *options: str) -> None:
    """What `python recipes/videomae.py` does."""
    argv = ["--data", str(videos), "--output", str(output), *TINY, *options]
    run.main(VIDEOMAE, sizes=SIZES, demo=DEMO, argv=argv)


def refused(capsys, videos: Path, output: Path, *options: str) -> str:
    """The one line with which a start is refused."""
    with pytest.raises(SystemExit, match="2"):
        start(videos, output, *options)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    return error


def metrics(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "videomae"
    start(videos, output, "--steps", "4")
    return output


def test_a_run_leaves_what_it_promises(finished):
    assert [line["step"] for line in metrics(finished)] == [1, 2, 3, 4]
    assert checkpoint.steps(finished / "checkpoints") == [2, 4]
    assert {file.name for file in (finished / "checkpoints/step-4").iterdir()} == {
        "model.safetensors",
        "config.json",
        "training.safetensors",
        "training.json",
    }
    assert (finished / "report/reconstruction-video.png").stat().st_size > 10_000
    assert yaml.safe_load((finished / "recipe.yaml").read_text())["modalities"]["video"]["frames"] == 4
    assert json.loads((finished / "unreadable.jsonl").read_text())["id"] == "broken.mp4"


def test_a_finished_run_says_so(finished, videos, capsys):
    start(videos, finished, "--steps", "4")
    said = capsys.readouterr().out
    assert "This run is finished (4 steps)" in said
    assert "checkpoints/step-4" in said


def test_more_steps_go_on_where_the_run_ended(videos, tmp_path):
    start(videos, tmp_path / "run", "--steps", "2")
    start(videos, tmp_path / "run", "--steps", "4", "--workers", "1", "--micro-batch", "2")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_run_starts_from_the_weights_of_another(finished, videos, tmp_path, capsys):
    start(videos, tmp_path / "run", "--steps", "1", "--init", str(finished), "--seed", "3", "--optimiser.base-lr", "0")
    assert f"Starting from {finished / 'checkpoints/step-4'}." in capsys.readouterr().out.replace("\n", "")
    before, after = (checkpoint.load(folder).state_dict() for folder in (finished, tmp_path / "run"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_resumed_run_does_not_start_from_other_weights_again(finished, videos, tmp_path):
    both, once = tmp_path / "both", tmp_path / "once"
    options = ("--init", str(finished), "--schedule.warmup", "0", "--schedule.min-lr", "1")  # a constant rate
    start(videos, both, "--steps", "2", *options)
    start(videos, both, "--steps", "4", *options)
    start(videos, once, "--steps", "4", *options)
    assert [line["loss"] for line in metrics(both)][2:] == [line["loss"] for line in metrics(once)][2:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init", "nowhere"], "There is no checkpoint at nowhere"),
        (["--init", "{finished}", "--encoder.depth", "2"], "another model: encoder.depth is 3 there and 2 here"),
        (
            ["--init", "{finished}", "--decoders.video.width", "32"],
            "another model: decoders.video.width is 64 there and 32 here",
        ),
        (["--init-trunk-only"], "--init-trunk-only without --init: name the checkpoint"),
    ],
)
def test_weights_that_do_not_fit_are_no_start(options, message, finished, videos, tmp_path, capsys):
    filled = [option.format(finished=finished) for option in options]
    assert message in refused(capsys, videos, tmp_path / "run", "--steps", "1", *filled)
    assert not (tmp_path / "run").exists()


def test_another_recipe_in_the_same_folder_is_refused_with_the_differences(finished, videos, capsys):
    before = (finished / "recipe.yaml").read_text()
    line = refused(capsys, videos, finished, "--steps", "4", "--encoder.depth", "2", "--seed", "5")
    assert "encoder.depth 3 -> 2; seed 0 -> 5" in line
    assert (finished / "recipe.yaml").read_text() == before


def test_no_resume_moves_the_earlier_run_aside(videos, tmp_path):
    for _ in range(2):
        start(videos, tmp_path / "run", "--steps", "2", "--no-resume")
    assert checkpoint.steps(tmp_path / "run/checkpoints") == [2]
    assert checkpoint.steps(tmp_path / "run.before-1/checkpoints") == [2]


def test_a_runs_recipe_is_a_config_of_the_same_run(finished, tmp_path):
    argv = ["--config", str(finished / "recipe.yaml"), "--output", str(tmp_path / "again")]
    run.main(VIDEOMAE, sizes=SIZES, demo=DEMO, argv=argv)
    assert [line["loss"] for line in metrics(tmp_path / "again")] == [line["loss"] for line in metrics(finished)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoder.dpeth", "2"], "Did you mean --encoder.depth"),
        (["--encoder.heads", "7"], "7 heads do not divide a width of"),
        (["--modalities.video.patch", "7"], "do not divide"),
        (["--batch", "4", "--micro-batch", "3"], "--micro-batch 3 does not divide the 4 samples"),
        (["--budget.ratio", "1.0"], "hides all"),
        (["--masking.video", "tubes"], "No masking is called 'tubes'"),
        (["--precision", "fp16"], "fp16 needs a GPU"),
    ],
)
def test_what_can_not_be_is_one_line_before_anything_is_written(options, message, videos, tmp_path, capsys):
    assert message in refused(capsys, videos, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_missing_and_empty_folders_are_one_line(tmp_path, capsys):
    assert "There is no" in refused(capsys, tmp_path / "nowhere", tmp_path / "run")
    (tmp_path / "notes.txt").mkdir()
    assert "none that video can read" in refused(capsys, tmp_path / "notes.txt", tmp_path / "run")


def test_masking_can_be_exchanged_by_name(videos, tmp_path):
    start(videos, tmp_path / "run", "--steps", "1", "--masking.video", "random")
    assert "random" in names("masking")
    config = json.loads((tmp_path / "run/checkpoints/step-1/config.json").read_text())
    assert config["method"]["masking"]["video"] == {"kind": "random"}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def command(videos: Path, output: Path, *options: str) -> list[str]:
    script = str(ROOT / "recipes/videomae.py")
    return [sys.executable, script, "--data", str(videos), "--output", str(output), *TINY, *options]


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(videos, tmp_path):
    steps = ("--steps", "30")
    start(videos, tmp_path / "whole", *steps)
    running = subprocess.Popen(
        command(videos, tmp_path / "killed", *steps), env=environment(), stdout=subprocess.DEVNULL
    )
    deadline = time.time() + 120
    while len(checkpoint.steps(tmp_path / "killed/checkpoints")) < 2 and time.time() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert checkpoint.steps(tmp_path / "killed/checkpoints")[-1] < 30
    subprocess.run(
        command(videos, tmp_path / "killed", *steps), env=environment(), check=True, stdout=subprocess.DEVNULL
    )
    killed, whole = metrics(tmp_path / "killed"), metrics(tmp_path / "whole")
    assert [(line["step"], line["loss"]) for line in killed] == [(line["step"], line["loss"]) for line in whole]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_training_equals_eager(precision, videos, tmp_path):
    for name, option in (("eager", "--no-compile"), ("compiled", "--compile")):
        options = ("--steps", "3", "--precision", precision, option)
        subprocess.run(command(videos, tmp_path / name, *options), env=environment(), check=True, timeout=500)
    eager, compiled = ([line["loss"] for line in metrics(tmp_path / name)] for name in ("eager", "compiled"))
    assert compiled == pytest.approx(eager, rel={"fp32": 1e-4, "bf16": 2e-2}[precision])


@pytest.mark.slow
def test_two_processes_train_as_one_and_only_one_speaks(videos, tmp_path):
    alone = command(videos, tmp_path / "one", "--steps", "4")
    together = command(videos, tmp_path / "two", "--steps", "4", "--micro-batch", "2")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *together[1:]]
    subprocess.run(alone, env=environment(), check=True, stdout=subprocess.DEVNULL, timeout=300)
    done = subprocess.run(
        launch, env=environment(ACCELERATE_USE_CPU="1"), check=True, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.count("samples (processes x micro-batch x") == 1
    one, two = ([line["loss"] for line in metrics(tmp_path / name)] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_the_demo_runs_without_being_asked_anything(tmp_path):
    options = ["--output", str(tmp_path / "demo"), "--steps", "4", "--checkpoint-every", "2"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "recipes/videomae.py"), *options],
        env=environment(MMIM_CACHE=os.environ.get("MMIM_CACHE", str(tmp_path / "cache"))),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for said in ("this is the demo", "checkpoints/step-4", "metrics.jsonl", "reconstruction-video.png"):
        assert said in done.stdout.replace("\n", "")
    rows = json.loads((tmp_path / "demo/report/evaluation.json").read_text())["rows"]
    assert {row["features"] for row in rows} == {"trained", "untrained", "raw video"}
    assert all(row["num_test"] == 256 for row in rows)


def test_real_clips_train_end_to_end(tmp_path):
    for archive in ("asl_gestures", "misc_clips"):
        with tarfile.open(shared_data() / f"video/{archive}.tar") as tar:
            tar.extractall(tmp_path / "data", filter="data")
    start(tmp_path / "data", tmp_path / "run", "--steps", "3", "--modalities.video.stride", "2")
    assert len(metrics(tmp_path / "run")) == 3
    assert not (tmp_path / "run/unreadable.jsonl").exists()


def grid_clips(folder: Path, per_colour: int) -> dict[str, str]:
    """Some clips of the GRID corpus with their index.csv; their colours by file."""
    with tarfile.open(shared_data() / "pairs/grid_av.tar") as tar:
        table = io.TextIOWrapper(tar.extractfile("grid_av/index.csv"), encoding="utf-8", newline="")
        rows = list(csv.DictReader(table))
        colours = sorted({row["colour"] for row in rows})
        chosen = [row for one in colours for row in [row for row in rows if row["colour"] == one][:per_colour]]
        tar.extractall(folder.parent, [f"grid_av/{row['file']}" for row in chosen], filter="data")
    (folder.parent / "grid_av").rename(folder)
    with (folder / "index.csv").open("w", newline="") as file:
        index = csv.DictWriter(file, list(rows[0]))
        index.writeheader()
        index.writerows(chosen)
    return {row["file"]: row["colour"] for row in chosen}


def test_real_clips_go_from_files_to_embeddings_and_a_probe(tmp_path):
    data, trained, out = tmp_path / "clips", tmp_path / "run", tmp_path / "clips.parquet"
    colours = grid_clips(data, per_colour=6)
    assert sorted(set(colours.values())) == ["blue", "green", "red", "white"]
    start(data, trained, "--steps", "3", "--modalities.video.stride", "4")
    assert len(metrics(trained)) == 3
    assert not (trained / "unreadable.jsonl").exists()

    where = ["--checkpoint", str(trained), "--data", str(data), "--workers", "0"]
    main(["embed", *where, "--out", str(out)])
    table = pq.read_table(out)
    assert table["id"].to_pylist() == sorted(colours)
    vectors = np.array(table["joint"].to_pylist())
    assert vectors.shape == (24, 96)
    assert len(np.unique(vectors.round(4), axis=0)) == 24

    main(["probe", *where, "--label", "colour", "--json-out", str(tmp_path / "table.json")])
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [(row["features"], row["method"]) for row in rows] == [
        (features, method) for method in ("kNN", "probe") for features in ("trained", "untrained", "raw video")
    ]
    assert {(row["label"], row["classes"], row["num_train"] + row["num_test"]) for row in rows} == {("colour", 4, 24)}


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_arithmetic(precision, dtype, videos, tmp_path):
    with fresh_accelerate(), linear_dtypes() as seen:
        start(videos, tmp_path / "run", "--steps", "1", "--precision", precision, "--no-compile")
    assert dtype in seen
    assert seen <= {dtype, torch.float32}  # the report is drawn in fp32


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([sys.executable, str(ROOT / "recipes/videomae.py"), "--data", "/nowhere"], "error: There is no /nowhere"),
        ([str(Path(sys.executable).parent / "mmim"), "embed", "--data", "/nowhere"], "error: Missing from"),
        (
            [
                *(str(Path(sys.executable).parent / "mmim"), "embed", "--checkpoint", "/nowhere"),
                *("--data", "/nowhere", "--out", "clips.parquet"),
            ],
            "error: There is no checkpoint at /nowhere",
        ),
    ],
    ids=["recipe", "mmim without an option", "mmim without a checkpoint"],
)
def test_a_mistake_is_one_line_and_exit_code_2_from_the_shell(command, message, tmp_path):
    done = subprocess.run(
        command, env=environment(), cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(message)
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


WORKER = """
import json, os, pathlib, subprocess, sys, time
folder, *command = sys.argv[1:]
done = subprocess.run(command, capture_output=True, text=True)
pathlib.Path(folder, os.environ["RANK"]).write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
deadline = time.time() + 60
while len(os.listdir(folder)) < 2 and time.time() < deadline:
    time.sleep(0.05)  # or torchrun would end the other worker before it is done
sys.exit(done.returncode)
"""


@pytest.mark.slow
def test_every_worker_of_torchrun_exits_with_2_and_only_the_first_speaks(tmp_path):
    (tmp_path / "said").mkdir()
    (tmp_path / "worker.py").write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    worker = [str(tmp_path / "worker.py"), str(tmp_path / "said"), *command(Path("/nowhere"), tmp_path / "run")]
    done = subprocess.run([*launch, *worker], env=environment(ACCELERATE_USE_CPU="1"), capture_output=True, timeout=300)
    assert done.returncode == 1
    first, second = (json.loads((tmp_path / "said" / rank).read_text()) for rank in "01")
    assert first[:2] == [2, ""]
    assert first[2].startswith("error: There is no /nowhere")
    assert first[2].count("\n") == 1
    assert second == [2, "", ""]
    assert not (tmp_path / "run").exists()


def test_pictures_show_samples_of_every_modality():
    def sample(number: int, *names: str) -> Sample:
        return Sample(str(number), {name: Source(Path(f"{number}.{name}")) for name in names})

    samples = [*(sample(i, "a", "b") for i in range(5)), *(sample(i, "c") for i in range(5, 9)), sample(9, "a", "d")]
    assert [each.id for each in run.first_of_each(samples, 2)] == ["0", "1", "5", "6", "9"]
