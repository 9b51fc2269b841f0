"""Embedding small groups of points with a shared MLP and a maximum, so that their order does not matter (PointNet)."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from mmim.modality import BatchEmbedder
from mmim.records import Tokens

HIDDEN, POOLED, JOINT = 128, 256, 512
"""Channels of the published point MLPs: 128 -> 256, [256, 256] = 512 -> 512 -> width."""


class PointEmbed(BatchEmbedder):
    """Point-MAE's and Point-BERT's embedding of a group of points: an MLP, a maximum, and the same once more.

    `first` maps every point to 256 channels; the group's maximum stands before each point's own for `second`, whose
    maximum over the group is the embedding. Layers start as torch starts them.

    sees_hidden  hidden groups pass it too and count in the statistics of the batch, as in the published code: in
                 training they reach the latents in this way, mean and deviation of a whole batch
    norm         "batch" (published); "layer", over the channels of each point, has no statistics over others, so that
                 nothing leaks between groups and samples, and hidden groups need not pass

    Pang et al. 2022 (Point-MAE), section 3.1; Yu et al. 2022 (Point-BERT), section 3.1; the widths of their code.
    """

    def __init__(
        self, channels: int, width: int, *, sees_hidden: bool = True, norm: Literal["batch", "layer"] = "batch"
    ) -> None:
        super().__init__()
        self.sees_hidden = sees_hidden and norm == "batch"
        self.first = PointMlp(channels, HIDDEN, POOLED, norm)
        self.second = PointMlp(2 * POOLED, JOINT, width, norm)

    def forward(self, values: Float[Tensor, "b k g c"], counted: Bool[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
        each = self.first.rest(self.first.fc1(values), counted)
        whole = each.amax(dim=2, keepdim=True)
        of_whole, of_each = self.second.fc1.weight.chunk(2, dim=1)  # so that the group's half is mapped once a group
        joint = F.linear(each, of_each) + F.linear(whole, of_whole, self.second.fc1.bias)
        return self.second.rest(joint, counted).amax(dim=2)


class PointMlp(nn.Module):
    """Two linear maps of every point, with a norm and a ReLU between."""

    def __init__(self, channels: int, hidden: int, width: int, norm: Literal["batch", "layer"]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.norm = CountedBatchNorm(hidden) if norm == "batch" else nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def rest(self, x: Float[Tensor, "b k g c"], counted: Bool[Tensor, "b k"]) -> Float[Tensor, "b k g d"]:
        """What follows the first map."""
        x = self.norm(x, counted) if isinstance(self.norm, CountedBatchNorm) else self.norm(x)
        mapped: Tensor = self.fc2(x.relu_())
        return mapped


class CountedBatchNorm(nn.Module):
    """`nn.BatchNorm1d` whose statistics are of the counted tokens alone; parameters and buffers are named as there.

    Where all count it is the same function (eps 1e-5, momentum 0.1, unbiased running variance). Where fewer than two
    values count in training, all get the running statistics, which stay as they are; nothing waits for the device.
    Under autocast statistics are in float32. Ioffe and Szegedy 2015, algorithms 1 and 2.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, width: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Float[Tensor, "b k g c"], counted: Bool[Tensor, "b k"]) -> Float[Tensor, "b k g c"]:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance = self._statistics(exact, counted) if self.training else (self.running_mean, self.running_var)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias - mean * scale, exact, scale).to(x.dtype)

    def _statistics(
        self, x: Float[Tensor, "b k g c"], counted: Bool[Tensor, "b k"]
    ) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """Mean and biased variance of this batch, which moves the running ones."""
        count = counted.sum() * x.shape[2]
        enough = count > 1

        def total(values: Float[Tensor, "b k g c"]) -> Float[Tensor, " c"]:
            return torch.where(counted[..., None], values.sum(dim=2), 0).sum(dim=(0, 1))

        mean = total(x) / count.clamp(min=1)
        squares = total((x - mean).square())
        with torch.no_grad():
            self._move(self.running_mean, mean, enough)
            self._move(self.running_var, squares / (count - 1).clamp(min=1), enough)
            self.num_batches_tracked.add_(enough)
        variance = squares / count.clamp(min=1)
        return torch.where(enough, mean, self.running_mean), torch.where(enough, variance, self.running_var)

    def _move(self, running: Float[Tensor, " c"], new: Float[Tensor, " c"], enough: Bool[Tensor, ""]) -> None:
        """One step of a running statistic towards that of this batch, if there is one."""
        running.copy_(torch.where(enough, running.lerp(new.to(running.dtype), self.momentum), running))


class CentreEmbed(nn.Module):
    """Position codes from a learned MLP of the coordinates, with the exact GELU.

    Pang et al. 2022 (Point-MAE), section 3; the hidden width of its code, 128.
    """

    def __init__(self, width: int, hidden: int = 128) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tokens) -> Float[Tensor, "_b1 n d"]:
        codes: Tensor = self.fc2(F.gelu(self.fc1(tokens.coords.to(self.fc1.weight.dtype))))
        return codes
