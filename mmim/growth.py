"""What a trained model forgets while it learns further modalities: the ones it knew, compared before and after."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from rich.console import Console

from mmim.data.sample import Sample
from mmim.draw import stable_hash
from mmim.embed import embed, having, read
from mmim.errors import DataError, OptionError, TrainingError, expect
from mmim.evaluation import report, retrieval_report
from mmim.evaluation.label_table import label_table, root_of
from mmim.evaluation.labels import find_labels
from mmim.model import MaskedModel

PLACES = 5
"""The k of R@k that counts as lost."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a run that starts from a trained model (--init) and adds modalities is compared with it in the end.

    Of the modalities that both know: kNN accuracy of labels from each one's vectors, and retrieval between them.
    """

    labels: tuple[str, ...] = ()
    """Columns of the data's index.csv or manifest; in the demo all factors. Without any there is retrieval alone."""
    split: str | None = None
    """COLUMN=VALUE, the rows to test on; default: a quarter, by a hash of the id."""
    samples: int = 2000
    """Samples at most, chosen by a hash of their ids."""
    most_lost: float | None = None
    """Points of kNN accuracy or R@5, in %, that may be lost; a run that lost more fails at its end."""

    def check(self) -> None:
        """Raise an OptionError for numbers that can't be."""
        expect(self.samples >= 8, self.samples, "at least 8", "compare.samples")
        if self.most_lost is not None:
            expect(0 <= self.most_lost <= 100, self.most_lost, "points of percent, 0 to 100", "compare.most_lost")


@dataclass(frozen=True, eq=False)
class Held:
    """The samples that a comparison is made on, with their labels.

    names: the modalities that both models know; values: by label, one class a sample; test: True for test rows
    """

    names: tuple[str, ...]
    samples: Sequence[Sample]
    values: Mapping[str, Sequence[str]]
    test: Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class Score:
    """One number before and after, as shares; `of` which modalities."""

    what: str
    of: tuple[str, ...]
    before: float
    after: float

    @property
    def lost(self) -> float:
        """Points of percent."""
        return 100 * (self.before - self.after)

    def __str__(self) -> str:
        return f"{self.what} {100 * self.before:.1f} -> {100 * self.after:.1f} %"


def held_of(
    how: Comparison,
    names: Sequence[str],
    samples: Sequence[Sample],
    data: Sequence[str],
    inline: Mapping[str, bool],
) -> Held:
    """What a run's own data give to compare on; asked before it trains.

    Raises:
        OptionError, DataError: a label or a split that can't be, or `most_lost` is set and nothing can be lost.
    """
    samples = sorted(having(samples, names), key=lambda sample: stable_hash("compared", sample.id))[: how.samples]
    if not how.labels:
        if how.most_lost is not None and len(names) < 2:
            raise OptionError(
                f"--compare.most-lost with {names[0]} alone needs --compare.labels: there is nothing to retrieve."
            )
        if how.split is not None:
            raise OptionError(f"--compare.split {how.split} needs --compare.labels.")
        return Held(tuple(names), samples, {}, np.ones(len(samples), dtype=bool))
    table = label_table(None, data, inline)
    found = find_labels(table, [sample.id for sample in samples], how.labels, how.split, root_of(data))
    return Held(tuple(names), [samples[row] for row in found.rows], found.values, found.test)


