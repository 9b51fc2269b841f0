from dataclasses import replace

import pytest
import torch
from torch import nn

from mmim.errors import CheckpointError, OptionError
from mmim.masking.dirichlet import Dirichlet
from mmim.model import MaskedModel, Step
from mmim.records import Split
from mmim.training.optimiser import AdamW
from recipes.multimae import MULTIMAE
from tests.parity import (
    F32,
    F64,
    batch_of_several,
    beyond,
    imported,
    load,
    one_place_on,
    shift,
    split_of,
    tanh_gelu,
    worst,
)
from tests.videomae import float64

FILES = {"multimae": {"heads": 4, "decoder_heads": 4}, "multimae_depth_absent": {"heads": 2, "decoder_heads": 3}}
THEIRS = {"image": "rgb", "norm_image": "norm_rgb", "depth": "depth", "semseg": "semseg"}
"""What the reference calls our tasks, and our modalities among them."""


def model_of(name, folder):
    """The imported model, with as large a budget as the reference's samples see."""
    reference = load(name)
    visible = sum(reference.settings["visible"][0])
    return imported("multimae", reference, folder, FILES[name], num_encoded_tokens=visible), reference


def splits_of(reference):
    """What the reference hid, in token order; depth that is no input is asked for everywhere."""
    splits = {}
    for name in ("image", "depth", "semseg"):
        hidden = reference.tensors.get(f"mask/{THEIRS[name]}")
        if hidden is None:
            everywhere = torch.arange(16).expand(2, -1)
            splits[name] = Split(everywhere[:, :0], everywhere)
        else:
            splits[name] = split_of(hidden.bool())
    return splits


def batch_from(reference, dtype):
    """Depth and classes as files hold them, and a picture that is normalised already."""
    raw = reference.tensors
    classes = raw["input/semseg"][:, None].to(torch.uint8)
    return batch_of_several(
        {"image": raw["input/rgb"].to(dtype), "depth": raw["input/depth_raw"].to(dtype), "semseg": classes}
    )


def as_map(model, task, values):
    """Values for all 16 places as a picture, from the order of our pixels, whose channel comes last, or of classes."""
    patch = model.method.modalities[model.method.tasks[task].modality].piece[-1]
    if task == "semseg":
        values = values.unflatten(2, (-1, patch, patch))
    else:
        values = values.unflatten(2, (patch, patch, -1)).movedim(-1, 2)
    return values.unflatten(1, (4, 4)).permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)


def everywhere(model, batch, splits, task):
    """A step that asks for a task at all places, whatever is visible."""
    name = model.method.tasks[task].modality
    ids = torch.arange(16).expand(len(batch.ids), -1)
    asked = splits | {name: replace(splits[name], ids_masked=ids, masked_valid=None)}
    return Step(model, batch, asked)


def per_sample(model, step, task):
    """The loss of each sample, NaN where nothing of it is hidden."""
    _, counted = step.query(task)
    loss = model.method.tasks[task].target.loss(step.prediction(task), step.target(task)) * counted
    return loss.sum(dim=1) / counted.sum(dim=1)


def in_their_order(latents, expected_at):
    """Our latents in the order of the reference's tokens, and the global token behind them."""
    ours, theirs = latents.at.argsort(dim=1), expected_at.argsort(dim=1).argsort(dim=1)
    rows = torch.arange(len(ours))[:, None]
    return torch.cat([latents.values[rows, ours][rows, theirs], latents.globals], dim=1)


def found_and_expected(model, reference, dtype):
    batch, splits = batch_from(reference, dtype), splits_of(reference)
    step, losses = Step(model, batch, splits), model(batch, splits)
    tensors = reference.tensors
    latents = step.latents()
    assert latents.valid is None or latents.valid.all()  # the budget leaves no place empty
    found = {"latent": in_their_order(latents, tensors["mask/ids_keep"])}
    expected = {"latent": tensors["out/latent"]}
    for task in model.method.tasks:
        theirs, term = THEIRS[task], losses[f"reconstruction/{task}"]
        pred = everywhere(model, batch, splits, task).prediction(task)
        found[f"pred {task}"] = as_map(model, task, pred)
        expected[f"pred {task}"] = tensors[f"out/pred.{theirs}"]
        found[f"loss {task}"], expected[f"loss {task}"] = term.total / term.count, tensors[f"out/loss.{theirs}"]
        own, reached = per_sample(model, step, task), tensors[f"out/loss_per_sample.{theirs}"]
        assert torch.equal(own.isnan(), reached.isnan())
        found[f"loss of samples {task}"], expected[f"loss of samples {task}"] = own.nan_to_num(), reached.nan_to_num()
    found["loss"], expected["loss"] = sum(term.total / term.count for term in losses.values()), tensors["out/loss"]
    tokens = step.tokens["depth"]
    found["depth standardised"] = model.method.modalities["depth"].untokenize(tokens.values, tokens)
    expected["depth standardised"] = tensors["input/depth"]
    if "norm_image" in model.method.tasks:
        target = everywhere(model, batch, splits, "norm_image").target("norm_image")
        found["target"], expected["target"] = as_map(model, "norm_image", target), tensors["out/target.norm_rgb"]
    return found, expected


