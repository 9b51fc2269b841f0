"""One frame of a video as a picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmim.data.media_write import write_video
from mmim.data.sources import find_samples
from mmim.data.world import scenes
from mmim.draw import Draw
from mmim.errors import ReadError
from mmim.modality import Source
from mmim.options import parse
from modalities.audio import Audio
from modalities.frame import Frame
from modalities.image import Image
from modalities.video import Video
from recipes.cavmae import CAVMAE, DEMO, SIZES
from tests import broken

WHOLE = Frame(size=(32, 32), patch=8, crop="centre", flip=False)
COUNT = 10


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Ten frames, each of one grey that is its number."""
    file = tmp_path_factory.mktemp("clips") / "0.mp4"
    greys = np.arange(COUNT, dtype=np.uint8).reshape(-1, 1, 1, 1) * 20
    write_video(file, np.broadcast_to(greys, (COUNT, 32, 32, 3)).copy(), fps=10)
    return file


def number(view):
    return round(float(view.float().mean()) / 20)


def test_evaluation_shows_the_frame_in_the_middle(clip):
    assert number(WHOLE.read(Source(clip), None)) == COUNT // 2
    assert number(WHOLE.pixels(clip).permute(2, 0, 1)) == COUNT // 2


def test_draws_show_every_frame_evenly_and_many_at_once_as_apart(clip):
    draws = [Draw(torch.tensor([key])) for key in range(200)]
    views = WHOLE.read_many(Source(clip), draws)
    shown = [number(view) for view in views]
    assert set(shown) == set(range(COUNT))
    assert max(shown.count(n) for n in range(COUNT)) < 45  # 20 each on average
    assert all(
        torch.equal(view, WHOLE.read(Source(clip), draw)) for view, draw in zip(views[:20], draws[:20], strict=True)
    )


def test_a_frame_is_near_the_window_that_a_clip_of_the_same_sample_shows(clip):
    video = Video(frames=4, stride=1, size=32, patch=8, crop="centre")
    for key in range(30):
        draw = Draw(torch.tensor([key]))
        frames = [number(frame) for frame in video.read(Source(clip), draw).unbind(dim=1)]
        assert frames[0] <= number(WHOLE.read(Source(clip), draw)) <= frames[-1]


def test_tokens_are_those_of_a_picture(clip):
    raw = WHOLE.read(Source(clip), None)[None]
    assert torch.equal(WHOLE.tokenize(raw).values, Image(size=(32, 32), patch=8).tokenize(raw).values)


def test_a_file_that_is_no_video_is_not_read(tmp_path):
    (tmp_path / "0.mp4").write_text("no video")
    with pytest.raises(ReadError):
        WHOLE.read(Source(tmp_path / "0.mp4"), None)


def test_damaged_videos_give_the_reasons_that_they_give_as_clips(tmp_path):
    Frame().depict(*scenes(1, seed=0), good := tmp_path / "good.mp4")
    video, reasons = Video(frames=4, stride=1, size=32, patch=8), []
    for name, file in broken.spoil("video", good, tmp_path / "spoilt").items():
        for modality in (video, WHOLE):
            try:
                modality.read(Source(file), None)
                reasons.append((name, "good"))
            except ReadError as error:
                reasons.append((name, str(error)))
    assert reasons[::2] == reasons[1::2]
    assert len({reason for _, reason in reasons}) > 4


def test_one_file_serves_a_frame_and_its_sound(clip):
    (sample,) = find_samples(clip.parent, {"image": WHOLE, "audio": Audio()})
    assert sample.sources == {"image": Source(clip), "audio": Source(clip)}


def test_cavmae_takes_frames_by_one_option():
    recipe = parse(CAVMAE, ["--modalities.image", "frame", "--data", "x"], SIZES, DEMO)
    assert recipe.modalities["image"] == Frame(crop="centre", flip=False), "cut as the recipe's pictures are"
    assert replace(recipe, modalities=CAVMAE.modalities, data=()) == replace(CAVMAE, data=())
