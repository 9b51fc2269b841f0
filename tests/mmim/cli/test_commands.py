"""The commands, from a trained checkpoint to embeddings and probes."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import mmim
from mmim import checkpoint, parts
from mmim.cli.main import main
from mmim.data.media_write import write_video
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from mmim.masking.tube import TubeMasking
from mmim.model import MaskedModel, Method, Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.pixels import Pixels
from modalities.audio import Audio
from modalities.image import Image
from tests.sounds import write as write_sound
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


def test_probe_reads_embeddings_and_a_copy_of_joint_once(embedded, data, tmp_path):
    out = tmp_path / "table.json"
    command = ["probe", "--embeddings", str(embedded), "--labels", str(data), "--label", "tone"]
    main([*command, "--json-out", str(out)])
    assert {row["features"] for row in json.loads(out.read_text())["rows"]} == {"joint"}


def test_probe_of_embeddings_counts_absent_samples_in_no_table(both_embedded, both, tmp_path):
    out = tmp_path / "table.json"
    command = ["probe", "--embeddings", str(both_embedded), "--labels", str(both), "--label", "tone"]
    main([*command, "--split", "fold=3", "--json-out", str(out)])
    rows = [row for row in json.loads(out.read_text())["rows"] if row["method"] == "kNN"]
    tested = [(row["features"], row["num_train"] + row["num_test"]) for row in rows]
    assert tested == [("joint", 32), ("joint", 28), ("video", 28), ("joint", 28), ("audio", 28)]


def test_a_file_of_one_modality_has_nothing_to_retrieve(embedded, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["retrieve", "--embeddings", str(embedded)])
    assert "there is video alone" in capsys.readouterr().err


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """Clips of one tone each with a sound of another height; some are silent films, some sounds alone."""
    folder = tmp_path_factory.mktemp("both")
    rng = np.random.default_rng(0)
    with (folder / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "tone", "fold"])
        for i in range(32):
            low, pitch = (0, 300) if i % 2 else (128, 1200)
            frames = rng.integers(low, low + 128, (6, 32, 32, 3), dtype=np.uint8)
            tone = 0.3 * np.sin(2 * np.pi * pitch * np.arange(9600) / 16000)
            wave = (tone + rng.normal(scale=0.01, size=(2, 9600))).astype(np.float32)
            name = f"{i:02d}.{'wav' if i >= 28 else 'mp4'}"
            if i >= 28:
                write_sound(folder / name, wave)
            else:
                heard = {} if i >= 24 else {"sound": wave, "rate": 16000}
                write_video(folder / name, frames, fps=10, **heard)
            rows.writerow([name, ("bright", "dark")[i % 2], i // 2 % 4])
    return folder


@pytest.fixture(scope="module")
def listening(tmp_path_factory) -> Path:
    """A checkpoint that sees and hears."""
    torch.manual_seed(0)
    recipe = toy()
    parts = {"video": recipe.modalities["video"], "audio": Audio(frames=64)}
    decoder = recipe.decoders["video"]
    method = Method(
        modalities=parts,
        masking={"video": TubeMasking(), "audio": RandomMasking()},
        budget=Ratio(0.75),
        encoder=recipe.encoder,
        decoders=dict.fromkeys(parts, decoder),
        tasks={name: Task(modality=name, decoder=name, target=Pixels()) for name in parts},
        objective={"reconstruction": Reconstruction()},
    )
    folder = tmp_path_factory.mktemp("listening")
    checkpoint.save(folder / "checkpoints", MaskedModel(method), 1)
    return folder


@pytest.fixture(scope="module")
def both_embedded(listening, both, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "both.parquet"
    main(["embed", "--checkpoint", str(listening), "--data", str(both), "--out", str(out), "--workers", "0"])
    return out


def test_embed_uses_the_modalities_that_are_named(listening, both, both_embedded, tmp_path, capsys):
    out = tmp_path / "sounds.parquet"
    command = ["embed", "--checkpoint", str(listening), "--data", str(both), "--out", str(out), "--workers", "0"]
    main([*command, "--use", "video"])
    assert "4 samples have no video and were left out" in capsys.readouterr().out
    found, whole = pq.read_table(out), pq.read_table(both_embedded)
    assert found.column_names == ["id", "present", "joint", "video"]
    assert found["present"].to_pylist() == [["video"]] * 28
    assert whole["present"].to_pylist() == [["video", "audio"]] * 24 + [["video"]] * 4 + [["audio"]] * 4
    ours, theirs = np.stack(found["joint"].to_numpy()), np.stack(whole["video"].to_numpy()[:28])
    assert np.allclose(ours, theirs, atol=1e-6)
    assert found.schema.metadata[b"use"] == b"video"


def test_retrieve_compares_with_the_untrained_encoder_and_a_floor(listening, both, tmp_path, capsys):
    out = tmp_path / "table.json"
    command = ["retrieve", "--checkpoint", str(listening), "--data", str(both), "--workers", "0", "--split", "fold=3"]
    main([*command, "--json-out", str(out), "--group", "tone"])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["query"], row["candidate"], row["features"]) for row in rows] == [
        (*direction, features)
        for direction in (("video", "audio"), ("audio", "video"))
        for features in ("trained", "untrained", "raw (CCA)")
    ]
    assert all(row["pairs"] == 6 for row in rows)
    assert all(row["chance"]["R@1"] == 0.5 for row in rows)
    assert [row["R@1"]["value"] for row in rows if row["features"] == "raw (CCA)"] == [1, 1]
    said = " ".join(capsys.readouterr().out.split())
    assert "video -> audio 6 pairs" in said
    assert "left out audio of 24.mp4: no sound stream" in said


def test_retrieve_reads_embeddings_and_scores_as_from_the_checkpoint(listening, both, both_embedded, tmp_path, capsys):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    main(["retrieve", "--embeddings", str(both_embedded), "--json-out", str(first)])
    command = ["retrieve", "--checkpoint", str(listening), "--data", str(both), "--pairs", "video:audio"]
    main([*command, "--workers", "0", "--json-out", str(second)])
    ours, theirs = (json.loads(file.read_text())["rows"] for file in (first, second))
    theirs = [{**row, "features": "both"} for row in theirs if row["features"] == "trained"]
    assert ours == theirs
    assert all(row["pairs"] == 24 for row in ours)
    assert "no raw (CCA) of video and audio: it is fitted on samples that are no candidates" in capsys.readouterr().out


def test_probe_shows_each_modality_on_the_samples_that_have_it(listening, both, tmp_path):
    out = tmp_path / "table.json"
    command = ["probe", "--checkpoint", str(listening), "--data", str(both), "--label", "tone", "--split", "fold=3"]
    main([*command, "--workers", "0", "--json-out", str(out)])
    rows = [row for row in json.loads(out.read_text())["rows"] if row["method"] == "kNN"]
    tested = [(row["features"], row["num_train"] + row["num_test"]) for row in rows]
    assert tested == [
        *((name, 32) for name in ("trained", "untrained")),
        *((name, 28) for name in ("trained", "trained video", "untrained video", "raw video")),
        *((name, 28) for name in ("trained", "trained audio", "untrained audio", "raw audio")),
    ]
    accuracy = {row["features"]: row["accuracy"]["value"] for row in rows}
    assert accuracy["raw video"] == accuracy["raw audio"] == 1


@pytest.mark.parametrize("command", ["retrieve", "probe --label tone", "embed --out x.parquet"])
def test_an_unknown_modality_is_one_line(command, listening, both, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*command.split(), "--checkpoint", str(listening), "--data", str(both), "--use", "smell"])
    assert capsys.readouterr().err == "error: --use smell: the model knows video, audio. Choose of these.\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pairs", "video:smell"], "--pairs video:smell: there is no 'smell'. Choose of video, audio"),
        (["--pairs", "video"], "--pairs video can't be read: write FIRST:SECOND"),
        (["--use", "video"], "there is video alone"),
        (["--group", "smell"], "No column 'smell'"),
        (["--split", "fold=9"], "column 'fold' of"),
        (["--use", "audio", "video", "--set", "smell.size=2"], "smell.size is nothing that reading could change"),
        (["--set", "video.frames={1"], "--set video.frames={1: '{1' can't be read as a value"),
    ],
)
def test_a_retrieval_that_can_not_be_is_one_line(options, message, listening, both, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["retrieve", "--checkpoint", str(listening), "--data", str(both), "--workers", "0", *options])
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


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
        ([*PROBE, "--embeddings", "x", "--use", "video"], "--use with --embeddings: there is nothing to compute"),
        (["retrieve"], "Give one of --checkpoint and --embeddings"),
        (["retrieve", "--checkpoint", "."], "--checkpoint needs --data"),
        (["retrieve", "--embeddings", "file"], "file is not a file of `mmim embed`"),
        (["retrieve", "--embeddings", "x", "--batch", "2"], "--batch with --embeddings: there is nothing to compute"),
        (["retrieve", "--embeddings", "x", "--labels", "."], "--labels without --group or --split"),
        (["retrieve", "--embeddings", "x", "--group", "tone"], "--group and --split need --data"),
        (["retrieve", "--checkpoint", ".", "--data", ".", "--workers", "-1"], "--workers is -1"),
        (["retrieve", "--embeddings", "x", "--json-out", "."], "--json-out . is a folder: name a file"),
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
    for suffix in (".mp4", ".frame.mp4", ".wav", ".depth.png"):
        assert len(list((tmp_path / "world").rglob(f"[0-9][0-9][0-9][0-9][0-9]{suffix}"))) == 6
    with (tmp_path / "world/train/index.csv").open() as file:
        assert {"id", "shape", "colour", "motion"} <= set(next(csv.reader(file)))


def test_help_is_no_error(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "embed" in capsys.readouterr().out


def test_sample_data_leaves_out_a_modality_that_can_not_be_made(tmp_path, capsys, monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class NeedsACamera(Image):
        camera: str

    monkeypatch.setitem(parts._registered, ("modality", "needs_a_camera"), NeedsACamera)
    main(["sample-data", "--out", str(tmp_path / "world"), "--scenes", "3", "--workers", "1"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Note: needs_a_camera is left out:" in said
    assert "'camera'" in said