def errors(model, reference, dtype=torch.float64):
    """How far everything is off."""
    with float64() if dtype == torch.float64 else torch.no_grad(), torch.no_grad():
        return worst(*found_and_expected(model.to(dtype), reference, dtype))


def too_far(errors, allowed):
    """The errors beyond what is allowed."""
    return {name: error for name, error in errors.items() if beyond({name.split()[0]: error}, allowed)}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, F64), (torch.float32, F32)], ids=["float64", "float32"])
def test_equals_the_official_model(name, dtype, allowed, tmp_path):
    found = errors(*model_of(name, tmp_path), dtype)
    assert too_far(found, allowed) == {}
    assert len(found) == {"multimae": 16, "multimae_depth_absent": 12}[name]


@pytest.mark.parametrize("name", FILES)
def test_packing_keeps_exactly_the_visible_tokens(name, tmp_path):
    model, reference = model_of(name, tmp_path)
    batch, splits = batch_from(reference, torch.float32), splits_of(reference)
    with torch.no_grad():
        latents = Step(model, batch, splits).latents()
    present = reference.settings["present"]
    assert [THEIRS[name] for name, _ in latents.layout] == present
    assert latents.values.shape[1] == sum(reference.settings["visible"][0])
    expected = reference.tensors["mask/ids_keep"].sort(dim=1).values
    assert torch.equal(latents.at.sort(dim=1).values, expected)


def test_a_larger_budget_packs_the_same_tokens_before_empty_places(tmp_path):
    model, reference = model_of("multimae", tmp_path)
    model.method = replace(model.method, budget=Dirichlet(total=30))
    batch, splits = batch_from(reference, torch.float32), splits_of(reference)
    with torch.no_grad():
        latents = Step(model, batch, splits).latents()
    assert latents.valid.sum(dim=1).tolist() == [20, 20, 20]
    assert latents.valid[:, :20].all()
    off = worst({"latent": latents.globals}, {"latent": reference.tensors["out/latent"][:, -1:]})
    assert beyond(off, F32) == {}


def add_residual(decoder):
    """What was asked is added to what the cross-attention gives."""
    cross, asked = decoder.cross.forward, {}
    decoder.query_norm.register_forward_pre_hook(lambda module, inputs: asked.update(x=inputs[0]))
    decoder.cross.forward = lambda *inputs: cross(*inputs) + asked["x"]


def without_globals(decoder):
    decoder.register_forward_pre_hook(lambda module, inputs: (replace(inputs[0], globals=None), *inputs[1:]))


def with_final_norm(model):
    width = model.method.encoder.width
    model.trunk.encoder.norm = nn.LayerNorm(width, eps=1e-6)


