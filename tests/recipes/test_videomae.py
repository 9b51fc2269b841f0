"""Parity of the VideoMAE recipe with the official class and with transformers, and proof that it notices faults."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch import nn

from mmim.layers.patches import to_patches
from mmim.options import apply
from mmim.targets.pixels import Pixels
from tests.videomae import NormalisedVideo, Reference, build, errors, official, ours, redraw, toy

F64 = {"latent": 2e-6, "pred": 2e-6, "target": 2e-6, "loss": 2e-6}
F32 = {"latent": 2e-5, "pred": 2e-5, "target": 2e-4, "loss": 2e-5}  # tests/reference/README.md, "How to compare"


def huggingface(width, depth, heads, decoder, size, patch, frames) -> Reference:
    """transformers' VideoMAEForPreTraining with every parameter re-drawn; its two settings are those of trap 17."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    config = VideoMAEConfig(
        image_size=size,
        patch_size=patch,
        num_frames=frames,
        tubelet_size=2,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        decoder_hidden_size=decoder[0],
        decoder_num_hidden_layers=decoder[1],
        decoder_num_attention_heads=decoder[2],
        decoder_intermediate_size=4 * decoder[0],
        layer_norm_eps=1e-6,
        use_mean_pooling=False,
        norm_pix_loss=True,
        attn_implementation="eager",
    )
    model = VideoMAEForPreTraining(config).double().eval()
    redraw(model)
    model.decoder.norm.eps = 1e-6
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn(2, frames, 3, size, size, generator=generator, dtype=torch.float64)
    places = (size // patch) ** 2
    hidden = torch.stack([torch.rand(places, generator=generator).argsort() < int(0.75 * places) for _ in range(2)])
    mask = hidden.repeat(1, frames // 2)
    with torch.no_grad():
        out = model(clip, bool_masked_pos=mask)
        latent = model.videomae(clip, bool_masked_pos=mask).last_hidden_state
    ours_recipe = toy(
        NormalisedVideo, frames=frames, size=size, patch=patch, width=width, depth=depth, heads=heads, decoder=decoder
    )
    target = official_target(clip.transpose(1, 2), mask, patch)
    found = {"latent": latent, "pred": out.logits, "loss": out.loss, "target": target}
    return Reference(
        ours_recipe, huggingface_to_ours(model.state_dict(), depth, decoder[1]), clip.transpose(1, 2), mask, found
    )


def official_target(clip, mask, patch):
    """The target once more from its definition, with loops: transformers computes it inside and keeps it."""
    mean, std = torch.tensor((0.485, 0.456, 0.406)).double(), torch.tensor((0.229, 0.224, 0.225)).double()
    raw = clip * std.view(1, 3, 1, 1, 1) + mean.view(1, 3, 1, 1, 1)
    rows = []
    for sample, hidden in zip(raw, mask, strict=True):
        tokens = []
        for t in range(0, clip.shape[2], 2):
            for r in range(0, clip.shape[3], patch):
                for c in range(0, clip.shape[4], patch):
                    cube = sample[:, t : t + 2, r : r + patch, c : c + patch].reshape(3, -1)
                    normed = (cube - cube.mean(1, keepdim=True)) / (cube.var(1, keepdim=True).sqrt() + 1e-6)
                    tokens.append(normed.T.reshape(-1))
        rows.append(torch.stack(tokens)[hidden])
    return torch.stack(rows)


def huggingface_to_ours(state, depth, decoder_depth):
    """transformers' names to ours: separate q, k, v become one matrix."""
    renamed = {
        "trunk.embedders.video.proj.weight": state["videomae.embeddings.patch_embeddings.projection.weight"],
        "trunk.embedders.video.proj.bias": state["videomae.embeddings.patch_embeddings.projection.bias"],
        "decoders.video.embed.weight": state["encoder_to_decoder.weight"],
        "decoders.video.mask_token": state["mask_token"],
    }
    for ours_name, theirs in (
        ("trunk.encoder.norm", "videomae.layernorm"),
        ("decoders.video.norm", "decoder.norm"),
        ("decoders.video.heads.video", "decoder.head"),
    ):
        renamed |= {f"{ours_name}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    stacks = [
        ("trunk.encoder.blocks", "videomae.encoder.layer", depth),
        ("decoders.video.blocks", "decoder.decoder_layers", decoder_depth),
    ]
    for ours_name, theirs, count in stacks:
        for i in range(count):
            new, old = f"{ours_name}.{i}", f"{theirs}.{i}"
            attention = f"{old}.attention.attention"
            renamed[f"{new}.attn.qkv.weight"] = torch.cat(
                [state[f"{attention}.{part}.weight"] for part in ("query", "key", "value")]
            )
            renamed[f"{new}.attn.q_bias"] = state[f"{attention}.query.bias"]
            renamed[f"{new}.attn.v_bias"] = state[f"{attention}.value.bias"]
            for mine, other in (
                ("attn.proj", "attention.output.dense"),
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ):
                renamed |= {f"{new}.{mine}.{kind}": state[f"{old}.{other}.{kind}"] for kind in ("weight", "bias")}
    return renamed


REFERENCES = {
    "official": official,
    "transformers": lambda: huggingface(48, 3, 4, (32, 2, 2), size=32, patch=8, frames=16),
    "transformers-wider": lambda: huggingface(96, 2, 6, (48, 1, 3), size=64, patch=16, frames=8),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, F64), (torch.float32, F32)], ids=["float64", "float32"])
