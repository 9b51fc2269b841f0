"""Groups of points in space: far centres and their nearest neighbours, in plain tensor code on any device."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mmim.errors import OptionError

NEAR_ORIGIN = 1e-3
"""Squared distance from the origin up to which the published sampling never chooses a point."""


@torch.no_grad()
def farthest_points(
    points: Float[Tensor, "b P c"], count: int, *, skip_near_origin: bool = True
) -> Int64[Tensor, "b {count}"]:
    """Indices of points that each lie as far as can be from those chosen before it; the lowest index on a tie.

    The first is point 0. Where fewer places can be chosen than are asked for, all of them come, and then the lowest
    index that may be chosen comes again and again (point 0 where none may).

    skip_near_origin: never choose a point whose squared norm is <= 1e-3, unless it is point 0: fact of the compiled
        code that Point-BERT and Point-MAE sample with, which takes such points for padding.

    Qi et al. 2017 (PointNet++), section 3.2.
    """
    if count < 1:
        raise OptionError(f"{count} points can't be sampled: ask for at least 1.")
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    far = torch.full_like(points[..., 0], torch.inf)  # squared distance to the nearest of those chosen
    if skip_near_origin:
        far = far.masked_fill(points.square().sum(dim=-1) <= NEAR_ORIGIN, -1.0)
    chosen = [torch.zeros_like(far[:, 0], dtype=torch.int64)]
    for _ in range(count - 1):
        last = points.gather(1, chosen[-1][:, None, None].expand(-1, 1, points.shape[2]))
        far = torch.minimum(far, (points - last).square().sum(dim=-1))
        chosen.append(far.argmax(dim=1))  # the first of several maxima
    return torch.stack(chosen, dim=1)


@torch.no_grad()
def nearest_points(
    points: Float[Tensor, "b P c"], centres: Float[Tensor, "b n c"], count: int
) -> Int64[Tensor, "b n {count}"]:
    """Indices of the points nearest to each centre, nearest first; the lowest index on a tie.

    A matrix `[b n P]` of distances is made and sorted: 0.6 GB in all for 64 clouds of 8192 points with 64 centres.

    Raises:
        OptionError: there are fewer points than neighbours asked for.
    """
    if not 1 <= count <= points.shape[1]:
        raise OptionError(f"{count} neighbours among {points.shape[1]} points can't be: ask for 1 to all of them.")
    exact = "donot_use_mm_for_euclid_dist"  # products of matrices lose the last digits, which decide between neighbours
    points, centres = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (points, centres))
    distances = torch.cdist(centres, points, compute_mode=exact)
    return distances.argsort(dim=-1, stable=True)[..., :count]  # topk breaks ties as it likes
