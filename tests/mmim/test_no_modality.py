"""mmim knows no modality: with none installed it imports and speaks, and under other names it does the same."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from mmim import run
from mmim.data.media_write import write_video
from mmim.options import apply
from recipes.audiomae import AUDIOMAE
from recipes.audiomae import SIZES as AUDIO_SIZES
from recipes.mae import MAE
from recipes.mae import SIZES as MAE_SIZES
from recipes.videomae import SIZES as VIDEO_SIZES
from recipes.videomae import VIDEOMAE
from tests.sounds import murmur
from tests.sounds import write as write_sound
from tests.videomae import fresh_accelerate

ROOT = Path(__file__).parents[2]
BARE = """
import importlib.metadata, sys
every = importlib.metadata.entry_points

def bare(**selected):
    return [] if selected.get("group") == "mmim.modalities" else every(**selected)

importlib.metadata.entry_points = bare
sys.modules["modalities"] = None  # importing it fails
import mmim, mmim.testing
from mmim.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("arguments", [["--help"], ["embed", "--help"], ["list"]])
def test_without_a_modality_mmim_imports_and_its_commands_speak(arguments):
    done = subprocess.run(
        [sys.executable, "-c", BARE, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Traceback" not in done.stdout


def test_without_a_modality_a_checkpoint_is_refused_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"format": 1, "method": {"modalities": {"image": {"kind": "image"}}}})
    )
    done = subprocess.run(
        [sys.executable, "-c", BARE, "embed", "--checkpoint", str(tmp_path), "--data", ".", "--out", "x.parquet"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No modality is called 'image'; there are none" in done.stderr


def renamed(recipe, old, new):
    """The recipe with its modality, task and decoder called otherwise."""
    task = replace(recipe.tasks[old], modality=new, decoder=new)
    parts = {part: {new: getattr(recipe, part)[old]} for part in ("modalities", "masking", "corruption", "decoders")}
    return replace(recipe, **parts, tasks={new: task})


def files(folder, kind):
    """Six small files of noise."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(6):
        if kind == "image":
            Picture.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        elif kind == "audio":
            write_sound(folder / f"{i}.wav", murmur(seed=i))
        else:
            write_video(folder / f"{i}.mp4", rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), fps=10)
    return folder


SMALL = {
    "image": apply(MAE, MAE_SIZES["tiny"] | {"modalities.image.size": (32, 32), "modalities.image.patch": 8}),
    "audio": apply(AUDIOMAE, AUDIO_SIZES["tiny"] | {"modalities.audio.frames": 64, "modalities.audio.mel": 64}),
    "video": apply(
        VIDEOMAE,
        VIDEO_SIZES["tiny"]
        | {
            "modalities.video.frames": 4,
            "modalities.video.size": 32,
            "modalities.video.patch": 8,
            "budget.ratio": 0.75,
        },
    ),
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_run_under_another_name_gives_the_same_losses(kind, tmp_path):
    data, losses = files(tmp_path / "data", kind), []
    for name in (kind, "sense"):
        recipe = replace(SMALL[kind] if name == kind else renamed(SMALL[kind], kind, name), size="")
        options = ["--data", str(data), "--output", str(tmp_path / name), "--steps", "3", "--batch", "4"]
        plain = ["--precision", "fp32", "--workers", "0", "--threads", "1", "--log-every", "1"]
        with fresh_accelerate():
            run.main(recipe, sizes={}, demo={}, argv=[*options, *plain])
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]
