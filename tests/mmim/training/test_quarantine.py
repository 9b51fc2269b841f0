import pytest
from accelerate import Accelerator

from mmim.data.loader import Unreadable
from mmim.errors import TrainingError
from mmim.training.quarantine import Quarantine


def filled(count: int, share: float) -> Quarantine:
    quarantine = Quarantine(10, share)
    quarantine.add(Unreadable(f"{i}.npy", "not an array") for i in range(count))
    return quarantine


def test_a_file_met_twice_counts_once():
    quarantine = filled(3, 0.5)
    quarantine.add([Unreadable("0.npy", "not an array")])
    assert quarantine.found == {f"{i}.npy": "not an array" for i in range(3)}


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
