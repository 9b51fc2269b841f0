from dataclasses import replace

import pytest
import torch
from torch import nn

from mmim.masking.budget import Ratio
from mmim.model import MaskedModel
from mmim.options import apply
from mmim.targets.pixels import Pixels
from recipes.mae import MAE, SIZES
from tests.parity import (
    F32,
    F64,
    batch_of,
    beyond,
    imported,
    load,
    mae_errors,
    one_place_on,
    shift,
    split_by_noise,
    tanh_gelu,
)

FILES = {"mae_norm_pix": {"heads": 4, "decoder_heads": 4}, "mae_raw_pixels": {"heads": 2, "decoder_heads": 3}}


def model_of(name, folder):
    reference = load(name)
    config = reference.config
    arguments = {"mask_ratio": reference.settings["mask_ratio"], "norm_pix_loss": config["norm_pix_loss"]}
    return imported("mae", reference, folder, FILES[name], **arguments), reference


def split_of(reference, model):
    return split_by_noise(model, "image", reference.tensors["mask/noise"])


def errors(model, reference, dtype=torch.float64):
    return mae_errors(model, reference, "image", reference.tensors["input/image"], dtype)


@pytest.mark.parametrize("name", FILES)
def test_hides_exactly_what_the_official_code_hides(name, tmp_path):
    model, reference = model_of(name, tmp_path)
    split = split_of(reference, model)
    assert torch.equal(split.ids_keep, reference.tensors["mask/ids_keep"])
    restore = torch.cat([split.ids_keep, split.ids_masked], dim=1).argsort(dim=1)
    assert torch.equal(restore, reference.tensors["mask/ids_restore"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, F64), (torch.float32, F32)], ids=["float64", "float32"])
def test_equals_the_official_model(name, dtype, allowed, tmp_path):
    model, reference = model_of(name, tmp_path)
    assert beyond(errors(model, reference, dtype), allowed) == {}


MUTATIONS = {
    "encoder eps": lambda model: setattr(model.trunk.encoder.norm, "eps", 1e-5),
    "block eps": lambda model: setattr(model.trunk.encoder.blocks[1].norm2, "eps", 1e-5),
    "decoder eps": lambda model: setattr(model.decoders["image"].norm, "eps", 1e-5),
    "tanh gelu": lambda model: tanh_gelu(model.trunk.encoder.blocks[0]),
    "class token": lambda model: shift(model.trunk.encoder.global_tokens),
    "key bias": lambda model: shift(model.decoders["image"].blocks[0].attn.qkv.bias),
    "patch bias": lambda model: shift(model.trunk.embedders["image"].proj.bias),
    "mask token": lambda model: shift(model.decoders["image"].mask_token),
    "projection bias": lambda model: shift(model.decoders["image"].embed.bias),
    "head bias": lambda model: shift(model.decoders["image"].heads["image"].bias),
    "encoder positions": lambda model: one_place_on(model.trunk.positions["image"]),
    "decoder positions": lambda model: one_place_on(model.decoders["image"].positions["image"]),
    "row first": lambda model: setattr(model.trunk.positions["image"], "order", "sincos_row_first"),
    "class token dropped before the decoder": lambda model: model.decoders["image"].register_forward_pre_hook(
        lambda module, inputs: (replace(inputs[0], globals=None), *inputs[1:])
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_parity_notices_a_fault_in_the_model(mutation, tmp_path):
    model, reference = model_of("mae_norm_pix", tmp_path)
    MUTATIONS[mutation](model)
    assert beyond(errors(model, reference), F64)


@pytest.mark.parametrize(
    "target",
    [
        Pixels(normalise="token", eps_inside=False),
        Pixels(normalise="channel"),
        Pixels(normalise="token", units="raw"),
        Pixels(normalise="token", eps=1e-5),
        Pixels(),
        Pixels(normalise="token", error="absolute"),
    ],
    ids=["eps outside", "statistics", "units", "eps", "raw", "error"],
)
def test_parity_notices_another_target(target, tmp_path):
    model, reference = model_of("mae_norm_pix", tmp_path)
    task = replace(model.method.tasks["image"], target=target)
    other = MaskedModel(replace(model.method, tasks={"image": task}))
    other.load_state_dict(model.state_dict())
    assert "loss" in beyond(errors(other, reference), F64)


def test_parity_notices_another_rounding(tmp_path):
    model, reference = model_of("mae_raw_pixels", tmp_path)
    model.method = replace(model.method, budget=Ratio(0.6, rounding="hidden_up"))
    assert torch.equal(split_of(reference, model).ids_keep, reference.tensors["mask/ids_keep"])  # int(9 * 0.4) = 3
    model.method = replace(model.method, budget=Ratio(0.6, rounding="hidden_down"))
    assert split_of(reference, model).ids_keep.shape[1] == 4


@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_hides_as_many_patches_as_the_paper(size):
    recipe = apply(MAE, SIZES[size])
    n = (224 // recipe.modalities["image"].patch) ** 2
    assert recipe.budget.num_keep(n) == {"base": 49, "large": 49, "huge": 64}[size]  # fact sheet 2.2


def test_has_as_many_parameters_as_the_paper():
    with torch.device("meta"):
        model = MaskedModel(MAE)
    learned = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert learned == pytest.approx(111.66, abs=0.005)  # fact sheet 3.1, without the fixed tables


def test_every_parameter_starts_as_the_official_code_starts_it():
    torch.manual_seed(0)
    model = MaskedModel(apply(MAE, SIZES["tiny"] | {"modalities.image.size": (32, 32)}))
    proj = model.trunk.embedders["image"].proj.weight.flatten(1)
    bound = (6 / sum(proj.shape)) ** 0.5  # Xavier-uniform on the flattened matrix
    assert bound * 0.98 < proj.detach().abs().max() <= bound
    assert model.trunk.encoder.global_tokens.std().item() == pytest.approx(0.02, rel=0.3)
    assert all(not layer.bias.any() for layer in model.modules() if isinstance(layer, nn.Linear))


def test_another_resolution_changes_the_embedding_little_where_the_picture_is_the_same():
    torch.manual_seed(0)
    recipe = apply(MAE, SIZES["tiny"] | {"modalities.image.size": (64, 64), "modalities.image.patch": 8})
    model = MaskedModel(recipe).eval()
    blobs = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255  # large patches of colour
    coarse, finer = (nn.functional.interpolate(blobs, (size, size), mode="bilinear") for size in (64, 128))

    def embedded(pictures):
        with torch.no_grad():
            return model.embed(batch_of("image", pictures.round().to(torch.uint8)))

    one, two = embedded(coarse), embedded(finer)
    changed, apart = (one - two).norm(dim=1).mean(), torch.pdist(one).mean()
    model.trunk.positions["image"].native = None  # every grid gets codes of its own, as if the picture went on
    assert changed < 0.5 * apart
    assert changed < 0.7 * (one - embedded(finer)).norm(dim=1).mean()
