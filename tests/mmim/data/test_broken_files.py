"""Damaged files among good ones: each gives its reason, none harms the others, memory stays bounded."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mmim import checkpoint, run
from mmim.cli.main import main
from mmim.data.loader import in_order, load
from mmim.data.sources import Sample, find_samples
from mmim.errors import DataError
from mmim.modality import Source
from mmim.model import MaskedModel
from mmim.testing import depicted, toy_method
from modalities.audio import Audio
from modalities.depth import Depth
from modalities.image import Image
from modalities.points import Points
from modalities.semseg import SemSeg
from modalities.video import Video
from recipes import audiomae, mae, pointmae, videomae
from tests import broken

PARTS = {
    "image": Image(size=(32, 32), patch=8),
    "depth": Depth(size=(32, 32), patch=8),
    "semseg": SemSeg(size=(32, 32), patch=8, classes=7, class_width=8),
    "sound": Audio(frames=96, mel=32),
    "video": Video(frames=4, stride=2, size=32, patch=8),
    "cloud": Points(points=256, groups=16, group_size=8),
}
KINDS = pytest.mark.parametrize("kind", PARTS)
ALL = [(kind, name) for kind in PARTS for name in broken.CORPUS[kind]]
NO_UTF8 = os.fsdecode(b"caf\xe9")
MEMORY = 600  # MB while one file is read


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """By kind: good files, and the damaged ones by name, in one folder."""
    found = {}
    for kind, modality in PARTS.items():
        folder = tmp_path_factory.mktemp(kind)
        good = depicted(modality, folder, 6)
        good.append(good[0].rename(folder / f"{NO_UTF8}{modality.suffix}"))
        found[kind] = (good[1:], broken.spoil(kind, good[1], folder / "spoilt"))
    return found


def read(modality, path):
    """What the loader makes of a file: its reason, or `good`."""
    samples = [Sample(path.name, {"it": Source(path)})]
    (loaded,) = load(samples, {"it": modality}, in_order(1, 1), seed=None, workers=0)
    assert loaded.batch.present["it"].tolist() == [not loaded.unreadable]
    return loaded.unreadable[0].reason if loaded.unreadable else broken.GOOD


# Reasons


@pytest.mark.parametrize(("kind", "name"), ALL, ids=[f"{kind}: {name}" for kind, name in ALL])
def test_a_damaged_file_gives_its_reason(kind, name, corpus):
    if name not in corpus[kind][1]:
        pytest.skip("no file is locked for the superuser")
    said, expected = read(PARTS[kind], corpus[kind][1][name]), broken.CORPUS[kind][name][2]
    assert expected == said if expected == broken.GOOD else _fits(expected, said)


def _fits(expected, said):
    return re.search(expected, said) is not None and len(said) < 160 and "/" not in said


@pytest.mark.parametrize("kind", PARTS)
def test_a_folder_and_a_pipe_called_like_a_file_are_refused(kind, tmp_path):
    suffix = PARTS[kind].suffix
    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    assert read(PARTS[kind], tmp_path / f"folder{suffix}") == "can't be read: Is a directory"
    assert read(PARTS[kind], tmp_path / f"pipe{suffix}") == "empty file"  # and nobody waits for a writer


# Among good files


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a toy model of each kind."""
    folders = {}
    for kind, modality in PARTS.items():
        torch.manual_seed(0)
        folders[kind] = tmp_path_factory.mktemp("run")
        checkpoint.save(folders[kind] / "checkpoints", MaskedModel(toy_method(modality)), 1)
    return folders


def embedded(checkpoint_folder, data, out):
    """The vectors of `mmim embed` by id."""
    main(["embed", "--checkpoint", str(checkpoint_folder), "--data", str(data), "--out", str(out), "--workers", "0"])
    table = pq.read_table(out)
    return dict(zip(table["id"].to_pylist(), np.stack(table["joint"].to_numpy()), strict=True))


@KINDS
def test_embed_gives_good_files_what_they_get_alone_and_lists_the_others(kind, corpus, trained, tmp_path, capsys):
    good, spoilt = corpus[kind]
    (tmp_path / "good").mkdir()
    for path in good:
        (tmp_path / "good" / path.name).symlink_to(path)
    alone = embedded(trained[kind], tmp_path / "good", tmp_path / "good.parquet")
    capsys.readouterr()
    mixed = embedded(trained[kind], good[0].parent, tmp_path / "mixed.parquet")
    said = " ".join(capsys.readouterr().out.split())
    assert len(alone) == len(good)
    for id, vector in alone.items():
        np.testing.assert_allclose(mixed[id], vector, rtol=0, atol=1e-5)
    readable = [name for name in spoilt if broken.CORPUS[kind][name][2] == broken.GOOD]
    assert set(mixed) == {*alone, *(f"spoilt/{spoilt[name].name}" for name in readable)}
    assert all(np.isfinite(vector).all() for vector in mixed.values())
    for name, path in spoilt.items():
        assert (f"left out spoilt/{path.name}: " in said) is (name not in readable), name
    assert f"({len(spoilt) - len(readable)} files left out)" in said


def test_a_damaged_file_whose_name_is_no_text_is_listed(corpus, trained, tmp_path):
    good, _ = corpus["image"]
    (tmp_path / good[0].name).symlink_to(good[0])
    (tmp_path / f"{NO_UTF8}.png").write_bytes(b"")
    argv = ["embed", "--checkpoint", str(trained["image"]), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    code = f"from mmim.cli.main import main; main({[*argv, '--workers', '0']!r})"
    surroundings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8:strict"}  # as in most terminals
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=surroundings)
    assert done.returncode == 0, done.stderr
    assert b"empty file" in done.stdout
    assert b"(1 files left out)" in b" ".join(done.stdout.split())


