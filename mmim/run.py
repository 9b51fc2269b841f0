"""From a recipe script to a finished run."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object
from filelock import FileLock, Timeout
from rich.console import Console

from mmim import checkpoint, command, demo, growth
from mmim.data.sources import Sample, find_samples
from mmim.errors import OptionError
from mmim.model import MaskedModel
from mmim.options import Overrides, parse
from mmim.plan import ORIGIN, Plan, make_plan, plain_recipe, report_of
from mmim.start import check_start
from mmim.training.loop import Job, fresh_model, train
from mmim.training.picture import reconstructions
from mmim.training.recipe import Recipe
from mmim.training.tracker import Tracker

PICTURED = 4  # samples in the reconstruction pictures, of each modality


def main(recipe: Recipe, *, sizes: Mapping[str, Overrides], demo: Overrides, argv: Sequence[str] | None = None) -> None:
    """Run a recipe script: the command line on top of the recipe, training, a picture, and in the demo a judgement."""
    args = sys.argv[1:] if argv is None else argv
    command.finish(
        lambda: run(parse(recipe, args, sizes, demo)), "interrupted; the same command goes on from the last checkpoint"
    )


def run(recipe: Recipe) -> None:
    """Plan, meet, train, report."""
    console = command.console()
    plan = make_plan(recipe, console)
    job = plan.job
    if plan.reported:
        console.print(f"This run is finished ({job.start} steps). More --steps continue it, --no-resume starts anew.")
        _point_to(job.folder, console)
        if plan.held is not None:
            scores = growth.scores_in(report_of(job.folder))
            growth.verdict(scores, plan.held.names, recipe.compare.most_lost, console)
        return
    accelerator = meet(recipe, console)
    with lock(job.folder, accelerator):
        if accelerator.is_main_process:
            prepare_folder(job, resume=recipe.resume)
        agree(job, accelerator)
        if plan.trained:
            model = checkpoint.load(job.folder, accelerator.device)
        else:
            _announce(plan, accelerator, console)
            tracker = Tracker(job.folder, job.start, job.steps, main=accelerator.is_main_process, console=console)
            try:
                model = train(job, accelerator, tracker)
            finally:
                tracker.stop()
        if accelerator.is_main_process:
            _report(plan, model, accelerator.device, console)
        accelerator.end_training()


def meet(recipe: Recipe, console: Console) -> Accelerator:
    """Join the other processes.

    Raises:
        OptionError: accelerate is configured for what the loop does not do.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", recipe.precision):
        console.print(f"accelerate is configured for {launched}; --precision {recipe.precision} is what counts here.")
    accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(recipe.precision, recipe.precision))
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise OptionError(
            f"accelerate is configured for {accelerator.distributed_type.value}; use plain data parallelism."
        )
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise OptionError(
            f"{accelerator.num_processes} processes met where WORLD_SIZE says {expected}: use accelerate launch."
        )
    return accelerator


