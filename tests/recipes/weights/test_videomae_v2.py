import pytest
import torch

from mmim.errors import CheckpointError
from mmim.masking.budget import Ratio
from mmim.masking.dual import DualMasking
from mmim.masking.random import RandomMasking
from tests.recipes.weights.imports import case, imported, loaded, off, run, split_of, write

OPTIONS = {"heads": 4, "decoder_heads": 2, "size": (32, 32)}


@pytest.fixture
def official():
    return case("videomaev2")


@pytest.mark.parametrize("wrapper", ["model", "module"])
def test_every_key_is_used_and_the_numbers_are_the_official_ones(official, wrapper, tmp_path):
    made = imported(write(tmp_path / "videomae.pth", official.state, wrapper), "videomae_v2", **OPTIONS)
    assert made.kept == len(official.state)
    model, tensors = loaded(made, tmp_path / "out"), official.tensors
    step = run(model, tensors["input/clip"].double(), split_of(tensors["mask/mask"]))
    assert off(step.latents().values, tensors["out/latent"]) < 2e-6
    assert off(step.prediction("video"), tensors["out/pred_all_hidden"]) < 2e-6


def test_an_encoder_alone_with_or_without_its_prefix(official, tmp_path):
    encoder = {name: tensor for name, tensor in official.state.items() if name.startswith("encoder.")}
    bare = {name.removeprefix("encoder."): tensor for name, tensor in encoder.items()}
    for number, state in enumerate((encoder, bare)):
        path = write(tmp_path / f"{number}.pth", state)
        method = imported(path, "videomae_v2", heads=4, size=(32, 32)).model.method
        assert method.decoders == {}
        assert isinstance(method.budget, DualMasking)


def test_the_ratio_is_that_of_the_encoder(official, tmp_path):
    path = write(tmp_path / "videomae.pth", official.state, mask_ratio=0.8)
    budget = imported(path, "videomae_v2", **OPTIONS).model.method.budget
    assert (budget.encoder.ratio, budget.ratio) == (0.8, 0.5)
    path = write(tmp_path / "videomae.pth", official.state)
    assert imported(path, "videomae_v2", **OPTIONS, ratio=0.75).model.method.budget.encoder.ratio == 0.75


def test_the_giants_heads_are_known(tmp_path):
    width = 1408
    state = {
        "patch_embed.proj.weight": torch.zeros(width, 3, 2, 14, 14),
        "patch_embed.proj.bias": torch.zeros(width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    block = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.q_bias": (width,),
        "attn.v_bias": (width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (6144, width),
        "mlp.fc1.bias": (6144,),
        "mlp.fc2.weight": (width, 6144),
        "mlp.fc2.bias": (width,),
    }
    state |= {f"blocks.0.{name}": torch.zeros(shape) for name, shape in block.items()}
    made = imported(write(tmp_path / "giant.pth", state), "videomae_v2")
    assert made.model.method.encoder.heads == 16
    assert made.model.method.modalities["video"].patch == 14
    assert made.model.trunk.encoder.blocks[0].mlp.fc1.out_features == 6144


def test_cosine_attention_is_refused(official, tmp_path):
    state = official.state | {f"encoder.blocks.{i}.attn.scale": torch.zeros(4, 1, 1) for i in range(3)}
    with pytest.raises(CheckpointError, match=r"'encoder.blocks.0.attn.scale' is of cosine attention, .* without it"):
        imported(write(tmp_path / "cosine.pth", state), "videomae_v2", **OPTIONS)


def test_what_the_decoder_was_asked_for_is_as_the_file_says(official, tmp_path):
    def budget(**told):
        path = write(tmp_path / "videomae.pth", official.state, **told)
        return imported(path, "videomae_v2", **OPTIONS).model.method.budget

    assert budget(decoder_mask_ratio=0.0) == Ratio(0.9, rounding="hidden_down")
    assert budget(decoder_mask_ratio=0.25) == DualMasking(ratio=0.25)
    assert budget(decoder_mask_ratio=0.5, decoder_mask_type="random").decoder == RandomMasking()
    assert budget(decoder_mask_type="run_cell") == DualMasking()
