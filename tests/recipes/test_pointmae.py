"""Parity of the Point-MAE recipe with the official class, in evaluation and training; it notices faults."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmim.config import replace_at
from mmim.draw import Draw
from mmim.interop.converter import Options, import_weights
from mmim.interop.files import read_weights
from mmim.layers.grouping import farthest_points
from mmim.masking.ball import BallMasking
from mmim.model import MaskedModel, Step
from mmim.options import apply
from mmim.records import Tokens
from mmim.targets.chamfer import Chamfer
from modalities.points import Points
from recipes.pointmae import POINTMAE, SIZES
from tests.parity import (
    F32,
    F64,
    batch_of,
    load,
    official_file,
    one_place_on,
    shift,
    split_of,
    tanh_gelu,
    worst,
)
from tests.videomae import float64, redraw

MOVED = "after_one_step.MAE_encoder.encoder."


def model_of(folder):
    """Our model, by `mmim import`, without drop path."""
    reference = load("point_mae")
    weights = read_weights(official_file(reference, folder))
    own = {"points": 160, "groups": 16}
    model = import_weights("pointmae", weights, Options({"heads": 4, "decoder_heads": 4}, own)).model
    return remade(model, {"encoder.drop_path": 0.0, "decoders.points.drop_path": 0.0}), reference


def remade(model, changes):
    """The same weights in another method."""
    method = model.method
    for path, value in changes.items():
        method = replace_at(method, path, value)
    made = MaskedModel(method)
    made.load_state_dict(model.state_dict())
    return made.eval()


def outputs(model, reference, dtype=torch.float64):
    """What our model makes of the reference's clouds and masks; it is left in the mode it comes in."""
    with float64() if dtype == torch.float64 else torch.no_grad(), torch.no_grad():
        model = model.to(dtype)
        hidden = reference.tensors["mask/mask"]
        batch = batch_of("points", reference.tensors["input/points"].to(dtype))
        step = Step(model, batch, {"points": split_of(hidden)})
        tokens, latents = step.tokens["points"], step.latents()
        order = latents.at.argsort(dim=1)[..., None].expand_as(latents.values)
        pred, target = step.prediction("points"), step.target("points")
        found = {
            "center": tokens.coords,
            "neighborhood": tokens.values,
            "latent": latents.values.gather(1, order),
            "pred": pred.reshape(18, 8, 3),
            "target": target.reshape(18, 8, 3),
            "loss_per_group_l2": Chamfer(norm="l2").loss(pred, target).flatten(),
            "loss_cdl2": Chamfer(norm="l2").loss(pred, target).mean(),
            "loss_cdl1": Chamfer(norm="l1").loss(pred, target).mean(),
        }
        if not model.training:
            everything = torch.ones(hidden.shape, dtype=torch.bool)
            found["group_tokens"] = model.trunk.embedders["points"](tokens.values, everything)
        return found


