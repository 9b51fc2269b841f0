"""Train a recipe on a labelled set of real files, compare it with the untrained encoder, and append the rows to a page.

    python scripts/results.py sign_digits --data ../shared/data --seed 0 --page docs/results.md

Training sees the training rows alone; the split is the one of the set's own reference numbers, so that its floors hold.
Options that this script does not know are handed to the recipe. Nothing is downloaded: `--data` holds the archives
(`images/sign_digits.tar`, `points/ldraw_parts.npz` ...), which are laid out beside the run. Sentences without labels
are told by the loss on held-out ones, beside that of the words' frequencies.
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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import KNeighborsClassifier

from mmim import checkpoint
from mmim.data.loader import in_order, load
from mmim.data.sources import find_samples
from mmim.embed import Embeddings, embed, read
from mmim.evaluation.intervals import accuracy_interval, chance, difference_interval
from mmim.evaluation.knn import knn_correct
from mmim.evaluation.labels import find_labels
from mmim.evaluation.tables import read_table
from mmim.model import MaskedModel, Step

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Experiment:
    """A set of files, how its test rows are told, and a recipe with options that fit in a few minutes on two cores."""

    archive: str
    recipe: str
    held_out: Callable[[int, dict[str, str]], bool]
    rule: str
    options: tuple[str, ...]
    label: str = "label"
    """The column to tell; "" where there are no labels."""
    only: Callable[[dict[str, str]], bool] = lambda row: True
    """Which rows take part."""
    modality: str = ""
    """Whose suffix is taken, of archives that hold several."""


IMAGES = (
    *("--size", "tiny", "--modalities.image.size", "48", "48", "--modalities.image.patch", "8"),
    *("--optimiser.base-lr", "4e-3", "--optimiser.per", "0", "--batch", "64", "--precision", "fp32"),
)
SOUNDS = (
    *("--size", "tiny", "--optimiser.base-lr", "2e-3", "--optimiser.per", "0", "--batch", "64", "--precision", "fp32"),
)
CLOUDS = (
    *("--size", "tiny", "--modalities.points.groups", "24", "--modalities.points.group-size", "12"),
    *("--modalities.points.points", "256", "--optimiser.base-lr", "2e-3", "--optimiser.per", "0", "--batch", "32"),
    *("--precision", "fp32"),
)
WORDS = (
    *("--size", "tiny", "--modalities.text.length", "32", "--modalities.text.vocabulary-size", "4000"),
    *("--optimiser.base-lr", "2e-3", "--optimiser.per", "0", "--batch", "128", "--precision", "fp32"),
)
EXPERIMENTS = {
    "ldraw_parts": Experiment(
        "points/ldraw_parts.npz",
        "pointmae",
        lambda i, row: i % 4 == 3,
        "every fourth part",
        (*CLOUDS, "--steps", "300"),
    ),
    "kenney_models": Experiment(
        "pairs/kenney_models.tar",
        "pointmae",
        lambda i, row: i % 4 == 3,
        "every fourth model",
        (*CLOUDS, "--steps", "200"),
        label="category",
        modality="mesh",
    ),
    "clinc150": Experiment(
        "text/clinc150.jsonl",
        "bert",
        lambda i, row: row["part"] == "val",
        "the part val; rows out of scope are left out",
        (*WORDS, "--steps", "800"),
        label="intent",
        only=lambda row: row["part"] in ("train", "val"),
    ),
    "nlvr2_sentences": Experiment(
        "text/nlvr2_sentences.txt",
        "bert",
        lambda i, row: i % 4 == 3,
        "every fourth sentence",
        (*WORDS, "--steps", "600"),
        label="",
    ),
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
    train, files, labels = laid_out(data / experiment.archive, experiment, work / name)
    run = work / f"{name}-seed{seed}"
    command = ["recipes/" + experiment.recipe + ".py", *experiment.options, "--seed", str(seed)]
    minutes = trained_for(run, [sys.executable, str(ROOT / command[0]), *command[1:], "--data", str(train)])
    head = f"### {name}, seed {seed}\n\n`{' '.join(command)}`: {minutes:.1f} min on {os.cpu_count()} cores "
    head += f"({platform.machine()}), no GPU. "
    if not experiment.label:
        return head + sentences(run, train, files / "test.txt", experiment)
    if experiment.recipe == "bert":
        return head + intents(run, files, labels, experiment)
    report = work / f"{name}-seed{seed}.json"
    mmim = [sys.executable, "-c", "from mmim.cli.main import main; main()", "probe"]
    where = ["--checkpoint", str(run), "--data", str(files), "--labels", str(labels)]
    call([*mmim, *where, "--seed", str(seed), "--label", "label", "--split", "part=test", "--json-out", str(report)])
    return head + markdown(json.loads(report.read_text()), experiment)


def trained_for(run: Path, command: list[str]) -> float:
    """The minutes that the training took, now or when it was done."""
    taken = run.with_suffix(".minutes")
    if not taken.exists():
        started = time.perf_counter()
        call([*command, "--output", str(run)])
        taken.write_text(str((time.perf_counter() - started) / 60))
    return float(taken.read_text())


def laid_out(archive: Path, experiment: Experiment, folder: Path) -> tuple[Path, Path, Path]:
    """The training files (a list, or one file), all files, and a table of them with their side of the split."""
    if archive.suffix == ".tar":
        return of_tar(archive, experiment, folder)
    write = {".npz": of_arrays, ".jsonl": of_lines, ".txt": of_lines}[archive.suffix]
    folder.mkdir(parents=True, exist_ok=True)
    labels = folder.with_suffix(".labels.csv")
    write_table(labels, write(archive, experiment, folder))
    return folder / f"train{archive.suffix}", folder, labels


def of_tar(archive: Path, experiment: Experiment, stem: Path) -> tuple[Path, Path, Path]:
    files = stem.parent / archive.stem
    if not files.exists():
        stem.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            tar.extractall(stem.parent, filter="data")
    with (files / "index.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    column = experiment.modality or "file"
    table = [(row[column], row[experiment.label], part(experiment, i, row)) for i, row in enumerate(found)]
    train, labels = stem.with_suffix(".train.txt"), stem.with_suffix(".labels.csv")
    train.write_text("".join(f"{files.name}/{name}\n" for name, _, side in table if side == "train"))
    write_table(labels, table)
    return train, files, labels


def of_arrays(archive: Path, experiment: Experiment, folder: Path) -> list[tuple[str, str, str]]:
    """Two files of clouds, and the class of each."""
    with np.load(archive) as arrays:
        points, names = arrays["points"], arrays["categories"][arrays["label"]]
    sides = np.array([part(experiment, i, {}) for i in range(len(points))])
    table = []
    for side in ("train", "test"):
        np.savez_compressed(folder / f"{side}.npz", points=points[sides == side])
        table += [(f"{side}.npz#{row}", str(name), side) for row, name in enumerate(names[sides == side])]
    return table


def of_lines(archive: Path, experiment: Experiment, folder: Path) -> list[tuple[str, str, str]]:
    """Two files of lines, and the label of each that has one."""
    lines = archive.read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) if archive.suffix == ".jsonl" else {} for line in lines]
    sides = [part(experiment, i, row) if experiment.only(row) else "" for i, row in enumerate(found)]
    table = []
    for side in ("train", "test"):
        here = [(line, row) for line, row, other in zip(lines, found, sides, strict=True) if other == side]
        (folder / f"{side}{archive.suffix}").write_text("".join(f"{line}\n" for line, _ in here), encoding="utf-8")
        name = f"{side}{archive.suffix}"
        table += [(f"{name}#{i}", row.get(experiment.label, ""), side) for i, (_, row) in enumerate(here)]
    return table


def part(experiment: Experiment, i: int, row: dict[str, str]) -> str:
    return "test" if experiment.held_out(i, row) else "train"


def write_table(path: Path, table: list[tuple[str, str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "part"])
        writer.writerows(table)


def intents(run: Path, files: Path, labels: Path, experiment: Experiment) -> str:
    """Accuracy by five nearest neighbours of the encoder, trained and not, of bags of words, and of tf-idf.

    A linear probe of 150 classes would take longer than the training.
    """
    trained = checkpoint.load(run)
    torch.manual_seed(0)
    untrained = MaskedModel(trained.method)
    samples = find_samples(files, trained.method.modalities)

    def vectors(model: MaskedModel) -> Embeddings:
        return embed(model, samples, read(samples, model.method.modalities, batch=128), features=True)

    ours, theirs = vectors(trained), vectors(untrained)
    found = find_labels(read_table(labels), ours.ids, ["label"], "part=test", None)
    test, (values,) = found.test, found.values.values()
    classes = np.unique(np.array(values), return_inverse=True)[1]

    def right(features: np.ndarray) -> np.ndarray:
        part = features[found.rows]
        return knn_correct(part[~test], classes[~test], part[test], classes[test])

    by = {
        "trained": right(ours.vectors["joint"]),
        "untrained": right(theirs.vectors["joint"]),
        "bag of words": right(ours.features["text"]),
        "tf-idf": tf_idf(files, np.array(values), test, [ours.ids[row] for row in found.rows]),
    }
    lines = [
        f"Held out: {experiment.rule} ({int((~test).sum())} training and {int(test.sum())} test rows, "
        f"{classes.max() + 1} classes, chance {100 * chance(classes[~test], classes[test]).value:.1f}). "
        "Five nearest neighbours:",
        "",
        "| features | accuracy | trained - it |",
        "| --- | --- | --- |",
    ]
    for name, correct in by.items():
        gain = "" if name == "trained" else interval(asdict(difference_interval(by["trained"], correct)), "+")
        lines.append(f"| {name} | {interval(asdict(accuracy_interval(correct)))} | {gain} |")
    return "\n".join([*lines, "", ""])


def tf_idf(files: Path, labels: np.ndarray, test: np.ndarray, ids: list[str]) -> np.ndarray:
    """Whether five neighbours by words weighed by their rarity among the training lines tell each test line."""
    lines = {side: (files / f"{side}.jsonl").read_text(encoding="utf-8").split("\n") for side in ("train", "test")}
    texts = np.array([json.loads(lines[id.partition(".")[0]][int(id.partition("#")[2])])["text"] for id in ids])
    weigh = TfidfVectorizer(sublinear_tf=True).fit(texts[~test])
    method = KNeighborsClassifier(5, metric="cosine").fit(weigh.transform(texts[~test]), labels[~test])
    return method.predict(weigh.transform(texts[test])) == labels[test]


def sentences(run: Path, train: Path, test: Path, experiment: Experiment) -> str:
    """The loss on held-out lines, trained, untrained, and of the words' frequencies."""
    trained = checkpoint.load(run)
    torch.manual_seed(0)
    untrained = MaskedModel(trained.method).eval()
    told = list(losses(trained, untrained, train, test))
    names, (ours, theirs, frequencies) = ("trained", "untrained", "frequencies"), np.array(told).T
    means = ", ".join(f"{name} {x.mean():.2f}" for name, x in zip(names, (ours, theirs, frequencies), strict=True))
    resampled = np.random.default_rng(0).integers(0, len(ours), (2000, len(ours)))
    low, high = np.quantile((frequencies - ours)[resampled].mean(axis=1), [0.025, 0.975])
    return (
        f"Held out: {experiment.rule} ({len(told)} lines).\n\nCross-entropy of hidden words on held-out lines, nats: "
        f"{means}; frequencies - trained {(frequencies - ours).mean():.2f} [{low:.2f}, {high:.2f}].\n\n"
    )


