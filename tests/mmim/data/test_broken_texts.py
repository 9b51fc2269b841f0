"""Damaged files of lines among good ones: each gives its reason, none harms the others, memory stays bounded."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mmim import checkpoint, run
from mmim.cli.main import main
from mmim.data.loader import in_order, load
from mmim.data.sources import find_samples
from mmim.errors import ReadError
from mmim.modality import Source
from mmim.model import MaskedModel
from mmim.testing import depicted, toy_method
from modalities.text import Text
from recipes.bert import BERT, DEMO, SIZES
from tests import broken, texts

CASES = broken.LINES
READABLE = [name for name in broken.cases("lines") if CASES[name][2] == broken.GOOD]
MEMORY = 600  # MB while one file is read


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Good files, the damaged ones by name, and the modality with its tokenizer."""
    folder = tmp_path_factory.mktemp("texts")
    text = Text(tokenizer=texts.trained(tmp_path_factory.mktemp("tokenizer") / "own"), length=32)
    good = depicted(text, folder, 6)
    return good, broken.spoil("lines", good[1], folder / "spoilt"), text


def read(text, path, folder):
    """What the loader makes of a file: the reasons of its samples, or `good`."""
    place = folder / path.name
    place.symlink_to(path.readlink() if path.is_symlink() else path)
    samples = find_samples(folder, {"it": text})
    (loaded,) = load(samples, {"it": text}, in_order(len(samples), len(samples)), seed=None, workers=0)
    bad = [left_out.reason for left_out in loaded.unreadable]
    assert loaded.batch.present["it"].sum() == len(samples) - len(bad)
    return bad or [broken.GOOD]


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_gives_its_reason(name, corpus, tmp_path):
    _, spoilt, text = corpus
    if name not in spoilt:
        pytest.skip("no file is locked for the superuser")
    for said in read(text, spoilt[name], tmp_path):
        assert re.search(CASES[name][2], said)
        assert len(said) < 160
        assert "/" not in said


def test_a_folder_and_a_pipe_called_like_a_file_are_refused(corpus, tmp_path):
    for suffix in Text.suffixes:
        (tmp_path / f"folder{suffix}").mkdir()
        os.mkfifo(tmp_path / f"pipe{suffix}")
        for name, reason in (("folder", "can't be read: Is a directory"), ("pipe", "empty file")):
            for read in (corpus[2].rows_in, lambda path: corpus[2].read(Source(path), None)):
                with pytest.raises(ReadError, match=f"^{reason}$"):  # and nobody waits for a writer
                    read(tmp_path / f"{name}{suffix}")


def embedded(folder, data, out):
    main(["embed", "--checkpoint", str(folder), "--data", str(data), "--out", str(out), "--workers", "0"])
    table = pq.read_table(out)
    return dict(zip(table["id"].to_pylist(), np.stack(table["joint"].to_numpy()), strict=True))


def test_embed_gives_good_files_what_they_get_alone_and_lists_the_others(corpus, tmp_path, capsys):
    good, spoilt, text = corpus
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "run/checkpoints", MaskedModel(toy_method(text)), 1)
    (tmp_path / "good").mkdir()
    for path in good:
        (tmp_path / "good" / path.name).symlink_to(path)
    alone = embedded(tmp_path / "run", tmp_path / "good", tmp_path / "good.parquet")
    capsys.readouterr()
    mixed = embedded(tmp_path / "run", good[0].parent, tmp_path / "mixed.parquet")
    said = " ".join(capsys.readouterr().out.split())
    assert len(alone) == len(good)
    for id, vector in alone.items():
        np.testing.assert_allclose(mixed[id], vector, rtol=0, atol=1e-5)
    assert all(np.isfinite(vector).all() for vector in mixed.values())
    files = {id.split("#")[0] for id in mixed}
    assert files == {*alone, *(f"spoilt/{spoilt[name].name}" for name in READABLE)}
    for name, path in spoilt.items():
        assert (f"left out spoilt/{path.name}" in said) is (name not in READABLE), name


def test_training_goes_on_over_damaged_files(corpus, tmp_path, monkeypatch):
    """Without a tokenizer: one is trained on what can be read."""
    monkeypatch.setenv("MMIM_CACHE", str(tmp_path / "cache"))
    good, spoilt, _ = corpus
    small = replace(BERT, modalities={"text": Text(vocabulary_size=300, length=32)})
    argv = ["--data", str(good[0].parent), "--output", str(tmp_path / "run"), "--size", "tiny", "--log-every", "1"]
    argv += ["--batch", "40", "--steps", "4", "--precision", "fp32", "--workers", "0", "--threads", "1"]
    run.main(small, sizes=SIZES, demo=DEMO, argv=[*argv, "--max-bad", "1"])
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert np.isfinite([value for row in rows for value in row.values() if isinstance(value, float)]).all()
    left_out = [json.loads(line)["id"] for line in (tmp_path / "run/unreadable.jsonl").read_text().splitlines()]
    assert {id.split("#")[0] for id in left_out} == {
        f"spoilt/{spoilt[name].name}" for name in spoilt if name not in READABLE
    }


MEASURE = """
import sys, time
from pathlib import Path
from mmim.data.loader import in_order, load
from mmim.data.sources import Sample
from mmim.modality import Source
from modalities.text import Text
text = Text(tokenizer=Path(sys.argv[1]), length=32)
def read(path, seed):
    samples = [Sample("it", {"it": Source(Path(path))})]
    next(load(samples, {"it": text}, in_order(1, 1), seed=seed, workers=0))
def megabytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) // 1024
files = sys.stdin.read().splitlines()
read(files[0], None)
for path in files[1:]:
    for seed in (None, 0):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        base, started = megabytes("VmRSS"), time.perf_counter()
        read(path, seed)
        print(megabytes("VmHWM") - base, round(time.perf_counter() - started, 2), path, sep="\\t")
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc to ask for the peak memory")
def test_no_damaged_file_takes_much_memory_or_time_or_makes_noise(corpus):
    good, spoilt, text = corpus
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(text.tokenizer)],
        input="\n".join(map(str, [good[0], *spoilt.values()])),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == 2 * len(spoilt)
    assert [row for row in rows if int(row[0]) > MEMORY or float(row[1]) > 20] == []
    assert done.stderr == ""
