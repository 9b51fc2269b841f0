from dataclasses import replace

import pytest
import torch

from mmim.model import MaskedModel
from mmim.options import apply
from recipes.audiomae import AUDIOMAE, SIZES
from tests.parity import F32, F64, batch_of, beyond, imported, load, mae_errors, one_place_on, shift, split_by_noise
from tests.videomae import redraw

FILES = {"audiomae_plain_decoder": {"heads": 4, "decoder_heads": 4}, "audiomae_local_decoder": {"heads": 4}}


def model_of(name, folder):
    reference = load(name)
    arguments = {"mask_ratio": reference.settings["mask_ratio"], "norm_pix_loss": True}
    config = reference.config
    options = FILES[name] | {"size": tuple(config["img_size"])}
    return imported("audiomae", reference, folder, options, **arguments), reference


def split_of(reference, model):
    return split_by_noise(model, "audio", reference.tensors["mask/noise"])


def errors(model, reference, dtype=torch.float64):
    return mae_errors(model, reference, "audio", reference.tensors["input/spectrogram"], dtype)


@pytest.mark.parametrize("name", FILES)
def test_hides_exactly_what_the_official_code_hides(name, tmp_path):
    model, reference = model_of(name, tmp_path)
    assert torch.equal(split_of(reference, model).ids_keep, reference.tensors["mask/ids_keep"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, F64), (torch.float32, F32)], ids=["float64", "float32"])
def test_equals_the_official_model(name, dtype, allowed, tmp_path):
    model, reference = model_of(name, tmp_path)
    assert beyond(errors(model, reference, dtype), allowed) == {}


MUTATIONS = {
    "block eps": lambda model: setattr(model.trunk.encoder.blocks[1].norm1, "eps", 1e-5),
    "decoder block eps": lambda model: setattr(model.decoders["audio"].blocks[0].norm2, "eps", 1e-5),
    "class token": lambda model: shift(model.trunk.encoder.global_tokens),
    "mask token": lambda model: shift(model.decoders["audio"].mask_token),
    "head bias": lambda model: shift(model.decoders["audio"].heads["audio"].bias),
    "encoder positions": lambda model: one_place_on(model.trunk.positions["audio"]),
    "decoder positions": lambda model: one_place_on(model.decoders["audio"].positions["audio"]),
    "positions laid right": lambda model: setattr(model.trunk.positions["audio"], "order", "sincos"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_parity_notices_a_fault_in_the_model(mutation, name, tmp_path):
    model, reference = model_of(name, tmp_path)
    MUTATIONS[mutation](model)
    assert beyond(errors(model, reference), F64)


@pytest.mark.parametrize("weight", ["tau", "meta_mlp.fc1.weight", "meta_mlp.fc2.weight", "attn.qkv.bias"])
def test_parity_notices_a_fault_in_local_attention(weight, tmp_path):
    model, reference = model_of("audiomae_local_decoder", tmp_path)
    (name,) = [n for n, _ in model.decoders.named_parameters() if "blocks.7." in n and n.endswith(weight)]
    shift(model.decoders.get_parameter(name))
    assert beyond(errors(model, reference), F64)


def test_hides_as_many_tokens_as_the_paper():
    assert AUDIOMAE.budget.num_keep(512) == 102  # fact sheet 2.2: int(512 * 0.2)
    assert AUDIOMAE.modalities["audio"].grid() == (64, 8)


def test_has_as_many_parameters_as_the_paper():
    with torch.device("meta"):
        model = MaskedModel(AUDIOMAE)
    tables = 513 * 768 + 513 * 512  # the official count has its fixed tables
    learned = sum(parameter.numel() for parameter in model.parameters()) + tables
    assert learned / 1e6 == pytest.approx(136.99, abs=0.005)  # fact sheet 3.8


def toy():
    recipe = apply(AUDIOMAE, SIZES["tiny"] | {"modalities.audio.frames": 192, "modalities.audio.mel": 64})
    model = MaskedModel(recipe).eval()
    redraw(model)
    return model


def sounds(model, length):
    """Noise of so many samples, and its length."""
    samples = torch.randint(-8000, 8000, (2, length), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    return {"samples": samples, "length": torch.tensor([length, length])}


def test_another_duration_leaves_the_tokens_of_the_beginning_as_they_were():
    model = toy()
    audio = model.method.modalities["audio"]
    blank = audio.blank()
    longer = replace(audio, frames=384).blank()
    long = sounds(model, longer["samples"].shape[-1])
    short = {"samples": long["samples"][:, : blank["samples"].shape[-1]], "length": blank["length"].expand(2)}
    one, two = audio.tokenize(short), audio.tokenize(long)
    assert two.grid == (2 * one.grid[0], one.grid[1])
    codes = [model.trunk.positions["audio"](made) for made in (one, two)]
    assert torch.equal(codes[1][:, : one.count], codes[0])
    with torch.no_grad():
        assert model.embed(batch_of_raw(long)).isfinite().all()


def batch_of_raw(raw):
    return replace(batch_of("audio", raw["samples"]), views={"main": {"audio": raw}})


def test_silence_behind_a_short_sound_does_not_change_its_embedding():
    model = toy()
    audio = model.method.modalities["audio"]
    whole = sounds(model, audio.blank()["samples"].shape[-1])
    samples = whole["samples"].clone()
    samples[:, 16000:] = 0
    short = {"samples": samples, "length": torch.tensor([16000, 16000])}
    longer = {"samples": torch.nn.functional.pad(samples, (0, 16000)), "length": torch.tensor([16000, 16000])}
    # 48000 samples make other numbers of frames: pad to a multiple of the patch
    frames = (longer["samples"].shape[1] - 400) // 160 + 1
    longer["samples"] = longer["samples"][:, : (frames // 16 * 16 - 1) * 160 + 400]
    with torch.no_grad():
        one, two = (model.embed(batch_of_raw(raw)) for raw in (short, longer))
    assert (one - two).abs().max() < 1e-4
