"""Point-MAE's weights, as its code writes them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal, cast

from torch import Tensor

from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError
from mmim.interop.converter import Importer, Options, Setting
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import bias_of, block_names, mlp_ratio, move_affine, move_blocks, read_heads
from mmim.masking.budget import Ratio
from mmim.model import Method
from mmim.targets.chamfer import Chamfer
from modalities.points import Points
from recipes.pointmae import POINTMAE

HEADS = {384: 6}
"""Of the published encoder and decoder, by width."""
LOSSES: Mapping[str, Literal["l1", "l2"]] = {"cdl1": "l1", "cdl2": "l2"}
"""What the official configuration calls them."""
POINT_MLPS = {"first_conv": "first", "second_conv": "second"}


class PointMAEImporter(Importer):
    """From the official Point-MAE (github.com/Pang-Yatian/Point-MAE), with or without a decoder."""

    about: ClassVar[str] = "Official Point-MAE: point clouds in groups, with or without the decoder."
    settings: ClassVar[Mapping[str, Setting]] = {
        "points": Setting(int, "N (points of a cloud; default: the published 1024)"),
        "groups": Setting(int, "N (groups of a cloud; default: the published 64)"),
        "group_size": Setting(int, "N (points of a group, where there is no decoder; default: the published 32)"),
        "loss": Setting(Literal["cdl1", "cdl2"], "cdl1 or cdl2 (as trained; default: the published cdl2)"),
    }

    def spelling(self, name: str) -> str:
        return name.removeprefix("MAE_encoder.")

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        channels = ledger.shape("encoder.first_conv.0.weight", 3)[1]
        if channels != 3:
            raise CheckpointError(f"Point-MAE sees x, y and z, and this file {channels} channels of a point.")
        (width,) = ledger.shape("norm.weight", 1)
        block = "blocks.blocks.0."  # sic
        encoder = replace(
            cast("JointEncoder", POINTMAE.encoder),
            width=width,
            depth=ledger.count("blocks.blocks."),
            heads=read_heads(ledger, options, width, HEADS),
            bias=bias_of(ledger, block),
            mlp_ratio=mlp_ratio(ledger, block),
        )
        _move_embedder(ledger)
        _move_centres(ledger, "trunk.positions.points", "pos_embed")
        names = block_names(encoder.bias)
        move_blocks(ledger, "trunk.encoder.blocks.", "blocks.blocks.", encoder.depth, names)
        move_affine(ledger, "trunk.encoder.norm", "norm")
        decoder = _decoder(ledger, options) if "mask_token" in ledger else None
        return _method(ledger, options, encoder, decoder)


def _move_embedder(ledger: Ledger) -> None:
    """The two point MLPs; their convolutions over one point are linear maps."""
    for theirs, ours in POINT_MLPS.items():
        new, old = f"trunk.embedders.points.{ours}.", f"encoder.{theirs}."
        for layer, number in (("fc1", 0), ("fc2", 3)):
            ledger.move(f"{new}{layer}.weight", f"{old}{number}.weight", _linear)
            ledger.move(f"{new}{layer}.bias", f"{old}{number}.bias")
        for name in ("weight", "bias", "running_mean", "running_var"):
            ledger.move(f"{new}norm.{name}", f"{old}1.{name}")
        ledger.move_count(f"{new}norm.num_batches_tracked", f"{old}1.num_batches_tracked")


def _move_centres(ledger: Ledger, new: str, old: str) -> None:
    """The MLP of the centres."""
    for layer, number in (("fc1", 0), ("fc2", 2)):
        move_affine(ledger, f"{new}.{layer}", f"{old}.{number}")


def _linear(weight: Tensor) -> Tensor:
    """The matrix of a convolution over one point."""
    return weight.flatten(1)


def _decoder(ledger: Ledger, options: Options) -> SelfAttentionDecoder:
    width, block = ledger.shape("mask_token", 3)[2], "MAE_decoder.blocks.0."
    decoder = replace(
        cast("SelfAttentionDecoder", POINTMAE.decoders["points"]),
        width=width,
        depth=ledger.count("MAE_decoder.blocks."),
        heads=read_heads(ledger, options, width, HEADS, "decoder"),
        bias=bias_of(ledger, block),
        mlp_ratio=mlp_ratio(ledger, block),
    )
    new = "decoders.points."
    ledger.move(f"{new}mask_token", "mask_token")
    _move_centres(ledger, f"{new}positions.points", "decoder_pos_embed")
    move_blocks(ledger, f"{new}blocks.", "MAE_decoder.blocks.", decoder.depth, block_names(decoder.bias))
    move_affine(ledger, f"{new}norm", "MAE_decoder.norm")
    ledger.move(f"{new}heads.points.weight", "increase_dim.0.weight", _linear)
    ledger.move(f"{new}heads.points.bias", "increase_dim.0.bias")
    return decoder


def _method(ledger: Ledger, options: Options, encoder: JointEncoder, decoder: SelfAttentionDecoder | None) -> Method:
    """The recipe's method at the file's sizes; what no shape tells is as published, or as asked for."""
    points, budget = cast("Points", POINTMAE.modalities["points"]), cast("Ratio", POINTMAE.budget)
    names = ("points", "groups", "group_size") if decoder is None else ("points", "groups")
    given = {name: options.get(name) for name in names}
    sizes = {name: getattr(points, name) if value is None else value for name, value in given.items()}
    if decoder is not None:
        sizes["group_size"] = ledger.shape("increase_dim.0.weight", 3)[0] // 3
    loss = options.get("loss") or "cdl2" if decoder is not None else None
    told = ", ".join(f"{name}={value}" for name, value in (sizes | ({"loss": loss} if loss else {})).items())
    ledger.remarks.append(f"clouds with {told}, as published where the file and --set say nothing")
    tasks = {}
    if loss is not None:
        tasks = {"points": replace(POINTMAE.tasks["points"], target=Chamfer(norm=LOSSES[loss]))}
    return Method(
        modalities={"points": replace(points, **sizes)},
        masking=POINTMAE.masking,
        budget=replace(budget, ratio=options.need("ratio", budget.ratio, "the ratio")),
        corruption=POINTMAE.corruption,
        encoder=encoder,
        decoders={} if decoder is None else {"points": decoder},
        tasks=tasks,
        objective={} if decoder is None else POINTMAE.objective,
    )