def compare(
    before: MaskedModel,
    after: MaskedModel,
    held: Held,
    how: Comparison,
    folder: Path,
    console: Console,
    device: torch.device,
) -> list[Score]:
    """Print and write (`growth.json`) how the modalities that both know fare; the scores are those that may be lost.

    Both models read what the later one reads.
    """
    modalities = after.method.modalities
    batches = list(read(held.samples, modalities, batch=64, workers=1))
    sets = {
        when: embed(model, held.samples, batches, device=device, use=held.names)
        for when, model in (("before", before), ("after", after))
    }
    at = {sample.id: row for row, sample in enumerate(held.samples)}
    kept = [at[id] for id in sets["after"].ids]
    values = {label: [cells[row] for row in kept] for label, cells in held.values.items()}
    test = held.test[kept]
    plain: dict[str, object] = {}
    scores: list[Score] = []
    for name in held.names if values else ():
        console.print(f"{name} before and after:")
        try:
            (rows, *_), _ = report.compare_present(
                {when: one.vectors[name] for when, one in sets.items()}, values, test
            )
        except (DataError, OptionError) as error:
            console.print(f"no table of {name}: {error}", markup=False, highlight=False)
            continue
        console.print(report.table(rows))
        plain[name] = report.as_dict(rows)
        scores += _pairs_of_rows(name, rows)
    if len(held.names) > 1:
        vectors = {when: one.vectors for when, one in sets.items()}
        found, reasons = retrieval_report.compare(vectors, {}, list(combinations(held.names, 2)), test)
        console.print(retrieval_report.table(found))
        for what, reason in reasons.items():
            console.print(f"no {what}: {reason}", markup=False, highlight=False)
        plain["retrieval"] = retrieval_report.as_dict(found)
        scores += _pairs_of_found(found)
    if not scores:
        console.print(f"Nothing to compare {', '.join(held.names)} by: give --compare.labels.")
    plain["how"] = _way(how)
    plain["scores"] = [asdict(one) for one in scores]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "growth.json").write_text(json.dumps(plain, indent=1) + "\n")
    return scores


def _way(how: Comparison) -> dict[str, object]:
    """What decides the scores; how many points may be lost does not."""
    return {"labels": list(how.labels), "split": how.split, "samples": how.samples}


def made_so(folder: Path, how: Comparison) -> bool:
    """Whether an earlier `compare` was made in this way, and by a version that says what its scores are of."""
    file = folder / "growth.json"
    made = json.loads(file.read_text()) if file.is_file() else {}
    return made.get("how") == _way(how) and all("of" in score for score in made["scores"])


def scores_in(folder: Path) -> list[Score]:
    """What an earlier `compare` wrote; nothing where there was none."""
    file = folder / "growth.json"
    scores = json.loads(file.read_text())["scores"] if file.is_file() else []
    return [Score(one["what"], tuple(one["of"]), one["before"], one["after"]) for one in scores]


def verdict(scores: Sequence[Score], names: Sequence[str], most_lost: float | None, console: Console) -> None:
    """Say the largest loss.

    Raises:
        TrainingError: it is above `most_lost`, or there is no number of one of the modalities to tell it by.
    """
    untold = [name for name in names if not any(name in score.of for score in scores)]
    if untold and most_lost is not None:
        raise TrainingError(
            f"--compare.most-lost {most_lost:g}: nothing of {', '.join(untold)} could be compared; growth.json in the "
            "report, and what was printed when it was made, say what could."
        )
    if not scores:
        return
    worst = max(scores, key=lambda score: score.lost)
    lost = [score for score in scores if most_lost is not None and score.lost > most_lost]
    if lost:
        shown = "; ".join(str(score) for score in sorted(lost, key=lambda score: -score.lost)[:4])
        raise TrainingError(
            f"What the model knew got worse by more than --compare.most-lost {most_lost:g}: {shown} ({len(lost)} of "
            f"{len(scores)} numbers). The checkpoint is there; a longer --freeze-steps or a lower rate forgets less."
        )
    console.print(f"Largest loss of {len(scores)} numbers: {worst} ({-worst.lost:+.1f}).", highlight=False)


def _pairs_of_rows(name: str, rows: Sequence[report.Row]) -> list[Score]:
    by = {(row.label, row.features): row.accuracy.value for row in rows if row.method == "kNN"}
    labels = dict.fromkeys(label for label, _ in by)
    return [Score(f"{name}, kNN of {label}", (name,), by[label, "before"], by[label, "after"]) for label in labels]


def _pairs_of_found(rows: Sequence[retrieval_report.Row]) -> list[Score]:
    by = {(row.query, row.candidate, row.features): row.found.recall[PLACES].value for row in rows}
    ways = dict.fromkeys((one, other) for one, other, _ in by)
    return [
        Score(f"{one} -> {other}, R@{PLACES}", (one, other), by[one, other, "before"], by[one, other, "after"])
        for one, other in ways
    ]
