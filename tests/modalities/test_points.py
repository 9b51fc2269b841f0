import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from mmim.data.world import scenes
from mmim.draw import Draw
from mmim.errors import OptionError, ReadError
from mmim.evaluation.knn import knn_correct
from mmim.evaluation.probe import probe_correct
from mmim.modality import Source
from modalities.points import Points
from tests import clouds
from tests.clouds import FACES, TETRAHEDRON, ball
from tests.videos import shared_data

REFERENCE = Path(__file__).parents[1] / "reference"
SMALL = Points(points=256, groups=16, group_size=8)
FULL = replace(SMALL, colour=True, normals=True)
PLAIN = replace(SMALL, augment=False)


def draw(key):
    return Draw(torch.tensor([key]))


@pytest.fixture
def write(tmp_path):
    def write(name, data):
        (tmp_path / name).write_bytes(data)
        return Source(tmp_path / name)

    return write


@pytest.fixture
def source(tmp_path):
    SMALL.depict(scenes(1, seed=0)[0], tmp_path / "a.ply")
    return Source(tmp_path / "a.ply")


def batch(points=SMALL, count=3, seed=0):
    torch.manual_seed(seed)
    return torch.randn(count, points.points, points.channels)


# Reading


@pytest.mark.parametrize("points", [SMALL, FULL, replace(SMALL, normals=True), replace(SMALL, colour=True)])
@pytest.mark.parametrize("key", [None, draw(3)])
def test_a_sample_has_the_declared_shape_and_type(points, key, source):
    view, blank = points.read(source, key), points.blank()
    assert (view.shape, view.dtype) == (blank.shape, blank.dtype) == ((256, points.channels), torch.float32)


def test_a_cloud_is_centred_and_scaled_into_the_unit_ball(write):
    for offset, scale in ((0, 1.0), (1e6, 1.0), (0, 1e30), (0, 1e-30), (0, 1e300)):
        view = SMALL.read(write("a.npy", clouds.npy((ball(400) + offset) * scale)), None)
        assert_close(view.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-6)
        assert view.norm(dim=1).max() == pytest.approx(1, abs=1e-6)
        assert view.norm(dim=1).min() > 0.7


def test_the_middle_is_that_of_the_points_taken(write):
    """The subset comes first, as in the official loader: a cloud of two far heaps has another middle each time."""
    heaps = np.concatenate([ball(2000), ball(2000) + 100])
    source = write("a.npy", clouds.npy(heaps))
    for key in range(4):
        view = replace(PLAIN, points=32).read(source, draw(key))
        assert_close(view.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-6)


def test_equal_keys_read_equal_views_and_other_keys_others(source):
    for points in (SMALL, PLAIN, FULL):
        first = [points.read(source, draw(key)) for key in range(6)]
        again = points.read_many(source, [draw(key) for key in range(6)])
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert len({view.numpy().tobytes() for view in first}) == 6


def test_evaluation_always_takes_the_same_points_and_never_augments(source):
    assert torch.equal(SMALL.read(source, None), PLAIN.read(source, None))
    assert not torch.equal(SMALL.read(source, draw(0)), PLAIN.read(source, draw(0)))


def test_augmentation_scales_each_axis_and_shifts_each_cloud(source):
    found = []
    for key in range(200):
        plain, moved = (points.read(source, draw(key)).double() for points in (PLAIN, SMALL))
        scale = (moved.std(dim=0) / plain.std(dim=0)).tolist()
        shift = (moved.mean(dim=0) - plain.mean(dim=0) * torch.tensor(scale)).tolist()
        found.append([*scale, *shift])
    found = np.array(found)
    assert (found[:, :3] > 2 / 3 - 1e-4).all()
    assert (found[:, :3] < 3 / 2 + 1e-4).all()
    np.testing.assert_allclose(found.mean(axis=0), [13 / 12] * 3 + [0] * 3, atol=0.05)
    np.testing.assert_allclose(found.std(axis=0), [0.2406] * 3 + [0.1155] * 3, rtol=0.12)
    assert np.abs(np.corrcoef(found.T) - np.eye(6)).max() < 0.25


def test_normals_stay_normal_to_a_surface_that_is_scaled(write):
    """A plane through three points of a scaled tetrahedron has the normal that its points then have."""
    source = write("a.ply", clouds.ply(TETRAHEDRON, FACES))
    points = replace(SMALL, normals=True)
    view = points.read(source, draw(5)).double()
    slanted = view[(view[:, 3:] > 0.1).all(dim=1)]
    offset = (slanted[:, :3] * slanted[0, 3:]).sum(dim=1)
    assert len(slanted) > 50
    assert_close(offset, offset[:1].expand_as(offset), rtol=0, atol=1e-5)
    assert_close(slanted[:, 3:].norm(dim=1), torch.ones(len(slanted)).double(), rtol=0, atol=1e-6)


