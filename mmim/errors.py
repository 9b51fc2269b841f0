"""Every error that mmim raises on purpose.

A command turns an `MmimError` into one line on stderr and exit code 2; anything else is a fault of ours and keeps its
traceback. Each message says what was asked, why it can't be, and what to do, with the values.
"""


class MmimError(Exception):
    """Base of every error raised on purpose."""


class OptionError(MmimError):
    """An option, or a combination of options, that can't be."""


class MaskingError(MmimError):
    """A budget that leaves nothing to see or nothing to predict."""


def expect(fits: bool, value: object, what: str, where: str) -> None:
    """Refuse a value that does not fit, as `encoder.heads is 0; it must be at least 1`.

    Raises:
        OptionError: it does not fit.
    """
    if not fits:
        raise OptionError(f"{where or 'A value'} is {value!r}; it must be {what}.")


class DataError(MmimError):
    """Data that are missing, or that can't be used as asked."""


class EmptyDataError(DataError):
    """A place without anything that can be read; beside others that have something it is only mentioned."""


class ReadError(DataError):
    """One file that can't be read; the run goes on without it and lists it at the end."""


class CheckpointError(MmimError):
    """A checkpoint that is missing, damaged, or of another model."""


class TrainingError(MmimError):
    """A run that can't go on: non-finite loss, too many unreadable files."""


class CheckError(MmimError):
    """A part that fails some of its conformance checks."""
