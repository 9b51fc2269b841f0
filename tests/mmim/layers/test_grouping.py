import subprocess
import sys

import numpy as np
import pytest
import torch

from mmim.errors import OptionError
from mmim.layers.grouping import farthest_points, nearest_points
from tests.parity import load

FILES = ("point_mae", "point_bert_dvae")


def cloud(b=3, points=50, seed=0, dtype=torch.float64):
    return torch.randn(b, points, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def farthest_by_hand(points, count, skip):
    """The published rule, point by point."""
    rows = []
    for sample in np.asarray(points, np.float64):
        chosen = [0]
        while len(chosen) < count:
            best, far = 0, -1.0
            for i, point in enumerate(sample):
                if skip and (point**2).sum() <= 1e-3:
                    continue
                distance = min(((point - sample[j]) ** 2).sum() for j in chosen)
                if distance > far:
                    best, far = i, distance
            chosen.append(best)
        rows.append(chosen)
    return rows


def nearest_by_hand(points, centres, count):
    distances = np.linalg.norm(np.asarray(points)[:, None] - np.asarray(centres)[:, :, None], axis=-1)
    return np.argsort(distances, axis=-1, kind="stable")[..., :count].tolist()


@pytest.fixture(scope="module")
def open3d():
    try:
        import open3d
    except (ImportError, OSError) as error:  # its wheel needs system libraries that not every machine has
        pytest.skip(f"open3d can't be imported: {error}")
    return open3d


@pytest.mark.parametrize("skip", [True, False])
def test_farthest_points_are_those_of_the_published_rule(skip):
    points = cloud()
    points[:, 5:12] *= 1e-3  # near the origin
    points[1, 0] = 0.0
    found = farthest_points(points, 45, skip_near_origin=skip).tolist()
    assert found == farthest_by_hand(points, 45, skip)
    assert skip is (not {*range(5, 12)} & {i for row in found for i in row})


def test_farthest_points_are_those_of_open3d(open3d):
    points = cloud(2, 300)
    found = farthest_points(points, 40, skip_near_origin=False)
    for sample, ids in zip(points, found, strict=True):
        there = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(sample.numpy()))
        theirs = torch.from_numpy(np.asarray(there.farthest_point_down_sample(40).points))
        assert torch.equal(sample[ids.sort().values], theirs)  # it gives them in the cloud's order


def test_nearest_points_are_those_of_a_full_sort():
    points, centres = cloud(), cloud(points=7, seed=1)
    assert nearest_points(points, centres, 9).tolist() == nearest_by_hand(points, centres, 9)


def test_nearest_points_are_those_of_open3d(open3d):
    points = cloud(2, 300)
    found = nearest_points(points, points[:, :20], 12)
    for sample, rows in zip(points, found, strict=True):
        tree = open3d.geometry.KDTreeFlann(sample.T.numpy())
        assert rows.tolist() == [list(tree.search_knn_vector_3d(point.numpy(), 12)[1]) for point in sample[:20]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FILES)
def test_groups_are_the_official_ones(name, dtype):
    reference = load(name)
    points, out = reference.tensors["input/points"].to(dtype), reference.part("out/")
    far = farthest_points(points, reference.config["num_group"])
    centres = points.gather(1, far[..., None].expand(-1, -1, 3))
    near = nearest_points(points, centres, reference.config["group_size"])
    assert torch.equal(far, out["fps_index"])
    assert torch.equal(near, out["knn_index"])
    assert torch.equal(centres.float(), out["center"])
    around = points[:, None].expand(-1, far.shape[1], -1, -1).gather(2, near[..., None].expand(*near.shape, 3))
    assert (around - centres[:, :, None] - out["neighborhood"]).abs().max() < 1e-6


@pytest.mark.parametrize("name", FILES)
def test_the_official_centres_need_the_rule_of_points_near_the_origin(name):
    reference = load(name)
    points, count = reference.tensors["input/points"], reference.config["num_group"]
    assert not torch.equal(farthest_points(points, count, skip_near_origin=False), reference.tensors["out/fps_index"])


def test_of_points_equally_far_the_first_is_taken():
    square = torch.tensor([[[1.0, 1, 0], [-1, 1, 0], [1, -1, 0], [-1, -1, 0], [1, 1, 0]]])
    assert farthest_points(square, 4).tolist() == [[0, 3, 1, 2]]


def test_of_points_equally_near_the_first_are_taken():
    points = torch.tensor([[[float(i % 3), 0.0, 0.0] for i in range(300)]])  # each place a hundred times
    found = nearest_points(points, torch.tensor([[[0.0, 0, 0], [2, 0, 0]]]), 110)
    assert found[0, 0].tolist() == [*range(0, 300, 3), *range(1, 30, 3)]
    assert found[0, 1].tolist() == [*range(2, 300, 3), *range(1, 30, 3)]


def test_fewer_places_than_asked_all_come_and_the_lowest_index_again():
    points = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]])
    assert farthest_points(points, 6, skip_near_origin=False).tolist() == [[0, 1, 4, 0, 0, 0]]
    assert farthest_points(points[:, 1:], 5).tolist() == [[0, 1, 0, 0, 0]]
    assert farthest_points(points.roll(1, dims=1), 5).tolist() == [[0, 1, 2, 1, 1]]  # point 0 is near the origin


@pytest.mark.parametrize("skip", [True, False])
def test_an_absent_cloud_of_zeros_gives_point_0(skip):
    points = torch.zeros(2, 10, 3)
    assert farthest_points(points, 12, skip_near_origin=skip).tolist() == [[0] * 12] * 2
    assert nearest_points(points, points[:, :2], 10).tolist() == [[[*range(10)]] * 2] * 2


def test_a_cloud_is_sampled_alike_beside_any_others():
    points = cloud(4, dtype=torch.float32)
    assert torch.equal(farthest_points(points, 20)[1:2], farthest_points(points[1:2], 20))
    assert torch.equal(nearest_points(points, points[:, :5], 8)[1:2], nearest_points(points[1:2], points[1:2, :5], 8))


def test_half_precision_is_sampled_in_single():
    points = cloud(dtype=torch.float32).bfloat16()
    assert torch.equal(farthest_points(points, 20), farthest_points(points.float(), 20))
    with torch.autocast("cpu", torch.bfloat16):
        near = nearest_points(points.float(), points[:, :9].float(), 8)
    assert torch.equal(near, nearest_points(points.float(), points[:, :9].float(), 8))


@pytest.mark.parametrize("count", [0, 51])
def test_more_neighbours_than_points_are_refused(count):
    with pytest.raises(OptionError, match=f"{count} neighbours among 50 points can't be: ask for 1 to all of them"):
        nearest_points(cloud(), cloud(), count)


def test_no_points_at_all_are_refused():
    with pytest.raises(OptionError, match="0 points can't be sampled: ask for at least 1"):
        farthest_points(cloud(), 0)


COMPILE = """
import torch
from mmim.layers.grouping import farthest_points, nearest_points
def groups(points):
    far = farthest_points(points, 16)
    centres = points.gather(1, far[..., None].expand(-1, -1, 3))
    return far, nearest_points(points, centres, 8)
points = torch.randn(2, 64, 3)
made = torch.compile(groups, fullgraph=True, backend="aot_eager")(points)
assert all(torch.equal(a, b) for a, b in zip(made, groups(points)))
"""


@pytest.mark.slow
def test_grouping_compiles_into_one_graph():
    # In a process of its own, since a graph can't hold the shape checks that pytest adds.
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=300)
