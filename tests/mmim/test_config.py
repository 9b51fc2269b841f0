import json

import pytest
import yaml

from mmim.config import from_plain, replace_at, to_plain
from mmim.errors import OptionError
from mmim.masking.random import RandomMasking
from mmim.masking.tube import TubeMasking
from mmim.training.recipe import Recipe
from tests.toy import TOY


@pytest.mark.parametrize("through", [lambda x: json.loads(json.dumps(x)), lambda x: yaml.safe_load(yaml.safe_dump(x))])
def test_a_recipe_survives_the_way_to_a_file_and_back(through):
    recipe = replace_at(replace_at(TOY, "data", ("a/b.txt",)), "clip_grad", 0.5)
    assert from_plain(Recipe, through(to_plain(recipe))) == recipe


def test_a_part_is_written_with_its_name():
    assert to_plain(TOY)["masking"] == {"toy": {"kind": "tube"}}


def test_a_whole_number_does_for_a_float():
    assert from_plain(float, 1) == 1.0
    assert isinstance(from_plain(float, 1), float)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("batch", "8", r"batch is '8'; it must be of type int"),
        ("batch", True, r"batch is True; it must be of type int"),
        ("batch", 8.0, r"batch is 8.0; it must be of type int"),
        ("epochs", "many", r"epochs is 'many'; it must be a number"),
        ("resume", 1, r"resume is 1; it must be of type bool"),
        ("precision", "fp8", r"precision is 'fp8'; it must be one of fp32, bf16, fp16"),
        ("modalities", [], r"modalities is \[\]; it must be a mapping"),
        ("encoder", "joint", r"encoder is 'joint'; it must be a mapping"),
        ("budget.ratio", None, r"budget.ratio is None; it must be a number"),
        ("budget.share", 0.5, r"budget has no field share; there are ratio, rounding"),
        ("masking.toy.kind", "tubes", r"No masking is called 'tubes'"),
        ("optimiser.betas", [0.9], r"optimiser.betas is \[0.9\]; it must be a list of 2"),
        ("optimiser.betas", 0.9, r"optimiser.betas is 0.9; it must be a list"),
        ("objective.reconstruction.tasks", [3], r"objective.reconstruction.tasks.0 is 3; it must be of type str"),
        ("bacth", 8, r"Recipe has no field bacth; there are batch"),
    ],
)
def test_a_wrong_value_is_answered_with_its_place(path, value, message):
    plain = to_plain(TOY)
    *way, last = path.split(".")
    inner = plain
    for step in way:
        inner = inner[step]
    inner[last] = value
    with pytest.raises(OptionError, match=message):
        from_plain(Recipe, plain)


def test_a_part_without_a_kind_is_refused():
    plain = to_plain(TOY)
    del plain["budget"]["kind"]
    with pytest.raises(OptionError, match="budget lacks its 'kind', the name of a budget"):
        from_plain(Recipe, plain)


def test_replaces_one_field_and_leaves_the_original():
    changed = replace_at(TOY, "masking.toy", RandomMasking())
    assert changed.masking == {"toy": RandomMasking()}
    assert TOY.masking == {"toy": TubeMasking()}
    assert replace_at(changed, "masking.toy", TubeMasking()) == TOY


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("encoder.dept", r"no field 'dept' to set .*; there are width, depth, heads"),
        ("masking.video", r"no field 'video' .*; there are toy"),
        ("batch.size", r"size can't be set: 8 has no fields"),
    ],
)
def test_a_field_that_is_not_there_is_answered_with_those_that_are(path, message):
    with pytest.raises(OptionError, match=message):
        replace_at(TOY, path, 1)
