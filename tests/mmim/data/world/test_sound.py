from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from mmim.data.world.scene import FACTORS, scenes
from mmim.data.world.sound import sound

RATE = 16000
SCENE = replace(scenes(1, seed=0)[0], motion="still", size="medium", shape="sphere")


def play(scene):
    return sound(scene, scene.nuisance("sound"), rate=RATE)


def pitch(wave):
    """The strongest frequency, in hertz."""
    return np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * RATE / len(wave)


def energy(scene):
    """Of the left and the right channel, early and late: [channel, time]."""
    return np.square(play(scene)).reshape(2, 4, -1).mean(axis=2)[:, [1, 3]]


def spectrum(scene):
    return np.log(np.abs(np.fft.rfft(play(scene).mean(axis=0))).reshape(-1)[:8000].reshape(80, 100).mean(axis=1))


def test_sounds_are_fixed_by_a_hash():
    """Settled before recipes are tuned on it. A change here needs a new VERSION, and every measured number anew."""
    played = np.stack([play(scene) for scene in scenes(2, seed=0)])
    assert (
        sha256(np.round(played * 32767).astype("<i2").tobytes()).hexdigest()
        == "5e27955f5a161b5abd90404d9cbe7deafc81e0477a56a436d11659890c5f6201"
    )


def test_sound_is_stereo_of_the_length_asked_for_and_never_too_loud():
    for scene in scenes(12, seed=1):
        wave = sound(scene, scene.nuisance("sound"), rate=8000, seconds=1.5)
        assert wave.shape == (2, 12000)
        assert wave.dtype == np.float32
        assert 0.05 < np.abs(wave).max() <= 1


def test_same_nuisance_same_sound_and_new_nuisance_new_sound():
    assert np.array_equal(play(SCENE), play(SCENE))
    assert np.abs(play(SCENE) - play(replace(SCENE, redepict=1))).max() > 0.05


def test_small_things_sound_higher():
    small, medium, large = (pitch(play(replace(SCENE, size=size)).mean(axis=0)) for size in FACTORS["size"])
    assert small > 1.5 * medium > 2.25 * large


@pytest.mark.parametrize(("motion", "sign"), [("up", 1), ("down", -1), ("still", 0), ("left", 0), ("right", 0)])
def test_pitch_glides_up_and_down_only(motion, sign):
    wave = play(replace(SCENE, motion=motion)).mean(axis=0).reshape(4, -1)
    octaves = np.log2(pitch(wave[3]) / pitch(wave[1]))
    assert np.sign(np.round(octaves * 4)) == sign


@pytest.mark.parametrize(("motion", "sign"), [("left", -1), ("right", 1), ("still", 0), ("up", 0), ("down", 0)])
def test_sound_pans_left_and_right_only(motion, sign):
    (left_early, left_late), (right_early, right_late) = energy(replace(SCENE, motion=motion))
    moved = np.log2(right_late / right_early) - np.log2(left_late / left_early)
    assert np.sign(np.round(moved / 2)) == sign


@pytest.mark.parametrize("shape", FACTORS["shape"])
def test_every_shape_has_a_timbre_of_its_own(shape):
    own = spectrum(replace(SCENE, shape=shape))
    for other in set(FACTORS["shape"]) - {shape}:
        assert np.abs(own - spectrum(replace(SCENE, shape=other))).mean() > 0.05


@pytest.mark.parametrize("silent", ["colour", "texture", "place"])
def test_what_makes_no_sound_changes_none(silent):
    waves = [play(replace(SCENE, **{silent: value})) for value in FACTORS[silent]]
    assert all(np.array_equal(waves[0], wave) for wave in waves)
