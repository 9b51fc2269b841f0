import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from mmim.config import replace_at
from mmim.errors import CheckpointError, OptionError
from mmim.interop.converter import export_weights
from mmim.model import MaskedModel
from mmim.records import Split
from recipes.mae import MAE
from tests.recipes.weights.imports import case, imported, loaded, off, run, write
from tests.videomae import VIDEOMAE, redraw

TINY = {"img_size": 32, "patch_size": 8}


def timm_vit(**options) -> torch.nn.Module:
    model = timm.create_model("vit_tiny_patch16_224", depth=2, **TINY | options).eval()
    redraw(model)
    return model


def everything(n: int = 16, b: int = 2) -> Split:
    ids = torch.arange(n).expand(b, -1)
    return Split(ids, ids[:, :0])


def compare(vit: torch.nn.Module, ours: MaskedModel, size=(32, 32)) -> None:
    """Features of all tokens, in float64."""
    pictures = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        features = vit.double().forward_features(pictures)
    first = getattr(vit, "num_prefix_tokens", 0)
    latents = run(ours.double(), pictures, everything(features.shape[1] - first)).latents()
    assert off(latents.values, features[:, first:]) < 2e-6
    if first:
        assert off(latents.globals, features[:, :1]) < 2e-6


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"no_embed_class": True},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"init_values": 0.1},
        {"qkv_bias": False},
        {"num_classes": 5},
    ],
    ids=["plain", "no row for the class", "no class token", "layer scale", "no bias", "with a head"],
)
def test_timms_features_are_ours(options, tmp_path):
    vit = timm_vit(**{"num_classes": 0} | options)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    drop = ("head.*",) if "num_classes" in options else ()
    size = {"size": (32, 32)} if "no_embed_class" in options else {}
    made = imported(tmp_path / "vit.pth", "timm", drop, **size)
    assert made.dropped == (["head.weight", "head.bias"] if drop else [])
    assert made.model.method.encoder.heads == 3
    assert "3 heads of the encoder, as published models of width 192 have; --heads says otherwise" in made.remarks
    assert made.model.method.modalities["image"].positions == "learned"
    compare(vit, loaded(made, tmp_path / "out"))


def test_our_features_are_timms(tmp_path):
    recipe = replace_at(replace_at(replace_at(MAE, "encoder.width", 192), "encoder.heads", 3), "encoder.depth", 12)
    ours = MaskedModel(recipe).eval()
    redraw(ours)
    made = export_weights("timm", ours, tmp_path / "vit.safetensors")
    assert any("left out" in remark and "decoders" in remark for remark in made.remarks)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    vit.load_state_dict(load_file(tmp_path / "vit.safetensors"), strict=True)
    pictures = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        features = vit.forward_features(pictures)
        latents = run(ours, pictures, everything(196, 1)).latents()
    assert off(latents.values, features[:, 1:]) < 2e-5
    assert off(latents.globals, features[:, :1]) < 2e-5


@pytest.mark.parametrize(
    "change", [{}, {"encoder.bias": "qv"}, {"encoder.layer_scale": 0.1}, {"modalities.image.positions": "learned"}]
)
def test_a_variant_goes_to_timm_and_back(change, tmp_path):
    recipe = MAE
    sizes = {"encoder.width": 192, "encoder.depth": 2, "encoder.heads": 3, "modalities.image.size": (32, 32)}
    for path, value in (sizes | {"modalities.image.patch": 8} | change).items():
        recipe = replace_at(recipe, path, value)
    ours = MaskedModel(recipe).eval()
    redraw(ours)
    export_weights("timm", ours, tmp_path / "vit.safetensors")
    vit = timm.create_model(
        "vit_tiny_patch16_224", depth=2, num_classes=0, init_values=change.get("encoder.layer_scale"), **TINY
    ).eval()
    vit.load_state_dict(load_file(tmp_path / "vit.safetensors"), strict=True)
    compare(vit, ours)
    again = imported(tmp_path / "vit.safetensors", "timm").model
    compare(vit, again)
    assert again.method.modalities["image"].positions == change.get("modalities.image.positions", "sincos")


def test_a_folder_says_its_colours(tmp_path):
    save_file(timm_vit(num_classes=0).state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.4, 0.5, 0.6]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    image = imported(tmp_path, "timm").model.method.modalities["image"]
    assert (image.mean, image.std) == ((0.5, 0.5, 0.5), (0.4, 0.5, 0.6))


