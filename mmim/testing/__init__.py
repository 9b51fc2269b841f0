"""The conformance kit: does a part keep its contract?

Each axis that is checked has a list of checks, in `CHECKS` by its name. A check is a function that returns if the
property in its name holds, and raises if not; a `CheckFailure` says what was expected, what came, and where to look.

A check of a modality is called as `check(modality, files)`; files are any three or more that the modality reads, and
`depicted(modality, folder)` makes some. In a test of a modality of your own:

    @pytest.mark.parametrize("check", MODALITY_CHECKS, ids=lambda check: check.__name__)
    def test_it_honours_the_contract(check, files):
        run(check, Thermal(size=32, patch=8), files)

A check of a masking policy, a target, a decoder or a term is called as `check(part)` and works on toy modalities that
need no files:

    @pytest.mark.parametrize("check", MASKING_CHECKS, ids=lambda check: check.__name__)
    def test_it_honours_the_contract(check):
        run(check, SpiralMasking(turns=3))

A property that can't hold is waived by name and with a reason, where the part is defined:

    waivers: ClassVar[Mapping[str, str]] = {"another_draw_gives_another_view": "a file holds one heartbeat, uncropped"}

or, where it depends on fields, in a property of that name. `run(..., waivers=...)` replaces them, for what belongs to
one configuration of a test. A waiver that is not needed fails, so that none outlives its reason.

`mmim check NAME` runs all checks of a part by its name.
"""

from collections.abc import Mapping
from types import MappingProxyType

from mmim.testing.checks import MODALITY_CHECKS
from mmim.testing.decoders import DECODER_CHECKS
from mmim.testing.example import depicted, example, toy_method
from mmim.testing.failure import CheckFailure
from mmim.testing.policies import MASKING_CHECKS
from mmim.testing.running import Check, Outcome, Waivers, outcomes, run, run_all
from mmim.testing.targets import TARGET_CHECKS
from mmim.testing.terms import TERM_CHECKS
from mmim.testing.toys import TOYS

CHECKS: Mapping[str, tuple[Check, ...]] = MappingProxyType(
    {
        "modality": MODALITY_CHECKS,
        "masking": MASKING_CHECKS,
        "target": TARGET_CHECKS,
        "decoder": DECODER_CHECKS,
        "term": TERM_CHECKS,
    }
)
"""The checks of each axis that has some."""

__all__ = [
    "CHECKS",
    "DECODER_CHECKS",
    "MASKING_CHECKS",
    "MODALITY_CHECKS",
    "TARGET_CHECKS",
    "TERM_CHECKS",
    "TOYS",
    "Check",
    "CheckFailure",
    "Outcome",
    "Waivers",
    "depicted",
    "example",
    "outcomes",
    "run",
    "run_all",
    "toy_method",
]
