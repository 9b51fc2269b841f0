import importlib
import importlib.util
import os
import tracemalloc

import numpy as np
import pytest
import torch

from mmim.data import cloud_arrays
from mmim.data.cloud import Cloud, Mesh, subset
from mmim.data.cloud_read import count_rows, read_cloud
from mmim.draw import Draw
from mmim.errors import ReadError
from tests import clouds
from tests.clouds import FACES, TETRAHEDRON, ball

RED = np.tile(np.array([[255, 0, 51]], np.uint8), (300, 1))
FORMATS = {
    "binary.ply": clouds.ply(ball()),
    "big.ply": clouds.ply(ball(), form="binary_big_endian"),
    "text.ply": clouds.ply(ball(), form="ascii"),
    "plain.npy": clouds.npy(ball()),
    "turned.npy": clouds.npy(np.asfortranarray(ball())),
    "half.npy": clouds.npy(ball().astype("f2")),
    "big.npy": clouds.npy(ball().astype(">f4")),
    "named.npz": clouds.npz(points=ball(), other=ball(9)),
    "alone.npz": clouds.npz(anything=ball().astype("f4"), label=np.arange(3)),
    "spaces.xyz": b"# a comment\n\n" + clouds.xyz(ball(), between="  ") + b"\n",
    "tabs.xyz": clouds.xyz(ball(), between="\t"),
    "commas.xyz": b"//X,Y,Z\r\n" + clouds.xyz(ball(), between=", ").replace(b"\n", b" # and one\r\n"),
}
MESHES = {
    "text.off": clouds.off(TETRAHEDRON, FACES),
    "modelnet.off": clouds.off(TETRAHEDRON, FACES).replace(b"OFF\n# a comment\n", b"OFF"),
    "parts.obj": clouds.obj(TETRAHEDRON, FACES[:2]) + b"usemtl other\n" + clouds.obj(TETRAHEDRON, FACES[2:])[-32:],
    "binary.stl": clouds.stl(TETRAHEDRON, FACES),
    "text.stl": clouds.stl_text(TETRAHEDRON, FACES),
    "parts.stl": clouds.stl_text(TETRAHEDRON, FACES[:1]) + clouds.stl_text(TETRAHEDRON, FACES[1:]),
    "binary.ply": clouds.ply(TETRAHEDRON, FACES),
    "text.ply": clouds.ply(TETRAHEDRON, FACES, form="ascii"),
}


