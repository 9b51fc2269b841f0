import pytest
from accelerate import Accelerator

from mmim.data.loader import Unreadable
from mmim.errors import TrainingError
from mmim.training.quarantine import Quarantine


def filled(count: int, share: float) -> Quarantine:
    quarantine = Quarantine(10, share)
    quarantine.add(Unreadable(f"{i}.npy", "toy", "not an array") for i in range(count))
    return quarantine


def test_a_file_met_twice_counts_once():
    quarantine = filled(3, 0.5)
    quarantine.add([Unreadable("0.npy", "toy", "not an array")])
    assert [bad.id for bad in quarantine.listed()] == ["0.npy", "1.npy", "2.npy"]


def test_as_many_as_allowed_are_left_out():
    filled(5, 0.5).exchange(Accelerator(cpu=True))


def test_one_more_ends_the_run_with_the_first_reasons():
    with pytest.raises(
        TrainingError, match=r"6 of 10 files can't be read, more than --max-bad 0.5 .*0\.npy: not an array; 1"
    ):
        filled(6, 0.5).exchange(Accelerator(cpu=True))


def test_none_may_be_allowed():
    filled(0, 0.0).exchange(Accelerator(cpu=True))
    with pytest.raises(TrainingError, match="1 of 10"):
        filled(1, 0.0).exchange(Accelerator(cpu=True))


def test_a_resumed_run_remembers_what_was_left_out():
    quarantine = Quarantine(10, 0.5, filled(3, 0.5).listed())
    quarantine.add([Unreadable("9.npy", "toy", "empty")])
    assert [bad.id for bad in quarantine.listed()] == ["0.npy", "1.npy", "2.npy", "9.npy"]
