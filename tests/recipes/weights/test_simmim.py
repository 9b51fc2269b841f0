import pytest
import torch
from einops import rearrange

from mmim.errors import CheckpointError, OptionError
from mmim.layers.patches import to_patches
from tests.recipes.weights.imports import at, case, imported, loaded, off, run, split_of, write

CASES = {"simmim_vit": 8, "simmim_swin": 4}


@pytest.mark.parametrize(("name", "patch"), CASES.items())
def test_every_key_is_used_and_the_numbers_are_the_official_ones(name, patch, tmp_path):
    reference = case(name)
    made = imported(write(tmp_path / "simmim.pth", reference.state), "simmim")
    assert made.kept == len(reference.state)
    model, tensors = loaded(made, tmp_path / "out"), reference.tensors
    split = split_of(tensors["mask/mask"].flatten(1).bool())
    step = run(model, tensors["input/image"].double(), split)
    latent = rearrange(tensors["out/latent"], "b d h w -> b (h w) d")
    assert off(step.latents().values, latent) < 2e-6
    pixels = to_patches(tensors["out/pred"], (patch, patch))
    expected = rearrange(pixels, "b n c r s -> b n (r s c)")
    assert off(step.prediction("image"), at(expected, split.ids_masked)) < 2e-6


def test_an_encoder_alone_is_a_method_without_a_head(tmp_path):
    state = {name: tensor for name, tensor in case("simmim_vit").state.items() if name.startswith("encoder.")}
    assert imported(write(tmp_path / "simmim.pth", state), "simmim").model.method.decoders == {}


@pytest.mark.parametrize(
    ("name", "buffer"),
    [
        ("simmim_vit", "encoder.rel_pos_bias.relative_position_index"),
        ("simmim_swin", "encoder.layers.1.blocks.0.attn.relative_position_index"),
        ("simmim_swin", "encoder.layers.0.blocks.1.attn_mask"),
    ],
)
def test_a_buffer_that_does_not_follow_from_the_sizes_is_refused(name, buffer, tmp_path):
    state = case(name).state
    state[buffer] = state[buffer].flip(-1)
    with pytest.raises(CheckpointError, match=f"'{buffer}' is not the .* weights are of another model"):
        imported(write(tmp_path / "simmim.pth", state), "simmim")


def test_buffers_may_be_missing(tmp_path):
    state = {name: tensor for name, tensor in case("simmim_vit").state.items() if not name.endswith("_index")}
    imported(write(tmp_path / "simmim.pth", state), "simmim")


def test_a_swin_that_tells_no_size_asks_for_it(tmp_path):
    state = {name: tensor for name, tensor in case("simmim_swin").state.items() if "attn_mask" not in name}
    path = write(tmp_path / "simmim.pth", state)
    with pytest.raises(OptionError, match="does not tell the size of a picture: give --size"):
        imported(path, "simmim")
    assert imported(path, "simmim", size=(64, 64)).model.method.modalities["image"].size == (64, 64)


def test_another_size_is_refused(tmp_path):
    path = write(tmp_path / "simmim.pth", case("simmim_vit").state)
    with pytest.raises(OptionError, match="relative biases are of 32 x 32 pixels"):
        imported(path, "simmim", size=(64, 64))


def test_a_head_of_another_stride_is_refused(tmp_path):
    state = case("simmim_vit").state | {"decoder.0.weight": torch.zeros(48, 48, 1, 1)}
    with pytest.raises(CheckpointError, match="predicts 48 numbers, and a latent stands for 3 x 8 x 8"):
        imported(write(tmp_path / "simmim.pth", state), "simmim")