@pytest.fixture
def write(tmp_path):
    def write(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def draw(key):
    return Draw(torch.tensor([key]))


# Clouds


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_points_that_were_written(name, write):
    cloud = read_cloud(write(name, FORMATS[name]))
    assert isinstance(cloud, Cloud)
    assert (cloud.colour, cloud.normals) == (None, None)
    np.testing.assert_allclose(cloud.places, ball(), rtol=0, atol=1e-3 if "half" in name else 2e-6)


def test_a_suffix_in_capitals_is_understood(write):
    assert len(read_cloud(write("A.PLY", FORMATS["binary.ply"])).places) == 300


def test_colours_and_normals_of_a_ply_file_are_read(write):
    for form in ("ascii", "binary_little_endian"):
        path = write("a.ply", clouds.ply(ball() * 3, colour=RED, normals=ball() * 2, form=form))
        cloud = read_cloud(path, colour=True, normals=True)
        np.testing.assert_allclose(cloud.colour, RED / 255, atol=1e-6)
        np.testing.assert_allclose(cloud.normals, ball(), atol=1e-6)


@pytest.mark.parametrize("full", [1, 255])
@pytest.mark.parametrize("normals_first", [False, True])
def test_bare_columns_are_told_apart_by_their_lengths(normals_first, full, write):
    colour = RED / 255 * full
    triples = [ball(), colour] if normals_first else [colour, ball()]
    for name, data in (("a.xyz", clouds.xyz(ball(), *triples)), ("a.npy", clouds.npy(np.hstack([ball(), *triples])))):
        cloud = read_cloud(write(name, data), colour=True, normals=True)
        np.testing.assert_allclose(cloud.colour, RED / 255, atol=1e-5)
        np.testing.assert_allclose(cloud.normals, ball(), atol=1e-5)


def test_three_further_columns_are_a_colour_or_a_normal(write):
    assert read_cloud(write("a.xyz", clouds.xyz(ball(), RED))).normals is None
    assert read_cloud(write("b.xyz", clouds.xyz(ball(), ball()))).colour is None
    with pytest.raises(ReadError, match=r"^no colours, which are asked for$"):
        read_cloud(write("b.xyz", clouds.xyz(ball(), ball())), colour=True)


def test_columns_without_a_known_meaning_are_left_aside(write):
    for more in (1, 2, 4):
        cloud = read_cloud(write("a.xyz", clouds.xyz(ball(), np.ones((300, more)))))
        np.testing.assert_allclose(cloud.places, ball(), atol=2e-6)


def test_a_text_of_many_blocks_is_read_whole(write, monkeypatch):
    monkeypatch.setattr("mmim.data.columns_read.BLOCK", 100)
    np.testing.assert_allclose(read_cloud(write("a.xyz", FORMATS["commas.xyz"])).places, ball(), atol=2e-6)


def test_points_that_are_no_numbers_are_dropped(write):
    spoilt = ball()
    spoilt[::3] = np.nan
    spoilt[1, 2] = np.inf
    there = ball()[np.isfinite(spoilt).all(axis=1)]
    for name, data in (("a.npy", clouds.npy(spoilt)), ("a.ply", clouds.ply(spoilt)), ("a.xyz", clouds.xyz(spoilt))):
        np.testing.assert_allclose(read_cloud(write(name, data)).places, there, atol=2e-6)


def test_a_normal_without_direction_is_zeros(write):
    normals = ball()
    normals[0], normals[1] = np.nan, 0
    read = read_cloud(write("a.ply", clouds.ply(ball(), normals=normals)), normals=True).normals
    assert not read[:2].any()
    np.testing.assert_allclose(read[2:], ball()[2:], atol=1e-6)


# Meshes


@pytest.mark.parametrize("name", MESHES)
def test_every_mesh_is_sampled_over_its_whole_surface(name, write):
    mesh = read_cloud(write(name, MESHES[name]))
    assert isinstance(mesh, Mesh)
    assert len(mesh.corners) == 4
    places = mesh.take(2000, draw(1)).places
    assert (places > -1e-9).all()
    on = np.stack([*(places.T < 1e-9), places.sum(axis=1) > 1 - 1e-6])
    assert on.any(axis=0).all()
    slanted = np.sqrt(3) / (3 + np.sqrt(3))  # of the area
    np.testing.assert_allclose(on.mean(axis=1), [(1 - slanted) / 3] * 3 + [slanted], atol=0.04)


def test_points_lie_evenly_within_a_triangle():
    mesh = Mesh(np.array([[(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]]))
    u, v, _ = mesh.take(4000, draw(0)).places.T
    quarters = [(u > 0.5).mean(), (v > 0.5).mean(), (u + v < 0.5).mean()]
    np.testing.assert_allclose(quarters, 0.25, atol=0.03)


def test_polygons_are_cut_into_triangles(write):
    square = np.array([(0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (2.0, 1.0, 0.0), (0.0, 1.0, 0.0)])
    colour = [(255, 0, 0)]
    for name, data in (
        ("a.ply", clouds.ply(square, [(0, 1, 2, 3)], face_colour=colour)),
        ("b.ply", clouds.ply(square, [(0, 1, 2, 3)], face_colour=colour, form="ascii")),
        ("a.off", clouds.off(square, [(0, 1, 2, 3)])),
        ("a.obj", clouds.obj(square, [(0, 1, 2, 3)])),
    ):
        mesh = read_cloud(write(name, data), colour=name.endswith("ply"))
        cloud = mesh.take(4000, None)
        np.testing.assert_allclose(cloud.places.mean(axis=0), [1, 0.5, 0], atol=0.03)
        np.testing.assert_allclose(np.abs(cloud.normals), [[0, 0, 1]] * 4000, atol=1e-9)
        if mesh.colour is not None:
            np.testing.assert_allclose(cloud.colour, [[1, 0, 0]] * 4000, atol=1e-6)


def test_face_colours_stay_on_their_faces_and_vertex_colours_run_between(write):
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)])
    faces = read_cloud(write("a.ply", clouds.ply(TETRAHEDRON, FACES, face_colour=colours)), colour=True)
    cloud = faces.take(400, None)
    bottom = cloud.normals[:, 2] < -0.9
    np.testing.assert_allclose(cloud.colour[bottom], [[1, 0, 0]] * bottom.sum(), atol=1e-6)
    for name, data in (
        ("b.ply", clouds.ply(TETRAHEDRON, FACES, colour=colours)),
        ("a.obj", clouds.obj(TETRAHEDRON, FACES, colour=colours / 255)),
    ):
        cloud = read_cloud(write(name, data), colour=True).take(400, None)
        weights = np.column_stack([1 - cloud.places.sum(axis=1), cloud.places])
        np.testing.assert_allclose(cloud.colour, weights @ colours / 255, atol=1e-5)


