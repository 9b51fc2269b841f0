"""Sets of points: what is read of them, and what is too few. The kit runs on them in `test_new.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mmim.data.cloud import Cloud, Mesh
from mmim.data.cloud_read import read_cloud
from mmim.data.clouds import CloudModality
from mmim.draw import Draw
from mmim.errors import OptionError, ReadError
from mmim.modality import Source
from modalities.points import Points


@dataclass(frozen=True, kw_only=True)
class Sweep(CloudModality):
    suffixes: ClassVar[tuple[str, ...]] = (".sweep.npy",)

    def cloud(self, path: Path) -> Cloud | Mesh:
        return read_cloud(path)


@pytest.fixture
def sweep(tmp_path):
    def write(count):
        np.save(tmp_path / "a.sweep.npy", np.random.default_rng(0).normal(50, 3, (count, 3)))
        return Source(tmp_path / "a.sweep.npy")

    return write


def test_what_is_read_lies_in_the_unit_ball_and_depends_on_the_draw(sweep):
    modality, source = Sweep(points=64, groups=8, group_size=4), sweep(200)
    views = [modality.read(source, draw) for draw in (None, Draw(torch.tensor([1])), Draw(torch.tensor([2])))]
    for view in views:
        assert view.shape == (64, 3)
        assert_close(view.norm(dim=1).max(), torch.tensor(1.0))
    assert not torch.equal(views[1], views[2])


def test_tokens_and_features_are_those_of_built_in_points(sweep):
    sizes = {"points": 64, "groups": 8, "group_size": 4}
    mine, theirs = Sweep(**sizes), Points(**sizes, augment=False)
    raw = mine.read(sweep(200), None)
    assert_close(raw, theirs.read(sweep(200), None))
    assert_close(mine.tokenize(raw[None]).values, theirs.tokenize(raw[None]).values)
    assert_close(mine.features(raw[None]), theirs.features(raw[None]))


def test_too_few_points_are_a_read_error_and_groups_beyond_the_points_an_option_error(sweep):
    with pytest.raises(ReadError, match="too few distinct points: 8 groups"):
        Sweep(points=64, groups=8, group_size=4).read(sweep(7), None)
    with pytest.raises(OptionError, match=r"Sweep.groups is 65; it must be 1 to the 64 points"):
        Sweep(points=64, groups=65)
