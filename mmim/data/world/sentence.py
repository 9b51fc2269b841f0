"""Scenes in words.

Two people say what they see, and each names all six factors, by either of two words of the same meaning: so what is
hidden in one sentence can be told from the other. Nuisance: the words, their order, and what is said beside.
"""

from collections.abc import Sequence

import numpy as np

from mmim.data.world.scene import Scene

WORDS: dict[str, dict[str, tuple[str, str]]] = {
    "shape": {
        "sphere": ("sphere", "ball"),
        "cube": ("cube", "box"),
        "cone": ("cone", "funnel"),
        "torus": ("torus", "ring"),
        "cylinder": ("cylinder", "tube"),
        "cross": ("cross", "plus"),
    },
    "colour": {
        "red": ("red", "crimson"),
        "green": ("green", "emerald"),
        "blue": ("blue", "cobalt"),
        "yellow": ("yellow", "golden"),
        "magenta": ("magenta", "pink"),
        "cyan": ("cyan", "turquoise"),
    },
    "motion": {
        "left": ("moves left", "drifts to the left"),
        "right": ("moves right", "drifts to the right"),
        "up": ("moves up", "rises"),
        "down": ("moves down", "falls"),
        "circle": ("moves in a circle", "orbits"),
        "still": ("stands still", "rests"),
    },
    "size": {"small": ("small", "little"), "medium": ("medium", "average"), "large": ("large", "big")},
    "texture": {"plain": ("plain", "uniform"), "stripes": ("striped", "banded"), "dots": ("dotted", "spotted")},
    "place": {
        "middle": ("in the middle", "at the centre"),
        "top-left": ("at the top left", "in the upper left corner"),
        "top-right": ("at the top right", "in the upper right corner"),
        "bottom-left": ("at the bottom left", "in the lower left corner"),
        "bottom-right": ("at the bottom right", "in the lower right corner"),
    },
}
"""How each value of a factor may be called: no two values share a name."""

FIRST = (
    "{a} {thing} {motion} {place}.",
    "{place}, {a} {thing} {motion}.",
    "here {a} {thing} {motion}, {place}.",
    "there is {a} {thing} {place}: it {motion}.",
)
AGAIN = ("the {thing} {motion} {place}.", "{place} the {thing} {motion}.", "so the {thing} {motion} {place}.")
BESIDE = (
    "", "", "", "Nothing else is seen.", "Nothing else happens.", "Look!", "The light is dim.", "Someone filmed it.",
)  # fmt: skip
ADJECTIVES = ("size", "texture", "colour")


def sentence(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of a scene: what two people say of it, and perhaps a word that says nothing."""
    return " ".join(part for part in (_said(scene, rng, FIRST), _said(scene, rng, AGAIN), _one(rng, BESIDE)) if part)


def _said(scene: Scene, rng: np.random.Generator, forms: Sequence[str]) -> str:
    """A sentence that names all factors."""
    words = {name: _one(rng, WORDS[name][value]) for name, value in scene.labels.items()}
    thing = " ".join([*(words[name] for name in ADJECTIVES), words["shape"]])
    article = "an" if thing[0] in "aeio" else "a"
    text = _one(rng, forms).format(a=article, thing=thing, motion=words["motion"], place=words["place"])
    return text[0].upper() + text[1:]


def _one(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
