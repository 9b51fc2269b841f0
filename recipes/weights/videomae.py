"""VideoMAE's weights, as its code writes them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError, OptionError
from mmim.interop.converter import Importer, Options, Setting
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
    move_ends,
    read_heads,
    square_patch,
)
from mmim.model import Method
from modalities.video import Video
from recipes.videomae import VIDEOMAE
from recipes.weights.pixels import RAW_PIXELS, method_of

DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}
"""Of the published decoders, by width."""
ENDS = ("mask_token", "encoder_to_decoder", "decoder.norm", "decoder.head")
"""What the file calls a decoder's parts beside its blocks."""
SIZE = (224, 224)
"""Height and width of the published encoders' frames; the file holds no positions that would tell."""


class VideoMAEImporter(Importer):
    """From the official VideoMAE (github.com/MCG-NJU/VideoMAE), with or without a decoder."""

    about: ClassVar[str] = "Official VideoMAE: clips, ViT encoder, with or without the decoder."
    settings: ClassVar[Mapping[str, Setting]] = RAW_PIXELS

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        return read(VIDEOMAE, HEADS, ledger, weights, options)


def read(recipe: Method, heads: Mapping[int, int], ledger: Ledger, weights: Weights, options: Options) -> Method:
    """A recipe's method with what the file holds; heads: of the published encoders, by width.

    Raises:
        CheckpointError: it is not of this format.
        OptionError: something must be said that shapes don't tell.
    """
    prefix = "encoder." if "encoder.patch_embed.proj.weight" in ledger else ""
    width, _, tubelet, *_ = shape = ledger.shape(f"{prefix}patch_embed.proj.weight", 5)
    if shape[1] != 3:
        raise CheckpointError(f"VideoMAE sees 3 colours, and this file {shape[1]} channels.")
    video = replace(
        cast("Video", recipe.modalities["video"]),
        size=_side(options, width in heads),
        patch=square_patch(shape),
        tubelet=tubelet,
    )
    block = f"{prefix}blocks.0."
    encoder = JointEncoder(
        width=width,
        depth=ledger.count(f"{prefix}blocks."),
        heads=read_heads(ledger, options, width, heads),
        bias=bias_of(ledger, block),
        mlp_ratio=mlp_ratio(ledger, block),
        final_norm=final_norm(ledger, f"{prefix}norm"),
    )
    move_affine(ledger, "trunk.embedders.video.proj", f"{prefix}patch_embed.proj")
    names = block_names(encoder.bias)
    move_blocks(ledger, "trunk.encoder.blocks.", f"{prefix}blocks.", encoder.depth, names)
    decoder = _decoder(ledger, options) if "encoder_to_decoder.weight" in ledger else None
    video, told = replace(video, **_sampling(weights.settings)), weights.settings
    ratio, normalised = told.get("mask_ratio"), told.get("normlize_target")  # sic
    return method_of(recipe, video, encoder, decoder, ledger, options, ratio=ratio, normalised=normalised)


def _sampling(told: Mapping[str, Any]) -> dict[str, Any]:
    """Frames of a clip and the step between them, where the arguments in a file say them."""
    names = {"num_frames": "frames", "sampling_rate": "stride"}
    return {ours: told[theirs] for theirs, ours in names.items() if isinstance(told.get(theirs), int)}


def _side(options: Options, published: bool) -> int:
    """The side of a frame."""
    size: tuple[int, int] = options.need("size", SIZE if published else None, "the size of a frame")
    if size[0] != size[1]:
        raise OptionError(f"--size {size[0]} {size[1]} is not square, and our clips are: give the side twice.")
    return size[0]


def _decoder(ledger: Ledger, options: Options) -> SelfAttentionDecoder:
    width, _ = ledger.shape("encoder_to_decoder.weight", 2)
    block = "decoder.blocks.0."
    decoder = SelfAttentionDecoder(
        width=width,
        depth=ledger.count("decoder.blocks."),
        heads=read_heads(ledger, options, width, DECODER_HEADS, "decoder"),
        bias=bias_of(ledger, block),
        mlp_ratio=mlp_ratio(ledger, block),
        embed_bias="encoder_to_decoder.bias" in ledger,
    )
    move_blocks(ledger, "decoders.video.blocks.", "decoder.blocks.", decoder.depth, block_names(decoder.bias))
    move_ends(ledger, "video", ENDS, decoder.embed_bias)
    return decoder
