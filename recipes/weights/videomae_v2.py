"""VideoMAE V2's weights, as its code writes them: VideoMAE's names."""

from collections.abc import Mapping
from typing import ClassVar

from mmim.errors import CheckpointError
from mmim.interop.converter import Importer, Options, Setting
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import HEADS
from mmim.model import Method
from recipes.videomae_v2 import VIDEOMAE_V2
from recipes.weights.pixels import RAW_PIXELS
from recipes.weights.videomae import read

ALL_HEADS = {**HEADS, 1408: 16}
"""Of the published encoders, the giant's among them."""


class VideoMAEV2Importer(Importer):
    """From the official VideoMAE V2 (github.com/OpenGVLab/VideoMAEv2), with or without a decoder."""

    about: ClassVar[str] = "Official VideoMAE V2: clips, ViT encoder, with or without the decoder."
    settings: ClassVar[Mapping[str, Setting]] = RAW_PIXELS

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        scales = [name for name in ledger.names() if name.endswith(".attn.scale")]
        if scales:
            raise CheckpointError(
                f"{scales[0]!r} is of cosine attention, which ours has not: give a file that was trained without it."
            )
        return read(VIDEOMAE_V2, ALL_HEADS, ledger, weights, options)
