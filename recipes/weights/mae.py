"""MAE's weights, as its code writes them."""

from collections.abc import Mapping
from typing import ClassVar

from mmim.decoders.local_attention import LocalAttentionDecoder
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError
from mmim.interop.converter import Importer, Options, Setting
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import (
    Table,
    bias_of,
    block_names,
    final_norm,
    mlp_ratio,
    move_affine,
    move_blocks,
    move_class_token,
    move_ends,
    read_grids,
    read_heads,
    read_positions,
    square_patch,
)
from mmim.model import Method
from recipes.mae import MAE
from recipes.weights.pixels import RAW_PIXELS, method_of, pictures

DECODER_HEADS = {512: 16}
"""Of the published decoders, by width."""
ENDS = ("mask_token", "decoder_embed", "decoder_norm", "decoder_pred")
"""What the file calls a decoder's parts beside its blocks."""


class MAEImporter(Importer):
    """From the official MAE (github.com/facebookresearch/mae), with or without a decoder."""

    about: ClassVar[str] = "Official MAE: images, ViT encoder, with or without the decoder."
    settings: ClassVar[Mapping[str, Setting]] = RAW_PIXELS

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        width, channels, *_ = shape = ledger.shape("patch_embed.proj.weight", 4)
        if channels != 3:
            raise CheckpointError(f"MAE sees 3 colours, and this file {channels} channels: is it --from audiomae?")
        patch, rows = square_patch(shape), ledger.shape("pos_embed", 3)[1]
        grids = read_grids(rows - 1, patch, options, {})
        decoder = read_decoder(ledger, options) if "decoder_embed.weight" in ledger else None
        image = pictures(patch)
        positions, row = read_positions(ledger, tables(width, decoder, "image"), ["sincos"], image, grids, True)
        move_class_token(ledger, "cls_token", row)
        move_affine(ledger, "trunk.embedders.image.proj", "patch_embed.proj")
        encoder = read_encoder(ledger, width, options)
        if decoder is not None:
            move_decoder(ledger, decoder, "image")
        chosen, told = image(positions, grids.asked), weights.settings
        ratio, normalised = told.get("mask_ratio"), told.get("norm_pix_loss")
        return method_of(MAE, chosen, encoder, decoder, ledger, options, ratio=ratio, normalised=normalised)


def tables(width: int, decoder: SelfAttentionDecoder | LocalAttentionDecoder | None, modality: str) -> list[Table]:
    """MAE's position tables."""
    found = [Table("pos_embed", f"trunk.positions.{modality}.table", width)]
    if decoder is not None:
        found.append(Table("decoder_pos_embed", f"decoders.{modality}.positions.{modality}.table", decoder.width))
    return found


def read_encoder(ledger: Ledger, width: int, options: Options) -> JointEncoder:
    """A ViT under MAE's names, with a class token."""
    depth, bias = ledger.count("blocks."), bias_of(ledger, "blocks.0.")
    heads, ratio = read_heads(ledger, options, width), mlp_ratio(ledger, "blocks.0.")
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
    heads = read_heads(ledger, options, width, DECODER_HEADS, "decoder")
    first = "decoder_blocks.0."
    depth, bias, ratio = ledger.count("decoder_blocks."), bias_of(ledger, first), mlp_ratio(ledger, first)
    return SelfAttentionDecoder(width=width, depth=depth, heads=heads, bias=bias, mlp_ratio=ratio)


def move_decoder(ledger: Ledger, decoder: SelfAttentionDecoder, name: str) -> None:
    """MAE's decoder to ours."""
    move_blocks(ledger, f"decoders.{name}.blocks.", "decoder_blocks.", decoder.depth, block_names(decoder.bias))
    move_ends(ledger, name, ENDS)