def test_equals_the_reference(name, dtype, allowed):
    reference = REFERENCES[name]()
    found = errors(reference, ours(build(reference, dtype), reference.clip.to(dtype), reference.mask))
    assert {part: error for part, error in found.items() if error > allowed[part]} == {}


def tanh_gelu(model):
    mlp = model.trunk.encoder.blocks[0].mlp
    mlp.forward = lambda x: mlp.fc2(nn.functional.gelu(mlp.fc1(x), approximate="tanh"))


def shift(parameter):
    with torch.no_grad():
        parameter[0] += 0.01


def one_place_on(positions):
    """Every token gets the position code of its neighbour: the frozen table, shifted by one row."""
    positions.register_forward_hook(lambda module, inputs, codes: codes.roll(1, dims=1))


MUTATIONS = {
    "encoder eps": lambda model: setattr(model.trunk.encoder.norm, "eps", 1e-5),
    "decoder eps": lambda model: setattr(model.decoders["video"].norm, "eps", 1e-5),
    "block eps": lambda model: setattr(model.trunk.encoder.blocks[1].norm2, "eps", 1e-5),
    "tanh gelu": tanh_gelu,
    "one bias": lambda model: shift(model.trunk.encoder.blocks[2].mlp.fc1.bias),
    "patch bias": lambda model: shift(model.trunk.embedders["video"].proj.bias),
    "q bias": lambda model: nn.init.zeros_(model.trunk.encoder.blocks[0].attn.q_bias),
    "v bias": lambda model: nn.init.zeros_(model.decoders["video"].blocks[0].attn.v_bias),
    "mask token": lambda model: shift(model.decoders["video"].mask_token[0, 0]),
    "head bias": lambda model: shift(model.decoders["video"].heads["video"].bias),
    "encoder positions": lambda model: one_place_on(model.trunk.positions["video"]),
    "decoder positions": lambda model: one_place_on(model.decoders["video"].positions["video"]),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_parity_notices_a_fault_in_the_model(mutation):
    reference = official()
    model = build(reference, torch.float64)
    MUTATIONS[mutation](model)
    found = errors(reference, ours(model, reference.clip.double(), reference.mask))
    assert any(error > F64[part] for part, error in found.items())


@pytest.mark.parametrize(
    "target",
    [
        Pixels(normalise="channel", eps_inside=True, units="raw"),
        Pixels(normalise="channel", eps_inside=False, units="normalised"),
        Pixels(normalise="token", eps_inside=False, units="raw"),
        Pixels(normalise="channel", eps_inside=False, units="raw", eps=1e-5),
        Pixels(),
    ],
    ids=["eps inside", "units", "statistics", "eps", "raw pixels"],
)
def test_parity_notices_a_fault_in_the_target(target):
    reference = official()
    reference = replace(reference, recipe=apply(reference.recipe, {"tasks.video.target": target}))
    found = errors(reference, ours(build(reference, torch.float64), reference.clip.double(), reference.mask))
    assert found["target"] > F64["target"]
    assert found["loss"] > F64["loss"]


def test_parity_notices_a_biased_variance(monkeypatch):
    reference, var_mean = official(), torch.var_mean
    monkeypatch.setattr(
        torch, "var_mean", lambda x, dim, correction, keepdim: var_mean(x, dim=dim, correction=0, keepdim=keepdim)
    )
    found = errors(reference, ours(build(reference, torch.float64), reference.clip.double(), reference.mask))
    assert found["target"] > F64["target"]


@pytest.mark.parametrize("order", ["t w h", "h w t", "w h t"])
def test_parity_notices_another_token_order(order, monkeypatch):
    reference = official()
    model = build(reference, torch.float64)
    patch = reference.recipe.modalities["video"].piece[1:]
    t, h, w = (s // p for s, p in zip(reference.clip.shape[2:], patch, strict=True))

    def permuted(data, patch):
        return rearrange(to_patches(data, patch), f"b (t h w) ... -> b ({order}) ...", t=t, h=h, w=w)

    monkeypatch.setattr("tests.videomae.to_patches", permuted)
    found = errors(reference, ours(model, reference.clip.double(), reference.mask))
    assert all(found[part] > F64[part] for part in ("latent", "pred", "target", "loss"))


def test_parity_notices_another_order_of_the_values_of_a_target(monkeypatch):
    values = Pixels.values
    monkeypatch.setattr(
        Pixels,
        "values",
        lambda self, *asked: rearrange(values(self, *asked), "b m (piece c) -> b m (c piece)", c=3),
    )
    reference = official()
    found = errors(reference, ours(build(reference, torch.float64), reference.clip.double(), reference.mask))
    assert found["latent"] <= F64["latent"]
    assert found["target"] > F64["target"]
    assert found["loss"] > F64["loss"]


def with_fused_bias(reference, key):
    """The reference with q, k and v biases in one vector, those of the keys drawn by `key`; VideoMAE has none."""
    recipe = apply(reference.recipe, {"encoder.bias": "qkv", "decoders.video.bias": "qkv"})
    weights = dict(reference.weights)
    for name in [name for name in weights if name.endswith("q_bias")]:
        q, v = weights.pop(name), weights.pop(name.replace("q_bias", "v_bias"))
        weights[name.replace("q_bias", "qkv.bias")] = torch.cat([q, key(q), v])
    return replace(reference, recipe=recipe, weights=weights)


def test_a_bias_of_the_keys_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    reference = with_fused_bias(official(), lambda bias: torch.randn(bias.shape, generator=generator))
    assert len({name for name in reference.weights if name.endswith("qkv.bias")}) == 5
    found = errors(reference, ours(build(reference, torch.float64), reference.clip.double(), reference.mask))
    assert {part: error for part, error in found.items() if error > F64[part]} == {}


def test_parity_notices_biases_of_queries_and_values_exchanged():
    reference = with_fused_bias(official(), torch.zeros_like)
    swapped = {
        name: torch.cat(list(reversed(bias.chunk(3)))) if name.endswith("qkv.bias") else bias
        for name, bias in reference.weights.items()
    }
    reference = replace(reference, weights=swapped)
    found = errors(reference, ours(build(reference, torch.float64), reference.clip.double(), reference.mask))
    assert found["latent"] > F64["latent"]


@pytest.mark.parametrize(
    ("frames", "size", "patch", "ratio", "hidden"),
    [(16, 224, 16, 0.9, 1408), (16, 224, 16, 0.75, 1176), (16, 32, 8, 0.9, 112)],
)
def test_hides_as_many_tokens_as_the_paper(frames, size, patch, ratio, hidden):
    recipe = toy(
        frames=frames, size=size, patch=patch, ratio=ratio
    )  # fact sheet 2.2: int(0.9 * 196) = 176 per frame, 8 tubelets
    tokens = recipe.modalities["video"].tokenize(recipe.modalities["video"].blank()[None])
    group = recipe.masking["video"].group(tokens)
    assert tokens.count - recipe.budget.num_keep(tokens.count, tokens.grid, group) == hidden


@pytest.mark.parametrize(("size", "millions"), [("base", 94.21)])
def test_has_as_many_parameters_as_the_paper(size, millions):
    from mmim.model import MaskedModel
    from recipes.videomae import SIZES, VIDEOMAE

    with torch.device("meta"):
        model = MaskedModel(apply(VIDEOMAE, SIZES[size]))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)  # fact sheet 3.3
