"""Starting from a checkpoint's weights, with the same modalities and with others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmim import checkpoint
from mmim.errors import CheckpointError, OptionError
from mmim.model import MaskedModel
from mmim.options import apply
from mmim.start import check_start, start_from
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
