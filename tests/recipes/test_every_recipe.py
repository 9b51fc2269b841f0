"""What holds for every recipe and each of its sizes."""

from importlib.metadata import entry_points

import pytest

from mmim.errors import MmimError
from mmim.options import apply, parse
from mmim.plan import dry_run
from recipes import (
    audiomae,
    bert,
    cavmae,
    five,
    mae,
    maskfeat,
    maskfeat_video,
    multimae,
    omnimae,
    pointmae,
    simmim,
    videomae,
    videomae_v2,
)

RECIPES = {
    "audiomae": (audiomae.AUDIOMAE, audiomae.SIZES, audiomae.DEMO),
    "bert": (bert.BERT, bert.SIZES, bert.DEMO),
    "cavmae": (cavmae.CAVMAE, cavmae.SIZES, cavmae.DEMO),
    "five": (five.FIVE, five.SIZES, five.DEMO),
    "mae": (mae.MAE, mae.SIZES, mae.DEMO),
    "maskfeat": (maskfeat.MASKFEAT, maskfeat.SIZES, maskfeat.DEMO),
    "maskfeat-video": (maskfeat_video.MASKFEAT_VIDEO, maskfeat_video.SIZES, maskfeat_video.DEMO),
    "multimae": (multimae.MULTIMAE, multimae.SIZES, multimae.DEMO),
    "omnimae": (omnimae.OMNIMAE, omnimae.SIZES, omnimae.DEMO),
    "pointmae": (pointmae.POINTMAE, pointmae.SIZES, pointmae.DEMO),
    "simmim": (simmim.SIMMIM, simmim.SIZES, simmim.DEMO),
    "videomae": (videomae.VIDEOMAE, videomae.SIZES, videomae.DEMO),
    "videomae_v2": (videomae_v2.VIDEOMAE_V2, videomae_v2.SIZES, videomae_v2.DEMO),
}


def test_every_installed_recipe_is_looked_at():
    assert {entry.name for entry in entry_points(group="mmim.recipes")} == set(RECIPES)


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, parts in RECIPES.items() for size in parts[1]])
def test_every_size_can_be_built_and_cut(name, size):
    recipe, sizes, _ = RECIPES[name]
    dry_run(apply(recipe, sizes[size]))


@pytest.mark.parametrize("name", RECIPES)
def test_the_default_size_is_the_recipe_itself(name):
    recipe, sizes, demo = RECIPES[name]
    assert parse(recipe, ["--data", "."], sizes, demo) == parse(
        recipe, ["--data", ".", "--size", recipe.size], sizes, demo
    )


@pytest.mark.parametrize("name", RECIPES)
def test_the_demo_can_be_built(name):
    recipe, sizes, demo = RECIPES[name]
    made = parse(recipe, [], sizes, demo)
    assert made.data == ()
    dry_run(made)


@pytest.mark.parametrize("name", RECIPES)
def test_another_modality_joins_a_recipe_or_one_line_says_why_not(name):
    recipe, sizes, demo = RECIPES[name]
    use = ",".join([*recipe.modalities, "points" if "depth" in recipe.modalities else "depth"])
    why_not = {
        "bert": "are no ids that others could replace",
        "omnimae": "one head can't serve them",
        "simmim": "A relative bias is for one modality",
        "videomae_v2": "Running cells need a grid of time, rows and columns",
    }

    def joined():
        dry_run(parse(recipe, ["--use", use, "--size", next(iter(sizes)), "--data", "."], sizes, demo))

    if name in why_not:
        with pytest.raises(MmimError, match=why_not[name]):
            joined()
    else:
        joined()
