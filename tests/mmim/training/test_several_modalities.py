"""Training with several modalities, of which samples, processes and whole batches may lack some."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from torch.testing import assert_close

from mmim import checkpoint
from mmim.data.order import Layout
from mmim.data.sources import Sample
from mmim.modality import Source
from mmim.training.loop import Job, fresh_model, train
from mmim.training.tracker import Tracker
from tests.mmim.training.two_processes_several import ABSENT, BATCH, METHODS, gradients
from tests.several import SEVERAL, SIZES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The gradients of all cases on two processes."""
    file = tmp_path_factory.mktemp("gradients") / "gradients.pt"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(ROOT / "tests/mmim/training/two_processes_several.py"), str(file)]
    done = subprocess.run([*launch, *script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(file)


@pytest.mark.parametrize("case", ABSENT)
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_give_the_gradients_of_one_negatives_included(method, case, two_processes):
    for name, gradient in gradients(method, case, BATCH, Accelerator(cpu=True)).items():
        found = two_processes[method, case][name]
        assert (found is None) is (gradient is None), name
        if gradient is not None:
            assert_close(found, gradient, rtol=1e-8, atol=1e-11, msg=f"{case}: {name}")


def samples_in(folder: Path, there: dict[str, list[int]]) -> list[Sample]:
    """Samples of noise, of which each modality has only some."""
    found: dict[int, dict[str, Source]] = {}
    for name, rows in there.items():
        for row in rows:
            file = folder / f"{row}.{name}.npy"
            np.save(file, np.random.default_rng(row).normal(size=SIZES[name]).astype(np.float32))
            found.setdefault(row, {})[name] = Source(file)
    return [Sample(f"{row}", sources) for row, sources in sorted(found.items())]


def run(folder: Path, samples: list[Sample], **changes) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The model as it began, and the weights after three steps."""
    folder.mkdir()
    recipe = replace(SEVERAL, batch=4, log_every=1, checkpoint_every=3, **changes)
    job = Job(recipe, samples, Layout(4, 4), 3, folder, 0)
    tracker = Tracker(folder, 0, 3, main=True, console=Console(quiet=True))
    train(job, Accelerator(cpu=True), tracker)
    return fresh_model(recipe), checkpoint.read_tensors(checkpoint.find(folder) / "model.safetensors")


def of_c(name: str) -> bool:
    """Whether a parameter serves the modality c alone: its own, its decoder's, or that of a pair with it."""
    return any(part == "c" or part.endswith("_c") for part in name.split(".")) or name.startswith("decoders.own.")


def test_what_the_whole_batch_lacks_is_not_moved_at_all(tmp_path):
    samples = samples_in(tmp_path, {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]})
    before, after = run(tmp_path / "run", samples)
    still = {name for name, tensor in before.state_dict().items() if torch.equal(tensor, after[name])}
    assert still == {name for name in before.state_dict() if of_c(name)}


@pytest.mark.parametrize("there", [{"a": [0], "b": [1], "c": [2, 3]}, {"a": [0, 1, 2, 3], "b": [3]}])
def test_a_text_free_or_soundless_batch_trains(there, tmp_path):
    _, after = run(tmp_path / "run", samples_in(tmp_path, there))
    assert all(tensor.isfinite().all() for tensor in after.values())
