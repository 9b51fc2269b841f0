"""The conformance kit: does a modality keep its contract?

Every check is a function `check(modality, files)` that returns if the property in its name holds, and raises if not; a
`CheckFailure` says what was expected, what came, and where to look. Files are any three or more that the modality
reads; `depicted(modality, folder)` makes some. In a test of a modality of your own:

    @pytest.mark.parametrize("check", MODALITY_CHECKS, ids=lambda check: check.__name__)
    def test_it_honours_the_contract(check, files):
        run(check, Thermal(size=32, patch=8), files, WAIVERS)

A property that can't hold is waived by name and with a reason: `WAIVERS = {"another_draw_gives_another_view": "a file
holds one heartbeat, and nothing is cropped"}`. A waiver that is not needed fails, so that none outlives its reason.
"""

from mmim.testing.checks import MODALITY_CHECKS
from mmim.testing.example import depicted, example, toy_method
from mmim.testing.failure import CheckFailure
from mmim.testing.running import Check, Outcome, run, run_all

__all__ = [
    "MODALITY_CHECKS",
    "Check",
    "CheckFailure",
    "Outcome",
    "depicted",
    "example",
    "run",
    "run_all",
    "toy_method",
]