RUNS = {
    "image": (mae.MAE, mae.SIZES, mae.DEMO, ["--modalities.image.size", "32", "32", "--modalities.image.patch", "8"]),
    "sound": (
        audiomae.AUDIOMAE,
        audiomae.SIZES,
        audiomae.DEMO,
        ["--modalities.audio.frames", "96", "--modalities.audio.mel", "64"],
    ),
    "video": (
        videomae.VIDEOMAE,
        videomae.SIZES,
        videomae.DEMO,
        [
            *("--modalities.video.frames", "4", "--modalities.video.stride", "2", "--modalities.video.size", "32"),
            *("--modalities.video.patch", "8", "--budget.ratio", "0.75"),
        ],
    ),
    "cloud": (
        pointmae.POINTMAE,
        pointmae.SIZES,
        pointmae.DEMO,
        [
            *("--modalities.points.points", "256", "--modalities.points.groups", "16"),
            *("--modalities.points.group-size", "8"),
        ],
    ),
}


@pytest.mark.parametrize("kind", RUNS)
def test_training_goes_on_over_damaged_files(kind, corpus, tmp_path):
    good, spoilt = corpus[kind]
    recipe, sizes, demo, options = RUNS[kind]
    argv = ["--data", str(good[0].parent), "--output", str(tmp_path / "run"), "--size", "tiny", *options]
    argv += ["--batch", "24", "--steps", "4", "--precision", "fp32", "--workers", "0", "--threads", "1"]
    argv += ["--log-every", "1", "--max-bad", "1"]
    run.main(recipe, sizes=sizes, demo=demo, argv=argv)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
    assert np.isfinite(numbers).all()
    left_out = [json.loads(line) for line in (tmp_path / "run/unreadable.jsonl").read_text().splitlines()]
    bad = {name for name in spoilt if broken.CORPUS[kind][name][2] != broken.GOOD}
    named = {f"spoilt/{spoilt[name].name}" for name in bad}
    found = {row["id"] for row in left_out}
    part = {"spoilt/not_a_number_in_the_middle.wav"}  # damaged in some windows only
    assert named - part <= found | part
    assert found <= named


# Memory, time and noise

MEASURE = """
import sys, time
from pathlib import Path
from mmim.data.loader import in_order, load
from mmim.data.sources import Sample
from mmim.modality import Source
from tests.mmim.data.test_broken_files import PARTS
def read(kind, path, seed):
    samples = [Sample("it", {"it": Source(Path(path))})]
    next(load(samples, {"it": PARTS[kind]}, in_order(1, 1), seed=seed, workers=0))
def megabytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) // 1024
files = [line.split("\\t") for line in sys.stdin.read().splitlines()]
for kind, path in files[:len(PARTS)]:
    read(kind, path, None)
for kind, path in files[len(PARTS):]:
    for seed in (None, 0):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        base, started = megabytes("VmRSS"), time.perf_counter()
        read(kind, path, seed)
        print(megabytes("VmHWM") - base, round(time.perf_counter() - started, 2), path, sep="\\t")
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc to ask for the peak memory")
def test_no_damaged_file_takes_much_memory_or_time_or_makes_noise(corpus):
    files = [(kind, good[0]) for kind, (good, _) in corpus.items()]
    files += [(kind, path) for kind, (_, spoilt) in corpus.items() for path in spoilt.values()]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input="\n".join(f"{kind}\t{path}" for kind, path in files),
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=300,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ".", "PYTHONIOENCODING": "utf-8:surrogateescape"},
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == 2 * (len(files) - len(PARTS))
    assert [row for row in rows if int(row[0]) > MEMORY or float(row[1]) > 20] == []
    assert done.stderr == ""


# Lists of files


def test_a_line_of_100_megabytes_is_refused_at_once(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a.png 1\n" + b"x y" * (100 * 2**20 // 3) + b".png\n")
    with pytest.raises(DataError, match=r"list\.txt is not a text file \(line 2 has more than 65,536 characters\)"):
        find_samples(tmp_path / "list.txt", {"image": PARTS["image"]})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"b\0.png", "line 2 holds a zero byte"),
        (bytes(range(128, 256)), "invalid start byte"),
        (b"\xff\xfe", "invalid"),
    ],
    ids=["zero byte", "binary", "utf-16"],
)
def test_a_list_with_a_line_that_is_no_text_is_refused(line, reason, tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a.png\n" + line + b"\nc.png\n")
    with pytest.raises(DataError, match=reason):
        find_samples(tmp_path / "list.txt", {"image": PARTS["image"]})


@KINDS
def test_a_media_file_in_place_of_a_list_is_recognised(kind, corpus):
    with pytest.raises(DataError, match="is one file: give the folder that holds it"):
        find_samples(corpus[kind][0][0], {"it": PARTS[kind]})


def test_a_path_that_is_too_long_is_left_out(tmp_path, corpus):
    good, _ = corpus["image"]
    (tmp_path / "list.txt").write_text(f"{good[0]}\n{'x' * 5000}.png\n")
    samples = find_samples(tmp_path / "list.txt", {"it": PARTS["image"]})
    (loaded,) = load(samples, {"it": PARTS["image"]}, in_order(2, 2), seed=None, workers=0)
    assert [bad.reason for bad in loaded.unreadable] == ["can't be read: File name too long"]
    assert loaded.batch.present["it"].sum() == 1
