"""Checks of what a person or another program gets: pictures, features, embeddings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmim.modality import Modality
from mmim.model import Step
from mmim.testing.example import NAME, example, raw_of, readable, toy_model
from mmim.testing.failure import require


@torch.no_grad()
def a_reconstruction_is_a_picture(modality: Modality, files: Sequence[Path]) -> None:
    """Data and, where the target can be drawn, predictions in their place render as uint8 `[H W 3]`, one a sample."""
    step = Step(toy_model(modality).eval(), example(modality, files))
    tokens, (query, _) = step.tokens[NAME], step.query(NAME)
    values = [modality.raw(tokens.values)]
    pieces = modality.target.pieces(step.prediction(NAME), tokens, query.ids, modality)
    if pieces is not None:
        fits = tuple(pieces.shape) == (*query.ids.shape, *modality.piece)
        expected = f"pieces {(*query.ids.shape, *modality.piece)}"
        require(fits, expected, tuple(pieces.shape), modality.target, "pieces")
        index = query.ids.reshape(*query.ids.shape, *[1] * (pieces.ndim - 2)).expand_as(pieces)
        values.append(values[0].scatter(1, index, pieces.to(values[0].dtype)))
    for data in values:
        pictures = modality.render(modality.untokenize(data, tokens))
        require(len(pictures) == len(files), f"{len(files)} pictures", len(pictures), modality, "render")
        for picture in pictures:
            kind = f"{picture.dtype} {picture.shape}"
            fits = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.size > 0
            require(fits, "a picture uint8 (H, W, 3)", kind, modality, "render")


def features_are_finite_vectors(modality: Modality, files: Sequence[Path]) -> None:
    """One vector of floats a sample, which does not depend on the others of the batch."""
    found = modality.features(raw_of(example(modality, files)))
    kind = f"{found.dtype} {tuple(found.shape)}"
    fits = found.is_floating_point() and found.ndim == 2 and len(found) == len(files) and found.shape[1] > 0
    require(fits, f"floats [{len(files)} p]", kind, modality, "features")
    require(bool(found.isfinite().all()), "finite features", "some that are not", modality, "features")
    for place, file in enumerate(files):
        alone = modality.features(raw_of(readable(modality, [file])))[0]
        same = torch.allclose(found[place], alone, rtol=1e-4, atol=1e-5)
        require(same, "the features of a sample alone", "others in a batch", modality, "features")


@torch.no_grad()
def an_embedding_does_not_depend_on_its_neighbours(modality: Modality, files: Sequence[Path]) -> None:
    """A sample alone has the vector that it has in a batch, and in one of another order."""
    model = toy_model(modality).eval()
    vectors = model.embed(example(modality, files))
    require(bool(vectors.isfinite().all()), "finite embeddings", "some that are not", modality, "tokenize")
    turned = model.embed(readable(modality, files[::-1])).flip(0)
    apart = torch.cat([model.embed(readable(modality, [file])) for file in files])
    for other, where in ((turned, "in another order of the batch"), (apart, "alone")):
        error = float((vectors - other).abs().max())
        require(error < 1e-4, f"the same embeddings {where}", f"a difference of {error:.2g}", modality, "tokenize")
