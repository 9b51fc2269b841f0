"""What a run is to be: options, data and folder, looked at before anything is built or written, or processes meet."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock
from rich.console import Console

from mmim import checkpoint, demo, growth
from mmim.config import from_plain, to_plain, with_fields
from mmim.data.sources import Sample, find_union
from mmim.data.stored import every_row
from mmim.data.union import mixture, parse_data, parse_weights, resolved
from mmim.data.world.build import cache_folder
from mmim.errors import MaskingError, OptionError
from mmim.modality import Modality
from mmim.model import MaskedModel
from mmim.options import as_now
from mmim.records import Batch, map_raw
from mmim.start import check_start
from mmim.training.loop import Job
from mmim.training.recipe import FREE, Recipe

ORIGIN = "started-from.txt"
"""The file of a run folder that names the checkpoint of --init which the run started from."""


@dataclass(frozen=True)
class Plan:
    """A run that can be made: everything is checked, nothing is written."""

    job: Job
    world: Path | None
    """The sample world, if this is the demo."""
    held: growth.Held | None = None
    """What a model that learnt further modalities is compared on with the one it started from."""

    @property
    def trained(self) -> bool:
        """Whether there is nothing left to train."""
        return self.job.start >= self.job.steps

    @property
    def reported(self) -> bool:
        """Whether the report of the finished run is there too, and compares what is to be compared."""
        report = report_of(self.job.folder)
        compared = self.held is None or growth.made_so(report, self.job.recipe.compare)
        return self.trained and report.is_dir() and compared


def make_plan(recipe: Recipe, console: Console) -> Plan:
    """Find the data, spread the batch, look at the run folder.

    Raises:
        OptionError, DataError, CheckpointError: the run can't be made.
    """
    processes, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise OptionError("--precision fp16 needs a GPU, and there is none. Use bf16 or fp32.")
    layout = recipe.layout(processes)
    folder = recipe.output or Path("runs") / f"{recipe.name}-{_name_of(recipe.data)}"
    check_writable(folder)
    world = None
    if not recipe.data:
        console.print("No --data: this is the demo, on the sample world (small drawn scenes with known factors).")
        world = demo.world(recipe.modalities)
    found = find_union(recipe.data or [str(world / "train")], recipe.modalities)  # type: ignore[operator]
    for note in found.notes:
        console.print(f"Note: {note}", markup=False, highlight=False)
    samples = found.samples
    mixture(samples, parse_weights(recipe.weight, recipe.data))
    ready = prepared(recipe, samples, folder, console)
    begun = recipe.resume and bool(checkpoint.steps(folder / "checkpoints"))
    dry_run(ready, begun=begun)
    ready = replace(ready, init=origin_of(ready.init, folder, begun=begun))
    workers, threads = share_cores(max(1, _cores() // local), recipe)
    if not torch.cuda.is_available():
        torch.set_num_threads(threads)
    job = Job(ready, samples, layout, recipe.total_steps(len(samples)), folder, workers, given=recipe)
    return Plan(replace(job, start=look_at_folder(job)), world, compared_on(ready, samples, world, console))


def _name_of(data: Sequence[str]) -> str:
    return "+".join(name or _place(path) for name, path in sorted(parse_data(data).items())) or "demo"


def _place(path: Path) -> str:
    """What a place is called: a folder and a file by their names, a pattern of tars by the folder that they are in."""
    if path.is_dir():
        return path.resolve().name
    return path.stem if "{" not in path.name else path.absolute().parent.name


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(cores: int, recipe: Recipe) -> tuple[int, int]:
    """Reading workers and computing threads of a process that has so many cores.

    Without a GPU they share the cores without a rest: torch's threads wait for each other busily, so that one core too
    few makes all of them many times as slow.
    """
    default = min(8, max(1, cores - 1 if torch.cuda.is_available() else cores // 4))
    workers = default if recipe.workers is None else recipe.workers
    return workers, recipe.threads or max(1, cores - workers)


def check_writable(folder: Path) -> None:
    """Raise an OptionError if nothing can be written there."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise OptionError(f"--output {folder} can't be: {there} is a file. Name a folder.")
    if not os.access(there, os.W_OK):
        raise OptionError(f"--output {folder} can't be written: {there} is read-only for you. Name another folder.")


