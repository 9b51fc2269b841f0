from dataclasses import replace

import pytest
import torch
from einops import rearrange

from mmim.draw import Draw
from mmim.masking.budget import groups_of
from mmim.masking.cell import CellMasking
from mmim.model import MaskedModel, Step
from mmim.options import apply
from mmim.targets.pixels import Pixels
from recipes.simmim import SIMMIM, SIZES
from tests.parity import F32, F64, batch_of, beyond, imported, load, run, shift, split_of, tanh_gelu, worst
from tests.videomae import float64, redraw

OPTIONS = {"simmim_vit": {}, "simmim_swin": {}}


def model_of(name, folder):
    reference = load(name)
    return imported("simmim", reference, folder, OPTIONS[name]), reference


def picture(model, predictions, ids, like):
    """Predictions of all tokens as a picture."""
    modality = model.method.modalities["image"]
    values = rearrange(predictions, "b n (r s c) -> b n c r s", r=modality.patch, s=modality.patch)
    order = ids.argsort(dim=1)[..., None, None, None].expand_as(values)
    return modality.untokenize(values.gather(1, order), modality.tokenize(like)).reshape(like.shape)


def errors(model, reference, dtype=torch.float64):
    with float64() if dtype == torch.float64 else torch.no_grad():
        model, images = model.to(dtype), reference.tensors["input/image"].to(dtype)
        hidden = reference.tensors["mask/mask"].flatten(1).bool()
        step, loss = run(model, "image", images, split_of(hidden))
        latents = step.latents().values
        everywhere = replace(step.splits["image"], ids_masked=torch.arange(hidden.shape[1]).expand(hidden.shape))
        predictor = Step(model, step.batch, {"image": everywhere})
        predictor._made[("latents", ("image",))] = step.latents()
        predictions = predictor.prediction("image")
        found = {
            "latent": latents,
            "pred": picture(model, predictions, everywhere.ids_masked, images),
            "loss": loss,
        }
        expected = {name: reference.tensors[f"out/{name}"] for name in found}
        expected["latent"] = expected["latent"].flatten(2).transpose(1, 2)
        return worst(found, expected)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, F64), (torch.float32, F32)], ids=["float64", "float32"])
def test_equals_the_official_model(name, dtype, allowed, tmp_path):
    model, reference = model_of(name, tmp_path)
    assert beyond(errors(model, reference, dtype), allowed) == {}


def test_the_target_is_the_picture_itself(tmp_path):
    model, reference = model_of("simmim_vit", tmp_path)
    with float64():
        hidden = reference.tensors["mask/mask"].flatten(1).bool()
        images = reference.tensors["input/image"].double()
        step, _ = run(model.double(), "image", images, split_of(hidden))
        off = (step.prediction("image") - step.target("image")).abs()
        expected = reference.tensors["out/loss_per_pixel"].double()
        pixels = model.method.modalities["image"].tokenize(expected).values.movedim(2, -1).flatten(2)
        assert torch.allclose(off, pixels[hidden].reshape(off.shape), atol=2e-6)