@torch.no_grad()
def losses(trained: MaskedModel, untrained: MaskedModel, train: Path, test: Path) -> Iterator[tuple[float, ...]]:
    """Of each held-out line with a hidden word: the mean loss of both models and of frequencies, on the same words."""
    modalities = trained.method.modalities
    seen = np.ones(modalities["text"].vocabulary.size)  # every id once more than it was seen
    for sample in find_samples(train, modalities):
        np.add.at(seen, modalities["text"].read(sample.sources["text"], None)["ids"].numpy(), 1)
    surprise = torch.from_numpy(-np.log(seen / seen.sum())).float()
    samples = find_samples(test, modalities)
    for loaded in load(samples, modalities, in_order(len(samples), 1), seed=0, workers=0):
        step = Step(trained, loaded.batch)
        (task,) = trained.method.tasks
        _, counted = step.query(task)
        if counted.any():
            both = [next(iter(model(loaded.batch).values())) for model in (trained, untrained)]
            by_frequency = surprise[step.target(task)][counted].mean()
            yield *(float(term.total / term.count) for term in both), float(by_frequency)


def call(command: list[str]) -> None:
    """Run a command of the project, with its output on ours."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([str(word) for word in command], check=True, env=environment)


def markdown(report: dict, experiment: Experiment) -> str:
    """The rows of a page: accuracy in per cent with 95 % intervals."""
    by = {(row["method"], row["features"]): row for row in report["rows"]}
    raw = next(features for _, features in by if features.startswith("raw"))
    some = next(iter(by.values()))
    lines = [
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
