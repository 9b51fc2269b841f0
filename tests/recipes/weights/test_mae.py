import hashlib
import json

import pytest
import torch
from torch.testing import assert_close

from mmim.errors import CheckpointError, OptionError
from mmim.model import MaskedModel
from mmim.records import Batch, Split
from tests.recipes.weights.imports import at, case, imported, loaded, off, run, write

CASES = {
    "mae_norm_pix": {"heads": 4, "decoder_heads": 4},
    "mae_raw_pixels": {"heads": 2, "decoder_heads": 3},
}
ENCODER = ("cls_token", "pos_embed", "patch_embed", "blocks", "norm")


def encoder_of(state):
    return {name: tensor for name, tensor in state.items() if name.split(".")[0] in ENCODER}


@pytest.fixture
def official():
    return case("mae_norm_pix")


def test_every_key_is_used(official, tmp_path):
    made = imported(write(tmp_path / "mae.pth", official.state), "mae", **CASES["mae_norm_pix"])
    assert made.kept == len(official.state)
    assert made.dropped == []


@pytest.mark.parametrize(("name", "options"), CASES.items())
def test_latents_and_predictions_are_the_official_ones(name, options, tmp_path):
    reference = case(name)
    made = imported(write(tmp_path / "mae.pth", reference.state, norm_pix_loss=True), "mae", **options)
    model, tensors = loaded(made, tmp_path / "out"), reference.tensors
    keep = tensors["mask/ids_keep"]
    hidden = tensors["mask/ids_restore"].argsort(dim=1)[:, keep.shape[1] :]
    step = run(model, tensors["input/image"].double(), Split(keep, hidden))
    assert off(step.latents().values, tensors["out/latent"][:, 1:]) < 2e-6
    assert off(step.latents().globals, tensors["out/latent"][:, :1]) < 2e-6
    assert off(step.prediction("image"), at(tensors["out/pred"], hidden)) < 2e-6


def test_the_arguments_in_the_file_say_how_it_was_trained(official, tmp_path):
    path = write(tmp_path / "mae.pth", official.state, norm_pix_loss=False, mask_ratio=0.6)
    method = imported(path, "mae", **CASES["mae_norm_pix"]).model.method
    assert method.tasks["image"].target.normalise == "none"
    assert method.budget.ratio == 0.6


def test_where_nothing_says_that_pixels_are_raw_an_option_does(official, tmp_path):
    path = write(tmp_path / "mae.pth", official.state)
    made = imported(path, "mae", **CASES["mae_norm_pix"])
    assert made.model.method.tasks["image"].target.normalise == "token"
    assert any("--set raw_pixels=true" in remark for remark in made.remarks)
    for raw, normalise in ((True, "none"), (False, "token")):
        made = imported(path, "mae", raw_pixels=raw, **CASES["mae_norm_pix"])
        assert made.model.method.tasks["image"].target.normalise == normalise
        assert not any("raw_pixels" in remark for remark in made.remarks)


def test_an_encoder_alone_is_a_method_without_decoders_that_embeds(official, tmp_path):
    path = write(tmp_path / "mae.pth", encoder_of(official.state))
    model = loaded(imported(path, "mae", heads=4), tmp_path / "out").float()
    assert (model.method.decoders, model.method.tasks, model.method.objective) == ({}, {}, {})
    ids = torch.arange(2)
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    batch = Batch({"main": {"image": pictures}}, {"image": ids >= 0}, ids, ids, torch.tensor(0))
    with torch.inference_mode():
        assert model.embed(batch).shape == (2, 48)


def test_heads_of_an_unpublished_width_are_asked_for(official, tmp_path):
    path = write(tmp_path / "mae.pth", official.state)
    with pytest.raises(OptionError, match=r"heads of the encoder, whose width is 48: give --heads\."):
        imported(path, "mae", decoder_heads=4)
    with pytest.raises(OptionError, match=r"the decoder, whose width is 32: give --decoder-heads\."):
        imported(path, "mae", heads=4)


def test_the_heads_of_published_widths_are_known(tmp_path):
    state = encoder_of(case("mae_norm_pix").state)
    wide = {name: torch.zeros([768 if n == 48 else n * 16 if n > 48 else n for n in tensor.shape])
            for name, tensor in state.items()}  # fmt: skip
    made = imported(write(tmp_path / "mae.pth", wide), "mae")
    assert made.model.method.encoder.heads == 12
    assert "12 heads of the encoder, as published models of width 768 have; --heads says otherwise" in made.remarks
    assert made.model.method.modalities["image"].positions == "learned"  # all zeros, unlike the fixed table


def test_a_table_of_its_own_is_kept_as_learned_with_the_reason(official, tmp_path):
    state = official.state | {"pos_embed": official.state["pos_embed"] + 0.1}
    made = imported(write(tmp_path / "mae.pth", state), "mae", **CASES["mae_norm_pix"])
    assert made.model.method.modalities["image"].positions == "learned"
    table = made.model.trunk.positions["image"].table
    assert_close(table.detach(), state["pos_embed"][:, 1:], rtol=0, atol=0)
    token = state["cls_token"] + state["pos_embed"][:, :1]
    assert_close(made.model.trunk.encoder.global_tokens.detach(), token, rtol=0, atol=0)
    assert any("off by 0.1 from sincos" in remark for remark in made.remarks)
    assert any("class token" in remark for remark in made.remarks)


