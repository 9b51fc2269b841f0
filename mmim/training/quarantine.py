"""Files that could not be read: left out, counted, listed at the end."""

from collections.abc import Iterable

from accelerate import Accelerator
from accelerate.utils import gather_object

from mmim.data.loader import Unreadable
from mmim.errors import TrainingError


class Quarantine:
    """The unreadable files of a run, known to every process after each exchange."""

    def __init__(self, samples: int, share: float) -> None:
        self.samples = samples
        self.share = share
        self.found: dict[str, str] = {}
        """Reasons by sample id."""

    def add(self, unreadable: Iterable[Unreadable]) -> None:
        """Put down what this process found."""
        self.found.update({bad.id: bad.reason for bad in unreadable})

    def exchange(self, accelerator: Accelerator) -> None:
        """Tell the other processes.

        Raises:
            TrainingError: too many are bad, on every process alike.
        """
        if accelerator.num_processes > 1:
            self.found = dict(sorted(gather_object(list(self.found.items()))))
        if len(self.found) > self.share * self.samples:
            first = "; ".join(f"{id}: {reason}" for id, reason in sorted(self.found.items())[:3])
            raise TrainingError(
                f"{len(self.found)} of {self.samples} files can't be read, more than --max-bad {self.share:g} allows: "
                f"{first}. Mend or remove them, or raise --max-bad."
            )
