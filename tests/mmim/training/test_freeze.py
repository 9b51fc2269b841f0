"""Weights that a run holds as they were in the checkpoint it starts from."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from mmim import checkpoint
from mmim.data.order import Layout
from mmim.layers.point_embed import CountedBatchNorm
from mmim.model import MaskedModel
from mmim.training.freeze import Freeze
from mmim.training.loop import Job, train
from mmim.training.tracker import Tracker
from mmim.using import using
from tests.mmim.training.test_several_modalities import samples_in
from tests.several import SEVERAL
from tests.videomae import redraw


@pytest.fixture
def started(tmp_path):
    """A trained model of a and b."""
    redraw(model := MaskedModel(using(SEVERAL, ["a", "b"])), seed=5)
    return checkpoint.save(tmp_path / "started", model, 1)


@pytest.fixture
def samples(tmp_path):
    return samples_in(tmp_path, {name: [0, 1, 2, 3] for name in "abc"})


def run(folder, samples, steps, start=0, **changes):
    """The weights after so many steps with all three modalities."""
    recipe = replace(SEVERAL, batch=4, log_every=1, checkpoint_every=1, keep=0, **changes)
    folder.mkdir(exist_ok=True)
    job = Job(recipe, samples, Layout(4, 4), steps, folder, 0, start=start)
    train(job, Accelerator(cpu=True), Tracker(folder, start, steps, main=True, console=Console(quiet=True)))
    return [checkpoint.read_tensors(folder / f"checkpoints/step-{n}/model.safetensors") for n in range(1, steps + 1)]


def moved(first, second, names):
    return {name for name in names if not torch.equal(first[name], second[name])}


def test_what_is_held_stays_to_the_bit_and_what_is_fresh_learns(tmp_path, samples, started):
    before = checkpoint.read_tensors(started / "model.safetensors")
    *_, last = run(tmp_path / "run", samples, 3, init=started, freeze=("trunk",))
    held = {name for name in before if name.startswith("trunk.")}
    assert moved(before, last, held) == set()
    assert moved(before, last, set(before) - held) == set(before) - held
    first = run(tmp_path / "again", samples, 1, init=started, freeze=("trunk",))[0]
    fresh = {name for name in last if name.startswith("trunk.")} - held
    assert moved(first, last, fresh) == fresh


def test_after_its_steps_all_learns(tmp_path, samples, started):
    before = checkpoint.read_tensors(started / "model.safetensors")
    _, second, third = run(tmp_path / "run", samples, 3, init=started, freeze=("trunk",), freeze_steps=2)
    held = {name for name in before if name.startswith("trunk.")}
    assert moved(before, second, held) == set()
    assert moved(second, third, held) == held


def test_a_run_that_goes_on_holds_what_it_held(tmp_path, samples, started):
    changes = {"init": started, "freeze": ("trunk",), "freeze_steps": 3}
    whole = run(tmp_path / "run", samples, 4, **changes)
    for start in (2, 3):
        parts = run(tmp_path / "run", samples, 4, start=start, **changes)
        for number, (one, other) in enumerate(zip(whole, parts, strict=True)):
            assert moved(one, other, one) == set(), (start, number)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, CountedBatchNorm])
def test_statistics_of_what_is_held_stay_as_well(norm):
    model = nn.ModuleDict({"old": norm(3), "new": norm(3)}).train()
    freeze = Freeze(model, [f"old.{name}" for name in model["old"].state_dict()], 2)
    modes = []
    for step in range(3):
        freeze.prepare(step)
        modes.append((model["old"].training, model["new"].training))
    assert modes == [(False, True), (False, True), (True, True)]
