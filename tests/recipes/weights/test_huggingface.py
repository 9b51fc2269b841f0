import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEModel,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
)

import mmim
from mmim.config import replace_at
from mmim.errors import CheckpointError, OptionError
from mmim.interop.converter import export_weights
from mmim.interop.vit import codes
from mmim.model import MaskedModel
from mmim.options import apply
from mmim.records import Split
from recipes.mae import MAE
from recipes.videomae import VIDEOMAE
from tests.recipes.weights.imports import at, imported, loaded, off, run, split_of
from tests.videomae import redraw

SIZES = {
    "encoder.width": 48,
    "encoder.depth": 2,
    "encoder.heads": 4,
    "size": "",
}
IMAGES = apply(
    MAE,
    SIZES
    | {
        "modalities.image.size": (32, 32),
        "modalities.image.patch": 8,
        "decoders.image.width": 32,
        "decoders.image.depth": 2,
        "decoders.image.heads": 2,
    },
)
VIDEOS = apply(
    VIDEOMAE,
    SIZES
    | {
        "modalities.video.size": 32,
        "modalities.video.patch": 8,
        "modalities.video.frames": 4,
        "decoders.video.width": 32,
        "decoders.video.depth": 2,
        "decoders.video.heads": 2,
    },
)
SMALL = {
    "image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 192, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2, "decoder_intermediate_size": 128,
}  # fmt: skip


def model_of(recipe) -> MaskedModel:
    model = MaskedModel(recipe).eval()
    redraw(model)
    return model


def theirs(kind, folder, dtype=torch.float64):
    """A model of transformers from a folder, which must fit it name by name."""
    model, info = kind.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.to(dtype).eval()


def ids_of(noise):
    order = noise.argsort(dim=1)
    kept = noise.shape[1] // 4
    return Split(order[:, :kept], order[:, kept:])


def test_transformers_predicts_with_our_mae_as_we_do(tmp_path):
    ours = model_of(IMAGES)
    export_weights("transformers", ours, tmp_path / "hf")
    model = theirs(ViTMAEForPreTraining, tmp_path / "hf")
    pictures, noise = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.rand(2, 16, dtype=torch.float64)
    split = ids_of(noise)
    with torch.no_grad():
        out = model(pictures, noise=noise)
        latent = model.vit(pictures, noise=noise).last_hidden_state
    step = run(ours.double(), pictures, split)
    assert off(step.latents().values, latent[:, 1:]) < 2e-6
    assert off(step.prediction("image"), at(out.logits, split.ids_masked)) < 2e-6
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["norm_pix_loss"] is True
    assert config["mask_ratio"] == 0.75


def test_transformers_predicts_with_our_videomae_as_we_do(tmp_path):
    ours = model_of(VIDEOS)
    made = export_weights("transformers", ours, tmp_path / "hf")
    model = theirs(VideoMAEForPreTraining, tmp_path / "hf")
    assert model.decoder.norm.eps == 1e-5  # which no config can change
    assert any("eps" in remark for remark in made.remarks)
    model.decoder.norm.eps = 1e-6
    clips = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    mask = torch.rand(2, 16).argsort(dim=1).argsort(dim=1).lt(12).repeat(1, 2)
    with torch.no_grad():
        out = model(clips.transpose(1, 2), bool_masked_pos=mask).logits
        latent = model.videomae(clips.transpose(1, 2), bool_masked_pos=mask).last_hidden_state
    step = run(ours.double(), clips, split_of(mask))
    assert off(step.latents().values, latent) < 2e-6
    assert off(step.prediction("video"), out) < 2e-6


@pytest.mark.parametrize(("recipe", "format"), [(IMAGES, "hf-vitmae"), (VIDEOS, "hf-videomae")], ids=["image", "video"])
def test_there_and_back_is_the_identity(recipe, format, tmp_path):
    ours = model_of(recipe)
    export_weights("transformers", ours, tmp_path / "hf")
    made = imported(tmp_path / "hf", format)
    again = loaded(made, tmp_path / "out").float()
    assert_close(again.state_dict(), ours.state_dict(), rtol=0, atol=0)
    assert again.method.encoder == ours.method.encoder
    assert again.method.decoders == ours.method.decoders
    assert again.method.tasks == ours.method.tasks
    assert again.method.budget == ours.method.budget


def test_a_vitmae_that_transformers_wrote(tmp_path):
    model = ViTMAEForPreTraining(ViTMAEConfig(**SMALL, norm_pix_loss=True, attn_implementation="eager")).double().eval()
    redraw(model.vit.layers)
    redraw(model.decoder.decoder_layers)
    tables = {48: model.vit.embeddings.position_embeddings, 32: model.decoder.decoder_pos_embed}
    for width, table in tables.items():
        table.data[:, 1:] = codes(IMAGES.modalities["image"], width)  # transformers leaves zeros in a fresh model
    model.float().save_pretrained(tmp_path / "hf")
    made = imported(tmp_path / "hf", "hf-vitmae")
    assert made.model.method.modalities["image"].positions == "sincos"
    assert made.model.method.encoder.eps == 1e-12
    pictures, noise = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.rand(2, 16, dtype=torch.float64)
    split = ids_of(noise)
    with torch.no_grad():
        out = model.double()(pictures, noise=noise).logits
    step = run(loaded(made, tmp_path / "out"), pictures, split)
    assert off(step.prediction("image"), at(out, split.ids_masked)) < 2e-6


