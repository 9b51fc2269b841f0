"""From a recipe script to a finished run.

Options, data and folder are checked before a model is built or processes meet.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from rich.console import Console

from mmim import checkpoint, command, demo
from mmim.config import to_plain
from mmim.data.sources import find_samples
from mmim.errors import OptionError
from mmim.model import MaskedModel
from mmim.options import Overrides, parse
from mmim.records import Batch, map_raw
from mmim.training.loop import Job, fresh_model, train
from mmim.training.picture import reconstructions
from mmim.training.recipe import FREE, Recipe
from mmim.training.tracker import Tracker

PICTURED = 4  # samples in the reconstruction picture


def main(recipe: Recipe, *, sizes: Mapping[str, Overrides], demo: Overrides, argv: Sequence[str] | None = None) -> None:
    """Run a recipe script: the command line on top of the recipe, training, a picture, and in the demo a judgement."""
    args = sys.argv[1:] if argv is None else argv
    command.finish(
        lambda: run(parse(recipe, args, sizes, demo)), "interrupted; the same command goes on from the last checkpoint"
    )


@dataclass(frozen=True)
class Plan:
    """A run that can be made: everything is checked, nothing is written."""

    job: Job
    start: int
    world: Path | None
    """The sample world, if this is the demo."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.start >= self.job.steps


def run(recipe: Recipe) -> None:
    """Plan, meet, train, report."""
    console = command.console()
    plan = make_plan(recipe, console)
    job = plan.job
    if plan.finished:
        console.print(f"This run is finished ({plan.start} steps). More --steps continue it, --no-resume starts anew.")
        _point_to(job.folder, console)
        return
    accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(recipe.precision, recipe.precision))
    if accelerator.is_main_process:
        prepare_folder(job, resume=recipe.resume)
    accelerator.wait_for_everyone()
    _announce(plan, accelerator, console)
    tracker = Tracker(job.folder, plan.start, job.steps, main=accelerator.is_main_process, console=console)
    try:
        model = train(job, accelerator, tracker)
    finally:
        tracker.stop()
    if accelerator.is_main_process:
        _report(plan, model, accelerator.device, console)
    accelerator.end_training()


def make_plan(recipe: Recipe, console: Console) -> Plan:
    """Find the data, spread the batch, look at the run folder.

    Raises:
        OptionError, DataError, CheckpointError: the run can't be made.
    """
    processes, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise OptionError("--precision fp16 needs a GPU, and there is none. Use bf16 or fp32.")
    layout = recipe.layout(processes)
    dry_run(recipe)
    world = None
    if recipe.data is None:
        console.print("No --data: this is the demo, on the sample world (small drawn scenes with known factors).")
        world = demo.world(recipe.modalities)
    samples = find_samples(recipe.data if recipe.data is not None else world / "train", recipe.modalities)  # type: ignore[operator]
    cores = max(1, len(os.sched_getaffinity(0)) // local)
    workers = min(8, max(1, cores - 1)) if recipe.workers is None else recipe.workers
    if not torch.cuda.is_available():
        torch.set_num_threads(recipe.threads or cores)
    folder = recipe.output or Path("runs") / f"{recipe.name}-{recipe.data.resolve().stem if recipe.data else 'demo'}"
    job = Job(recipe, samples, layout, recipe.total_steps(len(samples)), folder, workers)
    return Plan(job, look_at_folder(job), world)


def dry_run(recipe: Recipe) -> None:
    """Build the model without memory, and tokenise and cut one blank sample: what does not fit shows here.

    Raises:
        OptionError, MaskingError: sizes that do not fit each other, or a budget that leaves nothing to see.
    """
    with torch.device("meta"):
        model = MaskedModel(recipe)
    one = torch.zeros(1, dtype=torch.int64)
    blanks = {
        name: map_raw(lambda tensor: tensor[None], modality.blank()) for name, modality in recipe.modalities.items()
    }
    present = {name: torch.ones(1, dtype=torch.bool) for name in blanks}
    model.counts(Batch({"main": blanks}, present, one, one, one[0]))


def look_at_folder(job: Job) -> int:
    """The step that a run in this folder would go on from; 0 for a new one.

    Raises:
        OptionError: another run is in it.
    """
    if job.folder.exists() and not job.folder.is_dir():
        raise OptionError(f"--output {job.folder} is a file; name a folder.")
    there = job.folder / "recipe.yaml"
    if not job.recipe.resume or not there.exists():
        return 0
    before, now = yaml.safe_load(there.read_text()), plain_recipe(job.recipe)
    changed = [f"{path} {old} -> {new}" for path, old, new in _differences(before, now) if path not in FREE]
    if changed:
        shown = "; ".join(changed[:6]) + (f" and {len(changed) - 6} more" if len(changed) > 6 else "")
        raise OptionError(
            f"{job.folder} holds another run: {shown}. Name another --output, or use --no-resume to start anew."
        )
    return max(checkpoint.steps(job.checkpoints), default=0)


def prepare_folder(job: Job, *, resume: bool) -> None:
    """Make the run folder and write the recipe into it; an earlier run that is not resumed moves aside."""
    if not resume and (job.folder / "recipe.yaml").exists():
        number = next(i for i in range(1, 10**6) if not job.folder.with_name(f"{job.folder.name}.before-{i}").exists())
        job.folder.rename(job.folder.with_name(f"{job.folder.name}.before-{number}"))
    job.folder.mkdir(parents=True, exist_ok=True)
    partial = job.folder / ".recipe.yaml"
    partial.write_text(yaml.safe_dump(plain_recipe(job.recipe), sort_keys=False))
    partial.rename(job.folder / "recipe.yaml")


def plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as recipe.yaml has it; such a file is a `--config`."""
    data = recipe.data.resolve() if recipe.data else None
    plain: dict[str, Any] = to_plain(replace(recipe, data=data, resume=True, config=None))
    return plain


def _differences(before: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [row for key in keys for row in _differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))]
    return [] if before == now else [(path, before, now)]


def _announce(plan: Plan, accelerator: Accelerator, console: Console) -> None:
    job, layout = plan.job, plan.job.layout
    spread = f"{layout.processes} x {layout.micro} x {layout.accumulation}"
    console.print(
        f"{job.recipe.name}: {len(job.samples)} files, {job.steps} steps of {layout.batch} samples "
        f"(processes x micro-batch x accumulation: {spread}), {accelerator.device.type}, {job.recipe.precision}, "
        f"into {job.folder}",
        highlight=False,
    )
    if plan.start:
        console.print(f"Going on after step {plan.start}.")


def _report(plan: Plan, model: MaskedModel, device: torch.device, console: Console) -> None:
    job = plan.job
    if plan.world is not None:
        console.print("Comparing with the untrained encoder and with raw features on held-out scenes ...")
        demo.judge(model, fresh_model(job.recipe), plan.world, job.folder / "report", console, device)
        pictured = find_samples(plan.world / "heldout", job.recipe.modalities)[:PICTURED]
    else:
        pictured = list(job.samples[:PICTURED])
    reconstructions(model, pictured, job.folder / "report", device=device)
    _point_to(job.folder, console)


def _point_to(folder: Path, console: Console) -> None:
    console.print(f"checkpoint      {checkpoint.find(folder)}", highlight=False, soft_wrap=True)
    console.print(f"metrics         {folder / 'metrics.jsonl'}", highlight=False, soft_wrap=True)
    for picture in sorted((folder / "report").glob("*.png")):
        console.print(f"picture         {picture}", highlight=False, soft_wrap=True)
