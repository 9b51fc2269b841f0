"""VideoMAE V2's weights, as its code writes them: VideoMAE's names."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast

from mmim.errors import CheckpointError
from mmim.interop.converter import Importer, Options, Setting
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import HEADS
from mmim.masking.budget import Budget
from mmim.masking.dual import DualMasking
from mmim.masking.random import RandomMasking
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
        method = read(VIDEOMAE_V2, ALL_HEADS, ledger, weights, options)
        return replace(method, budget=_asking(cast("DualMasking", method.budget), ledger, weights))


def _asking(budget: DualMasking, ledger: Ledger, weights: Weights) -> Budget:
    """The budget with what the file's arguments say of the decoder's places; none are left out at a ratio of 0."""
    ratio, kind = weights.settings.get("decoder_mask_ratio"), weights.settings.get("decoder_mask_type")
    if ratio == 0:
        return budget.encoder
    if isinstance(ratio, int | float):
        budget = replace(budget, ratio=float(ratio))
    if kind == "random":
        return replace(budget, decoder=RandomMasking())
    if kind not in (None, "run_cell"):
        ledger.remarks.append(f"decoder_mask_type {kind!r} is unknown here: running cells are taken")
    return budget
