"""Chamfer distance between two sets of points."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mmim.errors import OptionError
from mmim.modality import Modality, Target
from mmim.records import Tokens, gather_tokens


@dataclass(frozen=True)
class Chamfer(Target):
    """The points of the hidden groups, as sets: how far each point is from the nearest one of the other set.

    Values of a token are ordered (point, xyz), relative to the group's centre. Pieces are `(points, channels)`, xyz
    first; further channels (colour, normals) are not predicted.

    Fan et al. 2017; Pang et al. 2022 (Point-MAE), section 3.3; factors as in its code.
    """

    norm: Literal["l1", "l2"] = "l2"
    """Squared distances to the nearest point, averaged in each direction and added (Point-MAE: l2); or distances,
    averaged over both directions (Point-BERT's tokenizer: l1)."""

    def size(self, modality: Modality) -> int:
        if len(modality.piece) != 2 or modality.piece[1] < 3:
            raise OptionError(
                f"Chamfer distances are between points, and a token of {type(modality).__name__} is {modality.piece}, "
                "not (points, channels): use another target."
            )
        return modality.piece[0] * 3

    def values(self, tokens: Tokens, ids: Int64[Tensor, "b m"], modality: Modality) -> Float[Tensor, "b m p"]:
        return gather_tokens(tokens.values[..., :3], ids).flatten(2)

    def loss(self, pred: Float[Tensor, "b m p"], target: Float[Tensor, "b m q"]) -> Float[Tensor, "b m"]:
        exact = torch.promote_types(target.dtype, torch.float32)
        first, second = (part.to(exact).unflatten(-1, (-1, 3)) for part in (pred, target))  # b m g 3
        there, back = _offsets(first, second)
        if self.norm == "l2":
            return there.square().sum(dim=-1).mean(dim=-1) + back.square().sum(dim=-1).mean(dim=-1)
        lengths = [torch.linalg.vector_norm(offsets, dim=-1).mean(dim=-1) for offsets in (there, back)]
        return torch.stack(lengths).mean(dim=0)  # the gradient of a norm is zero at zero

    def pieces(
        self, pred: Float[Tensor, "b m p"], tokens: Tokens, ids: Int64[Tensor, "b m"], modality: Modality
    ) -> Float[Tensor, "b m *piece"]:
        """The predicted points; their colours and normals, which are not predicted, are zeros before `raw`."""
        points, channels = modality.piece
        xyz = pred.to(tokens.values.dtype).unflatten(-1, (points, 3))
        return modality.raw(torch.nn.functional.pad(xyz, (0, channels - 3)))


def _offsets(
    first: Float[Tensor, "b m g 3"], second: Float[Tensor, "b m h 3"]
) -> tuple[Float[Tensor, "b m g 3"], Float[Tensor, "b m h 3"]]:
    """From every point to the nearest of the other set, both ways.

    Who is nearest is looked up without gradient, so that nothing of all pairs is kept for the backward pass.
    """
    with torch.no_grad():
        distances = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
        there, back = distances.argmin(dim=-1), distances.argmin(dim=-2)

    def at(points: Tensor, ids: Tensor) -> Tensor:
        return points.gather(2, ids[..., None].expand(*ids.shape, 3))

    return first - at(second, there), second - at(first, back)
