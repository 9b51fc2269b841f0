"""VideoMAE's weights, as its code writes them."""

from dataclasses import replace
from typing import ClassVar, cast

from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError, OptionError
from mmim.interop.converter import Importer, Options
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import (
    HEADS,
    bias_of,
    block_names,
    final_norm,
    mlp_ratio,
    move_affine,
    move_blocks,
    pixels_normalised,
    square_patch,
)
from mmim.masking.budget import Ratio
from mmim.model import Method
from mmim.targets.pixels import Pixels
from modalities.video import Video
from recipes.videomae import VIDEOMAE

DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}
"""Of the published decoders, by width."""
SIZE = (224, 224)
"""Height and width of the published encoders' frames; the file holds no positions that would tell."""


class VideoMAEImporter(Importer):
    """From the official VideoMAE (github.com/MCG-NJU/VideoMAE), with or without a decoder."""

    about: ClassVar[str] = "Official VideoMAE: clips, ViT encoder, with or without the decoder."

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        prefix = "encoder." if "encoder.patch_embed.proj.weight" in ledger else ""
        width, _, tubelet, *_ = shape = ledger.shape(f"{prefix}patch_embed.proj.weight", 5)
        if shape[1] != 3:
            raise CheckpointError(f"VideoMAE sees 3 colours, and this file {shape[1]} channels.")
        video = replace(
            cast("Video", VIDEOMAE.modalities["video"]),
            size=_side(options, width),
            patch=square_patch(shape),
            tubelet=tubelet,
        )
        block = f"{prefix}blocks.0."
        encoder = JointEncoder(
            width=width,
            depth=ledger.count(f"{prefix}blocks."),
            heads=options.need("heads", HEADS.get(width), f"the heads of an encoder of width {width}"),
            bias=bias_of(ledger, block),
            mlp_ratio=mlp_ratio(ledger, block),
            final_norm=final_norm(ledger, f"{prefix}norm"),
        )
        move_affine(ledger, "trunk.embedders.video.proj", f"{prefix}patch_embed.proj")
        names = block_names(encoder.bias)
        move_blocks(ledger, "trunk.encoder.blocks.", f"{prefix}blocks.", encoder.depth, names)
        decoder = _decoder(ledger, options) if "encoder_to_decoder.weight" in ledger else None
        return _method(video, encoder, decoder, ledger, weights, options)


def _side(options: Options, width: int) -> int:
    """The side of a frame."""
    size: tuple[int, int] = options.need("size", SIZE if width in HEADS else None, "the size of a frame")
    if size[0] != size[1]:
        raise OptionError(f"--size {size[0]} {size[1]} is not square, and our clips are: give the side twice.")
    return size[0]


def _decoder(ledger: Ledger, options: Options) -> SelfAttentionDecoder:
    width, _ = ledger.shape("encoder_to_decoder.weight", 2)
    block = "decoder.blocks.0."
    decoder = SelfAttentionDecoder(
        width=width,
        depth=ledger.count("decoder.blocks."),
        heads=options.need("decoder_heads", DECODER_HEADS.get(width), f"the heads of a decoder of width {width}"),
        bias=bias_of(ledger, block),
        mlp_ratio=mlp_ratio(ledger, block),
        embed_bias="encoder_to_decoder.bias" in ledger,
    )
    move_blocks(ledger, "decoders.video.blocks.", "decoder.blocks.", decoder.depth, block_names(decoder.bias))
    _move_rest_of_decoder(ledger, decoder)
    return decoder


def _move_rest_of_decoder(ledger: Ledger, decoder: SelfAttentionDecoder) -> None:
    """All of it but the blocks."""
    ledger.move("decoders.video.mask_token", "mask_token")
    ledger.move("decoders.video.embed.weight", "encoder_to_decoder.weight")
    if decoder.embed_bias:
        ledger.move("decoders.video.embed.bias", "encoder_to_decoder.bias")
    move_affine(ledger, "decoders.video.norm", "decoder.norm")
    move_affine(ledger, "decoders.video.heads.video", "decoder.head")


def _method(
    video: Video,
    encoder: JointEncoder,
    decoder: SelfAttentionDecoder | None,
    ledger: Ledger,
    weights: Weights,
    options: Options,
) -> Method:
    """The recipe's method with what was read off a file; the arguments in the file say how it was trained."""
    told, recipe = weights.settings, VIDEOMAE
    if isinstance(told.get("num_frames"), int):
        video = replace(video, frames=told["num_frames"])
    if isinstance(told.get("sampling_rate"), int):
        video = replace(video, stride=told["sampling_rate"])
    ratio = told["mask_ratio"] if isinstance(told.get("mask_ratio"), float) else cast("Ratio", recipe.budget).ratio
    tasks = {}
    if decoder is not None:
        normalised = pixels_normalised(ledger, options, told.get("normlize_target"))  # sic
        target = cast("Pixels", recipe.tasks["video"].target)
        target = replace(target, normalise="channel" if normalised else "none")
        tasks = {"video": replace(recipe.tasks["video"], target=target)}
    return Method(
        modalities={"video": video},
        masking=recipe.masking,
        budget=replace(cast("Ratio", recipe.budget), ratio=options.need("ratio", ratio, "the ratio")),
        encoder=encoder,
        decoders={} if decoder is None else {"video": decoder},
        tasks=tasks,
        objective={} if decoder is None else recipe.objective,
    )
