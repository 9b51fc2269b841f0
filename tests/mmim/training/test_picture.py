from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from mmim.corruption.corruption import Sides
from mmim.data.media_write import write_video
from mmim.data.sources import find_samples
from mmim.model import MaskedModel, Step
from mmim.options import apply
from mmim.records import Split
from mmim.targets.pixels import Pixels
from mmim.training import picture
from tests.videomae import batch_of, random_clips, toy

FRAMES, SIZE, PATCH, TUBELET = 4, 32, 8, 2
GREY = (127, 128)  # 0.5 of 255


@pytest.fixture(scope="module")
def model() -> MaskedModel:
    torch.manual_seed(0)
    return MaskedModel(toy(frames=FRAMES, size=SIZE, patch=PATCH)).eval()


@pytest.fixture
def videos(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    for i in range(3):
        write_video(tmp_path / f"videos/{i}.mp4", rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), fps=10)
    return tmp_path / "videos"


GREY_OF_HIDDEN = 128


def rows_of(model: MaskedModel) -> tuple[dict, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The rows of two clips, the clips, the hidden pixels of a strip of frames, and the predicted pieces."""
    clips = random_clips(2, FRAMES, SIZE)
    step = Step(model, batch_of(clips))
    split, tokens = step.splits["video"], step.tokens["video"]
    generator = torch.Generator().manual_seed(1)
    predicted = torch.rand(*split.ids_masked.shape, 3, TUBELET, PATCH, PATCH, generator=generator)
    canvas, side = picture.Canvas(model.method.modalities["video"], tokens), Sides(tokens, split, tokens, split)
    rows = picture._rows(canvas, side, torch.ones_like(split.ids_masked, dtype=torch.bool), predicted)
    hidden = torch.zeros(2, FRAMES, SIZE, SIZE, dtype=torch.bool)
    shown = torch.zeros(2, 3, FRAMES, SIZE, SIZE)
    for sample, ids in enumerate(split.ids_masked.tolist()):
        for piece, id in zip(predicted[sample], ids, strict=True):
            t, row, column = np.unravel_index(id, tokens.grid)
            place = (
                slice(t * TUBELET, (t + 1) * TUBELET),
                slice(row * PATCH, (row + 1) * PATCH),
                slice(column * PATCH, (column + 1) * PATCH),
            )
            hidden[(sample, *place)] = True
            shown[(sample, slice(None), *place)] = piece
    return rows, clips, hidden, shown


def strip(frames: torch.Tensor) -> np.ndarray:
    """`[c t h w]` as a picture of frames side by side."""
    return torch.cat(list(frames.unbind(1)), dim=2).movedim(0, -1).numpy()


def test_the_original_is_the_clip(model):
    rows, clips, _, _ = rows_of(model)
    for shown, clip in zip(rows["original"], clips, strict=True):
        assert_array_equal(shown, strip(clip))


def test_what_the_encoder_sees_is_the_original_where_visible_and_grey_where_hidden(model):
    rows, clips, hidden, _ = rows_of(model)
    assert hidden.float().mean() == 0.75
    for shown, clip, flags in zip(rows["seen by the encoder"], clips, hidden, strict=True):
        covered = strip(flags[None])[..., 0]
        assert_array_equal(shown[~covered], strip(clip)[~covered])
        assert np.isin(shown[covered], GREY).all()


def test_the_prediction_is_shown_where_hidden_and_the_original_elsewhere(model):
    rows, clips, hidden, predicted = rows_of(model)
    for shown, clip, flags, pieces in zip(rows["predicted where hidden"], clips, hidden, predicted, strict=True):
        covered = strip(flags[None])[..., 0]
        assert_array_equal(shown[~covered], strip(clip)[~covered])
        assert np.abs(shown[covered].astype(float) - 255 * strip(pieces)[covered]).max() <= 0.51


@dataclass(frozen=True)
class Invisible(Pixels):
    """A target that can't be drawn, as an encoder's features can't."""

    def pieces(self, pred, tokens, ids, modality):
        return None


def test_nothing_is_drawn_for_a_target_that_can_not_be(videos, tmp_path):
    model = MaskedModel(apply(toy(), {"tasks.video.target": Invisible(units="raw")}))
    samples = find_samples(videos, model.method.modalities)
    assert picture.reconstructions(model, samples, tmp_path / "report") == []
    assert not (tmp_path / "report").exists()


def test_nothing_is_drawn_when_nobody_is_present(model, videos, tmp_path):
    for file in videos.iterdir():
        file.write_text("no video")
    samples = find_samples(videos, model.method.modalities)
    assert picture.reconstructions(model, samples, tmp_path / "report") == []
    assert not (tmp_path / "report").exists()


def drawn(model: MaskedModel, videos: Path, folder: Path, monkeypatch) -> tuple[list[dict[str, np.ndarray]], str]:
    """What is handed to the drawing of the one picture: titled rows, and the note."""
    kept: list = []

    def keep(rows, file, note):
        kept.append((rows, note))
        return file

    monkeypatch.setattr(picture, "_draw", keep)
    files = picture.reconstructions(model, find_samples(videos, model.method.modalities), folder)
    assert files == [folder / "reconstruction-video.png"]
    return kept[0]


def test_only_those_who_are_present_are_drawn(model, videos, tmp_path, monkeypatch):
    (videos / "1.mp4").write_text("no video")
    rows, _ = drawn(model, videos, tmp_path, monkeypatch)
    titles = ["original", "seen by the encoder", "predicted where hidden"]
    assert [list(row) for row in rows] == [titles] * 2
    modality = model.method.modalities["video"]
    samples = find_samples(videos, model.method.modalities)
    expected = [strip(modality.read(sample.sources["video"], None)) for sample in (samples[0], samples[2])]
    for shown, clip in zip([row["original"] for row in rows], expected, strict=True):
        assert_array_equal(shown, clip)


@pytest.mark.parametrize(("normalise", "note"), [("channel", picture.FLATTERS), ("none", "")])
def test_a_picture_says_when_it_borrows_the_truths_mean_and_deviation(normalise, note, videos, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = MaskedModel(apply(toy(), {"tasks.video.target.normalise": normalise}))
    assert drawn(model, videos, tmp_path, monkeypatch)[1] == note


def test_a_picture_is_a_file(model, videos, tmp_path):
    from PIL import Image

    samples = find_samples(videos, model.method.modalities)[:1]
    (file,) = picture.reconstructions(model, samples, tmp_path / "report")
    pixels = np.asarray(Image.open(file).convert("RGB"))
    assert pixels.std() > 20


@pytest.mark.parametrize(("height", "width", "rows"), [(8, 8, 2), (8, 64, 6)], ids=["square", "wide"])
def test_wide_pictures_stand_below_each_other_and_others_side_by_side(height, width, rows, tmp_path):
    from PIL import Image

    views = {title: np.zeros((height, width, 3), np.uint8) for title in ("a", "b", "c")}
    picture._draw([views, views], tmp_path / "sheet.png", "")
    with Image.open(tmp_path / "sheet.png") as sheet:
        wide, tall = sheet.size
    across = 6 // rows
    assert tall / wide == pytest.approx(height * rows / (width * across), rel=0.4)


def test_padding_is_shown_as_it_is_and_the_hidden_places_alone_are_covered():
    """Of padded tokens a split names more places than are hidden; what was asked in vain must not be drawn."""
    modality = toy().modalities["video"]
    tokens = modality.tokenize(random_clips(1, FRAMES, SIZE))
    ids = torch.arange(tokens.count)[None]
    valid = torch.arange(tokens.count - 5)[None] < 3  # 3 of the others are hidden, the rest is padding
    split = Split(ids[:, :5], ids[:, 5:], None, valid)
    tokens = replace(tokens, valid=ids < 8)
    predicted = torch.ones(1, *ids[:, 5:].shape[1:], 3, TUBELET, PATCH, PATCH)
    rows = picture._rows(picture.Canvas(modality, tokens), Sides(tokens, split, tokens, split), valid, predicted)
    original, seen, predicted = (rows[title][0] for title in rows)
    share = 3 / tokens.count
    assert (seen == GREY_OF_HIDDEN).all(axis=-1).mean() == pytest.approx(share, abs=0.01)
    assert (predicted != original).any(axis=-1).mean() == pytest.approx(share, abs=0.01)


def test_places_that_are_asked_for_and_do_not_count_are_drawn_as_they_are_and_hidden_ones_not_asked_for_grey():
    modality = toy().modalities["video"]
    tokens = modality.tokenize(random_clips(1, FRAMES, SIZE))
    n, ids = tokens.count, torch.arange(tokens.count)[None]
    asked, counted = ids[:, 4:12], ids[:, 4:12] >= 8  # of 8 visible tokens the last four are asked for too
    split = Split(ids[:, :8], asked, counted=counted)
    predicted = torch.ones(1, 8, 3, TUBELET, PATCH, PATCH)
    rows = picture._rows(picture.Canvas(modality, tokens), Sides(tokens, split, tokens, split), counted, predicted)
    original, seen, drawn = (rows[title][0] for title in rows)
    assert (seen == GREY_OF_HIDDEN).all(axis=-1).mean() == pytest.approx((n - 8) / n, abs=0.01)
    assert (drawn == GREY_OF_HIDDEN).all(axis=-1).mean() == pytest.approx((n - 12) / n, abs=0.01)
    assert (drawn == original).all(axis=-1).mean() == pytest.approx(8 / n, abs=0.01)


def test_views_of_several_heights_are_drawn_at_one_scale():
    padded = picture._padded(np.zeros((10, 40, 3), np.uint8), 20, 50)
    assert padded.shape == (20, 50, 3)
    assert not padded[:10, :40].any()
    assert (padded[10:] == 255).all()
    assert (padded[:, 40:] == 255).all()
