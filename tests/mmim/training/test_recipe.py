import dataclasses

import pytest

from mmim.data.order import Layout
from mmim.errors import OptionError
from mmim.growth import Comparison
from mmim.options import apply, parse
from mmim.training.recipe import FREE, Recipe
from recipes.videomae import DEMO, SIZES, VIDEOMAE
from tests.toy import TOY


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "layout"),
    [
        (2048, None, 1, Layout(2048, 64)),
        (2048, None, 64, Layout(2048, 32, 64)),
        (8, None, 2, Layout(8, 4, 2)),
        (8, 2, 2, Layout(8, 2, 2)),
        (134, None, 1, Layout(134, 2)),
        (67, None, 1, Layout(67, 1)),
    ],
)
def test_the_batch_is_spread_evenly(batch, micro, processes, layout):
    found = apply(TOY, {"batch": batch, "micro_batch": micro}).layout(processes)
    assert found == layout
    assert found.accumulation * found.micro * found.processes == batch


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_demo_runs_on_any_usual_number_of_processes(processes):
    recipe = parse(VIDEOMAE, [], SIZES, DEMO)
    assert recipe.layout(processes) == Layout(64, 64 // processes, processes)


@pytest.mark.parametrize(
    ("size", "batch"), [("tiny", 2048), ("small", 1024), ("base", 2048), ("large", 512), ("huge", 1024)]
)
def test_a_size_of_videomae_brings_its_published_batch_but_not_to_the_demo(size, batch):
    assert parse(VIDEOMAE, ["--data", "x", "--size", size], SIZES, DEMO).batch == batch  # fact sheet 3.3
    assert parse(VIDEOMAE, ["--data", "x", "--size", size, "--batch", "32"], SIZES, DEMO).batch == 32
    assert parse(VIDEOMAE, ["--size", size], SIZES, DEMO).batch == 64


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
    fields = {field.name for field in dataclasses.fields(Recipe)}
    inner = {f"compare.{field.name}" for field in dataclasses.fields(Comparison)}
    assert fields | inner >= FREE
    assert inner <= FREE, "what a run is compared by is no part of its training"


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


def test_a_run_with_nothing_to_learn_is_refused():
    with pytest.raises(
        OptionError, match=r"Nothing is left to learn: set one of --objective\.reconstruction\.weight above 0"
    ):
        parse(TOY, ["--data", ".", "--objective.reconstruction.weight", "0"], {}, {})
