"""What another process says of a modality, and what becomes of it where that one fails."""

import os
import time
from dataclasses import dataclass, field

import pytest
import torch

from mmim.testing import CheckFailure, depicted, ranks, run
from mmim.testing.ranks import elsewhere, rank_of
from mmim.testing.training import two_ranks_agree
from tests.mmim.testing.test_checks import Sound


@dataclass(frozen=True, kw_only=True)
class Homesick(Sound):
    """Fails everywhere but in the process that made it."""

    how: str = "raises"
    home: int = field(default_factory=os.getpid)

    def embedder(self, width):
        if os.getpid() != self.home and self.how == "raises":
            raise RuntimeError("not here")
        if os.getpid() != self.home and self.how == "hangs":
            time.sleep(3600)
        if os.getpid() != self.home:
            print("this goes elsewhere", flush=True)
            os._exit(3)
        return super().embedder(width)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return depicted(Sound(), tmp_path_factory.mktemp("files"), 4)


def test_another_process_makes_the_same_of_a_sound_modality(files):
    here, there = rank_of(Sound(), files[:2]), elsewhere(Sound(), files[:2])
    assert list(here.weights) == list(there.weights)
    assert all(torch.equal(tensor, there.weights[name]) for name, tensor in here.weights.items())
    assert torch.equal(here.made.count, there.made.count)


@pytest.mark.parametrize(("how", "came"), [("raises", "RuntimeError: not here"), ("dies", "a crash")])
def test_a_process_that_fails_is_told_and_the_next_question_is_answered(how, came, files):
    with pytest.raises(CheckFailure) as caught:
        run(two_ranks_agree, Homesick(how=how), files)
    assert caught.value.expected == "another process to make what this one makes"
    assert caught.value.came == came
    run(two_ranks_agree, Sound(), files)


def test_a_process_that_hangs_is_given_up_and_another_one_is_asked_next(files, monkeypatch):
    run(two_ranks_agree, Sound(), files)
    with monkeypatch.context() as patch:
        patch.setattr(ranks, "PATIENCE", 1)
        with pytest.raises(CheckFailure, match="no answer within 1 s"):
            run(two_ranks_agree, Homesick(how="hangs"), files)
    run(two_ranks_agree, Sound(), files)


def test_a_modality_of_a_function_can_not_be_sent(files):
    class Local(Sound):
        pass

    with pytest.raises(CheckFailure, match=r"expected a modality that can be sent to another process; came .*Local"):
        run(two_ranks_agree, Local(), files)
