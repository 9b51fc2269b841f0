"""`mmim import`, `mmim export`, `mmim list`, from the command line."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import mmim
from mmim import run
from mmim.cli.list_ import about
from mmim.cli.main import main
from mmim.interop import converter
from recipes.mae import DEMO, MAE, SIZES
from tests.recipes.weights.imports import case, write
from tests.videomae import fresh_accelerate

HEADS = ("--heads", "4", "--decoder-heads", "4")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    state = case("mae_norm_pix").state | {"head.weight": torch.ones(2, 48), "head.bias": torch.ones(2)}
    return write(tmp_path_factory.mktemp("official") / "mae.pth", state)


@pytest.fixture(scope="module")
def ours(official, tmp_path_factory):
    out = tmp_path_factory.mktemp("ours") / "mae"
    main(["import", str(official), "--from", "mae", "--out", str(out), *HEADS, "--drop", "head.*"])
    return out


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def refused(capsys, *args: str) -> str:
    """What a command that can't be says: one line on stderr, and exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, args)))
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


def test_an_import_says_what_it_made(official, tmp_path, capsys):
    main(["import", str(official), "--from", "mae", "--out", str(tmp_path / "a"), *HEADS, "--drop", "head.*"])
    said = capsys.readouterr().out
    assert "encoder    joint(width=48, depth=3, heads=4, global_tokens=1)" in said
    assert "note       unwrapped 'model' (beside it optimizer, epoch, args)" in said
    assert "74 tensors used, 2 left out: head.weight, head.bias" in said
    assert f"parameters in {tmp_path / 'a'}/checkpoints/step-0" in said


def test_an_import_is_a_checkpoint_of_ours(ours):
    assert mmim.load(ours).method.encoder.width == 48
    config = json.loads((ours / "checkpoints/step-0/config.json").read_text())
    assert config["source"]["dropped"] == ["head.weight", "head.bias"]
    assert config["source"]["mmim"] == config["mmim"]


def test_an_encoder_alone_embeds_files(official, tmp_path):
    decoder = ("--drop", "decoder*", "--drop", "mask_token", "--drop", "head.*")
    main(["import", str(official), "--from", "mae", "--out", str(tmp_path / "a"), "--heads", "4", *decoder])
    data = pictures(tmp_path / "pictures")
    command = ["embed", "--checkpoint", str(tmp_path / "a"), "--data", str(data), "--workers", "0"]
    main([*command, "--out", str(tmp_path / "e.parquet")])
    assert pq.read_table(tmp_path / "e.parquet")["joint"].type.list_size == 48


def test_patterns_are_given_one_by_one(official, tmp_path):
    drops = ["--drop", "head.weight", "--drop", "head.bias"]
    main(["import", str(official), "--from", "mae", "--out", str(tmp_path / "a"), *HEADS, *drops])


def test_an_export_is_read_by_the_others(ours, tmp_path, capsys):
    main(["export", str(ours), "--to", "timm", "--out", str(tmp_path / "vit.safetensors")])
    assert "cls_token" in load_file(tmp_path / "vit.safetensors")
    assert "left out" in capsys.readouterr().out
    main(["export", str(ours), "--to", "transformers", "--out", str(tmp_path / "hf")])
    assert json.loads((tmp_path / "hf/config.json").read_text())["architectures"] == ["ViTMAEForPreTraining"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("import", "none.pth", "--from", "mae", "--out", "{tmp}/a"), "There is no file none.pth"),
        (("import", "{file}", "--from", "mea", "--out", "{tmp}/a"), "--from 'mea' is unknown; there are audiomae,"),
        (("import", "{file}", "--from", "mae", "--out", "{tmp}/a", *HEADS), "Nothing here uses 'head.weight'"),
        (("import", "{file}", "--from", "mae", "--out", "{tmp}/a"), "give --decoder-heads"),
        (("import", "{file}", "--from", "mae", "--out", "{tmp}/b/a"), "there is no folder {tmp}/b"),
        (("import", "{file}", "--from", "mae", "--out", "{file}"), "is a file: name a folder"),
        (("import", "{file}", "--from", "videomae", "--out", "{tmp}/a"), "where 5 axes were expected"),
        (("import", "{file}", "--from", "mae", "--out", "{tmp}/a", *HEADS, "--state", "x"), "no state dict --state"),
        (("import", "{file}", "--out", "{tmp}/a"), "--from"),
        (
            ("import", "{file}", "--from", "mae", "--out", "{tmp}/a", "--set", "help"),
            "--set help: mae has no such option of its own; it has raw_pixels=true or false (the decoder predicts raw",
        ),
        (("import", "{file}", "--from", "simmim", "--out", "{tmp}/a", "--set", "mean=0"), "of its own; it has none."),
        (
            ("import", "{file}", "--from", "mae", "--out", "{tmp}/a", "--set", "raw_pixels=perhaps"),
            "--set raw_pixels is 'perhaps'; it must be of type bool",
        ),
        (
            ("import", "{file}", "--from", "timm", "--out", "{tmp}/a", "--set", "mean=0,0"),
            "--set mean is [0, 0]; it must be a list of 3",
        ),
        (("import", "{file}", "--from", "timm", "--out", "{tmp}/a", "--set", "mean=["), "--set mean=[ can't be read"),
        (("export", "{file}", "--to", "timm", "--out", "{tmp}/a.safetensors"), "error: {file} is a file: give a run"),
        (("export", "{ours}", "--to", "timm", "--out", "{tmp}/folder"), "must end in .safetensors"),
        (("export", "{ours}", "--to", "transformers", "--out", "{tmp}/a.bin"), "this format is a folder"),
        (("export", "{ours}", "--to", "transformers", "--out", "{tmp}"), "exists already"),
        (("export", "{ours}", "--to", "onnx", "--out", "{tmp}/a"), "--to 'onnx' is unknown; there are timm, transf"),
        (("export", "{tmp}", "--to", "timm", "--out", "{tmp}/a.safetensors"), "There is no checkpoint at"),
    ],
)
def test_a_mistake_is_one_line(args, message, official, ours, tmp_path, capsys):
    places = {"tmp": tmp_path, "file": official, "ours": ours}
    said = refused(capsys, *(arg.format(**places) for arg in args))
    assert message.format(**places) in said
    assert list(tmp_path.iterdir()) == []


