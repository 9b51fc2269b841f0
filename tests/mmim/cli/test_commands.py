"""The commands, from a trained checkpoint to embeddings and probes."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import mmim
from mmim import checkpoint
from mmim.cli.main import main
from mmim.data.media_write import write_video
from mmim.model import MaskedModel
from tests.videomae import batch_of, toy

PROBE = ("probe", "--label", "tone", "--data", ".")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Bright and dark clips, labelled; one that is broken."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    with (folder / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "tone", "fold"])
        for i in range(24):
            tone = ("dark", "bright")[i % 2]
            low = 0 if tone == "dark" else 128
            write_video(folder / f"{i:02d}.mp4", rng.integers(low, low + 128, (6, 32, 32, 3), dtype=np.uint8), fps=10)
            rows.writerow([f"{i:02d}.mp4", tone, i // 2 % 3])
    (folder / "99.mp4").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    checkpoint.save(folder / "checkpoints", MaskedModel(toy()), 7)
    return folder


@pytest.fixture(scope="module")
def embedded(trained, data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "clips.parquet"
    main(["embed", "--checkpoint", str(trained), "--data", str(data), "--out", str(out), "--workers", "0"])
    return out


def test_embed_writes_a_row_per_readable_file(embedded):
    table = pq.read_table(embedded)
    assert table.column_names == ["id", "present", "joint", "video"]
    assert table["id"].to_pylist() == [f"{i:02d}.mp4" for i in range(24)]
    assert table["present"].to_pylist() == [["video"]] * 24
    assert table.schema.field("joint").type.list_size == 48


def test_embed_says_where_its_numbers_come_from(embedded, trained):
    about = {key.decode(): value.decode() for key, value in pq.read_table(embedded).schema.metadata.items()}
    assert about["checkpoint"] == checkpoint.digest(trained / "checkpoints/step-7")
    assert {"pooling", "mmim", "torch"} <= set(about)


def test_embed_gives_the_models_own_vectors(embedded, trained, data):
    model = mmim.load(trained)
    modality = model.method.modalities["video"]
    from mmim.modality import Source

    clip = modality.read(Source(data / "05.mp4"), None)
    with torch.inference_mode():
        expected = model.embed(batch_of(clip[None]))[0].numpy()
    assert np.allclose(pq.read_table(embedded)["joint"][5].as_py(), expected, atol=1e-6)


def test_embed_does_not_depend_on_the_batch(embedded, trained, data, tmp_path):
    out = tmp_path / "again.parquet"
    main(
        [
            "embed",
            "--checkpoint",
            str(trained),
            "--data",
            str(data),
            "--out",
            str(out),
            "--batch",
            "5",
            "--workers",
            "1",
        ]
    )
    first, second = (np.stack(pq.read_table(file)["joint"].to_numpy()) for file in (embedded, out))
    assert np.allclose(first, second, atol=1e-6)


def test_probe_compares_with_the_untrained_encoder_and_raw_features(trained, data, tmp_path, capsys):
    out = tmp_path / "table.json"
    command = ["probe", "--checkpoint", str(trained), "--data", str(data), "--label", "tone", "--split", "fold=2"]
    main([*command, "--workers", "0", "--json-out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["features"] for row in rows[:3]] == ["trained", "untrained", "raw video"]
    assert all(row["num_test"] == 8 for row in rows)
    assert rows[0]["accuracy"]["value"] == 1.0
    assert "left out 99.mp4: empty file" in capsys.readouterr().out


def test_probe_reads_embeddings(embedded, data, capsys):
    main(["probe", "--embeddings", str(embedded), "--labels", str(data), "--label", "tone"])
    assert "joint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["embed", "--checkpoint", "nowhere", "--data", ".", "--out", "x.parquet"],
            "There is no checkpoint at nowhere",
        ),
        (["embed", "--data", "."], "Missing from"),
        (["probe", "--label", "tone"], "Give --data"),
        (["probe", "--label", "tone", "--data", "."], "Give one of --checkpoint and --embeddings"),
        (["embed", "--checkpoint", ".", "--data", ".", "--out", "."], "--out . is a folder: name a file"),
        (["embed", "--checkpoint", ".", "--data", ".", "--out", "no/x"], "--out no/x: there is no folder"),
        (["embed", "--checkpoint", "file", "--data", ".", "--out", "x"], "--checkpoint file is a file: give a run"),
        (["embed", "--checkpoint", ".", "--data", ".", "--out", "x", "--batch", "0"], "--batch is 0; it must be at"),
        ([*PROBE, "--checkpoint", ".", "--batch", "0"], "--batch is 0; it must be at least 1"),
        ([*PROBE, "--checkpoint", ".", "--workers", "-1"], "--workers is -1; it must be at least 0"),
        ([*PROBE, "--checkpoint", "file"], "--checkpoint file is a file: give a run folder"),
        ([*PROBE, "--checkpoint", ".", "--json-out", "no/x.json"], "--json-out no/x.json: there is no folder"),
        ([*PROBE, "--checkpoint", ".", "--json-out", "."], "--json-out . is a folder: name a file"),
        ([*PROBE, "--embeddings", "x", "--batch", "2"], "--batch with --embeddings: there is nothing to compute"),
        ([*PROBE, "--embeddings", "x", "--workers", "0", "--batch", "2"], "--batch and --workers with --embeddings"),
        (["sample-data", "--out", "x", "--scenes", "0"], "must be at least 1"),
        (["embde"], "embde"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_label_that_is_not_there_names_those_that_are(embedded, data, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["probe", "--embeddings", str(embedded), "--labels", str(data), "--label", "colour"])
    assert "tone" in capsys.readouterr().err


def test_sample_data_writes_readable_scenes_with_labels(tmp_path):
    main(["sample-data", "--out", str(tmp_path / "world"), "--scenes", "6", "--workers", "1"])
    files = sorted((tmp_path / "world").rglob("*.mp4"))
    assert len(files) == 6
    with (tmp_path / "world/train/index.csv").open() as file:
        assert {"id", "shape", "colour", "motion"} <= set(next(csv.reader(file)))


def test_help_is_no_error(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "embed" in capsys.readouterr().out