@contextmanager
def lock(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keep a second run out of the folder while this one is in it.

    Raises:
        OptionError: there is one already.
    """
    if not accelerator.is_main_process:
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise OptionError(f"Another process trains into {folder}. Wait for it, or name another --output.") from None


def agree(job: Job, accelerator: Accelerator) -> None:
    """See that all processes go on from the same step on the same data.

    Raises:
        OptionError: they see different folders.
    """
    views = gather_object([f"step {job.start}, {job.data}"])
    if len(set(views)) > 1:
        raise OptionError(
            f"The processes see different folders ({'; '.join(views)}): share --data and --output among them."
        )


def prepare_folder(job: Job, *, resume: bool) -> None:
    """Make the run folder and write the recipe into it; an earlier run that is not resumed moves aside."""
    if not resume and ((job.folder / "recipe.yaml").exists() or checkpoint.steps(job.checkpoints)):
        number = next(i for i in range(1, 10**6) if not job.folder.with_name(f"{job.folder.name}.before-{i}").exists())
        job.folder.rename(job.folder.with_name(f"{job.folder.name}.before-{number}"))
    job.folder.mkdir(parents=True, exist_ok=True)
    if job.recipe.init is not None and not job.start:
        (job.folder / ORIGIN).write_text(f"{job.recipe.init.resolve()}\n")
    partial = job.folder / ".recipe.yaml"
    partial.write_text(yaml.safe_dump(plain_recipe(job.given or job.recipe), sort_keys=False))
    partial.rename(job.folder / "recipe.yaml")


def _announce(plan: Plan, accelerator: Accelerator, console: Console) -> None:
    job, layout = plan.job, plan.job.layout
    spread = f"{layout.processes} x {layout.micro} x {layout.accumulation}"
    console.print(
        f"{job.recipe.name}: {len(job.samples)} samples, {job.steps} steps of {layout.batch} samples "
        f"(processes x micro-batch x accumulation: {spread}), {accelerator.device.type}, {job.recipe.precision}, "
        f"into {job.folder}",
        highlight=False,
    )
    if job.start:
        console.print(f"Going on after step {job.start}.")
    elif job.recipe.init is not None:
        model = fresh_model(job.recipe)
        start = check_start(model, job.recipe.init, trunk_only=job.recipe.init_trunk_only)
        said = f"Starting from {checkpoint.find(job.recipe.init)}"
        for what, names in (("fresh", start.fresh), ("left out", start.left)):
            said += f"; {what}: {', '.join(_parts(names))}" if names else ""
        console.print(f"{said}.", highlight=False)
        if frozen := start.frozen(job.recipe.freeze):
            steps = job.recipe.freeze_steps
            until = "to the end" if steps is None else f"for {steps} steps"
            console.print(f"Held {until}: {len(frozen)} tensors of {', '.join(job.recipe.freeze)}.", highlight=False)


def _parts(names: Sequence[str]) -> list[str]:
    """The parts of a model that tensors belong to, to the depth of a modality."""
    return sorted({".".join(name.split(".")[: 4 if name.startswith("trunk.encoder.") else 3]) for name in names})


def _report(plan: Plan, model: MaskedModel, device: torch.device, console: Console) -> None:
    """Pictures, and in the demo the judgement; the folder appears when it is complete, so that a kill can't lose it."""
    job, partial = plan.job, plan.job.folder / ".report"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if plan.world is not None:
        console.print("Comparing with the untrained encoder and with raw features on held-out scenes ...")
        demo.judge(model, fresh_model(job.recipe), plan.world, partial, console, device)
        pictured = find_samples(plan.world / "heldout", job.recipe.modalities)[:PICTURED]
    else:
        pictured = first_of_each(job.samples, PICTURED)
    reconstructions(model, pictured, partial, device=device)
    scores: list[growth.Score] = []
    if plan.held is not None:
        assert job.recipe.init is not None
        console.print(f"Comparing with {job.recipe.init}, which the run started from ...", highlight=False)
        before = checkpoint.load(job.recipe.init, device)
        scores = growth.compare(before, model, plan.held, job.recipe.compare, partial, console, device)
    shutil.rmtree(report_of(job.folder), ignore_errors=True)
    partial.rename(report_of(job.folder))
    _point_to(job.folder, console)
    if plan.held is not None:
        growth.verdict(scores, plan.held.names, job.recipe.compare.most_lost, console)


def first_of_each(samples: Sequence[Sample], count: int) -> list[Sample]:
    """The first `count` samples that have a modality, of every modality that one has."""
    shown: dict[str, int] = {}
    chosen = []
    for sample in samples:
        if any(shown.get(name, 0) < count for name in sample.sources):
            chosen.append(sample)
            shown |= {name: shown.get(name, 0) + 1 for name in sample.sources}
    return chosen


def _point_to(folder: Path, console: Console) -> None:
    console.print(f"checkpoint      {checkpoint.find(folder)}", highlight=False, soft_wrap=True)
    console.print(f"metrics         {folder / 'metrics.jsonl'}", highlight=False, soft_wrap=True)
    for picture in sorted(report_of(folder).glob("*.png")):
        console.print(f"picture         {picture}", highlight=False, soft_wrap=True)
