import json
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
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.testing import assert_close

from mmim import checkpoint
from mmim.data.media_write import write_video
from mmim.data.order import Layout, Order
from mmim.data.sources import find_samples
from mmim.draw import visit_key
from mmim.errors import TrainingError
from mmim.model import MaskedModel
from mmim.options import apply
from mmim.training.loop import Job, train
from mmim.training.tracker import Tracker
from tests.mmim.training.two_processes import ABSENT, gradients
from tests.toy import TOY, write_samples
from tests.videomae import fresh_accelerate, linear_dtypes, toy

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for i in range(6):
        write_video(folder / f"{i}.mp4", rng.integers(0, 256, (10, 40, 48, 3), dtype=np.uint8), fps=10)
    return folder


def job(videos: Path, folder: Path, *, steps=4, micro=2, workers=0, **overrides) -> Job:
    recipe = apply(toy(), {"batch": 4, "log_every": 1, "checkpoint_every": 2, "data": (str(videos),), **overrides})
    recipe.check()
    return Job(recipe, find_samples(videos, recipe.modalities), Layout(4, micro), steps, folder, workers)


def run(job: Job) -> list[dict]:
    """Train quietly; the lines of metrics.jsonl."""
    job.folder.mkdir(exist_ok=True)
    start = max(checkpoint.steps(job.checkpoints), default=0)
    precision = {"fp32": "no"}.get(job.recipe.precision, job.recipe.precision)
    tracker = Tracker(job.folder, start, job.steps, main=True, console=Console(quiet=True))
    try:
        train(replace(job, start=start), Accelerator(cpu=True, mixed_precision=precision), tracker)
    finally:
        tracker.stop()
    return [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_tensors(checkpoint.find(folder) / "model.safetensors")


def test_the_same_run_twice_is_the_same(videos, tmp_path):
    first, second = (run(job(videos, tmp_path / name)) for name in ("a", "b"))
    assert [line["loss"] for line in first] == [line["loss"] for line in second]


def test_another_seed_is_another_run(videos, tmp_path):
    first, second = (run(job(videos, tmp_path / f"{seed}", seed=seed)) for seed in (0, 1))
    assert [line["loss"] for line in first] != [line["loss"] for line in second]


def test_an_interrupted_run_equals_an_uninterrupted_one(videos, tmp_path):
    whole = run(job(videos, tmp_path / "whole", steps=6))
    interrupted = job(videos, tmp_path / "parts", steps=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracker, "advance", stop_after(4))
        with pytest.raises(KeyboardInterrupt):
            run(interrupted)
    assert checkpoint.steps(interrupted.checkpoints) == [2, 4]
    again = run(interrupted)
    fields = ("step", "loss", "lr", "grad_norm")
    assert [[line[f] for f in fields] for line in again] == [[line[f] for f in fields] for line in whole]
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "parts")[name]), name


def stop_after(steps: int):
    """A Tracker.advance during which somebody presses Ctrl-C."""
    left = iter(range(steps))

    def advance(self, samples):
        if next(left, None) is None:
            raise KeyboardInterrupt

    return advance


def test_workers_change_nothing(videos, tmp_path):
    none, two = (run(job(videos, tmp_path / f"{n}", workers=n, steps=2)) for n in (0, 2))
    assert [line["loss"] for line in none] == [line["loss"] for line in two]


@pytest.mark.parametrize(
    ("repeats", "micro", "workers"),
    [(1, 4, 0), (1, 1, 0), (2, 4, 0), (2, 2, 0), (2, 1, 1)],
)
def test_training_sees_the_places_of_the_order_over_the_ends_of_epochs(repeats, micro, workers, tmp_path):
    samples, steps, batch = write_samples(tmp_path / "data", 5), 4, 4
    recipe = apply(TOY, {"batch": batch, "repeats": repeats, "data": (str(tmp_path / "data"),), "seed": 3})
    ids, keys = [], []

    def look(module, inputs):
        if isinstance(module, MaskedModel):
            ids.extend(inputs[0].ids.tolist())
            keys.extend(inputs[0].keys.tolist())

    handle = register_module_forward_pre_hook(look)
    try:
        run(Job(recipe, samples, Layout(batch, micro), steps, tmp_path / "run", workers))
    finally:
        handle.remove()

    order = Order([sample.hash for sample in samples], 3, repeats)
    visits = [order.visit(place) for place in range(steps * batch)]
    hashes = [samples[visit.index].hash for visit in visits]
    assert ids == hashes
    assert keys == [visit_key(3, v.epoch, hash, v.repeat) for v, hash in zip(visits, hashes, strict=True)]
    epoch = 5 * repeats  # no multiple of the batch
    for start in range(0, len(ids) - epoch + 1, epoch):
        assert sorted(ids[start : start + epoch]) == sorted([sample.hash for sample in samples] * repeats)
    assert len(set(keys)) == len(keys) == 16


