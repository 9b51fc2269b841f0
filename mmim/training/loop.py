"""The one training loop."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from mmim import checkpoint
from mmim.data.loader import Loaded, Unreadable, load
from mmim.data.order import Layout, Order
from mmim.data.sample import Sample, kinds_of
from mmim.data.union import mixture, parse_weights
from mmim.draw import stable_hash
from mmim.errors import TrainingError
from mmim.model import MaskedModel
from mmim.records import Batch
from mmim.start import start_from
from mmim.training.freeze import Freeze
from mmim.training.quarantine import Quarantine
from mmim.training.recipe import Recipe
from mmim.training.tracker import Tracker

SHAPES = 64
"""Graphs of a compiled model at most: padded samples come in as many lengths, in steps that the modality chooses."""


@dataclass(frozen=True)
class Job:
    """All that a run needs, checked: what to train, on which samples, for how long, where."""

    recipe: Recipe
    """Its modalities prepared for the samples."""
    samples: Sequence[Sample]
    layout: Layout
    steps: int
    folder: Path
    workers: int
    start: int = 0
    """The step whose checkpoint the run goes on from."""
    given: Recipe | None = None
    """The recipe as recipe.yaml has it, where its modalities were not prepared yet; None: the same."""

    @property
    def data(self) -> str:
        """What tells the run's samples from others: their number, and a hash of their names.

        Rows are named by numbers, so the sizes of the files that hold them count as well, and those of archives.
        """
        holders = {
            source.path
            for sample in self.samples
            for source in sample.sources.values()
            if source.row is not None or source.stored is not None
        }
        sizes = sorted(path.stat().st_size for path in holders if path.exists())
        return f"{len(self.samples)} files ({stable_hash(*(sample.id for sample in self.samples), *sizes):016x})"

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints stand."""
        return self.folder / "checkpoints"


