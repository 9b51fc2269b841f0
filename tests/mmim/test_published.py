"""Published systems that have no recipe yet, put together from our parts: BEiT, I-JEPA."""

import pytest
import torch
from torch.nn import functional as F

from mmim.corruption.mask_token import MaskToken
from mmim.decoders.decoder import Query
from mmim.decoders.linear import LinearDecoder
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.encoder import Trunk
from mmim.encoders.joint import JointEncoder
from mmim.records import Split
from tests.parity import F64, NormalisedImage, beyond, load, shift, split_of, tanh_gelu, worst
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
