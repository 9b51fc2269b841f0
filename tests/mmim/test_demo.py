import pytest

from mmim.demo import verdict
from mmim.evaluation.intervals import Chance, Interval
from mmim.evaluation.report import Row


def row(label: str, features: str, low: float | None, method: str = "kNN", least: float = 0.4) -> Row:
    """A row whose first set of vectors, the trained ones, is `low` better or more; it is `least` right or more."""
    accuracy = Interval(0.5, least, 0.6)
    difference = None if low is None else Interval(low + 0.1, low, low + 0.2)
    return Row(label, method, features, 4, 512, 256, accuracy, Chance(0.25, "uniform"), accuracy, difference)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("shape", "trained", None), row("shape", "untrained", 0.01)], "shape by kNN"),
        (
            [
                row("shape", "trained", None, "probe"),
                row("shape", "untrained", 0.01, "probe"),
                row("motion", "trained", None),
                row("motion", "untrained", 0.01),
            ],
            "shape by probe, motion by kNN",
        ),
        ([row("shape", "trained", None), row("shape", "untrained", 0.0)], "nothing"),
        ([row("shape", "trained", None), row("shape", "untrained", -0.05)], "nothing"),
        ([row("shape", "trained", None, least=0.2), row("shape", "untrained", 0.01)], "nothing"),
        ([row("shape", "trained", None), row("shape", "raw video", 0.2)], "nothing"),
        ([row("shape", "trained", None)], "nothing"),
    ],
    ids=["won", "two won", "touches zero", "below zero", "at chance", "only the raw features", "nothing compared"],
)
def test_the_verdict_names_what_lies_above_zero_against_the_untrained_encoder(rows, said):
    assert verdict(rows) == f"Training beat the untrained encoder beyond its interval on: {said}."