MUTATIONS = {
    "encoder eps": lambda model: setattr(model.trunk.encoder.norm, "eps", 1e-5),
    "tanh gelu": lambda model: tanh_gelu(model.trunk.encoder.blocks[0]),
    "mask token": lambda model: shift(model.trunk.corruption["image"].mask_token),
    "class token": lambda model: shift(model.trunk.encoder.global_tokens),
    "relative bias": lambda model: shift(model.trunk.encoder.relative.table),
    "bias of the class token": lambda model: shift(model.trunk.encoder.relative.table[-3]),
    "layer scale": lambda model: shift(model.trunk.encoder.blocks[1].gamma_2),
    "q bias": lambda model: shift(model.trunk.encoder.blocks[1].attn.q_bias),
    "head bias": lambda model: shift(model.decoders["image"].heads["image"].bias),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_parity_notices_a_fault_in_the_vit(mutation, tmp_path):
    model, reference = model_of("simmim_vit", tmp_path)
    MUTATIONS[mutation](model)
    assert beyond(errors(model, reference), F64)


SWIN_MUTATIONS = {
    "norm after the patches": lambda model: setattr(model.trunk.embedders["image"].norm, "eps", 1e-6),
    "mask token": lambda model: shift(model.trunk.corruption["image"].mask_token),
    "window bias": lambda model: shift(model.trunk.encoder.layers[0].blocks[1].attn.relative_position_bias_table),
    "merging": lambda model: shift(model.trunk.encoder.layers[1].downsample.reduction.weight),
    "encoder eps": lambda model: setattr(model.trunk.encoder.norm, "eps", 1e-6),
}


@pytest.mark.parametrize("mutation", SWIN_MUTATIONS)
def test_parity_notices_a_fault_in_the_swin(mutation, tmp_path):
    model, reference = model_of("simmim_swin", tmp_path)
    SWIN_MUTATIONS[mutation](model)
    assert beyond(errors(model, reference), F64)


@pytest.mark.parametrize(
    "target", [Pixels(), Pixels(error="absolute", units="raw"), Pixels(error="absolute", normalise="token")]
)
def test_parity_notices_another_target(target, tmp_path):
    model, reference = model_of("simmim_vit", tmp_path)
    task = replace(model.method.tasks["image"], target=target)
    other = MaskedModel(replace(model.method, tasks={"image": task}))
    other.load_state_dict(model.state_dict())
    assert "loss" in beyond(errors(other, reference), F64)


@pytest.mark.parametrize(("size", "n", "hidden"), [("vit-base", 196, 30 * 4), ("swin-base", 48**2, 22 * 64)])
def test_hides_as_many_cells_as_the_paper(size, n, hidden):
    recipe = apply(SIMMIM, SIZES[size])
    modality = recipe.modalities["image"]
    tokens = modality.tokenize(modality.blank()[None])
    assert tokens.count == n
    policy = recipe.masking["image"]
    ranks = {"image": policy.rank(tokens, Draw(torch.arange(1)))}
    split = recipe.budget.cut(ranks, {"image": tokens}, Draw(torch.arange(1)), {"image": groups_of(policy, tokens)})[
        "image"
    ]
    assert split.ids_masked.shape[1] == hidden  # fact sheet 2.2
    side, cell = modality.grid()[0], policy.cell
    map_ = torch.zeros(n, dtype=torch.bool).scatter(0, split.ids_masked[0], True).reshape(side, side)
    cells = rearrange(map_, "(h a) (w b) -> (h w) (a b)", a=cell, b=cell)
    assert (cells.all(dim=1) | ~cells.any(dim=1)).all()


def test_has_as_many_parameters_as_the_paper():
    with torch.device("meta"):
        model = MaskedModel(SIMMIM)
    learned = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert learned == pytest.approx(86.26, abs=0.005)  # fact sheet 3.2


@pytest.mark.parametrize("size", ["vit-tiny", "swin-tiny"])
def test_another_resolution_works_and_every_parameter_learns(size):
    torch.manual_seed(0)
    recipe = apply(SIMMIM, SIZES[size] | {"modalities.image.size": (64, 64), "encoder.drop_path": 0.0})
    if size == "vit-tiny":
        recipe = apply(recipe, {"modalities.image.patch": 8})
    model = MaskedModel(recipe)
    redraw(model)

    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    terms = model(batch_of("image", pictures))
    sum(term.total for term in terms.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    larger = torch.randint(0, 256, (2, 3, 128, 96), dtype=torch.uint8)
    with torch.no_grad():
        assert model.eval().embed(batch_of("image", larger)).isfinite().all()


def test_cells_are_the_unit_of_the_paper():
    assert isinstance(SIMMIM.masking["image"], CellMasking)
    for size in ("vit-base", "swin-base", "swin-large"):
        recipe = apply(SIMMIM, SIZES[size])
        assert recipe.masking["image"].cell * recipe.modalities["image"].patch == 32