def test_colours_lie_between_minus_one_and_one(write):
    colour = np.tile(np.array([[255, 0, 51]], np.uint8), (300, 1))
    view = replace(SMALL, colour=True).read(write("a.ply", clouds.ply(ball(), colour=colour)), draw(0))
    assert_close(view[:, 3:], torch.tensor([[1.0, -1.0, -0.6]]).expand(256, 3))


def test_few_points_are_repeated(write):
    view = PLAIN.read(write("a.npy", clouds.npy(ball(100))), draw(0))
    assert sorted(view.unique(dim=0, return_counts=True)[1].tolist()) == [2] * 44 + [3] * 56


def test_rows_of_a_file_are_samples(write):
    many = np.stack([ball(seed=seed) for seed in range(3)])
    source = write("a.npz", clouds.npz(points=many.astype("f4")))
    assert SMALL.rows_in(source.path) == range(3)
    for row in range(3):
        alone = SMALL.read(write(f"{row}.npy", clouds.npy(many[row].astype("f4"))), draw(2))
        assert torch.equal(SMALL.read(replace(source, row=row), draw(2)), alone)


BAD = {
    "one.npy": ("^1 distinct point: 16 groups need as many$", clouds.npy(ball(1))),
    "same.npy": ("^1 distinct point: 16 groups need as many$", clouds.npy(np.ones((300, 3)))),
    "few.ply": ("^too few distinct points: 16 groups", clouds.ply(ball(15))),
    "nan.xyz": ("^no point of 300 is finite$", clouds.xyz(np.full((300, 3), np.nan))),
    "flat.off": ("^a mesh without area$", clouds.off(TETRAHEDRON, [(0, 0, 1)] * 4)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_can_not_be_grouped_gives_its_reason(name, write):
    reason, data = BAD[name]
    for key in (None, draw(0)):
        with pytest.raises(ReadError, match=reason):
            SMALL.read(write(name, data), key)


def test_another_process_reads_the_same_points(source):
    assert pickle.loads(pickle.dumps(FULL)) == FULL
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(_read, FULL, source, 7).result()
    np.testing.assert_array_equal(there, FULL.read(source, draw(7)).numpy())


def _read(points, source, key):
    return points.read(source, draw(key)).numpy()


# Tokens


def test_groups_are_those_of_the_official_code():
    with safe_open(REFERENCE / "point_mae.safetensors", "pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
    points = Points(points=160, groups=16, group_size=8)
    tokens = points.tokenize(found["input/points"])
    assert_close(tokens.coords, found["out/center"], rtol=0, atol=1e-6)
    assert_close(tokens.values, found["out/neighborhood"], rtol=0, atol=1e-6)
    assert (tokens.grid, tokens.valid) == (None, None)


def test_points_near_the_middle_are_no_centres_unless_asked_for():
    raw = batch()
    raw = raw / raw.norm(dim=-1, keepdim=True)
    raw[:, 1:40] *= 0.01
    for skip in (True, False):
        centres = replace(SMALL, groups=200, skip_near_origin=skip).tokenize(raw).coords
        assert (centres.norm(dim=-1) < 0.03).any() != skip


@pytest.mark.parametrize("points", [SMALL, FULL])
def test_untokenize_puts_the_points_back_where_they_were(points):
    raw = batch(points)
    tokens = points.tokenize(raw)
    data = points.untokenize(points.raw(tokens.values), tokens)
    assert data.shape == (3, 16 * 8, points.channels)
    for sample, there in zip(data, raw, strict=True):
        assert torch.cdist(sample.double(), there.double()).amin(dim=1).max() < 1e-5


def test_another_number_of_points_or_groups_is_tokenised():
    tokens = replace(SMALL, groups=40).tokenize(torch.randn(2, 500, 3))
    assert tokens.values.shape == (2, 40, 8, 3)


def test_an_absent_sample_has_finite_tokens():
    tokens = FULL.tokenize(FULL.blank()[None])
    assert tokens.values.isfinite().all()
    assert tokens.coords.isfinite().all()


@pytest.mark.parametrize(("fields", "leaks"), [({}, True), ({"sees_hidden": False}, False), ({"norm": "layer"}, False)])
def test_hidden_groups_reach_the_others_in_training_through_the_published_batch_norm_alone(fields, leaks):
    points = replace(SMALL, **fields)
    embedder = points.embedder(24).train()
    values, visible = points.tokenize(batch(points)).values, torch.arange(16) < 6
    other = torch.where(visible[:, None, None], values, torch.randn_like(values))
    first, second = (_embedded(embedder, content, visible) for content in (values, other))
    assert torch.equal(first, second) != leaks


def _embedded(embedder, values, visible):
    """Of the visible groups, as the Trunk asks for them."""
    counted = torch.ones(values.shape[:2], dtype=torch.bool)
    if embedder.sees_hidden:
        return embedder(values, counted)[:, visible]
    return embedder(values[:, visible], counted[:, visible])


# Pictures, features, the sample world


def test_a_picture_shows_two_views_and_nothing_beyond_the_cube():
    data = torch.zeros(1, 3, 3)
    data[0, 0], data[0, 1], data[0, 2, 1] = torch.tensor([0.9, 0, 0.9]), 1e9, -1e9
    (picture,) = SMALL.render(data)
    assert (picture.shape, picture.dtype) == ((96, 192, 3), np.uint8)
    rows, columns = np.nonzero((picture[:, :96] != 255).any(axis=-1))
    assert len(rows) == 5
    assert rows.max() < 12  # z up
    assert columns.min() > 84  # x to the right
    assert (picture[:, 96:] != 255).any()


def test_what_is_in_front_is_darker_and_covers_what_is_behind():
    front, back = (torch.tensor([0.0, y, 0.0]) for y in (-0.8, 0.8))
    both, alone, behind = (SMALL.render(torch.stack(places)[None])[0] for places in ((front, back), (front,), (back,)))
    np.testing.assert_array_equal(both[:, :96], alone[:, :96])
    assert alone[48, 48].sum() < behind[48, 48].sum()


def test_colours_are_drawn_where_there_are_some():
    data = torch.tensor([[[0.0, -1, 0, 1, -1, -1, 0, 0, 1]]])
    assert tuple(FULL.render(data)[0][48, 48]) == (255, 0, 0)


def test_features_do_not_depend_on_the_order_of_few_points(write):
    """Histograms add up to 1 each, and two views of a cloud are nearer to each other than two clouds."""
    sources = [write("a.npy", clouds.npy(ball(3000))), write("b.ply", clouds.ply(TETRAHEDRON, FACES))]
    views = [SMALL.features(torch.stack([PLAIN.read(source, draw(key)) for key in (1, 2)])) for source in sources]
    assert_close(views[0].unflatten(1, (5, 32)).sum(dim=2), torch.ones(2, 5))
    assert (views[0][0] - views[0][1]).abs().sum() < 0.4 * (views[0][0] - views[1][0]).abs().sum()


@pytest.mark.slow
def test_features_reach_the_floor_that_is_told_of_ldraw_parts():
    path = shared_data() / "points/ldraw_parts.npz"
    points = Points()
    raws = torch.stack([points.read(Source(path, row), None) for row in points.rows_in(path)])
    features = torch.cat([points.features(part) for part in raws.split(256)]).double().numpy()
    classes, test = np.load(path)["label"].astype(int), np.arange(len(raws)) % 4 == 3
    parts = (features[~test], classes[~test], features[test], classes[test])
    assert probe_correct(*parts).mean() > 0.404
    assert knn_correct(*parts).mean() > 0.442


def test_real_parts_and_models_are_read():
    path = shared_data() / "points/ldraw_parts.npz"
    assert SMALL.rows_in(path) == range(1815)
    view = SMALL.read(Source(path, 1000), None)
    assert view.norm(dim=1).max() == pytest.approx(1, abs=1e-6)


def test_a_scene_becomes_a_file_that_can_be_read_again(tmp_path):
    first, second = scenes(2, seed=0)
    for name, scene in (("a", first), ("b", first), ("c", second)):
        SMALL.depict(scene, tmp_path / f"{name}{SMALL.suffix}")
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    views = [FULL.read(Source(tmp_path / f"{name}.ply"), None) for name in "abc"]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert_close(views[0][:, 6:].norm(dim=1), torch.ones(256), rtol=0, atol=1e-5)


def test_the_demo_needs_no_open3d(source, monkeypatch):
    monkeypatch.setattr("mmim.data.pcd_read.importlib.import_module", lambda name: pytest.fail(name))
    FULL.read(source, None)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 0}, "Points.points is 0; it must be at least 1"),
        ({"groups": 0}, "Points.groups is 0; it must be at least 1 and at most the 1024 points"),
        ({"groups": 2048}, "Points.groups is 2048; it must be at least 1 and at most the 1024 points"),
        ({"group_size": 2048}, "Points.group_size is 2048"),
        ({"scale": (1.5, 1.0)}, r"Points.scale is \(1.5, 1.0\); it must be 0 < lowest <= highest"),
        ({"scale": (0.0, 1.0)}, r"Points.scale is \(0.0, 1.0\)"),
        ({"shift": -0.1}, "Points.shift is -0.1; it must be at least 0 and finite"),
    ],
)
def test_options_that_can_not_be_are_refused_with_the_reason(options, message):
    with pytest.raises(OptionError, match=message):
        Points(**options)