def test_an_import_overwrites_nothing(official, ours, capsys):
    said = refused(capsys, "import", official, "--from", "mae", "--out", ours, *HEADS, "--drop", "head.*")
    assert "has checkpoints already" in said
    said = refused(capsys, "import", "none.pth", "--from", "mae", "--out", ours)
    assert "has checkpoints already" in said  # before anything is read


def test_the_options_of_one_format(official, tmp_path):
    args = ["import", str(official), "--from", "mae", "--out", str(tmp_path / "a"), *HEADS, "--drop", "head.*"]
    main([*args, "--set", "raw_pixels=true"])
    assert mmim.load(tmp_path / "a").method.tasks["image"].target.normalise == "none"
    encoder = ("--heads", "4", "--drop", "decoder*", "--drop", "mask_token", "--drop", "head.*")
    colours = ("--set", "mean=.5,.5,.5", "std=0.5, 1, 2")
    main(["import", str(official), "--from", "timm", "--out", str(tmp_path / "b"), *encoder, *colours])
    image = mmim.load(tmp_path / "b").method.modalities["image"]
    assert (image.mean, image.std) == ((0.5, 0.5, 0.5), (0.5, 1.0, 2.0))


def test_an_imported_mae_is_trained_on_and_embeds(official, tmp_path):
    main(["import", str(official), "--from", "mae", "--out", str(tmp_path / "mae"), *HEADS, "--drop", "head.*"])
    data = pictures(tmp_path / "pictures")
    sizes = {"modalities.image.patch": 8, "encoder.width": 48, "encoder.depth": 3, "encoder.heads": 4}
    sizes |= {"decoders.image.width": 32, "decoders.image.depth": 2, "decoders.image.heads": 4}
    options = {"data": data, "output": tmp_path / "run", "init": tmp_path / "mae", **sizes}
    options |= {"steps": 1, "batch": 3, "workers": 0, "threads": 1, "precision": "fp32"}
    argv = ["--modalities.image.size", "32", "32", *(f"--{name}={value}" for name, value in options.items())]
    with fresh_accelerate():
        run.main(MAE, sizes=SIZES, demo=DEMO, argv=argv)
    command = ["embed", "--checkpoint", str(tmp_path / "run"), "--data", str(data), "--workers", "0"]
    main([*command, "--out", str(tmp_path / "e.parquet")])
    rows = pq.read_table(tmp_path / "e.parquet")
    assert rows.num_rows == 3
    assert np.isfinite(rows["joint"].to_pylist()).all()


def test_list_names_every_part_in_a_line_of_at_most_100_columns(capsys):
    main(["list"])
    said = capsys.readouterr().out
    for name in (
        "tube",
        "ratio",
        "mask_token",
        "pixels",
        "swin",
        "local_attention",
        "adamw",
        "hf-vitmae",
        "transformers",
    ):
        assert f"\n  {name} " in said
    assert "MAE: masked autoencoding of images." in said
    assert "can't be imported" not in said
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:Thing", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("math:Thing", "AttributeError"),
    ],
)
def test_a_plugin_that_can_not_be_imported_is_one_line(value, reason, monkeypatch, capsys):
    broken = EntryPoint("broken", value, "mmim.masking")
    assert about(broken).startswith(f"can't be imported: {reason}")
    real = converter.entries
    monkeypatch.setattr(
        "mmim.cli.list_.entries", lambda group: real(group) | ({"broken": broken} if group == "mmim.masking" else {})
    )
    main(["list"])
    assert "\n  broken " in capsys.readouterr().out


def test_neither_an_import_nor_an_export_needs_transformers():
    modules = "recipes.weights.huggingface, recipes.weights.timm, mmim.cli.main"
    code = f"import sys, {modules}; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