MUTATIONS = {
    "task vector": lambda model: shift(model.decoders["image"].vectors["semseg"]),
    "own task vector": lambda model: shift(model.decoders["depth"].vectors["depth"]),
    "context norm": lambda model: setattr(model.decoders["semseg"], "context_norm", nn.Identity()),
    "query norm": lambda model: setattr(model.decoders["depth"], "query_norm", model.decoders["depth"].context_norm),
    "residual": lambda model: add_residual(model.decoders["image"]),
    "out norm": lambda model: setattr(model.decoders["norm_image"], "out_norm", nn.Identity()),
    "final norm": with_final_norm,
    "no global token in the context": lambda model: without_globals(model.decoders["depth"]),
    "global token": lambda model: shift(model.trunk.encoder.global_tokens),
    "eps": lambda model: setattr(model.trunk.encoder.blocks[1].norm1, "eps", 1e-5),
    "decoder eps": lambda model: setattr(model.decoders["image"].context_norm, "eps", 1e-5),
    "mask token": lambda model: shift(model.decoders["semseg"].mask_token),
    "class vectors": lambda model: shift(model.trunk.embedders["semseg"].class_emb.weight),
    "row first": lambda model: setattr(model.trunk.positions["depth"], "order", "sincos"),
    "decoder positions": lambda model: one_place_on(model.decoders["image"].positions["depth"]),
    "tanh gelu": lambda model: tanh_gelu(model.trunk.encoder.blocks[2]),
    "a mean over tokens": lambda model: setattr(model.terms["reconstruction"], "by_sample", False),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_parity_notices_a_fault(mutation, tmp_path):
    model, reference = model_of("multimae", tmp_path)
    MUTATIONS[mutation](model)
    assert too_far(errors(model, reference), F64)


OF_NO_INPUT = {
    "own vector": lambda decoder: shift(decoder.vectors["depth"]),
    "mask token": lambda decoder: shift(decoder.mask_token),
    "positions": lambda decoder: one_place_on(decoder.positions["depth"]),
}


@pytest.mark.parametrize("mutation", OF_NO_INPUT)
def test_parity_notices_a_fault_in_what_asks_for_a_modality_that_is_no_input(mutation, tmp_path):
    model, reference = model_of("multimae_depth_absent", tmp_path)
    OF_NO_INPUT[mutation](model.decoders["depth"])
    assert "pred depth" in too_far(errors(model, reference), F64)


@pytest.mark.parametrize("task", ["image", "semseg"])
def test_other_decoders_have_no_use_for_the_vector_of_what_is_no_input(task, tmp_path):
    model, reference = model_of("multimae_depth_absent", tmp_path)
    shift(model.decoders[task].vectors["depth"])
    assert too_far(errors(model, reference), F64) == {}  # `unused_state_keys` of the reference


# The recipe.


def test_has_as_many_parameters_as_the_paper():
    with torch.device("meta"):
        model = MaskedModel(MULTIMAE)
    tables = 196 * (3 * 768 + 4 * 256)  # the official count has its fixed tables
    learned = sum(parameter.numel() for parameter in model.parameters()) + tables
    assert learned / 1e6 == pytest.approx(98.57, abs=0.005)  # fact sheet 3.5


def test_sees_as_many_tokens_as_the_paper():
    assert {name: modality.grid() for name, modality in MULTIMAE.modalities.items()} == dict.fromkeys(
        ("image", "depth", "semseg"), (14, 14)
    )
    assert MULTIMAE.budget.total == 98  # fact sheet 2.2: of 588


def test_predicts_as_many_values_as_the_paper():
    sizes = {name: task.target.size(MULTIMAE.modalities[task.modality]) for name, task in MULTIMAE.tasks.items()}
    assert sizes == {"image": 768, "norm_image": 768, "depth": 256, "semseg": 2128}  # fact sheet 3.5


def test_decays_everything():
    with torch.device("meta"):
        model = MaskedModel(MULTIMAE)
    assert isinstance(MULTIMAE.optimiser, AdamW)
    assert all(MULTIMAE.optimiser.decays(name, parameter) for name, parameter in model.named_parameters())
    assert MULTIMAE.optimiser.rate(2048) == pytest.approx(8e-4)


def test_queries_keys_and_values_start_as_matrices_apart():
    torch.manual_seed(0)
    block = MaskedModel(
        replace(MULTIMAE, encoder=replace(MULTIMAE.encoder, width=96, depth=1, heads=3))
    ).trunk.encoder.blocks[0]
    bound = (6 / (96 + 96)) ** 0.5  # Xavier-uniform of each, not of all three at once
    assert all(bound * 0.98 < part.abs().max() <= bound for part in block.attn.qkv.weight.detach().chunk(3))


# Importing.


def test_sizes_are_read_off_the_file(tmp_path):
    model, _ = model_of("multimae", tmp_path)
    method = model.method
    assert {name: part.size for name, part in method.modalities.items()} == dict.fromkeys(method.modalities, (64, 64))
    maps = method.modalities["semseg"]
    assert (maps.patch, maps.stride, maps.classes, maps.class_width) == (16, 4, 7, 8)
    assert (method.budget.total, method.encoder.final_norm, method.encoder.global_tokens) == (20, False, 1)
    assert list(method.tasks) == ["image", "norm_image", "depth", "semseg"]


def test_decoders_and_modalities_may_be_missing(tmp_path):
    reference = load("multimae")
    for name in list(reference.tensors):
        if "output_adapters" in name or "input_adapters.semseg" in name:
            del reference.tensors[name]
    model = imported("multimae", reference, tmp_path, {"heads": 4})
    assert (list(model.method.modalities), model.method.decoders) == (["image", "depth"], {})
    with torch.no_grad():
        batch = batch_of_several({"image": reference.tensors["input/rgb"]}, {"depth": torch.zeros(3, dtype=torch.bool)})
        assert model.embed(batch).shape == (3, 40)


def test_a_decoder_of_what_is_no_modality_of_the_file_is_refused(tmp_path):
    reference = load("multimae")
    for name in list(reference.tensors):
        if "input_adapters.depth" in name:
            del reference.tensors[name]
    with pytest.raises(CheckpointError, match=r"--drop 'output_adapters\.depth\.\*'"):
        imported("multimae", reference, tmp_path, FILES["multimae"])


def test_scrambled_positions_are_refused(tmp_path):
    reference = load("multimae")
    table = reference.tensors["state/input_adapters.rgb.pos_emb"]
    reference.tensors["state/input_adapters.rgb.pos_emb"] = table.transpose(2, 3).contiguous()
    with pytest.raises(CheckpointError, match=r"'input_adapters\.rgb\.pos_emb' is not the table of Image"):
        imported("multimae", reference, tmp_path, FILES["multimae"])


def test_another_size_has_no_use(tmp_path):
    with pytest.raises(OptionError, match="--size has no use here"):
        imported("multimae", load("multimae"), tmp_path, FILES["multimae"] | {"size": (96, 96)})
