"""newname keeps the contract of a modality: all checks of mmim's kit, on files of the sample world."""

import pytest
from mmim.testing import MODALITY_CHECKS, depicted, run

from newname import NewName

MODALITY = NewName()  # CHANGE: with the fields that you train with, or smaller


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """CHANGE: or the paths of files of your own."""
    return depicted(MODALITY, tmp_path_factory.mktemp("newname"), 4)


@pytest.mark.parametrize("check", MODALITY_CHECKS, ids=lambda check: check.__name__)
def test_newname_honours_the_contract(check, files):
    run(check, MODALITY, files)