def test_the_fixed_table_needs_no_parameter(official, tmp_path):
    made = imported(write(tmp_path / "mae.pth", official.state), "mae", **CASES["mae_norm_pix"])
    assert made.model.method.modalities["image"].positions == "sincos"
    assert not any("table" in name for name in made.model.state_dict())


def test_a_decoder_with_a_position_for_its_class_token_is_refused(official, tmp_path):
    table = official.state["decoder_pos_embed"].clone()
    table[:, 0] = 0.5
    path = write(tmp_path / "mae.pth", official.state | {"decoder_pos_embed": table})
    with pytest.raises(CheckpointError, match="'decoder_pos_embed' gives the class token a position"):
        imported(path, "mae", **CASES["mae_norm_pix"])


def test_another_size_needs_interpolate(official, tmp_path):
    path = write(tmp_path / "mae.pth", official.state)
    with pytest.raises(OptionError, match=r"--size 48 48 has a grid \(6, 6\), .* \(4, 4\): use --size 32 32, or --int"):
        imported(path, "mae", size=(48, 48), **CASES["mae_norm_pix"])
    made = imported(path, "mae", size=(48, 48), interpolate=True, **CASES["mae_norm_pix"])
    assert made.model.method.modalities["image"].grid() == (6, 6)
    assert made.model.trunk.positions["image"].table.shape == (1, 36, 48)
    assert any("stretched from (4, 4) to (6, 6)" in remark for remark in made.remarks)


def test_an_option_without_a_use_is_refused(official, tmp_path):
    path = write(tmp_path / "mae.pth", encoder_of(official.state))
    with pytest.raises(OptionError, match="--decoder-heads has no use here"):
        imported(path, "mae", heads=4, decoder_heads=4)
    with pytest.raises(OptionError, match="--interpolate has no use here"):
        imported(path, "mae", heads=4, interpolate=True)
    with pytest.raises(OptionError, match="--set raw_pixels has no use here"):
        imported(path, "mae", heads=4, raw_pixels=False)


def test_what_is_missing_is_listed(official, tmp_path):
    state = {
        name: tensor for name, tensor in official.state.items() if name not in ("norm.bias", "blocks.1.norm2.bias")
    }
    with pytest.raises(CheckpointError, match=r"The file lacks 'blocks\.1\.norm2\.bias', 'norm\.bias'\."):
        imported(write(tmp_path / "mae.pth", state), "mae", **CASES["mae_norm_pix"])


def test_what_nobody_uses_is_refused_unless_dropped(official, tmp_path):
    state = official.state | {"head.weight": torch.zeros(9, 48), "head.bias": torch.zeros(9)}
    path = write(tmp_path / "mae.pth", state)
    with pytest.raises(
        CheckpointError, match=r"Nothing here uses 'head\.weight', 'head\.bias'\. .* --drop 'head\.\*'\."
    ):
        imported(path, "mae", **CASES["mae_norm_pix"])
    made = imported(path, "mae", ("head.*",), **CASES["mae_norm_pix"])
    assert made.dropped == made.source["dropped"] == ["head.weight", "head.bias"]


def test_a_wrong_shape_is_refused_with_both(official, tmp_path):
    state = official.state | {"blocks.1.mlp.fc2.weight": torch.zeros(48, 100)}
    with pytest.raises(CheckpointError, match=r"blocks\.1\.mlp\.fc2\.weight \(48, 100\) for \(48, 192\)"):
        imported(write(tmp_path / "mae.pth", state), "mae", **CASES["mae_norm_pix"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(official, tmp_path, bad):
    bias = official.state["norm.bias"].clone()
    bias[3] = bad
    with pytest.raises(CheckpointError, match=r"'norm\.bias' has 1 numbers that are not finite"):
        imported(write(tmp_path / "mae.pth", official.state | {"norm.bias": bias}), "mae", **CASES["mae_norm_pix"])


def test_half_precision_becomes_float32(official, tmp_path):
    half = {name: tensor.half() for name, tensor in official.state.items() if "pos_embed" not in name}
    path = write(tmp_path / "mae.pth", official.state | half)
    made = imported(path, "mae", **CASES["mae_norm_pix"])
    assert {tensor.dtype for tensor in made.model.state_dict().values()} == {torch.float32}


def test_the_checkpoint_says_whose_weights_it_holds(official, tmp_path):
    path = write(tmp_path / "mae.pth", official.state)
    made = imported(path, "mae", **CASES["mae_norm_pix"])
    model = loaded(made, tmp_path / "out")
    assert isinstance(model, MaskedModel)
    source = json.loads((tmp_path / "out/checkpoints/step-0/config.json").read_text())["source"]
    assert source["format"] == "mae"
    assert source["file"] == "mae.pth"
    link = tmp_path / "weights.pth"
    link.symlink_to(path)  # a cache's blobs are named by digests, its links by the files
    assert imported(link, "mae", **CASES["mae_norm_pix"]).source["file"] == "weights.pth"
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "unwrapped 'model' (beside it optimizer, epoch, args)" in source["remarks"]
