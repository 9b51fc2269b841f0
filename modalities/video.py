"""Video: clips of RGB frames in tubelets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d

from mmim.data.crops import Window, centre_window, multi_scale_window, random_resized_window, resized_crop
from mmim.data.media_read import Backend, check_backend, open_video
from mmim.data.media_write import write_video
from mmim.data.world import picture
from mmim.data.world.sound import sound
from mmim.draw import Draw
from mmim.errors import OptionError
from mmim.layers.patches import PatchEmbed, check_divides, cut, from_patches, per_channel
from mmim.layers.positions import FlatSinusoid
from mmim.masking.tube import TubeMasking
from mmim.modality import MaskingPolicy, Modality, Source, Target
from mmim.records import Raw, Tokens
from mmim.targets.pixels import Pixels

STRIP = 8  # frames in a picture of a clip
FLOOR = (4, 8, 8)  # frames, rows, columns of the plain features
RATE = 16000  # hertz, of the sample world's sound tracks


@dataclass(frozen=True, kw_only=True)
class Video(Modality):
    """RGB clips in tubelets: patches of a few pixels, a few frames deep.

    Input   [b 3 T H W], uint8; T a multiple of `tubelet`, H and W of `patch`, not only those of the fields
    Tokens  n = T / tubelet * H / patch * W / patch, time slowest, then rows; values [b n 3 tubelet patch patch],
            (x / 255 - mean) / std; coords (time, row, column) in tokens
    Clip    `frames` frames, `stride` apart, counted in frames even where their rate varies. It starts uniformly where a
            whole `frames * stride` still fits; in a shorter file at frame 0, and the last frame reached is repeated
    Paper   Tong et al. 2022 (VideoMAE), section 3, arXiv:2203.12602; the clip and the crop as in its code

    pytorchvideo's `data.clip_sampling` draws clips in seconds from Python's global generator, so that it could neither
    count frames as the paper does nor draw the same clip again in another worker; it is not used.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".m4v")
    view: ClassVar[tuple[str, ...]] = ("frames", "stride", "size", "backend")
    training_view: ClassVar[tuple[str, ...]] = ("crop", "scale", "ratio", "flip")
    masking: ClassVar[MaskingPolicy] = TubeMasking()
    target: ClassVar[Target] = Pixels(normalise="channel", eps_inside=False, units="raw")

    frames: int = 16
    """Frames in a clip (VideoMAE: 16)."""
    stride: int = 4
    """Frames from one taken to the next (VideoMAE: 4 for Kinetics and UCF101, 2 for SSv2)."""
    size: int = 224
    """Height and width of a frame after the crop, in pixels (VideoMAE: 224)."""
    patch: int = 16
    """Height and width of a token, in pixels (VideoMAE: 16)."""
    tubelet: int = 2
    """Depth of a token, in frames (VideoMAE: 2)."""
    crop: Literal["multi_scale", "random_resized", "centre"] = "multi_scale"
    """Part of the frame to train on, the same for all frames of a clip (VideoMAE: multi_scale)."""
    scale: tuple[float, float] = (0.5, 1.0)
    """Lowest and highest area of a random_resized crop, as shares of the frame's (MAE-ST: 0.5 to 1)."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Lowest and highest width / height of a random_resized crop (torchvision: 3/4 to 4/3)."""
    flip: bool = False
    """Mirror half of the clips, left to right (VideoMAE: no)."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from red, green and blue in [0, 1] (ImageNet)."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides red, green and blue after that (ImageNet)."""
    backend: Backend = "pyav"
    """The decoder. pyav finds the right frames in the most files, and quickest; torchcodec needs FFmpeg installed."""

    def __post_init__(self) -> None:
        for name in ("frames", "stride", "size", "patch", "tubelet"):
            if getattr(self, name) < 1:
                raise OptionError(f"Video.{name} is {getattr(self, name)}; it must be at least 1.")
        check_divides("Video", (self.frames, self.size, self.size), self.piece[1:])
        for name, most in (("scale", 1.0), ("ratio", float("inf"))):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise OptionError(f"Video.{name} is {low, high}; it must be 0 < lowest <= highest <= {most}.")
        if min(self.std) <= 0:
            raise OptionError(f"Video.std is {self.std}; each must be above 0.")

    @property
    def piece(self) -> tuple[int, ...]:
        return (3, self.tubelet, self.patch, self.patch)

    def check(self) -> None:
        check_backend(self.backend)

    def blank(self) -> UInt8[Tensor, "3 T H W"]:
        return torch.zeros(3, self.frames, self.size, self.size, dtype=torch.uint8)

    def read(self, source: Source, draw: Draw | None) -> UInt8[Tensor, "3 T H W"]:
        return self._read(source, [draw])[0]

    def read_many(self, source: Source, draws: Sequence[Draw]) -> list[Raw]:
        return list(self._read(source, draws))

    def _read(self, source: Source, draws: Sequence[Draw | None]) -> list[UInt8[Tensor, "3 T H W"]]:
        """The clips of all draws; a frame that several of them show is decoded once."""
        with open_video(source.path, self.backend) as video:
            numbers = torch.stack([self._numbers(video.num_frames, draw) for draw in draws])
            distinct, at = numbers.unique(return_inverse=True)
            frames = torch.from_numpy(video.frames(distinct.numpy()))
        return [
            self._view(frames[rows], draw) for rows, draw in zip(at, draws, strict=True)
        ]  # one clip whole at a time

    def _numbers(self, num_frames: int, draw: Draw | None) -> Int64[Tensor, " {self.frames}"]:
        """The numbers of a clip's frames in the file."""
        starts = max(num_frames - self.frames * self.stride + 1, 1)
        start = (starts - 1) // 2 if draw is None else int(draw.floats("clip", 1)[0] * starts)
        steps = torch.arange(self.frames).clamp(max=(num_frames - 1 - start) // self.stride)
        return start + self.stride * steps

    def _view(self, clip: UInt8[Tensor, "T h w 3"], draw: Draw | None) -> UInt8[Tensor, "3 T H W"]:
        """A clip, cropped, perhaps mirrored."""
        clip = resized_crop(clip, self._window(clip.shape[1], clip.shape[2], draw), self.size)
        if self.flip and draw is not None and draw.floats("flip", 1)[0] < 0.5:
            clip = clip.flip(2)
        return rearrange(clip, "t h w c -> c t h w").contiguous()

    def _window(self, height: int, width: int, draw: Draw | None) -> Window:
        if draw is None or self.crop == "centre":
            return centre_window(height, width)
        if self.crop == "multi_scale":
            return multi_scale_window(height, width, draw)
        return random_resized_window(height, width, draw, scale=self.scale, ratio=self.ratio)

    def tokenize(self, raw: UInt8[Tensor, "b 3 T H W"]) -> Tokens:  # type: ignore[override]
        share = raw.to(torch.get_default_dtype()) / 255
        normalised = (share - per_channel(self.mean, share, 3)) / per_channel(self.std, share, 3)
        return cut("Video", normalised, self.piece[1:])

    def untokenize(self, values: Float[Tensor, "b n *piece"], tokens: Tokens) -> Float[Tensor, "b 3 T H W"]:
        return from_patches(values, tokens.grid)

    def raw(self, values: Float[Tensor, "b n *piece"]) -> Float[Tensor, "b n *piece"]:
        return values * per_channel(self.std, values, 3) + per_channel(self.mean, values, 3)

    def embedder(self, width: int) -> nn.Module:
        return PatchEmbed(self.piece, width)

    def position(self, width: int) -> nn.Module:
        grid = tuple(
            size // step for size, step in zip((self.frames, self.size, self.size), self.piece[1:], strict=True)
        )
        return FlatSinusoid(width, grid)

    def render(self, data: Float[Tensor, "b 3 T H W"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """At most eight frames of each clip side by side, evenly spaced from the first to the last."""
        count = min(STRIP, data.shape[2])
        chosen = torch.linspace(0, data.shape[2] - 1, count, device=data.device).round().long()
        shown = (data[:, :, chosen].clamp(0, 1) * 255).round().to(torch.uint8)
        return list(rearrange(shown, "b c t h w -> b h (t w) c").cpu().numpy())

    def features(self, raw: UInt8[Tensor, "b 3 T H W"]) -> Float[Tensor, "b p"]:  # type: ignore[override]
        """Mean colours of 4 x 8 x 8 blocks, in [0, 1]: p = 768."""
        return adaptive_avg_pool3d(raw.to(torch.get_default_dtype()) / 255, FLOOR).flatten(1)

    def depict(self, scene: Any, path: Path) -> None:
        """The scene as an mp4 with a stereo sound track."""
        frames = picture.frames(scene, scene.nuisance("video"))
        track = sound(scene, scene.nuisance("video sound"), rate=RATE, seconds=picture.SECONDS)
        write_video(path, frames, fps=round(len(frames) / picture.SECONDS), sound=track, rate=RATE)
