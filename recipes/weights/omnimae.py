"""OmniMAE's weights, as its code writes them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast

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
    check_codes,
    mlp_ratio,
    move_affine,
    move_blocks,
    read_heads,
    square_patch,
)
from mmim.model import Method
from mmim.targets.pixels import Pixels
from modalities.image import Image
from modalities.video import Video
from recipes.omnimae import OMNIMAE
from recipes.weights.pixels import RAW_PIXELS, read_normalised

DECODER_HEADS = {384: 16, 512: 16}
"""Of the published decoders, by width."""
SIZE = (224, 224)
"""Height and width of the published encoders' frames."""
ENCODER, DECODER = "trunk.encoder.", "decoders.shared."


class OmniMAEImporter(Importer):
    """From the official OmniMAE (github.com/facebookresearch/omnivore), with or without the decoder."""

    about: ClassVar[str] = "Official OmniMAE: pictures and clips, one ViT encoder, with or without the decoder."
    settings: ClassVar[Mapping[str, Setting]] = RAW_PIXELS

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        width, channels, tubelet, *_ = shape = ledger.shape("trunk.patch_embed.proj.1.weight", 5)
        if channels != 3:
            raise CheckpointError(f"OmniMAE sees 3 colours, and this file {channels} channels.")
        patch = square_patch(shape)
        image, video = _read_modalities(ledger, options, patch, tubelet, width in HEADS)
        check_codes(ledger, "trunk.pos_embed", video, width)
        move_affine(ledger, "trunk.embedders.video.proj", "trunk.patch_embed.proj.1")
        encoder = _read_encoder(ledger, width, options)
        has_decoder = "head.weight" in ledger
        decoder = _read_decoder(ledger, options) if has_decoder else None
        if has_decoder:
            check_codes(ledger, "trunk.decoder.pos_embed", video, width)
        return _method(image, video, encoder, decoder, ledger, options)


def _method(
    image: Image,
    video: Video,
    encoder: JointEncoder,
    decoder: SelfAttentionDecoder | None,
    ledger: Ledger,
    options: Options,
) -> Method:
    """The recipe's method with what was read off a file."""
    tasks = {}
    if decoder is not None:
        kind = "channel" if read_normalised(ledger, options, None) else "none"
        target = replace(cast("Pixels", OMNIMAE.tasks["image"].target), normalise=kind)  # type: ignore[arg-type]
        tasks = {name: replace(task, target=target) for name, task in OMNIMAE.tasks.items()}
    return Method(
        modalities={"image": image, "video": video},
        shared_embedders=OMNIMAE.shared_embedders,
        masking=OMNIMAE.masking,
        budget=OMNIMAE.budget,
        encoder=encoder,
        decoders={} if decoder is None else {"shared": decoder},
        tasks=tasks,
        objective={} if decoder is None else OMNIMAE.objective,
    )


def _read_modalities(
    ledger: Ledger, options: Options, patch: int, tubelet: int, published: bool
) -> tuple[Image, Video]:
    """Pictures and clips of one size; the number of places tells how long the clips are.

    Raises:
        OptionError: no clip of this size has so many places.
    """
    size: tuple[int, int] = options.need("size", SIZE if published else None, "the size of a frame")
    places = ledger.shape("trunk.pos_embed", 3)[1]
    per_frame = (size[0] // patch) * (size[1] // patch)
    if size[0] != size[1] or size[0] % patch or not per_frame or places % per_frame:
        raise OptionError(
            f"--size {size[0]} {size[1]}: the file holds positions of {places} places, and no clip of square frames of "
            f"this size, in patches of {patch}, has them. Give the size as trained."
        )
    if tubelet < 2:
        raise CheckpointError(f"Tokens of OmniMAE are some frames deep, and those of this file {tubelet}.")
    image, video = (cast("Image", OMNIMAE.modalities["image"]), cast("Video", OMNIMAE.modalities["video"]))
    frames = places // per_frame * tubelet
    return (
        replace(image, size=size, patch=patch, frames=tubelet),
        replace(video, frames=frames, size=size[0], patch=patch, tubelet=tubelet),
    )


def _read_encoder(ledger: Ledger, width: int, options: Options) -> JointEncoder:
    block = "trunk.blocks.0."
    encoder = JointEncoder(
        width=width,
        depth=ledger.count("trunk.blocks."),
        heads=read_heads(ledger, options, width),
        bias=bias_of(ledger, block),
        mlp_ratio=mlp_ratio(ledger, block),
    )
    move_blocks(ledger, f"{ENCODER}blocks.", "trunk.blocks.", encoder.depth, block_names(encoder.bias))
    move_affine(ledger, f"{ENCODER}norm", "trunk.norm")
    return encoder


def _read_decoder(ledger: Ledger, options: Options) -> SelfAttentionDecoder:
    """The decoder, whose one head serves both kinds; released ones have no attention bias."""
    width, _ = ledger.shape("trunk.decoder.decoder_embed.weight", 2)
    old, first = "trunk.decoder.decoder_blocks.", "trunk.decoder.decoder_blocks.0."
    decoder = SelfAttentionDecoder(
        width=width,
        depth=ledger.count(old),
        heads=read_heads(ledger, options, width, DECODER_HEADS, "decoder"),
        bias=bias_of(ledger, first),
        mlp_ratio=mlp_ratio(ledger, first),
        project="last",
        shared_head=True,
    )
    move_blocks(ledger, f"{DECODER}blocks.", old, decoder.depth, block_names(decoder.bias))
    ledger.move(f"{DECODER}mask_token", "trunk.mask_token", lambda token: token.reshape(1, 1, -1))
    move_affine(ledger, f"{DECODER}embed", "trunk.decoder.decoder_embed")
    move_affine(ledger, f"{DECODER}norm", "trunk.decoder.norm")
    move_affine(ledger, f"{DECODER}heads.{next(iter(OMNIMAE.tasks))}", "head")
    return decoder