def test_colours_that_nothing_says_are_imagenets_and_said(tmp_path):
    torch.save(timm_vit(num_classes=0).state_dict(), tmp_path / "vit.pth")
    assert any(
        "mean and std of colours as ImageNet's" in remark for remark in imported(tmp_path / "vit.pth", "timm").remarks
    )
    made = imported(tmp_path / "vit.pth", "timm", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert made.model.method.modalities["image"].mean == (0.5, 0.5, 0.5)
    assert not any("ImageNet" in remark for remark in made.remarks)
    with pytest.raises(OptionError, match="--set gives mean of the colours alone: give both, mean=R,G,B std=R,G,B"):
        imported(tmp_path / "vit.pth", "timm", mean=(0.5, 0.5, 0.5))


def test_a_grid_that_is_not_square_is_read_with_its_size(tmp_path):
    vit = timm_vit(num_classes=0, img_size=(24, 40))
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    made = imported(tmp_path / "vit.pth", "timm", size=(24, 40))
    compare(vit, loaded(made, tmp_path / "out"), (24, 40))


def test_rows_that_a_class_token_makes_square_are_read_with_their_size(tmp_path):
    """15 places and a class token, or 16 places."""
    vit = timm_vit(num_classes=0, img_size=(24, 40))
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(OptionError, match=r"has 16 rows, and 4 x 4 places or 15 with .* class token .* give --size"):
        imported(tmp_path / "model.safetensors", "timm")
    with pytest.raises(OptionError, match="4 x 4 places or 15"):
        imported(tmp_path / "model.safetensors", "timm", size=(48, 48), interpolate=True)
    compare(vit, imported(tmp_path / "model.safetensors", "timm", size=(24, 40)).model, (24, 40))
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"input_size": [3, 24, 40]}}))
    compare(vit.float(), imported(tmp_path, "timm").model, (24, 40))


def test_rows_that_a_square_and_a_class_token_fill_are_read_so_and_said_unless_a_size_says_otherwise(tmp_path):
    """16 places and a class token, or 1 x 17 places."""
    torch.save(timm_vit(num_classes=0, no_embed_class=True, img_size=(8, 136)).state_dict(), tmp_path / "vit.pth")
    said = "'pos_embed' read as 16 places and one for the class token; --size says otherwise"
    assert said in imported(tmp_path / "vit.pth", "timm").remarks
    made = imported(tmp_path / "vit.pth", "timm", size=(8, 136))
    assert said not in made.remarks
    assert made.model.trunk.positions["image"].table.shape == (1, 17, 192)


def test_a_grid_that_fits_neither_a_square_nor_the_size_says_both(tmp_path):
    torch.save(timm_vit(num_classes=0, img_size=(24, 48)).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(OptionError, match="18 places, which are no square, nor the 16 of --size 32 32: give --size"):
        imported(tmp_path / "vit.pth", "timm", size=(32, 32))


def test_a_distilled_deit_is_refused_by_name(tmp_path):
    vit = timm.create_model("deit_tiny_distilled_patch16_224", depth=1, num_classes=0, **TINY)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="'dist_token': our encoder has no place for a distillation token"):
        imported(tmp_path / "vit.pth", "timm")


def test_another_size_is_stretched_when_asked(tmp_path):
    torch.save(timm_vit(num_classes=0).state_dict(), tmp_path / "vit.pth")
    made = imported(tmp_path / "vit.pth", "timm", size=(48, 64), interpolate=True)
    assert made.model.trunk.positions["image"].table.shape == (1, 48, 192)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reg_tokens": 4}, "register tokens"),
        ({"qk_norm": True}, r"Nothing here uses .*attn\.q_norm"),
        ({"num_classes": 5}, r"Nothing here uses 'head\.weight', 'head\.bias'.*--drop 'head\.\*'"),
    ],
)
def test_what_ours_has_no_place_for_is_refused(options, message, tmp_path):
    torch.save(timm_vit(**{"num_classes": 0} | options).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=message):
        imported(tmp_path / "vit.pth", "timm")


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (VIDEOMAE, "it encodes images, and this method Video"),
        (replace_at(MAE, "encoder.relative_bias", True), "its ViT has no relative position bias"),
        (replace_at(MAE, "encoder.final_norm", False), "its ViT ends with a norm"),
    ],
)
def test_what_timm_can_not_say_is_refused_with_the_reason(recipe, reason, tmp_path):
    for path in ("encoder.depth", "encoder.heads"):
        recipe = replace_at(recipe, path, 1)
    (name,) = recipe.decoders
    recipe = replace_at(recipe, f"decoders.{name}.depth", 1)
    with pytest.raises(OptionError, match=f"timm's ViT can't be this model: {reason}"):
        export_weights("timm", MaskedModel(recipe), tmp_path / "vit.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_official_mae_goes_to_timm(tmp_path):
    reference = case("mae_norm_pix")
    made = imported(write(tmp_path / "mae.pth", reference.state), "mae", heads=4, decoder_heads=4)
    export_weights("timm", made.model, tmp_path / "vit.safetensors")
    exported = load_file(tmp_path / "vit.safetensors")
    assert set(exported) == {name for name in reference.state if not name.startswith(("decoder_", "mask_token"))}
    assert all(off(exported[name], reference.state[name]) < 1e-6 for name in exported)
