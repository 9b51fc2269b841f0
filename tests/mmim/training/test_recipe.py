import dataclasses

import pytest

from mmim.data.order import Layout
from mmim.errors import OptionError
from mmim.options import apply
from mmim.training.recipe import FREE, Recipe
from tests.toy import TOY


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "layout"),
    [
        (2048, None, 1, Layout(2048, 32)),
        (2048, None, 64, Layout(2048, 32, 64)),
        (8, None, 2, Layout(8, 4, 2)),
        (8, 2, 2, Layout(8, 2, 2)),
        (74, None, 1, Layout(74, 2)),
        (37, None, 1, Layout(37, 1)),
    ],
)
def test_the_batch_is_spread_evenly(batch, micro, processes, layout):
    found = apply(TOY, {"batch": batch, "micro_batch": micro}).layout(processes)
    assert found == layout
    assert found.accumulation * found.micro * found.processes == batch


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "message"),
    [
        (9, None, 2, r"--batch 9 can't be spread over 2 processes: use a multiple of 2"),
        (2, None, 4, r"--batch 2 can't be spread over 4 processes"),
        (8, 3, 1, r"--micro-batch 3 does not divide the 8 samples of a process .*use one of 1, 2, 4, 8"),
        (8, 8, 2, r"--micro-batch 8 does not divide the 4 samples .*use one of 1, 2, 4,"),
    ],
)
def test_a_batch_that_can_not_be_spread_is_refused(batch, micro, processes, message):
    with pytest.raises(OptionError, match=message):
        apply(TOY, {"batch": batch, "micro_batch": micro}).layout(processes)


@pytest.mark.parametrize(
    ("fields", "samples", "steps"),
    [
        ({"epochs": 2.0, "batch": 8}, 100, 25),
        ({"epochs": 2.0, "batch": 8, "repeats": 4}, 100, 100),
        ({"epochs": 0.001, "batch": 8}, 5, 1),
        ({"epochs": 2.0, "steps": 7}, 100, 7),
    ],
)
def test_epochs_count_visits_and_steps_replace_them(fields, samples, steps):
    assert apply(TOY, fields).total_steps(samples) == steps


def test_what_may_change_between_runs_are_fields():
    assert {field.name for field in dataclasses.fields(Recipe)} >= FREE


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tasks.toy.decoder", "other", r"task's decoder names 'other'; there are toy"),
        ("tasks.toy.modality", "video", r"task's modality names 'video'; there are toy"),
        ("masking", {}, r"The modality 'toy' has no masking policy"),
        ("masking", {"toy": TOY.masking["toy"], "x": TOY.masking["toy"]}, r"A masking policy names 'x'; there are toy"),
        ("decoders", {"toy": TOY.decoders["toy"], "b": TOY.decoders["toy"]}, r"No task uses the decoder 'b'"),
        ("objective", {"two words": TOY.objective["reconstruction"]}, r"The name 'two words' can't be used"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(path, value, message):
    with pytest.raises(OptionError, match=message):
        apply(TOY, {path: value}).check()


def test_the_toy_recipe_is_in_order():
    TOY.check()
