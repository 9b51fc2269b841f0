from dataclasses import replace
from hashlib import sha256

from mmim.data.world.scene import FACTORS, scenes
from mmim.data.world.sentence import WORDS, sentence

SCENES = scenes(300, seed=0)


def say(scene):
    return sentence(scene, scene.nuisance("text"))


def heard(caption, factor):
    """The values of a factor that a caption names."""
    lower = caption.lower()
    return {value for value, names in WORDS[factor].items() if any(name in lower for name in names)}


def test_sentences_are_fixed_by_a_hash():
    """Settled before recipes are tuned on it. A change here needs a new VERSION, and every measured number anew."""
    assert sha256("\n".join(map(say, SCENES)).encode()).hexdigest()[:16] == "bf150fc3b73d455a"


def test_every_value_has_names_that_no_other_has():
    assert {factor: tuple(values) for factor, values in WORDS.items()} == dict(FACTORS)
    names = [name for values in WORDS.values() for known in values.values() for name in known]
    assert len(names) == len(set(names))
    for name in names:  # nor does one stand in another
        assert [other for other in names if name in other] == [name]


def test_a_caption_names_every_factor_and_no_other_value_of_it():
    for scene in SCENES:
        for factor, value in scene.labels.items():
            assert heard(say(scene), factor) == {value}, say(scene)


def test_wording_is_nuisance():
    scene = SCENES[0]
    captions = {say(replace(scene, redepict=number)) for number in range(40)}
    assert len(captions) > 36
    for factor, value in scene.labels.items():
        named = [name for caption in captions for name in WORDS[factor][value] if name in caption.lower()]
        assert set(named) == set(WORDS[factor][value])
        assert len(named) > 1.2 * len(captions)  # often both, one in each sentence


def test_same_nuisance_same_words():
    assert [say(scene) for scene in SCENES[:9]] == [say(scene) for scene in scenes(9, seed=0)]


def test_captions_are_sentences():
    for scene in SCENES:
        caption = say(scene)
        assert caption[0].isupper()
        assert caption[-1] in ".!"
        assert not any(wrong in caption for wrong in ("  ", " .", " ,", " :", "..", "\n", "{", ", .", "a e", " a o"))
        assert 20 < len(caption) < 260