def origin_of(init: Path | None, folder: Path, *, begun: bool) -> Path | None:
    """The checkpoint that a run starts from; of one that goes on the one that it started from, gone or not."""
    if init is None or not begun:
        return None if init is None else checkpoint.find(init)
    note = folder / ORIGIN
    return Path(note.read_text().rstrip("\n")) if note.is_file() else init


def compared_on(recipe: Recipe, samples: Sequence[Sample], world: Path | None, console: Console) -> growth.Held | None:
    """What the run is compared on with the model it starts from, if it adds modalities or is asked to.

    A run that goes on needs no --init any more; where that is gone there is nothing to compare with.

    Raises:
        OptionError, DataError: it can't be compared as asked.
    """
    how = recipe.compare
    asked = how != growth.Comparison()
    if recipe.init is None:
        if asked:
            raise OptionError("--compare without --init: there is no model to compare with. Name one, or leave it out.")
        return None
    if not recipe.init.exists() and how.most_lost is None:  # of a run that begins it was looked at before
        console.print(f"Note: --init {recipe.init} is gone, so the run is not compared with it.", markup=False)
        return None
    there = checkpoint.read_method(checkpoint.find(recipe.init)).modalities
    known = [name for name in recipe.modalities if name in there]
    if not asked and len(known) == len(recipe.modalities):
        return None
    if world is not None:
        if replace(how, most_lost=None) != growth.Comparison():
            raise OptionError("--compare.labels, .split and .samples are for your own --data: the demo has its own.")
        return growth.Held(tuple(known), *demo.labelled(world, {name: recipe.modalities[name] for name in known}))
    inline = {name: modality.inline for name, modality in recipe.modalities.items()}
    return growth.held_of(how, known, samples, recipe.data, inline)


def prepared(recipe: Recipe, samples: Sequence[Sample], folder: Path, console: Console) -> Recipe:
    """The recipe with modalities that know what is to be learnt of the corpus before a run.

    A run that goes on has what its checkpoint carries, whatever became of the corpus and of folders that were named
    since; one that starts from another takes what that one learnt, unless it names its own. What they need is kept in
    the cache, since checkpoints come and go.

    Raises:
        CheckpointError, DataError, OptionError: it can't be had, or is another than the run began with.
    """
    there = checkpoint.steps(folder / "checkpoints") if recipe.resume else []
    before = checkpoint.read_method(checkpoint.find(folder)).modalities if there else {}
    taken = checkpoint.read_method(checkpoint.find(recipe.init)).modalities if recipe.init and not there else {}
    modalities = {}
    for name, modality in recipe.modalities.items():
        if modality.files and type(before.get(name)) is type(modality):
            ready = _as_before(name, modality, before[name], folder)
        elif _learnt(modality) and type(taken.get(name)) is type(modality):
            console.print(f"{name} takes {', '.join(_learnt(modality))} from --init.", highlight=False)
            files = checkpoint.folders_of(taken[name])
            ready = with_fields(modality, {field: files[field] for field in _learnt(modality) if field in files})
        else:
            modality.check()
            if _learnt(modality):
                console.print(f"Learning from the data what {name} needs before it can be read ...")
            sources = [sample.sources[name] for sample in samples if name in sample.sources]
            ready = modality.prepare([row for source in sources for row in every_row(source, modality)])
        modalities[name] = with_fields(ready, {field: _kept(ready, field) for field in checkpoint.folders_of(ready)})
        modalities[name].check()
    return replace(recipe, modalities=modalities)


def _learnt(modality: Modality) -> list[str]:
    """The fields for files that it needs and does not name."""
    return [field for field in modality.files if getattr(modality, field) is None]


def _as_before(name: str, modality: Modality, before: Modality, folder: Path) -> Modality:
    """A modality with the files that its run began with."""
    for field, path in checkpoint.folders_of(modality).items():
        now, then = checkpoint.content_of(modality, field), checkpoint.content_of(before, field)
        if path.exists() and now != then:
            raise OptionError(
                f"{folder} holds another run: what modalities.{name}.{field} names, {path}, has changed since. Put it "
                "back, name another --output, or use --no-resume to start anew."
            )
    return with_fields(modality, checkpoint.folders_of(before))


def _kept(modality: Modality, field: str) -> Path:
    """A copy of what a field names, in the cache under its content."""
    content = checkpoint.content_of(modality, field)
    digest = hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()[:32]
    copy = cache_folder() / "files" / digest
    copy.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(copy.with_name(f"{digest}.lock")):
        if not copy.exists():
            partial = copy.with_name(f".{digest}.{os.getpid()}")
            checkpoint.write_content(content, partial)
            partial.replace(copy)
    return copy


