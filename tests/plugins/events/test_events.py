"""events keeps the contract of a modality: all checks of mmim's kit, on files of the sample world."""

import pytest
from mmim.testing import MODALITY_CHECKS, depicted, run

from events import Events

MODALITY = Events()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return depicted(MODALITY, tmp_path_factory.mktemp("events"), 4)


@pytest.mark.parametrize("check", MODALITY_CHECKS, ids=lambda check: check.__name__)
def test_events_honours_the_contract(check, files):
    run(check, MODALITY, files)
