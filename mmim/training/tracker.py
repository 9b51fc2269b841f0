"""What a run says while it runs: metrics.jsonl, a progress bar, and the list of files it left out."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from jaxtyping import Int64
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from mmim.data.loader import Unreadable

SHOWN = 20  # unreadable files listed on the terminal


class Tracker:
    """Metrics of one run. Silent in every process but the main one.

    `metrics.jsonl` has one object per logged step: `step`, `loss` (the global mean of this step, unsmoothed) and each
    of its parts, `lr`, `grad_norm`, and since the line before `samples_per_s`, `data_wait` (share of the time spent
    waiting for data) and, of samples of several lengths, `padding/MODALITY` (share of the tokens that pad).
    """

    def __init__(self, folder: Path, start: int, steps: int, *, main: bool, console: Console) -> None:
        self.folder, self.steps, self.main, self.console = folder, steps, main, console
        self._mark = time.perf_counter()
        self._samples, self._wait = 0, 0.0
        self._filled: dict[str, Tensor] = {}
        self._said = time.perf_counter()
        if not main:
            return
        self._forget_after(start)
        self._bar = Progress(
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("reading the first batch", total=steps, completed=start)
        self._bar.start()

    @property
    def file(self) -> Path:
        """metrics.jsonl."""
        return self.folder / "metrics.jsonl"

    def waited(self, seconds: float) -> None:
        """Time spent waiting for data."""
        self._wait += seconds

    def padded(self, filled: Mapping[str, Int64[Tensor, "2"]]) -> None:
        """Valid tokens and places of the modalities that are padded, and of the shared blocks; zeros elsewhere."""
        for name, numbers in filled.items():
            self._filled[name] = self._filled.get(name, 0) + numbers

    def advance(self, samples: int) -> None:
        """One optimiser step is done."""
        self._samples += samples
        if self.main:
            self._bar.advance(self._task)

    def log(self, step: int, losses: dict[str, float], *, lr: float, grad_norm: float | None) -> None:
        """Write a line of metrics and show it. No gradient norm: fp16 overflowed, and the step was skipped."""
        now = time.perf_counter()
        elapsed = max(now - self._mark, 1e-9)
        rate, wait = self._samples / elapsed, min(1.0, self._wait / elapsed)
        padding = {f"padding/{name}": round(1 - valid / places, 4) for name, (valid, places) in self._shares()}
        self._mark, self._samples, self._wait, self._filled = now, 0, 0.0, {}
        if not self.main:
            return
        line = {"step": step, "loss": sum(losses.values()), "lr": lr, "grad_norm": grad_norm}
        line |= {"samples_per_s": round(rate, 2), "data_wait": round(wait, 4), **padding, **losses}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        text = f"loss {line['loss']:.4f}  lr {lr:.2e}  {rate:.1f} samples/s  waiting for data {wait:.0%}"
        self._bar.update(self._task, description=text)
        if not self.console.is_terminal and (now - self._said > 10 or step == self.steps):
            self._said = now
            self.console.print(f"step {step}/{self.steps}  {text}")

    def _shares(self) -> list[tuple[str, list[int]]]:
        shares = [(name, numbers.tolist()) for name, numbers in self._filled.items()]
        return [(name, numbers) for name, numbers in shares if numbers[1]]

    def stop(self) -> None:
        """Take the bar off the terminal."""
        if self.main:
            self._bar.stop()

    def left_out(self, unreadable: Sequence[Unreadable]) -> None:
        """Keep unreadable.jsonl, the list of files that were left out so far."""
        if self.main and unreadable:
            lines = "".join(json.dumps(asdict(bad)) + "\n" for bad in unreadable)
            _replace(self.folder / "unreadable.jsonl", lines)

    def close(self, unreadable: Sequence[Unreadable]) -> None:
        """End the bar, and say which files were left out."""
        self.stop()
        if not self.main or not unreadable:
            return
        self.console.print(f"{len(unreadable)} file{'s' if unreadable[1:] else ''} could not be read, left out:")
        for bad in unreadable[:SHOWN]:
            self.console.print(f"  {bad.id}: {bad.reason}", markup=False, highlight=False)
        if len(unreadable) > SHOWN:
            self.console.print(f"  and {len(unreadable) - SHOWN} more, in {self.folder / 'unreadable.jsonl'}")

    def _forget_after(self, start: int) -> None:
        """Drop the lines of steps that a resumed run makes again."""
        if self.file.exists():
            lines = self.file.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one short
            _replace(self.file, "".join(line for line in whole if json.loads(line)["step"] <= start))


def _replace(file: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    partial = file.with_name(f".{file.name}")
    partial.write_text(text)
    partial.rename(file)