def dry_run(recipe: Recipe, *, begun: bool = False) -> None:
    """Build the model without memory, and tokenise and cut one blank sample: what does not fit shows here.

    begun: the run goes on from a checkpoint of its own, so that what it started from counts no more.

    Raises:
        OptionError, MaskingError: sizes that do not fit each other, or a budget that leaves nothing to see.
    """
    with torch.device("meta"):
        model = MaskedModel(recipe)
    if recipe.init is not None and not begun:
        _check_frozen(recipe, model)
    one = torch.zeros(1, dtype=torch.int64)
    blanks = {
        name: map_raw(lambda tensor: tensor[None], modality.blank()) for name, modality in recipe.modalities.items()
    }
    present = {name: torch.ones(1, dtype=torch.bool) for name in blanks}
    counts = model.counts(Batch({"main": blanks}, present, one, one, one[0]))
    idle = [name for name, count in counts.items() if not count]
    if idle and (len(blanks) == 1 or len(idle) == len(counts)):  # a shared budget may show all of one sample's modality
        raise MaskingError(f"Nothing is left to predict for {idle[0]}: {recipe.budget}. Use a larger ratio.")


def _check_frozen(recipe: Recipe, model: MaskedModel) -> None:
    """Raise an OptionError unless the model can start from --init, and something then learns."""
    assert recipe.init is not None
    frozen = check_start(model, recipe.init, trunk_only=recipe.init_trunk_only).frozen(recipe.freeze)
    if recipe.freeze_steps is None and not {name for name, _ in model.named_parameters()} - set(frozen):
        raise OptionError(
            f"--freeze {' '.join(recipe.freeze)} holds all weights, and nothing is left to learn: "
            "name fewer parts, or let them learn after --freeze-steps N."
        )


def look_at_folder(job: Job) -> int:
    """The step that a run in this folder would go on from; 0 for a new one.

    Raises:
        OptionError: another run is in it.
    """
    if not job.recipe.resume:
        return 0
    steps, there = checkpoint.steps(job.checkpoints), job.folder / "recipe.yaml"
    if not there.exists():
        if steps:
            raise OptionError(
                f"{job.folder} has checkpoints and no recipe.yaml. Name another --output, or use --no-resume."
            )
        return 0
    before, now = _as_written_now(yaml.safe_load(there.read_text())), plain_recipe(job.given or job.recipe)
    changed = [f"{path} {old} -> {new}" for path, old, new in _differences(before, now) if path not in FREE]
    if steps and not changed:
        data = checkpoint.read_state(job.checkpoints / f"step-{steps[-1]}")["data"]
        changed = [f"the data were {data} and are {job.data}"] if data != job.data else []
    if changed:
        shown = "; ".join(changed[:6]) + (f" and {len(changed) - 6} more" if len(changed) > 6 else "")
        raise OptionError(
            f"{job.folder} holds another run: {shown}. Name another --output, or use --no-resume to start anew."
        )
    return steps[-1] if steps else 0


def _as_written_now(plain: dict[str, Any]) -> dict[str, Any]:
    """An earlier recipe.yaml with the fields that came since, at their defaults; as it stands if it is no recipe."""
    plain = as_now(plain)
    try:
        written: dict[str, Any] = to_plain(from_plain(Recipe, plain))
    except (OptionError, TypeError):
        return plain
    return written


def _differences(before: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [row for key in keys for row in _differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))]
    return [] if before == now else [(path, before, now)]


def plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as recipe.yaml has it; such a file is a `--config`."""
    data, init = resolved(recipe.data), recipe.init.resolve() if recipe.init else None
    modalities = {name: _resolved(modality) for name, modality in recipe.modalities.items()}
    weight = tuple(sorted(recipe.weight))
    plain: dict[str, Any] = to_plain(
        replace(recipe, modalities=modalities, data=data, weight=weight, init=init, resume=True, config=None)
    )
    return plain


def _resolved(modality: Modality) -> Modality:
    """A modality whose files are named wherever one stands."""
    paths = {field: getattr(modality, field) for field in modality.files}
    return with_fields(modality, {field: path.resolve() for field, path in paths.items() if path is not None})


def report_of(folder: Path) -> Path:
    """Where a run's report stands."""
    return folder / "report"
