"""Frames: one frame of a video as a picture, beside its sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mmim.data.media_read import Backend, check_backend, open_video
from mmim.data.media_write import write_video
from mmim.data.pictures import PictureModality
from mmim.data.world import picture
from mmim.draw import Draw
from mmim.modality import Source
from mmim.records import Raw


@dataclass(frozen=True, kw_only=True)
class Frame(PictureModality):
    """One frame of a video, in square patches as a picture is.

    Input, tokens   those of a picture (`PictureModality`)
    Frame   drawn evenly from the file, at the same share of it as a clip or a sound of the same file starts; the middle
            one for evaluation. Gong et al. 2023 (CAV-MAE), section 4.1, takes one of ten frames of a clip at random
    """

    suffixes: ClassVar[tuple[str, ...]] = (".frame.mp4", ".mp4", ".mkv", ".avi", ".webm", ".mov", ".m4v")

    backend: Backend = "pyav"
    """The decoder. pyav finds the right frames in the most files, and quickest; torchcodec needs FFmpeg installed."""

    def check(self) -> None:
        check_backend(self.backend)

    def read(self, source: Source, draw: Draw | None) -> UInt8[Tensor, "3 H W"]:
        return self._read(source, [draw])[0]

    def read_many(self, source: Source, draws: Sequence[Draw]) -> list[Raw]:
        return list(self._read(source, draws))

    def _read(self, source: Source, draws: Sequence[Draw | None]) -> list[UInt8[Tensor, "3 H W"]]:
        with open_video(source.path, self.backend) as video:
            shares = [0.5 if draw is None else draw.floats("clip", 1)[0] for draw in draws]
            numbers, at = np.unique([int(share * video.num_frames) for share in shares], return_inverse=True)
            frames = torch.from_numpy(video.frames(numbers))
        return [self._view(frames[row], draw) for row, draw in zip(at, draws, strict=True)]

    def pixels(self, path: Path) -> UInt8[Tensor, "h w 3"]:
        """The frame in the middle."""
        with open_video(path, self.backend) as video:
            return torch.from_numpy(video.frames([video.num_frames // 2]))[0]

    def depict(self, scene: Any, path: Path) -> None:
        """The scene as an mp4 of eight frames, without sound."""
        frames = picture.frames(scene, scene.nuisance("frame"), count=8)
        write_video(path, frames, fps=round(len(frames) / picture.SECONDS))
