"""Train a recipe on a labelled set of real files, compare it with the untrained encoder, and append the rows to a page.

    python scripts/results.py sign_digits --data ../shared/data --seed 0 --page docs/results.md

Training sees the training rows alone; the split is the one of the set's own reference numbers, so that its floors hold.
Options that this script does not know are handed to the recipe. Nothing is downloaded: `--data` holds the archives
(`images/sign_digits.tar` ...), which are unpacked beside the run.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Experiment:
    """A set of files, how its test rows are told, and a recipe with options that fit in a few minutes on two cores."""

    archive: str
    recipe: str
    held_out: Callable[[int, dict[str, str]], bool]
    rule: str
    options: tuple[str, ...]


IMAGES = (
    *("--size", "tiny", "--modalities.image.size", "48", "48", "--modalities.image.patch", "8"),
    *("--optimiser.base-lr", "4e-3", "--optimiser.per", "0", "--batch", "64", "--precision", "fp32"),
)
SOUNDS = (
    *("--size", "tiny", "--optimiser.base-lr", "2e-3", "--optimiser.per", "0", "--batch", "64", "--precision", "fp32"),
)
EXPERIMENTS = {
    "sign_digits": Experiment(
        "images/sign_digits.tar",
        "mae",
        lambda i, row: int(row["run"]) % 4 == 3,
        "every fourth run",
        (*IMAGES, "--modalities.image.no-flip", "--steps", "900"),
    ),
    "caltech101": Experiment(
        "images/caltech101.tar", "mae", lambda i, row: i % 4 == 3, "every fourth picture", (*IMAGES, "--steps", "600")
    ),
    "esc10": Experiment(
        "audio/esc10.tar",
        "audiomae",
        lambda i, row: row["fold"] == "4",
        "fold 4",
        (
            *(*SOUNDS, "--modalities.audio.frames", "256", "--modalities.audio.mel", "64"),
            *("--repeats", "8", "--steps", "200"),
        ),
    ),
    "spoken_digits": Experiment(
        "audio/spoken_digits.tar",
        "audiomae",
        lambda i, row: row["speaker"] == "lucas",
        "the speaker lucas",
        (
            *(*SOUNDS, "--modalities.audio.frames", "64", "--modalities.audio.mel", "64"),
            *("--modalities.audio.patch", "8"),
            *("--modalities.audio.no-augment", "--steps", "400"),
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=EXPERIMENTS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, help="append the rows to this page")
    parser.add_argument("--work", type=Path, default=Path("runs/results"), help="unpacked files and runs")
    chosen, further = parser.parse_known_args()
    experiment = EXPERIMENTS[chosen.set]
    experiment = replace(experiment, options=(*experiment.options, *further))
    text = rows(experiment, chosen.set, chosen.data, chosen.seed, chosen.work)
    print(text)
    if chosen.page is not None:
        with chosen.page.open("a") as page:
            page.write(text)


def rows(experiment: Experiment, name: str, data: Path, seed: int, work: Path) -> str:
    """Train, probe, and say it in Markdown."""
    files = unpack(data / experiment.archive, work)
    train, labels = lists(files, experiment, work / name)
    run = work / f"{name}-seed{seed}"
    command = ["recipes/" + experiment.recipe + ".py", *experiment.options, "--seed", str(seed)]
    minutes = trained_for(run, [sys.executable, str(ROOT / command[0]), *command[1:], "--data", str(train)])
    report = work / f"{name}-seed{seed}.json"
    mmim = [sys.executable, "-c", "from mmim.cli.main import main; main()", "probe"]
    where = ["--checkpoint", str(run), "--data", str(files), "--labels", str(labels)]
    call([*mmim, *where, "--seed", str(seed), "--label", "label", "--split", "part=test", "--json-out", str(report)])
    return markdown(json.loads(report.read_text()), name, experiment, command, seed, minutes)


def trained_for(run: Path, command: list[str]) -> float:
    """The minutes that the training took, now or when it was done."""
    taken = run.with_suffix(".minutes")
    if not taken.exists():
        started = time.perf_counter()
        call([*command, "--output", str(run)])
        taken.write_text(str((time.perf_counter() - started) / 60))
    return float(taken.read_text())


def unpack(archive: Path, work: Path) -> Path:
    """The folder of an archive's files."""
    folder = work / archive.stem
    if not folder.exists():
        work.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
    return folder


def lists(files: Path, experiment: Experiment, stem: Path) -> tuple[Path, Path]:
    """A list of the training files, and a table of all with their side of the split."""
    with (files / "index.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    parts = ["test" if experiment.held_out(i, row) else "train" for i, row in enumerate(found)]
    train, labels = stem.with_suffix(".train.txt"), stem.with_suffix(".labels.csv")
    here = [row["file"] for row, part in zip(found, parts, strict=True) if part == "train"]
    train.write_text("".join(f"{files.name}/{name}\n" for name in here))
    with labels.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "part"])
        writer.writerows([row["file"], row["label"], part] for row, part in zip(found, parts, strict=True))
    return train, labels


def call(command: list[str]) -> None:
    """Run a command of the project, with its output on ours."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([str(word) for word in command], check=True, env=environment)


def markdown(report: dict, name: str, experiment: Experiment, command: list[str], seed: int, minutes: float) -> str:
    """The rows of a page: accuracy in per cent with 95 % intervals."""
    by = {(row["method"], row["features"]): row for row in report["rows"]}
    raw = next(features for _, features in by if features.startswith("raw"))
    some = next(iter(by.values()))
    lines = [
        f"### {name}, seed {seed}",
        "",
        f"`{' '.join(command)}`: {minutes:.1f} min on {os.cpu_count()} cores ({platform.machine()}), no GPU. "
        f"Held out: {experiment.rule} ({some['num_train']} training and {some['num_test']} test rows, "
        f"{some['classes']} classes).",
        "",
        "| method | trained | untrained | raw | chance | shuffled | trained - untrained |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method in dict.fromkeys(method for method, _ in by):
        trained, untrained, floor = (by[method, features] for features in ("trained", "untrained", raw))
        gain = untrained["difference"]
        bold = "**" if gain["low"] > 0 else ""
        lines.append(
            f"| {method} | {interval(trained['accuracy'])} | {interval(untrained['accuracy'])} | "
            f"{interval(floor['accuracy'])} | {100 * trained['chance']['value']:.1f} | "
            f"{100 * trained['shuffled']['value']:.1f} | {bold}{interval(gain, '+')}{bold} |"
        )
    return "\n".join([*lines, "", ""])


def interval(value: dict, sign: str = "") -> str:
    return f"{100 * value['value']:{sign}.1f} [{100 * value['low']:{sign}.1f}, {100 * value['high']:{sign}.1f}]"


if __name__ == "__main__":
    main()
