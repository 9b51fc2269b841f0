"""How a check says that a part does not keep its contract."""

from mmim.parts import Part


class CheckFailure(AssertionError):  # noqa: N818, a part is at fault, not the program
    """A property that does not hold.

    expected  what the contract asks for
    came      what was found instead
    look_at   the method to look at, with the name of its class
    """

    def __init__(self, expected: str, came: object, look_at: str) -> None:
        super().__init__(f"{look_at}: expected {expected}; came {came}.")
        self.expected = expected
        self.came = came
        self.look_at = look_at


def require(holds: bool, expected: str, came: object, part: Part, method: str) -> None:
    """Raise a CheckFailure unless a property holds; `method` of `part` is where to look."""
    if not holds:
        raise CheckFailure(expected, came, f"{type(part).__name__}.{method}")
