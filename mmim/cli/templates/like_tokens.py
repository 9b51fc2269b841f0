"""NewName: sequences of symbols. What to change first is marked CHANGE."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmim.data.ids import IdsModality
from mmim.data.text_read import read_whole
from mmim.data.world.sentence import sentence
from mmim.errors import ReadError
from mmim.targets.ids import Ids


@dataclass(frozen=True, kw_only=True)
class NewName(IdsModality):
    """Windows [b length] of symbols, each of them a token: values [b n], their ids.

    IdsModality cuts windows, pads, embeds and shows; any method of it can be replaced here.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".newname.txt",)  # CHANGE
    target = Ids()  # what is predicted, unless a recipe says otherwise
    symbols: ClassVar[Sequence[str]] = "abcdefghijklmnopqrstuvwxyz .,:!"  # CHANGE: "ACGT", ("walk", "sit", "lie") ...

    length: int = 64  # CHANGE: symbols of a window

    def ids(self, path: Path) -> Sequence[int]:  # CHANGE: all of a file, places in `symbols`; ReadError for any other
        text = read_whole(path)
        if unknown := sorted(set(text) - set(self.symbols)):
            raise ReadError(f"the symbol {unknown[0]!r}, which is none of {''.join(self.symbols)!r}")
        return [self.symbols.index(symbol) for symbol in text]

    def depict(self, scene: Any, path: Path) -> None:  # CHANGE: what your device makes of a scene of the sample world
        path.write_text(sentence(scene, scene.nuisance("newname")).lower() + "\n")
