import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import mmim
from mmim import checkpoint
from mmim.errors import CheckpointError
from mmim.model import MaskedModel
from mmim.training.optimiser import AdamW
from tests.toy import TOY
from tests.videomae import redraw


@pytest.fixture
def model() -> MaskedModel:
    model = MaskedModel(TOY)
    redraw(model)
    return model


def test_a_checkpoint_gives_the_model_back(model, tmp_path):
    loaded = mmim.load(checkpoint.save(tmp_path, model, 3))
    assert not loaded.training
    assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert {name: getattr(loaded.method, name) for name in loaded.method.__dataclass_fields__} == {
        name: getattr(TOY, name) for name in loaded.method.__dataclass_fields__
    }


def test_a_failing_write_leaves_no_checkpoint(model, tmp_path, monkeypatch):
    checkpoint.save(tmp_path, model, 1)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "_write_text", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, model, 2)
    assert checkpoint.steps(tmp_path) == [1]
    assert checkpoint.find(tmp_path) == tmp_path / "step-1"


def test_what_a_killed_run_left_behind_is_written_over(model, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.os, "getpid", lambda: 7)
    (tmp_path / ".step-2.7").mkdir()
    (tmp_path / ".step-2.7" / "rubbish").touch()
    assert sorted(file.name for file in checkpoint.save(tmp_path, model, 2).iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("form", ["", "checkpoints", "checkpoints/step-20"])
def test_a_run_or_its_folder_or_a_checkpoint_is_found(model, tmp_path, form):
    for step in (3, 20):
        checkpoint.save(tmp_path / "checkpoints", model, step)
    assert checkpoint.find(tmp_path / form) == tmp_path / "checkpoints" / "step-20"


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_where_nothing_is_the_message_says_what_to_give(tmp_path, path):
    with pytest.raises(
        CheckpointError, match=r"no checkpoint at .*Give a run folder, or one of its checkpoints/step-N"
    ):
        mmim.load(tmp_path / path)


def test_only_whole_checkpoints_count(tmp_path):
    for name in ("step-3", ".step-4.99", "step-final", "other"):
        (tmp_path / name).mkdir()
    assert checkpoint.steps(tmp_path) == [3]


@pytest.mark.parametrize(("keep", "left"), [(0, [1, 2, 10]), (1, [10]), (2, [2, 10]), (5, [1, 2, 10])])
def test_the_newest_stay(tmp_path, keep, left):
    for step in (1, 2, 10):
        (tmp_path / f"step-{step}").mkdir(parents=True)
    checkpoint.prune(tmp_path, keep)
    assert checkpoint.steps(tmp_path) == left


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("model.safetensors", "damaged", r"model.safetensors can't be read: .*Use an earlier checkpoint"),
        ("config.json", "{", r"config.json can't be read"),
        (
            "config.json",
            '{"format": 99}',
            r"has checkpoint format 99; this mmim reads 1. Install the mmim that wrote it",
        ),
    ],
)
def test_a_damaged_file_is_named(model, tmp_path, file, text, message):
    (checkpoint.save(tmp_path, model, 1) / file).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        mmim.load(tmp_path)


def test_a_missing_weights_file_is_named(model, tmp_path):
    (checkpoint.save(tmp_path, model, 1) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors can't be read"):
        mmim.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("decoders.toy.mask_token"),
            r"does not fit .* decoders.toy.mask_token missing \(1 in all\)",
        ),
        (lambda state: state.update(extra=torch.zeros(1)), r"extra unknown \(1 in all\)"),
        (
            lambda state: state.update({"decoders.toy.mask_token": torch.zeros(1, 1, 9)}),
            r"mask_token \(1, 1, 9\) for \(1, 1, 8\)",
        ),
        (lambda state: [state.pop(name) for name in list(state)[:7]], r"\(7 in all\)"),
    ],
)
def test_weights_that_do_not_fit_are_listed(model, tmp_path, change, message):
    state = model.state_dict()
    change(state)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        checkpoint.restore(model, state, tmp_path)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_the_digest_names_the_weights(model, tmp_path):
    first = checkpoint.digest(checkpoint.save(tmp_path, model, 1))
    assert checkpoint.digest(checkpoint.save(tmp_path, model, 2)) == first
    with torch.no_grad():
        model.decoders["toy"].mask_token[0, 0, 0] += 1e-6
    assert checkpoint.digest(checkpoint.save(tmp_path, model, 3)) != first


def test_a_copied_checkpoint_still_loads(model, tmp_path):
    shutil.copytree(checkpoint.save(tmp_path / "run", model, 1), tmp_path / "copy")
    shutil.rmtree(tmp_path / "run")
    assert_close(mmim.load(tmp_path / "copy").state_dict(), model.state_dict())


def test_nothing_is_pickled(model, tmp_path):
    folder = checkpoint.save(tmp_path, model, 1, {"a|exp_avg": torch.zeros(1)}, {"note": 1})
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json"}
    assert json.loads((folder / "config.json").read_text())["method"]["masking"] == {"toy": {"kind": "tube"}}


def test_an_optimiser_goes_on_as_if_it_had_not_stopped(model, tmp_path):
    def move(model, optimiser, seed):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimiser.step()

    optimiser = AdamW().build(model, 8)
    move(model, optimiser, 1)
    folder = checkpoint.save(tmp_path, model, 1, checkpoint.optimiser_tensors(model, optimiser))
    move(model, optimiser, 2)

    other = MaskedModel(replace(TOY, seed=1))
    other_optimiser = AdamW().build(other, 8)
    checkpoint.restore(other, checkpoint.read_tensors(folder / "model.safetensors"), folder)
    checkpoint.restore_optimiser(other, other_optimiser, checkpoint.read_tensors(folder / "training.safetensors"))
    move(other, other_optimiser, 2)
    assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_says_whose_weights_were_imported(model, tmp_path):
    folder = checkpoint.save(tmp_path / "checkpoints", model, 0, source={"format": "mae", "file": "mae.pth"})
    assert checkpoint.read_config(folder)["source"] == {"format": "mae", "file": "mae.pth"}
