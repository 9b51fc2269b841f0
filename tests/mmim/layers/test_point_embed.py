import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.testing import assert_close

from mmim.layers.point_embed import CentreEmbed, CountedBatchNorm, PointEmbed
from mmim.modality import BatchEmbedder
from mmim.records import Tokens
from tests.parity import REFERENCE, load, worst

STATISTICS = ("running_mean", "running_var")


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def every(x):
    return torch.ones(x.shape[:2], dtype=torch.bool)


def pair(width=6):
    """Our norm and torch's, with the same weights and running statistics."""
    theirs = nn.BatchNorm1d(width).double()
    for name, tensor in theirs.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(noise(width, seed=len(name)).abs() + 0.1)
    ours = CountedBatchNorm(width).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("training", [True, False])
def test_where_all_count_it_is_torchs_batch_norm(training):
    ours, theirs = (norm.train(training) for norm in pair())
    x = (noise(4, 5, 3, 6) * 3 + 2).requires_grad_()
    y = x.detach().clone().requires_grad_()
    for _ in range(3):
        mine, other = ours(x, every(x)), theirs(y.flatten(0, 2)).unflatten(0, y.shape[:3])
        assert_close(mine, other, rtol=0, atol=1e-12)
    weights = noise(4, 5, 3, 6, seed=1)
    (mine * weights).sum().backward()
    (other * weights).sum().backward()
    assert_close(x.grad, y.grad, rtol=0, atol=1e-12)
    assert_close(ours.weight.grad, theirs.weight.grad, rtol=0, atol=1e-12)
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=1e-12)
    assert int(ours.num_batches_tracked) == 3 * training


@pytest.mark.parametrize("garbage", [0.0, 1e30])
def test_what_does_not_count_leaves_no_trace(garbage):
    ours, theirs = pair()
    x, counted = noise(4, 5, 3, 6), torch.rand(4, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    x = torch.where(counted[..., None, None], x, garbage).requires_grad_()
    out = ours(x, counted)[counted]
    assert_close(out, theirs(x.detach()[counted].flatten(0, 1)).unflatten(0, (-1, 3)), rtol=0, atol=1e-12)
    out.square().sum().backward()
    assert not x.grad[~counted].any()
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=1e-12)


def test_a_batch_in_which_nothing_counts_leaves_the_running_statistics():
    ours, _ = pair()
    before = copy.deepcopy(ours.state_dict())
    x = noise(2, 3, 4, 6).requires_grad_()
    out = ours(x, ~every(x))
    assert_close(out, ours.eval()(x, ~every(x)), rtol=0, atol=0)
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert_close(ours.state_dict(), before, rtol=0, atol=0)


def test_one_value_alone_has_no_deviation_and_gets_the_running_statistics():
    ours, _ = pair()
    x = noise(1, 1, 1, 6)
    assert_close(ours(x, every(x)), ours.eval()(x, every(x)), rtol=0, atol=0)


def test_no_token_at_all_is_harmless():
    embed = PointEmbed(3, 8)
    assert embed(torch.zeros(2, 0, 4, 3), torch.zeros(2, 0, dtype=torch.bool)).shape == (2, 0, 8)


def test_statistics_under_autocast_are_in_float32():
    norm = CountedBatchNorm(4)
    x = (noise(64, 8, 16, 4, dtype=torch.float32) * 0.3 + 10.03).bfloat16()  # a mean that bfloat16 can't hold
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x, every(x))
    assert out.dtype == torch.bfloat16
    spread = x.float().flatten(0, 2)
    assert_close(norm.running_mean, 0.1 * spread.mean(dim=0), rtol=1e-4, atol=0)
    assert_close(norm.running_var, 0.9 + 0.1 * spread.var(dim=0), rtol=1e-4, atol=0)
    assert norm.running_mean.dtype == torch.float32


def official(embed, weights):
    """Point-MAE's layers and ours, by the numbers of the official ones."""
    modules = {
        f"{theirs}.{number}": getattr(mlp, name)
        for theirs, mlp in (("first_conv", embed.first), ("second_conv", embed.second))
        for number, name in ((0, "fc1"), (1, "norm"), (3, "fc2"))
    }
    for name, tensor in weights.items():
        layer, _, part = name.rpartition(".")
        own = modules[layer].state_dict()[part]
        own.copy_(tensor.reshape(own.shape))


@pytest.mark.parametrize("training", [True, False])
def test_group_embeddings_are_the_official_ones(training):
    reference = load("point_mae")
    embed = PointEmbed(3, 48).double().train(training)
    official(embed, reference.part("state/MAE_encoder.encoder."))
    groups, out = reference.tensors["out/neighborhood"].double(), reference.part("out_train/" if training else "out/")
    found = {"tokens": embed(groups, every(groups))}
    assert worst(found, {"tokens": out["group_tokens"]})["tokens"] < 2e-6
    if training:
        moved = {"first_conv": embed.first.norm, "second_conv": embed.second.norm}
        for name, norm in moved.items():
            after = {part: out[f"after_one_step.MAE_encoder.encoder.{name}.1.{part}"] for part in STATISTICS}
            assert max(worst({part: getattr(norm, part) for part in STATISTICS}, after).values()) < 2e-6


