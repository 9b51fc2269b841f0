"""MAE's weights, as its code writes them."""

from dataclasses import replace
from typing import ClassVar, cast

from mmim.decoders.decoder import Decoder
from mmim.decoders.local_attention import LocalAttentionDecoder
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError
from mmim.interop.converter import Importer, Options
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import (
    HEADS,
    Grid,
    Table,
    bias_of,
    block_names,
    final_norm,
    mlp_ratio,
    move_affine,
    move_blocks,
    move_class_token,
    pixels_normalised,
    read_grids,
    read_positions,
    square_patch,
)
from mmim.layers.positions import MapPositions
from mmim.masking.budget import Ratio
from mmim.modality import Modality
from mmim.model import Method
from mmim.targets.pixels import Pixels
from modalities.image import Image
from recipes.mae import MAE

DECODER_HEADS = {512: 16}
"""Of the published decoders, by width."""


class MAEImporter(Importer):
    """From the official MAE (github.com/facebookresearch/mae), with or without a decoder."""

    about: ClassVar[str] = "Official MAE: images, ViT encoder, with or without the decoder."

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        width, channels, *_ = shape = ledger.shape("patch_embed.proj.weight", 4)
        if channels != 3:
            raise CheckpointError(f"MAE sees 3 colours, and this file {channels} channels: is it --from audiomae?")
        patch, rows = square_patch(shape), ledger.shape("pos_embed", 3)[1]
        grids = read_grids(rows - 1, patch, options, {})
        decoder = read_decoder(ledger, options) if "decoder_embed.weight" in ledger else None

        def image(positions: str, grid: Grid) -> Image:
            size = (grid[0] * patch, grid[1] * patch)
            chosen = cast("MapPositions", positions)
            return replace(cast("Image", MAE.modalities["image"]), size=size, patch=patch, positions=chosen)

        positions, row = read_positions(ledger, tables(width, decoder, "image"), ["sincos"], image, grids, True)
        move_class_token(ledger, "cls_token", row)
        move_affine(ledger, "trunk.embedders.image.proj", "patch_embed.proj")
        encoder = read_encoder(ledger, width, options)
        if decoder is not None:
            move_decoder(ledger, decoder, "image")
        return method_of(MAE, image(positions, grids.asked), encoder, decoder, ledger, weights, options)


def tables(width: int, decoder: SelfAttentionDecoder | LocalAttentionDecoder | None, modality: str) -> list[Table]:
    """MAE's position tables."""
    found = [Table("pos_embed", f"trunk.positions.{modality}.table", width)]
    if decoder is not None:
        found.append(Table("decoder_pos_embed", f"decoders.{modality}.positions.{modality}.table", decoder.width))
    return found


def read_encoder(ledger: Ledger, width: int, options: Options) -> JointEncoder:
    """A ViT under MAE's names, with a class token."""
    depth, bias = ledger.count("blocks."), bias_of(ledger, "blocks.0.")
    heads = options.need("heads", HEADS.get(width), f"the heads of an encoder of width {width}")
    ratio = mlp_ratio(ledger, "blocks.0.")
    move_blocks(ledger, "trunk.encoder.blocks.", "blocks.", depth, block_names(bias))
    return JointEncoder(
        width=width,
        depth=depth,
        heads=heads,
        bias=bias,
        mlp_ratio=ratio,
        final_norm=final_norm(ledger, "norm"),
        global_tokens=1,
    )


def read_decoder(ledger: Ledger, options: Options) -> SelfAttentionDecoder:
    """The configuration of MAE's decoder."""
    width, _ = ledger.shape("decoder_embed.weight", 2)
    known = DECODER_HEADS.get(width)
    heads = options.need("decoder_heads", known, f"the heads of a decoder of width {width}")
    first = "decoder_blocks.0."
    depth, bias, ratio = ledger.count("decoder_blocks."), bias_of(ledger, first), mlp_ratio(ledger, first)
    return SelfAttentionDecoder(width=width, depth=depth, heads=heads, bias=bias, mlp_ratio=ratio)


def move_decoder(ledger: Ledger, decoder: SelfAttentionDecoder, name: str) -> None:
    """MAE's decoder to ours."""
    move_blocks(ledger, f"decoders.{name}.blocks.", "decoder_blocks.", decoder.depth, block_names(decoder.bias))
    move_rest_of_decoder(ledger, name)


def move_rest_of_decoder(ledger: Ledger, name: str) -> None:
    """All of it but the blocks."""
    ledger.move(f"decoders.{name}.mask_token", "mask_token")
    for new, old in ((f"heads.{name}", "decoder_pred"), ("embed", "decoder_embed"), ("norm", "decoder_norm")):
        move_affine(ledger, f"decoders.{name}.{new}", old)


def method_of(
    recipe: Method,
    modality: Modality,
    encoder: JointEncoder,
    decoder: Decoder | None,
    ledger: Ledger,
    weights: Weights,
    options: Options,
) -> Method:
    """A recipe's method with what was read off a file; the arguments in the file say how it was trained."""
    (name,) = recipe.modalities
    told = weights.settings.get("mask_ratio")
    known = told if isinstance(told, float) else cast("Ratio", recipe.budget).ratio
    budget = replace(cast("Ratio", recipe.budget), ratio=options.need("ratio", known, "the ratio"))
    tasks = {}
    if decoder is not None:
        normalised = pixels_normalised(ledger, options, weights.settings.get("norm_pix_loss"))
        target = replace(cast("Pixels", recipe.tasks[name].target), normalise="token" if normalised else "none")
        tasks = {name: replace(recipe.tasks[name], target=target)}
    return Method(
        modalities={name: modality},
        masking=recipe.masking,
        budget=budget,
        encoder=encoder,
        decoders={} if decoder is None else {name: decoder},
        tasks=tasks,
        objective={} if decoder is None else recipe.objective,
    )