def train(job: Job, accelerator: Accelerator, tracker: Tracker) -> MaskedModel:
    """Train from step `job.start` to the last; the model comes back as it was saved last.

    Raises:
        TrainingError: the loss is not finite, or too many files are unreadable.
    """
    recipe, layout = job.recipe, job.layout
    model = fresh_model(recipe).to(accelerator.device)
    names: list[str] = []
    if recipe.init is not None and not job.start:
        names = start_from(model, recipe.init, trunk_only=recipe.init_trunk_only).frozen(recipe.freeze)
    optimiser = recipe.optimiser.build(model, recipe.batch)
    if recipe.compile:
        torch._dynamo.config.recompile_limit = SHAPES
        model.compile(fullgraph=True)
    wrapped, stepper = accelerator.prepare(model, optimiser)
    wrapped.train()
    bad, held = resume(job, model, optimiser, accelerator)
    quarantine = Quarantine(len(job.samples), recipe.max_bad, bad)
    freeze = Freeze(model, names or held, recipe.freeze_steps)

    order = order_of(job)
    batches = load(
        job.samples,
        recipe.modalities,
        order.micro_batches(layout, accelerator.process_index, job.start, job.steps),
        seed=recipe.seed,
        workers=job.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    peak = recipe.optimiser.rate(recipe.batch)

    for step in range(job.start, job.steps):
        torch.manual_seed(stable_hash(recipe.seed, step, accelerator.process_index))
        freeze.prepare(step)
        lr = peak * recipe.schedule.factor(step, job.steps)
        for group in stepper.param_groups:
            group["lr"] = lr

        micros = [_fetch(batches, step, accelerator.device, tracker, quarantine) for _ in range(layout.accumulation)]
        counts, filled = global_counts(model, micros, accelerator)
        tracker.padded(filled)
        losses = backward(wrapped, micros, counts, accelerator)
        if len(recipe.modalities) > 1:
            forget_unused(model)
        freeze.forget(step)
        norm = torch.zeros(())
        if any(bool(count) for count in counts.values()):
            norm = accelerator.clip_grad_norm_(wrapped.parameters(), recipe.clip_grad or math.inf)
            stepper.step()  # where nobody in any process has anything, nothing moves, decay and momentum neither
        stepper.zero_grad()
        tracker.advance(layout.batch)

        due = step + 1 == job.steps or (step + 1) % recipe.checkpoint_every == 0
        if due or (step + 1) % recipe.log_every == 0:
            quarantine.exchange(accelerator)
            tracker.left_out(quarantine.listed())
            grad_norm = None if accelerator.optimizer_step_was_skipped else norm.item()
            tracker.log(step + 1, finite(_summed(losses, accelerator), grad_norm, step), lr=lr, grad_norm=grad_norm)
        if due:
            save(job, model, stepper.optimizer, step + 1, quarantine, freeze, accelerator)
    tracker.close(quarantine.listed())
    return model.eval()


def order_of(job: Job) -> Order:
    """The order of a run's samples."""
    recipe, samples = job.recipe, job.samples
    lengths = [sample.length(recipe.modalities) for sample in samples]
    shares = mixture(samples, parse_weights(recipe.weight, recipe.data))
    hashes = [sample.hash for sample in samples]
    return Order(hashes, recipe.seed, recipe.repeats, lengths, kinds_of(samples), shares)


def fresh_model(recipe: Recipe) -> MaskedModel:
    """The recipe's model with the initial weights of its seed, the same on every process."""
    torch.manual_seed(stable_hash(recipe.seed, "weights"))
    return MaskedModel(recipe)


def global_counts(
    model: MaskedModel, batches: Sequence[Batch], accelerator: Accelerator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The count of every loss over all micro-batches of all processes, known before the first backward pass.

    Without it several terms, unequal samples or accumulation would weigh tokens unequally. Beside it how full padded
    modalities are: valid tokens and places.
    """
    each, filled = zip(*(model.survey(batch) for batch in batches), strict=True)
    names = sorted(each[0])
    own = torch.stack([torch.stack([counts[name] for name in names]) for counts in each]).sum(dim=0)
    together = {
        name: accelerator.reduce(torch.stack([part[name] for part in filled]).sum(dim=0), "sum") for name in filled[0]
    }
    return dict(zip(names, accelerator.reduce(own, "sum"), strict=True)), together


def backward(
    wrapped: torch.nn.Module, batches: Sequence[Batch], counts: dict[str, Tensor], accelerator: Accelerator
) -> dict[str, Tensor]:
    """Gradients of the mean over the whole batch of all processes; returns this process' share of each loss.

    DDP averages gradients over processes, and accelerate divides by the accumulation steps that its own configuration
    names, which are not ours: both are undone here.
    """
    undo = accelerator.num_processes * accelerator.gradient_accumulation_steps
    shares = {name: torch.zeros_like(count) for name, count in counts.items()}
    for turn, batch in enumerate(batches):
        synchronise = turn + 1 == len(batches)
        with nullcontext() if synchronise else accelerator.no_sync(wrapped):
            terms = wrapped(batch)
            parts = {name: term.total / torch.where(counts[name] > 0, counts[name], 1) for name, term in terms.items()}
            accelerator.backward(torch.stack(list(parts.values())).sum() * undo)
        for name, part in parts.items():
            shares[name] = shares[name] + part.detach()
    return shares


def forget_unused(model: torch.nn.Module) -> None:
    """Take the gradient from every parameter in which it is zero throughout: no sample of the whole batch used it.

    A zero gradient would still let decay and momentum move it. Gradients are summed over processes already, so all see
    the same zeros.
    """
    gradients = {parameter: parameter.grad for parameter in model.parameters() if parameter.grad is not None}
    largest = torch.stack(torch._foreach_norm(list(gradients.values()), math.inf))
    for parameter, zero in zip(gradients, (largest == 0).tolist(), strict=True):
        if zero:
            parameter.grad = None


def resume(
    job: Job, model: MaskedModel, optimiser: torch.optim.Optimizer, accelerator: Accelerator
) -> tuple[list[Unreadable], list[str]]:
    """Put weights, optimiser and loss scaler back as they were at `job.start`.

    Returns the files left out so far, and the names of weights that may be held.
    """
    if not job.start:
        return [], []
    folder = job.checkpoints / f"step-{job.start}"
    checkpoint.restore(model, checkpoint.read_tensors(folder / "model.safetensors"), folder)
    checkpoint.restore_optimiser(model, optimiser, checkpoint.read_tensors(folder / "training.safetensors"))
    state = checkpoint.read_state(folder)
    if accelerator.scaler is not None and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
    return [Unreadable(**bad) for bad in state["unreadable"]], list(state.get("frozen", []))


def save(
    job: Job,
    model: MaskedModel,
    optimiser: torch.optim.Optimizer,
    step: int,
    quarantine: Quarantine,
    freeze: Freeze,
    accelerator: Accelerator,
) -> None:
    """Write a checkpoint from the main process."""
    if accelerator.is_main_process:
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        bad = [asdict(one) for one in quarantine.listed()]
        state = {"data": job.data, "scaler": scaler, "unreadable": bad, "frozen": freeze.names}
        checkpoint.save(job.checkpoints, model, step, checkpoint.optimiser_tensors(model, optimiser), state)
        checkpoint.prune(job.checkpoints, job.recipe.keep)
    accelerator.wait_for_everyone()


def finite(losses: dict[str, float], norm: float | None, step: int) -> dict[str, float]:
    """The losses, if they and the gradient are finite.

    Raises:
        TrainingError: they are not; no checkpoint of this step is written.
    """
    broken = [name for name, value in {**losses, "gradient norm": norm or 0.0}.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"Step {step + 1}: {', '.join(broken)} not finite. The last checkpoint is from before it; the same command "
            "goes on from there. Try a smaller --optimiser.base-lr, --clip-grad 1, or --precision fp32."
        )
    return losses


def _fetch(
    batches: Iterator[Loaded], step: int, device: torch.device, tracker: Tracker, quarantine: Quarantine
) -> Batch:
    """The next micro-batch on the device, with the time waited for it and the files it lacks put down."""
    started = time.perf_counter()
    loaded = next(batches)
    tracker.waited(time.perf_counter() - started)
    quarantine.add(loaded.unreadable)
    return replace(loaded.batch, step=torch.tensor(step)).to(device)


def _summed(losses: dict[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    names = sorted(losses)
    total = accelerator.reduce(torch.stack([losses[name] for name in names]), "sum")
    return dict(zip(names, total.tolist(), strict=True))