@pytest.mark.parametrize("case", ABSENT)
def test_batch_of_eight_equals_two_accumulated_of_four(case):
    accelerator = Accelerator(cpu=True)
    whole, halves = (gradients(case, micro, accelerator) for micro in (8, 4))
    for name, gradient in whole.items():
        assert_close(halves[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_two_processes_give_the_gradients_of_one(tmp_path):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(ROOT / "tests/mmim/training/two_processes.py"), str(tmp_path / "gradients.pt")]
    done = subprocess.run([*launch, *script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "gradients.pt")
    for case in ABSENT:
        for name, gradient in gradients(case, 8, Accelerator(cpu=True)).items():
            assert_close(found[case][name], gradient, rtol=1e-9, atol=1e-12, msg=f"{case}: {name}")


def test_metrics_have_the_promised_fields(videos, tmp_path):
    lines = run(job(videos, tmp_path))
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"step", "loss", "lr", "samples_per_s", "data_wait", "grad_norm"} <= set(lines[0])
    assert all(0 <= line["data_wait"] <= 1 for line in lines)


def test_the_learning_rate_steps_once_per_optimiser_step(videos, tmp_path):
    plain, accumulated = (run(job(videos, tmp_path / f"{micro}", micro=micro)) for micro in (4, 1))
    assert [line["lr"] for line in plain] == [line["lr"] for line in accumulated]


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_gradients_are_clipped_as_asked_and_logged_as_they_were(clip, videos, tmp_path):
    norms = []

    def look(optimiser, args, kwargs):
        gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    handle = register_optimizer_step_pre_hook(look)
    try:
        logged = [line["grad_norm"] for line in run(job(videos, tmp_path, clip_grad=clip))]
    finally:
        handle.remove()
    assert min(logged) > 0.01
    assert norms == pytest.approx([clip] * 4 if clip else logged, rel=1e-3)


def test_unreadable_files_are_left_out_and_listed(videos, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for file in videos.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    (data / "bad.mp4").write_bytes(b"")
    (data / "text.mp4").write_text("no video")
    assert len(run(job(data, tmp_path / "run", steps=6))) == 6
    listed = {
        line["id"]: line["reason"]
        for line in map(json.loads, (tmp_path / "run/unreadable.jsonl").read_text().splitlines())
    }
    assert sorted(listed) == ["bad.mp4", "text.mp4"]
    assert listed["bad.mp4"] == "empty file"


def test_too_many_unreadable_files_end_the_run(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.mp4").write_text("no video")
    with pytest.raises(TrainingError, match=r"of 4 files can't be read, more than --max-bad 0.5 allows: [0-3].mp4: "):
        run(job(tmp_path, tmp_path / "run"))


def test_a_loss_that_is_not_finite_ends_the_run_before_a_checkpoint(videos, tmp_path):
    with pytest.raises(TrainingError, match="not finite"):
        run(
            job(
                videos,
                tmp_path,
                steps=4,
                **{"optimiser.base_lr": 1e30, "optimiser.per": 0, "schedule.warmup": 0.0, "checkpoint_every": 4},
            )
        )
    assert checkpoint.steps(tmp_path / "checkpoints") == []


def test_a_step_without_any_sample_moves_no_parameter(videos, tmp_path):
    wanted = job(videos, tmp_path, steps=1, **{"max_bad": 1.0, "schedule.warmup": 0.0})
    for i in range(6):
        (tmp_path / f"{i}.mp4").write_text("no video")
    wanted = replace(wanted, samples=find_samples(tmp_path, wanted.recipe.modalities))
    run(wanted)
    from mmim.training.loop import fresh_model

    for name, tensor in fresh_model(wanted.recipe).state_dict().items():
        assert torch.equal(weights(tmp_path)[name], tensor), name


def test_bf16_computes_in_bf16_keeps_weights_in_fp32_and_has_nearly_the_losses_of_fp32(videos, tmp_path):
    losses = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with fresh_accelerate(), linear_dtypes() as seen:
            options = {"precision": precision, "optimiser.base_lr": 1e-3, "optimiser.per": 0, "schedule.warmup": 0.0}
            lines = run(job(videos, tmp_path / precision, steps=6, **options))
        assert seen == {dtype}
        assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / precision).values())
        losses[precision] = [line["loss"] for line in lines]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]
