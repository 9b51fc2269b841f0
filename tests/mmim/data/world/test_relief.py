from dataclasses import replace

import numpy as np
import pytest

from mmim.data.world.picture import CENTRES, RADII
from mmim.data.world.relief import classes, distances
from mmim.data.world.scene import FACTORS, scenes

SCENE = replace(scenes(1, seed=0)[0], motion="still", place="middle", size="medium", shape="sphere")


def drawn(scene, function=distances):
    return function(scene, scene.nuisance("relief"))


def body(scene):
    """Where the body is."""
    return drawn(scene, classes) > 0


@pytest.mark.parametrize("shape", FACTORS["shape"])
def test_a_class_is_the_shape_counted_from_one(shape):
    scene = replace(SCENE, shape=shape)
    assert np.unique(drawn(scene, classes)).tolist() == [0, 1 + FACTORS["shape"].index(shape)]


@pytest.mark.parametrize("shape", FACTORS["shape"])
def test_the_body_is_nearer_than_the_wall(shape):
    scene = replace(SCENE, shape=shape)
    seen, there = drawn(scene), body(scene)  # the same moment, of the same generator
    assert seen.dtype == np.uint16
    assert seen[there].max() < seen[~there].min()


def test_a_sphere_is_nearest_in_its_middle():
    seen, there = drawn(SCENE), body(SCENE)
    ys, xs = np.nonzero(there)
    middle, edge = seen[round(ys.mean()), round(xs.mean())], seen[round(ys.mean()), xs.min()]
    assert middle + 100 < edge


@pytest.mark.parametrize("size", FACTORS["size"])
@pytest.mark.parametrize("place", FACTORS["place"])
def test_size_and_place_are_those_of_the_picture(size, place):
    scene = replace(SCENE, size=size, place=place)
    ys, xs = np.nonzero(body(scene))
    radius = np.sqrt(len(ys) / np.pi) / 96
    assert abs(radius / RADII[size] - 1) < 0.12
    # the place may vary by 0.04, and the camera by as much again
    assert np.abs(np.array([xs.mean(), ys.mean()]) / 96 - CENTRES[place]).max() < 0.08


def test_same_nuisance_same_map_and_new_nuisance_another():
    again = replace(SCENE, redepict=1)
    for function in (distances, classes):
        assert np.array_equal(drawn(SCENE, function), drawn(SCENE, function))
        assert not np.array_equal(drawn(SCENE, function), drawn(again, function))


def test_colour_and_texture_do_not_show():
    painted = replace(SCENE, colour="red" if SCENE.colour != "red" else "blue", texture="dots")
    plain = replace(painted, colour="green", texture="plain")
    for function in (distances, classes):
        assert np.array_equal(drawn(painted, function), drawn(plain, function))
