"""A small version of what `docs/results.md` measures: one modality of a scene finds another, and nothing else does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def results(folder, *options):
    """What scripts/crossmodal.py writes, for clouds and texts of a small world."""
    out = folder / f"{len(options)}.json"
    small = ["--out", str(out), "--use", "points", "text", "--train", "256", "--steps", "80", *options]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/crossmodal.py"), *small],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MMIM_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    return {
        name: {pair: one["R@5"][0] / one["chance"]["R@5"] for pair, one in of.items()} for name, of in found.items()
    }


@pytest.mark.slow
def test_modalities_of_a_scene_find_each_other_by_its_factors_and_by_nothing_else(tmp_path):
    times_chance = results(tmp_path)
    shuffled = results(tmp_path, "--shuffled")
    assert set(times_chance["trained"]) == {"points -> text", "text -> points"}
    for pair in times_chance["trained"]:
        assert times_chance["trained"][pair] > 5
        assert times_chance["redepicted"][pair] > 5
        assert times_chance["untrained"][pair] < 3
        assert times_chance["redrawn"][pair] < 3
        assert shuffled["trained"][pair] < 3