def test_no_file_leads_to_another(write, monkeypatch):
    path = write("a.obj", clouds.obj(TETRAHEDRON, FACES))
    opened = []
    original = type(path).open
    monkeypatch.setattr("builtins.open", lambda *args, **_: opened.append(args))
    monkeypatch.setattr(type(path), "open", lambda self, *args: opened.append(self) or original(self, *args))
    read_cloud(path)
    assert opened == [path]


# What is taken


def test_a_subset_holds_different_points_in_random_order():
    for total, count in ((10, 10), (300, 64), (100_000, 64), (40_000_000, 8), (9, 1), (1000, 1)):
        chosen = [subset(total, count, draw(key)) for key in range(30)]
        assert all(len(set(one.tolist())) == count and one.min() >= 0 and one.max() < total for one in chosen)
        assert len({one.tobytes() for one in chosen}) > 5
        assert (chosen[0] == subset(total, count, draw(0))).all()
        assert abs(np.mean(chosen) / (total - 1) - 0.5) < 4 * 0.29 / np.sqrt(30 * count)


def test_far_numbers_of_a_large_file_are_reached_evenly():
    drawn = np.concatenate([subset(48_000_000, 2000, draw(key)) for key in range(10)])
    between = drawn / 48_000_000 * 2**24 % 1  # 24 bits alone would reach no number in the first half of their steps
    assert (between < 0.5).mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(np.histogram(drawn, 4, (0, 48_000_000))[0] / len(drawn), 0.25, atol=0.02)


def test_few_points_are_repeated_as_evenly_as_can_be():
    cloud = Cloud(ball(30), colour=ball(30) ** 2, normals=ball(30))
    taken = cloud.take(100, draw(3))
    _, times = np.unique(taken.places, axis=0, return_counts=True)
    assert sorted(times.tolist()) == [3] * 20 + [4] * 10
    np.testing.assert_array_equal(taken.places, taken.normals)
    np.testing.assert_array_equal(taken.places**2, taken.colour)


def test_without_a_draw_the_same_points_are_taken():
    for solid in (Cloud(ball()), Mesh(TETRAHEDRON[FACES])):
        first, again, other = (solid.take(50, each).places for each in (None, None, draw(7)))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


# Many clouds in a file


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_rows_are_clouds(name, write):
    many = np.stack([ball(seed=seed) for seed in range(5)])
    path = write(name, clouds.npy(many) if name == "a.npy" else clouds.npz(points=many, label=np.arange(5)))
    assert count_rows(path) == range(5)
    for row in (4, 0, 3):
        np.testing.assert_array_equal(read_cloud(path, row).places, many[row])
    with pytest.raises(ReadError, match=r"^5 clouds: a sample is one of its rows$"):
        read_cloud(path)
    with pytest.raises(ReadError, match=r"^5 clouds, and row 5 is asked for$"):
        read_cloud(path, 5)


def test_one_cloud_has_no_rows(write):
    for name in ("plain.npy", "named.npz", "spaces.xyz"):
        path = write(name, FORMATS[name])
        assert count_rows(path) is None
        with pytest.raises(ReadError, match=r"^one cloud, and row 2 of it is asked for$"):
            read_cloud(path, 2)


def test_an_npz_file_is_unpacked_once_and_again_when_it_changes(write, monkeypatch):
    path = write("a.npz", clouds.npz(points=np.stack([ball()] * 3)))
    calls = []
    original = np.lib.format.read_array
    monkeypatch.setattr(np.lib.format, "read_array", lambda *a, **k: calls.append(1) or original(*a, **k))
    for row in (0, 1, 2, 0):
        read_cloud(path, row)
    assert len(calls) == 1
    path.write_bytes(clouds.npz(points=np.stack([ball(seed=1)] * 3)))
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(read_cloud(path, 0).places, ball(seed=1))
    assert len(calls) == 2


