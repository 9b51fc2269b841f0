"""The conformance kit on every built-in modality, and the counts of the published recipes."""

import wave
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from mmim.draw import Draw
from mmim.masking.budget import groups_of
from mmim.masking.cell import CellMasking
from mmim.masking.span import SpanMasking
from mmim.masking.stripes import TimeMasking
from mmim.modality import MaskingPolicy, Modality, Target
from mmim.options import apply
from mmim.records import map_raw
from mmim.targets.pixels import Pixels
from mmim.testing import MODALITY_CHECKS, depicted, run
from modalities.audio import Audio
from modalities.depth import Depth
from modalities.frame import Frame
from modalities.image import Image
from modalities.points import Points
from modalities.semseg import SemSeg
from modalities.text import Text
from modalities.video import Video
from recipes import audiomae, mae, simmim, videomae


@dataclass(frozen=True, kw_only=True)
class CellImage(Image):
    """SimMIM's defaults."""

    masking: ClassVar[MaskingPolicy] = CellMasking(cell=2)
    target: ClassVar[Target] = Pixels(error="absolute")


@dataclass(frozen=True, kw_only=True)
class StripeAudio(Audio):
    """Audio-MAE's time masking."""

    masking: ClassVar[MaskingPolicy] = TimeMasking()


@dataclass(frozen=True, kw_only=True)
class SpanText(Text):
    """T5's masking."""

    masking: ClassVar[MaskingPolicy] = SpanMasking()


CASES: dict[str, Modality] = {
    "image": Image(size=(32, 32), patch=8),
    "image, not square": Image(size=(24, 48), patch=8, positions="learned", embed_norm=True),
    "image, cells": CellImage(size=(32, 32), patch=8, positions="none"),
    "image, repeated": Image(size=(32, 32), patch=8, frames=2, positions="flat"),
    "frame": Frame(size=(32, 32), patch=8),
    "depth": Depth(size=(32, 32), patch=8),
    "depth, fixed statistics": Depth(size=(24, 48), patch=8, mean=0.04, std=0.01, positions="learned"),
    "semseg": SemSeg(size=(32, 32), patch=8, classes=7, class_width=8),
    "semseg, every pixel": SemSeg(size=(24, 48), patch=8, stride=1, classes=7, class_width=8, void=None),
    "video": Video(frames=4, stride=2, size=32, patch=8),
    "audio": Audio(frames=96, mel=32),
    "audio, longer than its files": StripeAudio(frames=256, mel=32),
    "audio, longer, with zeros": Audio(frames=256, mel=32, padding="zeros", augment=True),
    "points": Points(points=256, groups=16, group_size=8),
    "points, without the leak": Points(points=256, groups=16, group_size=8, sees_hidden=False),
    "points, each by itself": Points(points=256, groups=16, group_size=8, norm="layer", colour=True, normals=True),
    "text": Text(vocabulary_size=300, length=32),
    "text, whole": Text(vocabulary_size=300, length=256, positions="sincos"),
    "text, spans": SpanText(vocabulary_size=300, length=24),
}
# of a configuration or of these files; what belongs to the part stands there
WAIVED = {
    "image, cells": {"one_batch_can_be_learnt": "places are known to the encoder's relative bias, which the toy lacks"},
}


KINDS = (Image, Frame, Depth, SemSeg, Video, Audio, Points, Text)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of our own, for the tokenizers of texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMIM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of each kind of modality."""
    return {kind: depicted(kind(), tmp_path_factory.mktemp(kind.__name__), 4) for kind in KINDS}


def files_of(modality, files):
    return next(found for kind, found in files.items() if isinstance(modality, kind))


@pytest.mark.parametrize("check", MODALITY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", CASES)
def test_a_modality_honours_the_contract(case, check, files):
    run(check, CASES[case], files_of(CASES[case], files), WAIVED.get(case))


@pytest.fixture(scope="module")
def cut_sounds(files, tmp_path_factory):
    """The same sounds cut to 2 s, 1 s, a quarter of a second, and one window of 25 ms."""
    folder = tmp_path_factory.mktemp("cut")
    return [
        _cut(file, folder / file.name, frames)
        for file, frames in zip(files[Audio], (32000, 16000, 4000, 400), strict=True)
    ]


def _cut(source, path, frames):
    with wave.open(str(source)) as whole, wave.open(str(path), "wb") as part:
        part.setparams(whole.getparams())
        part.writeframes(whole.readframes(frames))
    return path


@pytest.mark.parametrize("check", MODALITY_CHECKS, ids=lambda check: check.__name__)
def test_sounds_of_all_lengths_honour_the_contract(check, cut_sounds):
    run(check, Audio(frames=256, mel=32), cut_sounds)


# Counts of section 2.2 of the facts about published systems


PUBLISHED = {
    "mae": (mae.MAE, {}, 196, 49),
    "simmim, ViT": (simmim.SIMMIM, {}, 196, 196 - 30 * 4),
    "simmim, Swin": (simmim.SIMMIM, simmim.SIZES["swin-base"], 48 * 48, 48 * 48 - 22 * 64),
    "audiomae": (audiomae.AUDIOMAE, {}, 512, 102),
    "videomae": (videomae.VIDEOMAE, {}, 8 * 196, 8 * (196 - 176)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_keeps_as_many_tokens_as_published(name):
    recipe, changes, n, kept = PUBLISHED[name]
    recipe = apply(recipe, changes)
    ((modality_name, modality),) = recipe.modalities.items()
    tokens = {modality_name: modality.tokenize(map_raw(lambda leaf: leaf[None], modality.blank()))}
    policy, draw = recipe.masking[modality_name], Draw(torch.arange(1))
    groups = {modality_name: groups_of(policy, tokens[modality_name])}
    ranks = {modality_name: policy.rank(tokens[modality_name], draw)}
    split = recipe.budget.cut(ranks, tokens, draw, groups)[modality_name]
    if modality_name == "audio":  # a full sample of padded tokens
        assert bool(split.keep_valid.all())
        assert int(split.masked_valid.sum()) == n - kept
    else:
        assert split.ids_masked.shape == (1, n - kept)
    assert split.ids_keep.shape == (1, kept)