def formula(shape, number):
    """The weights that are not stored: tests/reference/README.md, `point_bert_dvae`."""
    mask = 0xFFFFFFFF
    h = (torch.arange(torch.Size(shape).numel()) * 2654435761 + number * 40503 + 12345) & mask
    for shift, factor in ((15, 2246822519), (13, 3266489917)):
        h = _product(h ^ (h >> shift), factor)
    h = h ^ (h >> 16)
    return (((h >> 8) + 0.5) / 2**24 * 2 - 1).double().reshape(shape)


def _product(x, factor):
    """Modulo 2 ** 32 in 63 bits."""
    return ((x & 0xFFFF) * factor + ((((x >> 16) * factor) & 0xFFFF) << 16)) & 0xFFFFFFFF


def dvae_weights(reference, shapes, prefix):
    made = {}
    for number, (name, shape) in enumerate(shapes.items()):
        if not name.startswith(prefix):
            continue
        u = formula(shape, number)
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            made[name] = 1 + 0.3 * u
        elif len(shape) == 1:
            made[name] = 1 + 0.2 * u if name.endswith("1.weight") else 0.2 * u
        else:
            made[name] = u * min(0.2, 1.6 / (u[0].numel() ** 0.5))
        made[name] = made[name].float() if made[name].is_floating_point() else made[name]
        assert_close(made[name].double().sum().float(), reference.tensors[f"state_sum/{name}"].float())
    return {name.removeprefix(prefix): tensor for name, tensor in made.items()}


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 2e-6), (torch.float32, 5e-5)])
def test_group_embeddings_are_those_of_point_bert(dtype, allowed):
    reference = load("point_bert_dvae")
    with safe_open(REFERENCE / "point_bert_dvae.safetensors", "pt") as file:
        shapes = json.loads(file.metadata()["state_shapes"])
    embed = PointEmbed(3, 32).eval()
    official(embed, dvae_weights(reference, shapes, "encoder."))
    groups = reference.tensors["out/neighborhood"].to(dtype)
    found = {"tokens": embed.to(dtype)(groups, every(groups))}
    assert worst(found, {"tokens": reference.tensors["out/group_tokens"]})["tokens"] < allowed


def test_the_order_of_the_points_does_not_matter():
    embed, groups = PointEmbed(6, 8).double().eval(), noise(2, 3, 5, 6)
    assert_close(embed(groups, every(groups)), embed(groups[:, :, [3, 1, 4, 0, 2]], every(groups)), rtol=0, atol=1e-12)


def test_in_training_a_group_reaches_the_others_through_the_statistics():
    embed, groups = PointEmbed(3, 8).double(), noise(2, 3, 5, 3)
    other = groups.clone()
    other[1, 2] += 1
    assert isinstance(embed, BatchEmbedder)
    assert embed.sees_hidden
    assert not PointEmbed(3, 8, sees_hidden=False).sees_hidden
    moved = (embed(groups, every(groups)) - embed(other, every(groups))).abs().amax(dim=2)
    assert (moved > 1e-6).all()


def test_with_layer_norm_nothing_leaks_between_groups():
    embed, groups = PointEmbed(3, 8, norm="layer").double(), noise(2, 3, 5, 3)
    other = groups.clone()
    other[1, 2] += 1
    moved = (embed(groups, every(groups)) - embed(other, ~every(groups))).abs().amax(dim=2)
    assert (moved > 0).tolist() == [[False] * 3, [False, False, True]]
    assert not embed.sees_hidden  # without statistics they need not pass


def test_every_parameter_learns():
    embed, groups = PointEmbed(3, 8), noise(2, 3, 5, 3, dtype=torch.float32)
    embed(groups, every(groups)).square().sum().backward()
    assert [name for name, p in embed.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_centre_codes_are_the_official_ones():
    reference = load("point_mae")
    code = CentreEmbed(48).double()
    state = reference.part("state/decoder_pos_embed.")
    code.load_state_dict({f"fc{1 + int(name[0]) // 2}{name[1:]}": tensor for name, tensor in state.items()})
    centres, decoded = reference.tensors["out/center"].double(), reference.tensors["trace/decoder.in"]
    hidden = reference.tensors["mask/mask"]
    made = code(Tokens(torch.zeros(2, 16, 1), centres))
    token = reference.tensors["state/mask_token"]
    assert ((made + token)[hidden] - decoded[:, 7:].flatten(0, 1)).abs().max() < 2e-6
    assert_close(code(Tokens(torch.zeros(2, 16, 1), centres[:1])), made[:1])


COMPILE = """
import torch
from mmim.layers.point_embed import PointEmbed
torch.manual_seed(0)
embed, groups, counted = PointEmbed(3, 8), torch.randn(2, 4, 5, 3), torch.tensor([[True] * 4, [False] * 4])
plain = PointEmbed(3, 8)
plain.load_state_dict(embed.state_dict())
made = torch.compile(embed, fullgraph=True, backend="aot_eager")(groups, counted)
torch.testing.assert_close(made, plain(groups, counted))
torch.testing.assert_close(embed.state_dict(), plain.state_dict())
"""


@pytest.mark.slow
def test_the_embedding_compiles_into_one_graph():
    # In a process of its own, since a graph can't hold the shape checks that pytest adds.
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=300)
