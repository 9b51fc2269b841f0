"""Several sets of vectors compared on the same labels: label x method x features."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from rich import box
from rich.markup import escape
from rich.table import Table

from mmim.errors import DataError, OptionError
from mmim.evaluation.intervals import LEVEL, Chance, Interval, accuracy_interval, chance, difference_interval
from mmim.evaluation.knn import knn_correct
from mmim.evaluation.labels import check_classes
from mmim.evaluation.probe import probe_correct
from mmim.evaluation.retrieval import pairs_of

METHODS: dict[str, Callable[..., Bool[np.ndarray, " t"]]] = {"kNN": knn_correct, "probe": probe_correct}


@dataclass(frozen=True, slots=True)
class Row:
    """What one set of vectors says about one label by one method.

    shuffled:    the accuracy after the labels were shuffled
    difference:  accuracy of the first set of vectors minus that of this one, on the same rows; None for the first
    """

    label: str
    method: str
    features: str
    classes: int
    num_train: int
    num_test: int
    accuracy: Interval
    chance: Chance
    shuffled: Interval
    difference: Interval | None

    @property
    def shuffled_at_chance(self) -> bool:
        """Whether shuffled labels got no more than chance; an honest evaluation fails this once in about forty rows."""
        return self.shuffled.low <= self.chance.value


def compare(
    features: Mapping[str, Float[np.ndarray, "n _"]],
    labels: Mapping[str, Sequence[str]],
    test: Bool[np.ndarray, " n"],
    seed: int = 0,
) -> list[Row]:
    """Scores by kNN and linear probe of every label on every set of vectors, all on the same training and test rows.

    Labels are shuffled within the training rows and within the test rows, so that chance stays what it is. Shuffling
    the training labels alone would not do: a cluster of rows would be right or wrong together, and the interval, which
    takes rows for independent, far too narrow.

    Args:
        features: name -> one vector per row; the first is the one that the others are compared with.
        labels: name -> one class per row.
        test: True where the row is a test row.
        seed: of the resampling and of the shuffling; the accuracies do not depend on it.

    Raises:
        DataError: numbers of rows differ, a vector is not finite, or a label can't be learned (`check_classes`).
        OptionError: there are fewer training rows than neighbours.
    """
    _check_rows(features, labels, test)
    return [
        row
        for label, values in labels.items()
        for method, correct in METHODS.items()
        for row in _compare_one(label, method, correct, features, _encode(label, values, test), test, seed)
    ]


def compare_present(
    features: Mapping[str, Float[np.ndarray, "n _"]],
    labels: Mapping[str, Sequence[str]],
    test: Bool[np.ndarray, " n"],
    seed: int = 0,
) -> tuple[list[list[Row]], dict[str, str]]:
    """`compare` of sets of vectors that some samples lack (rows of NaN): one table for sets that have the same rows.

    The first set leads each table, on the rows of that table, so that differences stay paired.

    Returns:
        The tables, and for those that can't be made (too few rows of a class) their names and why; the table of the
        first set can be made, or it is an error.

    Raises:
        DataError, OptionError: as `compare`.
    """
    _check_rows(features, labels, test)
    first = next(iter(features))
    sets: dict[bytes, list[str]] = {}
    for name, vectors in features.items():
        sets.setdefault(pairs_of(features[first], vectors).tobytes(), [first] if name != first else []).append(name)
    tables: list[list[Row]] = []
    reasons: dict[str, str] = {}
    for pattern, names in sets.items():
        rows = np.frombuffer(pattern, dtype=bool)
        values = {
            label: [value for value, has in zip(cells, rows, strict=True) if has] for label, cells in labels.items()
        }
        try:
            tables.append(compare({name: features[name][rows] for name in names}, values, test[rows], seed))
        except (DataError, OptionError) as error:
            if not tables:
                raise
            reasons[", ".join(names[1:])] = str(error)
    return tables, reasons


def _compare_one(
    label: str,
    method: str,
    correct: Callable[..., Bool[np.ndarray, " t"]],
    features: Mapping[str, Float[np.ndarray, "n _"]],
    classes: Int64[np.ndarray, " n"],
    test: Bool[np.ndarray, " n"],
    seed: int,
) -> list[Row]:
    def hits(vectors: Float[np.ndarray, "n _"], given: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " t"]:
        return correct(vectors[~test], given[~test], vectors[test], given[test])

    shuffled = _shuffle(classes, test, seed)
    by_features = {name: hits(vectors, classes) for name, vectors in features.items()}
    first = next(iter(features))
    return [
        Row(
            label=label,
            method=method,
            features=name,
            classes=int(classes.max()) + 1,
            num_train=int((~test).sum()),
            num_test=int(test.sum()),
            accuracy=accuracy_interval(right, seed),
            chance=chance(classes[~test], classes[test]),
            shuffled=accuracy_interval(hits(features[name], shuffled), seed),
            difference=None if name == first else difference_interval(by_features[first], right, seed),
        )
        for name, right in by_features.items()
    ]


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal of 100 columns, in per cent."""
    sizes = f"{rows[0].num_train} training and {rows[0].num_test} test rows"
    view = Table(
        title=f"Accuracy in % with {100 * LEVEL:g} % intervals, {sizes}",
        caption="chance: m always the commonest class, u any class alike; shuffled labels: ! if above chance",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    view.add_column("label", overflow="fold")
    view.add_column("method", no_wrap=True)
    view.add_column("features", overflow="fold")
    for name in ("accuracy", "chance", "shuffled"):
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column(f"{escape(rows[0].features)} - it", justify="right", overflow="fold")
    shown = None
    for row in rows:
        again, shown = shown == (row.label, row.method), (row.label, row.method)
        view.add_row(
            "" if again else escape(row.label),
            "" if again else row.method,
            escape(row.features),
            f"{_percent(row.accuracy.value)} {_bounds(row.accuracy)}",
            f"{_percent(row.chance.value)} {row.chance.kind[0]}",
            _percent(row.shuffled.value) + (" " if row.shuffled_at_chance else "!"),
            "" if row.difference is None else f"{_percent(row.difference.value, '+')} {_bounds(row.difference, '+')}",
        )
    return view


def as_dict(rows: Sequence[Row]) -> dict[str, object]:
    """The rows as JSON holds them, shares in [0, 1]; `first` is the set of vectors that differences start from."""
    return {
        "first": rows[0].features,
        "level": LEVEL,
        "rows": [{**asdict(row), "shuffled_at_chance": row.shuffled_at_chance} for row in rows],
    }


def _check_rows(
    features: Mapping[str, Float[np.ndarray, "n _"]], labels: Mapping[str, Sequence[str]], test: Bool[np.ndarray, " n"]
) -> None:
    if not features or not labels:
        raise DataError(
            f"Can't compare {len(features)} sets of vectors on {len(labels)} labels: give one of each at least."
        )
    counts = {name: len(rows) for name, rows in features.items()} | {name: len(rows) for name, rows in labels.items()}
    wrong = {name: count for name, count in counts.items() if count != len(test)}
    if wrong:
        raise DataError(
            f"The split has {len(test)} rows, but {wrong}: give one vector and one class per row, in one order."
        )


def _encode(label: str, values: Sequence[str], test: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    check_classes(label, values, test)
    return np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)


def _shuffle(classes: Int64[np.ndarray, " n"], test: Bool[np.ndarray, " n"], seed: int) -> Int64[np.ndarray, " n"]:
    rng = np.random.default_rng(seed)
    shuffled = classes.copy()
    for side in (test, ~test):
        shuffled[side] = rng.permutation(classes[side])
    return shuffled


def _percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.1f}"


def _bounds(interval: Interval, sign: str = "") -> str:
    return f"[{_percent(interval.low, sign)}, {_percent(interval.high, sign)}]"