def faults(model, reference, dtype=torch.float64):
    """The outputs that are not the official ones."""
    there = reference.part("out_train/" if model.training else "out/")
    found = {name: part for name, part in outputs(model, reference, dtype).items() if name in there}
    allowed = F64 if dtype == torch.float64 else F32
    return {
        name: error
        for name, error in worst(found, there).items()
        if not error <= allowed["losses" if name.startswith("loss") else "targets" if name == "target" else "values"]
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_equals_the_official_model(dtype, tmp_path):
    model, reference = model_of(tmp_path)
    assert len(outputs(model, reference, dtype)) == 9
    assert faults(model, reference, dtype) == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_equals_the_official_model_in_training(dtype, tmp_path):
    model, reference = model_of(tmp_path)
    assert faults(model.train(), reference, dtype) == {}
    assert wrong_statistics(model, reference, dtype) == {}


def wrong_statistics(model, reference, dtype=torch.float64):
    """The running statistics that are not the official ones after one step."""
    embed, after = model.trunk.embedders["points"], reference.part(f"out_train/{MOVED}")
    norms = {"first_conv.1": embed.first.norm, "second_conv.1": embed.second.norm}
    found = {name: getattr(norms[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in after}
    allowed = (F64 if dtype == torch.float64 else F32)["values"]
    assert {int(norm.num_batches_tracked) for norm in norms.values()} == {1 + counted(reference)}
    return {name: error for name, error in worst(found, after).items() if not error <= allowed}


def counted(reference):
    """Batches that the official norms had seen before."""
    return int(reference.tensors["state/MAE_encoder.encoder.first_conv.1.num_batches_tracked"])


def test_the_groups_are_the_official_ones_to_the_index(tmp_path):
    model, reference = model_of(tmp_path)
    points = reference.tensors["input/points"]
    tokens, out = model.method.modalities["points"].tokenize(points), reference.part("out/")
    centres = farthest_points(points, 16)
    assert torch.equal(centres, out["fps_index"])
    places = points.gather(1, out["knn_index"].flatten(1)[..., None].expand(-1, -1, 3)).reshape(2, 16, 8, 3)
    assert torch.equal(tokens.values, places - tokens.coords[:, :, None])


def positions_once(model):
    return remade(model, {"encoder.positions": "once"})


def no_skip(model):
    return remade(model, {"modalities.points.skip_near_origin": False})


def layer_norm_eps(model):
    return remade(model, {"encoder.eps": 1e-6})


def norm_of_the_decoder(model):
    model.decoders["points"].norm.eps = 1e-6
    return model


MUTATIONS = {
    "positions once in the encoder": positions_once,
    "positions once in the decoder": lambda model: remade(model, {"decoders.points.positions": "once"}),
    "points near the origin": no_skip,
    "eps of the encoder": layer_norm_eps,
    "eps of the decoder": norm_of_the_decoder,
    "eps of the batch norm": lambda model: changed(model, lambda m: setattr(embedder(m).second.norm, "eps", 1e-3)),
    "tanh gelu": lambda model: changed(model, lambda m: tanh_gelu(m.trunk.encoder.blocks[0])),
    "encoder positions": lambda model: changed(model, lambda m: one_place_on(m.trunk.positions["points"])),
    "decoder positions": lambda model: changed(model, lambda m: one_place_on(m.decoders["points"].positions["points"])),
    "mask token": lambda model: changed(model, lambda m: shift(m.decoders["points"].mask_token)),
    "head bias": lambda model: changed(model, lambda m: shift(m.decoders["points"].heads["points"].bias)),
    "running mean": lambda model: changed(model, lambda m: embedder(m).first.norm.running_mean.add_(0.01)),
    "global before local": lambda model: changed(model, swapped),
}


def embedder(model):
    return model.trunk.embedders["points"]


def changed(model, change):
    change(model)
    return model


def swapped(model):
    """[local, global] in place of [global, local]."""
    weight = embedder(model).second.fc1.weight
    weight.data = weight.data.roll(256, dims=1)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_parity_notices_a_fault_in_the_model(mutation, tmp_path):
    model, reference = model_of(tmp_path)
    assert faults(MUTATIONS[mutation](model), reference)


def test_parity_in_training_notices_hidden_groups_left_out_of_the_statistics(tmp_path):
    model, reference = model_of(tmp_path)
    model = remade(model, {"modalities.points.sees_hidden": False}).train()
    assert "latent" in faults(model, reference)
    assert wrong_statistics(model, reference)


def test_parity_in_training_notices_a_biased_running_variance(tmp_path, monkeypatch):
    model, reference = model_of(tmp_path)
    clamp = torch.Tensor.clamp
    monkeypatch.setattr(torch.Tensor, "clamp", lambda x, min: clamp(x + (x.dtype == torch.int64), min=min))
    assert faults(model.train(), reference)  # the biased one of the batch is off by as much
    assert wrong_statistics(model, reference)


def test_parity_in_training_notices_another_momentum(tmp_path):
    model, reference = model_of(tmp_path)
    embedder(model).second.norm.momentum = 0.01
    assert faults(model.train(), reference) == {}
    assert wrong_statistics(model, reference)


def tokenized():
    modality = POINTMAE.modalities["points"]
    cloud = torch.randn(3, 1024, 3, generator=torch.Generator().manual_seed(0))
    return modality.tokenize(cloud)


@pytest.mark.parametrize("policy", [POINTMAE.masking["points"], BallMasking()], ids=["random", "ball"])
def test_hides_as_many_groups_as_the_paper(policy):
    tokens, draw = tokenized(), Draw(torch.arange(3))
    assert tokens.count == 64
    split = POINTMAE.budget.cut({"points": policy.rank(tokens, draw)}, {"points": tokens}, draw)["points"]
    assert split.ids_masked.shape == (3, 38)  # fact sheet 2.2
    assert split.ids_keep.shape == (3, 26)


def test_has_as_many_parameters_as_the_paper():
    with torch.device("meta"):
        model = MaskedModel(POINTMAE)
    learned = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert learned == pytest.approx(29.01, abs=0.005)  # fact sheet 3.9


def test_decays_what_the_official_code_decays():
    with torch.device("meta"):
        model = MaskedModel(POINTMAE)
    spared = {name for name, p in model.named_parameters() if not POINTMAE.optimiser.decays(name, p)}
    assert spared == {
        name for name, p in model.named_parameters() if p.ndim == 1 or name.endswith(".bias") or "token" in name
    }


def test_the_rate_is_that_of_the_official_code():
    assert POINTMAE.optimiser.rate(64) == 1e-3  # whatever the batch
    assert POINTMAE.schedule.factor(30 * 10 - 1, 30 * 300) == 1
    assert POINTMAE.schedule.factor(30 * 300 - 1, 30 * 300) * 1e-3 == pytest.approx(1e-6, rel=1e-2)


def tiny(**changes):
    torch.manual_seed(0)
    sizes = {"points": 96, "groups": 12, "group_size": 8}
    small = {f"modalities.points.{name}": value for name, value in sizes.items()}
    recipe = apply(POINTMAE, SIZES["tiny"] | small | {"encoder.drop_path": 0.0, "decoders.points.drop_path": 0.0})
    model = MaskedModel(apply(recipe, changes))
    redraw(model)
    return model


def clouds(b=3, points=96, channels=3):
    return torch.randn(b, points, channels, generator=torch.Generator().manual_seed(1))


def test_every_parameter_learns_and_other_sizes_of_clouds_work():
    model = tiny()
    sum(term.total for term in model(batch_of("points", clouds())).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    with torch.no_grad():
        assert model.eval().embed(batch_of("points", clouds(2, 200))).isfinite().all()


@torch.no_grad()
def moved_latents(model):
    """How far the latents move when a hidden group's content does, in training."""
    batch = batch_of("points", clouds())
    split = split_of(torch.arange(12).expand(3, -1) >= 5)
    latents = []
    for factor in (1.0, 3.0):
        step = Step(model, batch, {"points": split})
        tokens = step.tokens["points"]
        values = tokens.values.clone()
        values[:, 5:] *= factor
        step._made[("tokens",)] = {"points": replace(tokens, values=values)}
        latents.append(step.latents().values)
    return float((latents[0] - latents[1]).abs().max())


def test_hidden_groups_reach_the_encoder_in_training_as_published_and_not_in_the_other_forms():
    assert moved_latents(tiny().train()) > 1e-3
    assert moved_latents(tiny().eval()) == 0
    for form in ({"modalities.points.sees_hidden": False}, {"modalities.points.norm": "layer"}):
        assert moved_latents(tiny(**form).train()) == 0


@pytest.mark.parametrize("form", [{}, {"modalities.points.sees_hidden": False}, {"modalities.points.norm": "layer"}])
def test_an_absent_cloud_leaves_loss_gradients_and_statistics_of_the_others(form):
    found = []
    for data, present in ((clouds(2), [True] * 2), (clouds(3), [True, True, False]), (clouds(3) * 0, None)):
        model = tiny(**form)
        there = torch.tensor([True, True, False] if present is None else present)
        raw = torch.where(there[:, None, None], clouds(3)[: len(there)], data)
        terms = model(replace(batch_of("points", raw), present={"points": there}))["reconstruction/points"]
        terms.total.backward()
        buffers = dict(model.named_buffers())
        found.append((terms.total.detach(), terms.count, {n: p.grad for n, p in model.named_parameters()}, buffers))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=2e-4, atol=1e-5)


def test_ball_masking_and_colours_can_be_chosen():
    model = tiny(**{"masking.points": BallMasking(), "modalities.points.colour": True})
    term = model(batch_of("points", clouds(channels=6)))["reconstruction/points"]
    assert term.count == 3 * int(0.6 * 12)
    assert isinstance(model.method.modalities["points"], Points)
    assert model.decoders["points"].heads["points"].out_features == 8 * 3


def test_a_cloud_of_one_place_is_finite_in_training():
    model = tiny().train()
    term = model(batch_of("points", torch.ones(2, 96, 3)))["reconstruction/points"]
    term.total.backward()
    assert term.total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_positions_are_a_function_of_the_centres_alone():
    model = tiny()
    assert isinstance(model.trunk.positions["points"], nn.Module)
    tokens = Tokens(torch.zeros(1, 4, 8, 3), torch.ones(1, 4, 3))
    codes = model.trunk.positions["points"](tokens)
    assert torch.equal(codes, codes[:, :1].expand_as(codes))


COMPILE = """
import copy, torch
from mmim.model import MaskedModel
from mmim.options import apply
from recipes.pointmae import POINTMAE, SIZES
from tests.parity import batch_of
small = {"points": 96, "groups": 12, "group_size": 8}
recipe = apply(POINTMAE, SIZES["tiny"] | {f"modalities.points.{name}": value for name, value in small.items()})
recipe = apply(recipe, {"encoder.drop_path": 0.0, "decoders.points.drop_path": 0.0})
torch.manual_seed(0)
model, batch = MaskedModel(recipe), batch_of("points", torch.randn(3, 96, 3))
plain = copy.deepcopy(model)
model.compile(fullgraph=True, backend="aot_eager")
for _ in range(2):
    losses = [each(batch)["reconstruction/points"].total for each in (model, plain)]
    torch.testing.assert_close(*losses)
torch.testing.assert_close(model.state_dict(), plain.state_dict())
"""


@pytest.mark.slow
def test_the_model_compiles_into_one_graph():
    # In a process of its own, since a graph can't hold the shape checks that pytest adds.
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=300)