@pytest.mark.parametrize("pooled", [True, False])
def test_a_videomae_that_transformers_wrote(pooled, tmp_path):
    config = VideoMAEConfig(**SMALL, num_frames=4, use_mean_pooling=pooled, attn_implementation="eager")
    model = VideoMAEForPreTraining(config).eval()
    redraw(model)
    model.save_pretrained(tmp_path / "hf")
    made = imported(tmp_path / "hf", "hf-videomae")
    assert made.model.method.encoder.final_norm is not pooled
    assert any("the decoder's last norm has eps 1e-12, in transformers 1e-05" in remark for remark in made.remarks)
    clips = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    mask = torch.rand(2, 16).argsort(dim=1).argsort(dim=1).lt(12).repeat(1, 2)
    model = model.double()
    model.decoder.norm.eps = 1e-12
    with torch.no_grad():
        out = model(clips.transpose(1, 2), bool_masked_pos=mask).logits
        latent = model.videomae(clips.transpose(1, 2), bool_masked_pos=mask).last_hidden_state
    step = run(loaded(made, tmp_path / "out"), clips, split_of(mask))
    assert off(step.latents().values, latent) < 2e-6
    assert off(step.prediction("video"), out) < 2e-6


@pytest.mark.parametrize(
    ("model", "format"),
    [
        (ViTMAEModel(ViTMAEConfig(**SMALL)), "hf-vitmae"),
        (VideoMAEModel(VideoMAEConfig(**SMALL, num_frames=4)), "hf-videomae"),
    ],
    ids=["image", "video"],
)
def test_an_encoder_alone(model, format, tmp_path):
    model.save_pretrained(tmp_path / "hf")
    made = imported(tmp_path / "hf", format)
    assert made.model.method.decoders == {}
    loaded(made, tmp_path / "out")


def test_the_names_of_older_and_newer_files_are_one(tmp_path):
    ours = model_of(IMAGES)
    export_weights("transformers", ours, tmp_path / "hf")
    weights = load_file(tmp_path / "hf/model.safetensors")
    model = theirs(ViTMAEForPreTraining, tmp_path / "hf", torch.float32)
    assert set(weights) != set(model.state_dict())
    save_file(model.state_dict(), tmp_path / "hf/model.safetensors")
    made = imported(tmp_path / "hf", "hf-vitmae")
    assert_close(made.model.state_dict(), ours.state_dict(), rtol=0, atol=0)


def test_a_file_without_its_config_is_refused(tmp_path):
    export_weights("transformers", model_of(IMAGES), tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"is one file: give the folder with its config\.json"):
        imported(tmp_path / "hf/model.safetensors", "hf-vitmae")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vit"}, "of model_type 'vit', and this is for 'vit_mae'"),
        ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new', and ours is 'gelu'"),
        ({"hidden_size": "wide"}, "hidden_size 'wide'; it must be like 768"),
        ({"num_attention_heads": 5}, "5 heads do not divide a width of 48"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(change, message, tmp_path):
    export_weights("transformers", model_of(IMAGES), tmp_path / "hf")
    file = tmp_path / "hf/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises((CheckpointError, OptionError), match=message):
        imported(tmp_path / "hf", "hf-vitmae")


@pytest.mark.parametrize(
    ("recipe", "change", "reason"),
    [
        (IMAGES, {"encoder.relative_bias": True}, "it has no relative position bias"),
        (IMAGES, {"encoder.global_tokens": 0}, "it has one class token"),
        (IMAGES, {"encoder.eps": 1e-5}, "encoder and decoder have one eps"),
        (IMAGES, {"modalities.image.size": (32, 64)}, "its pictures are square"),
        (IMAGES, {"tasks.image.target.normalise": "channel"}, "its target is raw or normalised token by token"),
        (VIDEOS, {"tasks.video.target.units": "normalised"}, "its target is raw or normalised per channel"),
        (VIDEOS, {"decoders.video.embed_bias": True}, "its decoder's projection has no bias"),
        (
            IMAGES,
            {"tasks": IMAGES.tasks | {"again": IMAGES.tasks["image"]}},
            "one decoder for one task, and here are 2 tasks",
        ),
    ],
)
def test_what_transformers_can_not_say_is_refused_with_the_reason(recipe, change, reason, tmp_path):
    for path, value in change.items():
        recipe = replace_at(recipe, path, value)
    with pytest.raises(OptionError, match=reason):
        export_weights("transformers", MaskedModel(recipe), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_the_result_is_a_checkpoint_of_ours(tmp_path):
    export_weights("transformers", model_of(IMAGES), tmp_path / "hf")
    loaded(imported(tmp_path / "hf", "hf-vitmae"), tmp_path / "out")
    assert isinstance(mmim.load(tmp_path / "out"), MaskedModel)
