"""Starting from a checkpoint's weights, with the same modalities and with others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mmim
from mmim import checkpoint
from mmim.errors import CheckpointError, OptionError
from mmim.model import MaskedModel
from mmim.options import apply
from mmim.start import check_start, start_from
from mmim.using import using
from tests.mmim.test_using import Stranger  # noqa: F401  # registered there
from tests.several import SEVERAL, batch_of
from tests.toy import TOY, Toy
from tests.videomae import redraw


@pytest.fixture
def model() -> MaskedModel:
    redraw(model := MaskedModel(TOY))
    return model


@pytest.fixture
def started(model, tmp_path) -> Path:
    """A checkpoint to start from."""
    return checkpoint.save(tmp_path / "checkpoints", model, 1)


def test_a_model_starts_from_another_ones_weights(model, started):
    redraw(other := MaskedModel(TOY), seed=1)
    assert check_start(other, started).fresh == ()
    start_from(other, started)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in other.state_dict().items())


def test_the_trunk_alone_can_be_taken_where_the_decoder_is_another(model, started):
    other = MaskedModel(apply(TOY, {"decoders.toy.width": 16}))
    with pytest.raises(OptionError, match=r"decoders.toy.width is 8 there and 16 here.*--init-trunk-only"):
        check_start(other, started)
    fresh = check_start(other, started, trunk_only=True).fresh
    assert fresh
    assert all(name.startswith("decoders.") for name in fresh)
    before = other.state_dict()["decoders.toy.embed.weight"].clone()
    start_from(other, started, trunk_only=True)
    assert torch.equal(other.state_dict()["decoders.toy.embed.weight"], before)
    assert torch.equal(other.trunk.encoder.norm.weight, model.trunk.encoder.norm.weight)


def test_another_number_of_heads_is_no_start_although_all_shapes_fit(started):
    with pytest.raises(OptionError, match=r"another model: encoder.heads is 2 there and 4 here"):
        check_start(MaskedModel(apply(TOY, {"encoder.heads": 4})), started)


def test_a_trunk_that_gets_not_all_its_weights_is_no_start(model, tmp_path):
    folder = checkpoint.save(tmp_path / "checkpoints", model, 1)
    tensors = checkpoint.read_tensors(folder / "model.safetensors")
    del tensors["trunk.encoder.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"trunk.encoder.norm.weight is missing there"):
        check_start(MaskedModel(TOY), folder)


def test_a_tokenizer_with_other_numbers_is_no_start(started):
    other = MaskedModel(replace(TOY, modalities={"toy": Toy(scale=2.0)}))
    with pytest.raises(OptionError, match=r"modalities.toy.scale is 1.0 there and 2.0 here"):
        check_start(other, started)
    longer = MaskedModel(replace(TOY, modalities={"toy": Toy(rows=16)}))
    assert check_start(longer, started).fresh == ()


def test_a_foreign_file_is_to_be_imported_first(tmp_path):
    (tmp_path / "mae.pth").write_text("weights")
    with pytest.raises(CheckpointError, match=r"is a file: import it first with `mmim import`"):
        check_start(MaskedModel(TOY), tmp_path / "mae.pth")


def weights(method, folder) -> Path:
    """A checkpoint of a method, its weights redrawn."""
    redraw(model := MaskedModel(method), seed=2)
    return checkpoint.save(folder, model, 1)


def test_a_grown_model_embeds_what_it_knew_as_before(tmp_path):
    started = weights(using(SEVERAL, ["a", "b"]), tmp_path)
    redraw(grown := MaskedModel(using(SEVERAL, ["a", "b", "c", "stranger"])), seed=3)
    start = start_from(grown, started)
    assert start.left == ()
    assert start.modalities == ("a", "b")
    assert start.fresh
    assert all("c" in name.split(".") or "stranger" in name or "_c" in name or "own" in name for name in start.fresh)
    batch = batch_of(3, "c:")
    before, after = (model.eval().embed(batch, ["a", "b"]) for model in (mmim.load(started), grown))
    assert torch.equal(before, after)


def test_a_model_with_fewer_modalities_leaves_their_weights_out(tmp_path):
    started = weights(SEVERAL, tmp_path)
    redraw(less := MaskedModel(using(SEVERAL, ["a"])), seed=3)
    start = start_from(less, started)
    assert start.fresh == ()
    assert "trunk.embedders.b.weight" in start.left
    assert all(torch.equal(tensor, mmim.load(started).state_dict()[name]) for name, tensor in less.state_dict().items())


def test_a_tensor_that_is_missing_and_of_no_new_modality_is_told(tmp_path):
    started = weights(using(SEVERAL, ["a", "b"]), tmp_path)
    tensors = checkpoint.read_tensors(started / "model.safetensors")
    del tensors["trunk.embedders.b.weight"]
    save_file(tensors, started / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"trunk.embedders.b.weight is missing there"):
        check_start(MaskedModel(SEVERAL), started)


def test_models_without_a_common_modality_are_no_start(tmp_path):
    started = weights(using(SEVERAL, ["a"]), tmp_path)
    with pytest.raises(OptionError, match=r"knows a, and this run has b, c: keep one of its modalities"):
        check_start(MaskedModel(using(SEVERAL, ["b", "c"])), started)


def test_parts_to_hold_are_parts_that_the_checkpoint_has(tmp_path):
    start = check_start(MaskedModel(SEVERAL), weights(using(SEVERAL, ["a", "b"]), tmp_path))
    held = start.frozen(["trunk", "decoders.joint"])
    assert {name.split(".")[0] for name in held} == {"trunk", "decoders"}
    assert not set(held) & set(start.fresh)
    with pytest.raises(
        OptionError, match=r"--freeze decoders.own names no weights from --init; there are decoders, decoders.joint, "
    ):
        start.frozen(["decoders.own"])


def test_a_modality_keeps_the_embedder_that_it_shared_with_one_that_is_left_out(tmp_path):
    both = replace(
        using(SEVERAL, ["a", "b"]),
        modalities={"a": Toy(rows=8, columns=4), "b": Toy(rows=12, columns=4)},
        shared_embedders={"b": "a"},
    )
    started = weights(both, tmp_path)
    redraw(alone := MaskedModel(using(both, ["b"])), seed=3)
    assert start_from(alone, started).fresh == ()
    of_a = mmim.load(started).state_dict()["trunk.embedders.a.weight"]
    assert torch.equal(alone.state_dict()["trunk.embedders.b.weight"], of_a)


def test_parts_to_hold_may_stand_between_commas(tmp_path):
    start = check_start(MaskedModel(SEVERAL), weights(using(SEVERAL, ["a", "b"]), tmp_path))
    assert start.frozen(["trunk,decoders"]) == start.frozen(["trunk", "decoders"])
