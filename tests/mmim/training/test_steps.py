import pytest

from mmim.errors import OptionError
from mmim.training.steps import StepDecay


@pytest.mark.parametrize("per_epoch", [1, 3, 7, 1000])
def test_halves_after_ten_epochs_and_every_five_after_them(per_epoch):
    # CAV-MAE: MultiStepLR with milestones 10, 15, 20 of 25 epochs, factor 0.5, no warm-up (fact sheet 3.7)
    made = [StepDecay().factor(step, 25 * per_epoch) for step in range(25 * per_epoch)]
    expected = [1.0] * 10 + [0.5] * 5 + [0.25] * 5 + [0.125] * 5
    assert made == [factor for factor in expected for _ in range(per_epoch)]


def test_shares_that_no_float_is_fall_where_they_should():
    schedule = StepDecay(first=1 / 3, every=1 / 3, fall=0.1)
    assert [round(schedule.factor(step, 9), 6) for step in range(9)] == [1.0] * 3 + [0.1] * 3 + [0.01] * 3


def test_a_first_fall_at_the_end_never_comes():
    assert {StepDecay(first=1.0).factor(step, 50) for step in range(50)} == {1.0}


@pytest.mark.parametrize(("field", "value"), [("first", 10.0), ("every", 0.0), ("every", 5.0), ("fall", 2.0)])
def test_values_are_shares(field, value):
    with pytest.raises(OptionError, match=f"schedule.{field}"):
        StepDecay(**{field: value})
