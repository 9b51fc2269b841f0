"""Files that could not be read: left out, counted, listed at the end."""

from collections.abc import Iterable

from accelerate import Accelerator
from accelerate.utils import gather_object

from mmim.data.loader import Unreadable
from mmim.errors import TrainingError


class Quarantine:
    """The unreadable files of a run, known to every process after each exchange."""

    def __init__(self, samples: int, share: float, found: Iterable[Unreadable] = ()) -> None:
        self.samples = samples
        self.share = share
        self.found = set(found)

    def add(self, unreadable: Iterable[Unreadable]) -> None:
        """Put down what this process found."""
        self.found.update(unreadable)

    def listed(self) -> list[Unreadable]:
        """All of them, in one order."""
        return sorted(self.found, key=lambda bad: (bad.id, bad.modality, bad.reason))

    def exchange(self, accelerator: Accelerator) -> None:
        """Tell the other processes.

        Raises:
            TrainingError: too many are bad, on every process alike.
        """
        if accelerator.num_processes > 1:
            self.found = set(gather_object(self.listed()))
        count = len({bad.id for bad in self.found})
        if count > self.share * self.samples:
            first = "; ".join(f"{bad.id}: {bad.reason}" for bad in self.listed()[:3])
            raise TrainingError(
                f"{count} of {self.samples} files can't be read, more than --max-bad {self.share:g} allows: {first}. "
                "Mend or remove them, or raise --max-bad."
            )
