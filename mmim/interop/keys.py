"""Strict accounting: every tensor of a state dict is used once, or left out by name."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from mmim.errors import CheckpointError, OptionError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Ledger:
    """The tensors of one state dict on their way into another.

    Whoever converts takes tensors by their old names and puts them under new ones; `close` refuses what was missing
    and what nobody took. `result` holds the outcome, `remarks` what a person should know of it.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        drop: Sequence[str] = (),
        spelling: Callable[[str], str] = lambda name: name,
    ) -> None:
        """drop: patterns of names to leave out; spelling: from a file's name to the one that is asked for."""
        if idle := [pattern for pattern in drop if not any(fnmatchcase(name, pattern) for name in tensors)]:
            raise OptionError(f"--drop {idle[0]!r} fits no name; the file has {_some(list(tensors))}.")
        self.dropped = [name for name in tensors if any(fnmatchcase(name, pattern) for pattern in drop)]
        self.result: dict[str, Tensor] = {}
        self.remarks: list[str] = []
        self._kept: dict[str, Tensor] = {}
        self._written: dict[str, str] = {}  # asked-for name -> the file's
        self._origin: dict[str, str] = {}  # result's name -> the file's
        self._taken: set[str] = set()
        self._missing: list[str] = []
        for name in tensors:
            if name in self.dropped:
                continue
            asked = spelling(name)
            if asked in self._kept:
                raise CheckpointError(f"{self._written[asked]!r} and {name!r} are two names of one tensor.")
            self._kept[asked], self._written[asked] = tensors[name], name

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def names(self) -> list[str]:
        """The names that were not left out."""
        return list(self._kept)

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor that sizes are read from.

        Raises:
            CheckpointError: it is missing, or has another number of axes.
        """
        if name not in self._kept:
            raise CheckpointError(
                f"The file has no {name!r}, so it is not of this format; it has {_some(self.names())}."
            )
        shape = tuple(self._kept[name].shape)
        if len(shape) != axes:
            raise CheckpointError(f"{self._written[name]!r} is {shape}, where {axes} axes were expected.")
        return shape

    def count(self, prefix: str) -> int:
        """How many numbered modules stand under a prefix: 12 for `blocks.` with `blocks.0.` to `blocks.11.`."""
        rests = (name.removeprefix(prefix).partition(".")[0] for name in self._kept if name.startswith(prefix))
        numbers = {int(rest) for rest in rests if rest.isdigit()}
        if numbers and numbers != set(range(len(numbers))):
            gap = min(set(range(max(numbers))) - numbers)
            raise CheckpointError(f"The file has no {prefix}{gap}, but {prefix}{max(numbers)}.")
        return len(numbers)

    def take(self, name: str) -> Tensor | None:
        """A tensor as float32; None if it is missing, which `close` will refuse.

        Raises:
            CheckpointError: its numbers are of another kind (quantised, complex), or not all of them are finite.
        """
        tensor = self._use(name)
        if tensor is None:
            return None
        if tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"{self._written[name]!r} is of {tensor.dtype}, which is no weight without more: give the file that it "
                "was made from, in float32 or half precision."
            )
        if bad := int((~tensor.isfinite()).sum()):
            raise CheckpointError(
                f"{self._written[name]!r} has {bad} numbers that are not finite: the file is damaged."
            )
        return tensor.float()

    def _use(self, name: str) -> Tensor | None:
        if name not in self._kept:
            self._missing.append(name)
            return None
        self._taken.add(name)
        return self._kept[name]

    def put(self, name: str, tensor: Tensor | None, origin: str) -> None:
        """A tensor under its new name; `origin` is what it was made from, for messages."""
        if tensor is not None:
            self.result[name], self._origin[name] = tensor, self._written.get(origin, origin)

    def move(self, new: str, old: str, change: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Take, change, put."""
        tensor = self.take(old)
        self.put(new, None if tensor is None else change(tensor), old)

    def move_count(self, new: str, old: str) -> None:
        """A whole number, such as the batches that a norm has seen, as it is.

        Raises:
            CheckpointError: it is none.
        """
        tensor = self._use(old)
        if tensor is not None and (tensor.is_floating_point() or tensor.is_complex() or tensor.numel() != 1):
            raise CheckpointError(f"{self._written[old]!r} is no whole number, but {tensor.dtype} of {tensor.numel()}.")
        self.put(new, None if tensor is None else tensor.long().reshape(()), old)

    def join(self, new: str, olds: Sequence[str]) -> None:
        """Several tensors as one, along their first axis."""
        parts = [self.take(old) for old in olds]
        if all(part is not None for part in parts):
            self.put(new, torch.cat([part for part in parts if part is not None]), olds[0])

    def split(self, news: Sequence[str], old: str) -> None:
        """One tensor as several of equal extent, along its first axis."""
        tensor = self.take(old)
        for place, new in enumerate(news):
            self.put(new, None if tensor is None else tensor.chunk(len(news))[place], old)

    def expect(self, old: str, value: Tensor, what: str) -> None:
        """Take a buffer that follows from sizes, and refuse one that does not."""
        tensor = self._use(old)
        if tensor is not None and (tensor.shape != value.shape or not torch.equal(tensor.to(value.dtype), value)):
            raise CheckpointError(f"{self._written[old]!r} is not {what}, so the weights are of another model.")

    def leave(self, prefix: str) -> list[str]:
        """Use up, without a place in the result, every tensor under a prefix; their names."""
        left = [name for name in self._kept if name.startswith(prefix)]
        self._taken.update(left)
        return left

    def close(self) -> None:
        """Refuse what is missing, and what nobody took.

        Raises:
            CheckpointError: with the first of these names.
        """
        if self._missing:
            raise CheckpointError(f"The file lacks {_some(self._missing)}.")
        if unknown := [self._written[name] for name in self._kept if name not in self._taken]:
            head = unknown[0].split(".")[0]
            pattern = f"{head}.*" if "." in unknown[0] else head
            raise CheckpointError(
                f"Nothing here uses {_some(unknown)}. Leave out what you do not need, as with --drop '{pattern}'."
            )

    def fit(self, own: Mapping[str, Tensor], what: str) -> None:
        """Refuse a result that is not, name by name and shape by shape, what a model holds.

        Raises:
            CheckpointError: with the first differences, by the file's names.
        """
        self._missing = [name for name in own if name not in self.result]
        if strange := [name for name in self.result if name not in own]:
            raise CheckpointError(f"{what} has no place for {_some([self._origin[name] for name in strange])}.")
        if self._missing:
            raise CheckpointError(f"The file has nothing for {_some(self._missing)} of {what}.")
        wrong = [
            f"{self._origin[name]} {tuple(self.result[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if self.result[name].shape != own[name].shape
        ]
        if wrong:
            raise CheckpointError(f"Shapes differ from those of {what}: {_some(wrong, quote=False)}.")


def _some(names: Sequence[str], quote: bool = True) -> str:
    """The first five, and how many there are."""
    shown = ", ".join(repr(name) if quote else name for name in names[:5])
    return shown + (f" ... ({len(names)} in all)" if len(names) > 5 else "") if names else "nothing"
