"""Audio-MAE's weights, as its code writes them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast

from mmim.decoders.local_attention import LocalAttentionDecoder
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.errors import CheckpointError
from mmim.interop.converter import Importer, Options, Setting
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import (
    Grid,
    block_names,
    mlp_ratio,
    move_affine,
    move_blocks,
    move_class_token,
    move_ends,
    read_grids,
    read_positions,
    square_patch,
)
from mmim.layers.positions import MapPositions
from mmim.model import Method
from modalities.audio import Audio
from recipes.audiomae import AUDIOMAE
from recipes.weights.mae import ENDS, move_decoder, read_decoder, read_encoder, tables
from recipes.weights.pixels import RAW_PIXELS, method_of

GRIDS: dict[int, Grid] = {512: (64, 8)}
"""Of AudioSet's 1024 frames and 128 bands, by the number of tokens."""
KINDS = ("sincos_transposed", "sincos")
"""Trap: the official code lays the table out for the transposed grid, unless its patches overlap."""


class AudioMAEImporter(Importer):
    """From the official Audio-MAE (github.com/facebookresearch/AudioMAE), with either decoder or none."""

    about: ClassVar[str] = "Official Audio-MAE: spectrograms, ViT encoder, plain or local-attention decoder or none."
    settings: ClassVar[Mapping[str, Setting]] = RAW_PIXELS

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        width, channels, *_ = shape = ledger.shape("patch_embed.proj.weight", 4)
        if channels != 1:
            raise CheckpointError(f"Audio-MAE sees 1 channel, and this file has {channels}: is it --from mae?")
        patch, rows = square_patch(shape), ledger.shape("pos_embed", 3)[1]
        grids = read_grids(rows - 1, patch, options, GRIDS)
        decoder = _read_decoder(ledger, options) if "decoder_embed.weight" in ledger else None

        def audio(positions: str, grid: Grid) -> Audio:
            chosen = cast("MapPositions", positions)
            return replace(
                cast("Audio", AUDIOMAE.modalities["audio"]),
                frames=grid[0] * patch,
                mel=grid[1] * patch,
                patch=patch,
                positions=chosen,
                padding="zeros",  # as the weights were trained
            )

        positions, row = read_positions(ledger, tables(width, decoder, "audio"), KINDS, audio, grids, True)
        move_class_token(ledger, "cls_token", row)
        move_affine(ledger, "trunk.embedders.audio.proj", "patch_embed.proj")
        encoder = read_encoder(ledger, width, options)
        if isinstance(decoder, SelfAttentionDecoder):
            move_decoder(ledger, decoder, "audio")
        elif decoder is not None:
            _move_local_decoder(ledger, decoder)
        chosen, told = audio(positions, grids.asked), weights.settings
        ratio, normalised = told.get("mask_ratio"), told.get("norm_pix_loss")
        return method_of(AUDIOMAE, chosen, encoder, decoder, ledger, options, ratio=ratio, normalised=normalised)


def _read_decoder(ledger: Ledger, options: Options) -> SelfAttentionDecoder | LocalAttentionDecoder:
    """The plain decoder ("decoder_mode 0"), or the one whose attention has a temperature ("decoder_mode 1")."""
    first = "decoder_blocks.0."
    if f"{first}attn.tau" not in ledger:
        return read_decoder(ledger, options)
    return LocalAttentionDecoder(
        width=ledger.shape("decoder_embed.weight", 2)[0],
        depth=ledger.count("decoder_blocks."),
        heads=ledger.shape(f"{first}attn.tau", 1)[0],
        mlp_ratio=mlp_ratio(ledger, first),
        bias_width=ledger.shape(f"{first}attn.meta_mlp.fc1.weight", 2)[0],
    )


def _move_local_decoder(ledger: Ledger, decoder: LocalAttentionDecoder) -> None:
    extra = ("attn.tau", *(f"attn.meta_mlp.{layer}.{name}" for layer in ("fc1", "fc2") for name in ("weight", "bias")))
    move_blocks(ledger, "decoders.audio.blocks.", "decoder_blocks.", decoder.depth, block_names("qkv", *extra))
    move_ends(ledger, "audio", ENDS)
