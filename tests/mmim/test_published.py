"""Published systems that have no recipe yet, put together from our parts: BEiT, OmniMAE, I-JEPA."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mmim.corruption.mask_token import MaskToken
from mmim.decoders.decoder import Query
from mmim.decoders.linear import LinearDecoder
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.encoder import Trunk
from mmim.encoders.joint import JointEncoder
from mmim.masking.random import RandomMasking
from mmim.model import MaskedModel
from mmim.options import apply
from mmim.records import Split
from mmim.targets.pixels import Pixels
from recipes.videomae import VIDEOMAE
from tests.parity import F64, NormalisedImage, NormalisedVideo, beyond, load, run, shift, split_of, tanh_gelu, worst
from tests.toy import branch
from tests.videomae import float64

EVERYBODY = {"image": torch.ones(3, dtype=torch.bool)}


def renamed(state, table):
    """Tensors under new prefixes; every one must have one."""
    found = {}
    for name, tensor in state.items():
        old = max((old for old in table if name.startswith(old)), key=len)
        if table[old] is not None:
            found[table[old] + name.removeprefix(old)] = tensor
    return found


def filled(module, state):
    """The module in float64 with these weights, every one of them."""
    module.load_state_dict(state, strict=True)
    return module.double().eval()


def beit():
    """The official weights in our parts, and the reference."""
    reference = load("beit")
    config, state = reference.config, reference.part("state/")
    modality = NormalisedImage(size=(32, 32), patch=8, positions="none")
    encoder = JointEncoder(
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        bias="qv",
        global_tokens=1,
        relative_bias=True,
        layer_scale=0.1,
    )
    table = {
        "cls_token": "encoder.global_tokens",
        "mask_token": "corruption.image.mask_token",
        "patch_embed.": "embedders.image.",
        "blocks.": "encoder.blocks.",
        "norm.": "encoder.norm.",
        "rel_pos_bias.relative_position_bias_table": "encoder.relative.table",
        "rel_pos_bias.relative_position_index": None,  # its own test: tests/mmim/layers/test_relative.py
        "lm_head.": None,
    }
    trunk = filled(Trunk({"image": modality}, encoder, {"image": MaskToken()}), renamed(state, table))
    head = LinearDecoder().build({"image": modality}, encoder, {"codes": ("image", config["vocab_size"])})
    head = filled(head, {f"heads.codes.{kind}": state[f"lm_head.{kind}"] for kind in ("weight", "bias")})
    return trunk, head, reference


def beit_errors(trunk, head, reference):
    with float64(), torch.no_grad():
        tokens = NormalisedImage(size=(32, 32), patch=8).tokenize(reference.tensors["input/image"].double())
        split = split_of(reference.tensors["mask/mask"])
        visible = branch(trunk, "image", tokens, split)
        latents = trunk.encoder.joint({"image": visible}, (("image", 16),), EVERYBODY)
        query = Query(tokens, split.ids_masked, split.masked_valid)
        logits = head(latents, {"image": tokens}, {"image": query})["codes"]
        masked = torch.cat([row[valid] for row, valid in zip(logits, split.masked_valid, strict=True)])
        labels = reference.tensors["input/labels"].gather(1, split.ids_masked)[split.masked_valid]
        per_token = F.cross_entropy(masked, labels, reduction="none")
        found = {
            "latent": torch.cat([latents.globals, latents.values], dim=1),
            "logits": masked,
            "loss_per_token": per_token,
            "loss": per_token.mean(),
        }
        return worst(found, reference.part("out/"))


def test_beit_gives_the_official_logits_and_loss():
    assert beyond(beit_errors(*beit()), F64) == {}


@pytest.mark.parametrize(
    "mutation",
    [
        lambda trunk: tanh_gelu(trunk.encoder.blocks[2]),
        lambda trunk: shift(trunk.encoder.relative.table),
        lambda trunk: shift(trunk.corruption["image"].mask_token),
        lambda trunk: setattr(trunk.encoder.norm, "eps", 1e-5),
        lambda trunk: shift(trunk.encoder.blocks[0].gamma_1),
    ],
    ids=["tanh gelu", "relative bias", "mask token", "eps", "layer scale"],
)
def test_parity_with_beit_notices_a_fault(mutation):
    trunk, head, reference = beit()
    mutation(trunk)
    assert beyond(beit_errors(trunk, head, reference), F64)


def omnimae(frames):
    """One set of weights, for clips of so many frames; a picture is a clip of two."""
    reference = load("omnimae")
    config, state = reference.config, reference.part("state/")
    video = NormalisedVideo(frames=frames, size=config["img_size"], patch=8, tubelet=2, stride=1)
    recipe = replace(VIDEOMAE, modalities={"video": video}, masking={"video": RandomMasking()})
    width, heads = config["decoder"]["embed_dim"], config["decoder"]["num_heads"]
    decoder = SelfAttentionDecoder(
        width=width, depth=config["decoder"]["depth"], heads=heads, bias="none", project="last"
    )
    recipe = apply(
        recipe,
        {
            "encoder": JointEncoder(width=config["embed_dim"], depth=config["depth"], heads=config["num_heads"]),
            "decoders.video": decoder,
            "tasks.video.target": Pixels(normalise="channel", eps_inside=True, units="raw"),
        },
    )
    table = {
        "trunk.patch_embed.proj.1.": "trunk.embedders.video.proj.",
        "trunk.blocks.": "trunk.encoder.blocks.",
        "trunk.norm.": "trunk.encoder.norm.",
        "trunk.mask_token": "decoders.video.mask_token",
        "trunk.decoder.decoder_embed.": "decoders.video.embed.",
        "trunk.decoder.decoder_blocks.": "decoders.video.blocks.",
        "trunk.decoder.norm.": "decoders.video.norm.",
        "trunk.pos_embed": None,
        "trunk.decoder.pos_embed": None,
        "head.": "decoders.video.heads.video.",
    }
    weights = renamed(state, table)
    weights["decoders.video.mask_token"] = weights["decoders.video.mask_token"][None]
    model = MaskedModel(recipe)
    model.load_state_dict(weights, strict=True)
    return model.double().eval(), reference


def omnimae_errors(kind, model, reference):
    with float64(), torch.no_grad():
        data, hidden = reference.tensors[f"input/{kind}"].double(), reference.tensors[f"mask/{kind}"].flatten(1)
        data = data[:, :, None].expand(-1, -1, 2, -1, -1) if kind == "image" else data
        split = split_of(hidden)
        step, loss = run(model, "video", data, split)
        expected = {f"{name}": reference.tensors[f"out/{name}_{kind}"] for name in ("latent", "pred", "target", "loss")}
        rows = torch.arange(len(hidden))[:, None]
        expected |= {name: expected[name][rows, split.ids_masked] for name in ("pred", "target")}
        found = {"latent": step.latents().values, "pred": step.prediction("video"), "target": step.target("video")}
        return worst({**found, "loss": loss}, expected)


@pytest.mark.parametrize(("kind", "frames"), [("clip", 8), ("image", 2), ("image", 8)])
def test_omnimae_gives_the_official_numbers_for_pictures_and_clips(kind, frames):
    assert beyond(omnimae_errors(kind, *omnimae(frames)), F64) == {}


def test_omnimaes_tables_are_ours():
    model, reference = omnimae(8)
    video = model.method.modalities["video"]
    with float64():
        tokens = video.tokenize(reference.tensors["input/clip"].double())
        for position, name in ((model.trunk.positions, "trunk"), (model.decoders["video"].positions, "trunk.decoder")):
            table = reference.tensors[f"state/{name}.pos_embed"].double()
            assert_close(position["video"](tokens), table, rtol=0, atol=1e-6)


def test_parity_with_omnimae_notices_shifted_positions_in_the_decoder():
    model, reference = omnimae(8)
    decoder = model.decoders["video"]
    decoder.positions["video"].register_forward_hook(lambda module, inputs, codes: codes.roll(1, dims=1))
    assert "pred" in beyond(omnimae_errors("clip", model, reference), F64)


def ijepa():
    """Encoder, predictor and target encoder."""
    reference = load("ijepa")
    config = reference.config
    modality = NormalisedImage(size=(64, 64), patch=8)
    encoder = JointEncoder(width=config["embed_dim"], depth=config["depth"], heads=config["num_heads"])
    table = {
        "patch_embed.": "embedders.image.",
        "blocks.": "encoder.blocks.",
        "norm.": "encoder.norm.",
        "pos_embed": None,
    }
    trunks = [
        filled(Trunk({"image": modality}, encoder), renamed(reference.part(f"state/{name}."), table))
        for name in ("encoder", "target_encoder")
    ]
    width, depth, heads = (config["predictor"][name] for name in ("embed_dim", "depth", "num_heads"))
    predictor = SelfAttentionDecoder(width=width, depth=depth, heads=heads).build(
        {"image": modality}, encoder, {"features": ("image", config["embed_dim"])}
    )
    names = {
        "predictor_embed.": "embed.",
        "mask_token": "mask_token",
        "predictor_blocks.": "blocks.",
        "predictor_norm.": "norm.",
        "predictor_proj.": "heads.features.",
        "predictor_pos_embed": None,
    }
    return *trunks, filled(predictor, renamed(reference.part("state/predictor."), names)), reference


def ijepa_errors(trunk, teacher, predictor, reference):
    with float64(), torch.no_grad():
        tokens = NormalisedImage(size=(64, 64), patch=8).tokenize(reference.tensors["input/image"].double())

        def encoded(trunk, ids):
            visible = branch(trunk, "image", tokens, Split(ids, ids[:, :0]))
            return trunk.encoder.joint({"image": visible}, (("image", 64),), EVERYBODY)

        latents = encoded(trunk, reference.tensors["mask/context"])
        features = encoded(teacher, torch.arange(64).expand(3, -1)).values
        blocks = [reference.tensors[f"mask/target.{i}"] for i in range(reference.settings["targets"])]
        predictions = [
            predictor(latents, {"image": tokens}, {"image": Query(tokens, block)})["features"] for block in blocks
        ]
        normed = F.layer_norm(features, features.shape[-1:])
        targets = [normed.gather(1, block[..., None].expand(-1, -1, normed.shape[-1])) for block in blocks]
        pred, target = torch.cat(predictions), torch.cat(targets)
        per_row = F.smooth_l1_loss(pred, target, reduction="none").mean(dim=-1)
        found = {
            "latent": latents.values,
            "target_features": features,
            "target": target,
            "pred": pred,
            "loss_per_row": per_row,
            "loss": per_row.mean(),
        }
        return worst(found, reference.part("out/"))


def test_ijepa_gives_the_official_predictions_and_loss():
    assert beyond(ijepa_errors(*ijepa()), F64) == {}


def test_parity_with_ijepa_notices_a_fault_in_the_predictor():
    trunk, teacher, predictor, reference = ijepa()
    shift(predictor.mask_token)
    assert beyond(ijepa_errors(trunk, teacher, predictor, reference), F64)