def test_few_unpacked_arrays_are_kept(write):
    for seed in range(9):
        read_cloud(write(f"{seed}.npz", clouds.npz(points=ball(seed=seed))))
    assert len(cloud_arrays._kept) <= cloud_arrays.KEPT


def test_a_row_of_a_large_npy_file_costs_a_row(tmp_path):
    head = clouds.npy_head((4000, 100_000, 3))  # 4.8 GB that are not there
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 4000 * 100_000 * 12)
    tracemalloc.start()
    assert len(read_cloud(tmp_path / "a.npy", 3000).places) == 100_000
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


def test_an_array_too_large_to_unpack_is_refused_by_its_header(write):
    path = write("a.npz", clouds.zipped(clouds.npy_head((200_000, 1024, 3)) + bytes(1000)))
    for ask in (count_rows, read_cloud):
        with pytest.raises(
            ReadError, match=r"^an array of 2.29 GiB in an \.npz file, where 1 is unpacked .*save it as"
        ):
            ask(path)


# open3d


def without_open3d(monkeypatch):
    def importing(name):
        raise OSError("libusb-1.0.so.0: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("mmim.data.pcd_read.importlib.import_module", importing)


def open3d():
    if importlib.util.find_spec("open3d") is None:
        pytest.skip("open3d is not installed")
    try:
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:
        pytest.skip(f"open3d can't be imported: {error}")


def test_without_open3d_it_is_said_what_to_install(write, monkeypatch):
    without_open3d(monkeypatch)
    said = r"open3d, which can't be imported: pip install open3d, and on Debian apt install libusb-1\.0-0$"
    with pytest.raises(ReadError, match=rf"^\.pcd files are read with {said}"):
        read_cloud(write("a.pcd", clouds.pcd(ball())))
    with pytest.raises(ReadError, match=f"^normals are estimated where a file has none with {said}"):
        read_cloud(write("a.npy", clouds.npy(ball())), normals=True)


@pytest.mark.parametrize("name", [*FORMATS, *(f"mesh-{name}" for name in MESHES)])
def test_everything_else_is_read_without_open3d(name, write, monkeypatch):
    without_open3d(monkeypatch)
    read_cloud(write(name, FORMATS.get(name) or MESHES[name.removeprefix("mesh-")]))
    read_cloud(write("a.ply", clouds.ply(ball(), normals=ball())), normals=True)
    read_cloud(write("b.ply", clouds.ply(TETRAHEDRON, FACES)), normals=True)


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_pcd_files_are_read(form, tmp_path):
    library = open3d()
    cloud = library.geometry.PointCloud(library.utility.Vector3dVector(ball()))
    cloud.colors = library.utility.Vector3dVector(RED / 255)
    cloud.normals = library.utility.Vector3dVector(ball())
    library.io.write_point_cloud(str(tmp_path / "a.pcd"), cloud, write_ascii=form == "ascii", compressed="_" in form)
    read = read_cloud(tmp_path / "a.pcd", colour=True, normals=True)
    np.testing.assert_allclose(read.places, ball(), atol=1e-6)
    np.testing.assert_allclose(read.colour, RED / 255, atol=1e-2)
    np.testing.assert_allclose(read.normals, ball(), atol=1e-6)


def test_a_pcd_file_of_a_depth_sensor_loses_its_empty_points(write):
    open3d()
    spoilt = ball()
    spoilt[::4] = np.nan
    for form in ("ascii", "binary"):
        read = read_cloud(write("a.pcd", clouds.pcd(spoilt, form=form)))
        assert len(read.places) == 225


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
def test_estimated_normals_point_outward(scale, write):
    open3d()
    read = read_cloud(write("a.npy", clouds.npy(scale * (ball(2000) + 5))), normals=True)
    assert np.median((read.normals * ball(2000)).sum(axis=1)) > 0.99
    np.testing.assert_allclose(np.linalg.norm(read.normals, axis=1), 1, atol=1e-9)
