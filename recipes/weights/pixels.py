"""What the weights of models that predict pixels have in common: options, pictures, and the method."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

from mmim.config import from_plain
from mmim.decoders.decoder import Decoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import OptionError
from mmim.interop.converter import Options, Setting
from mmim.interop.keys import Ledger
from mmim.interop.vit import Grid
from mmim.layers.positions import MapPositions
from mmim.masking.budget import Budget, Ratio
from mmim.masking.dual import DualMasking
from mmim.modality import Modality
from mmim.model import Method
from mmim.targets.pixels import Pixels
from modalities.image import Image
from recipes.mae import MAE

Colour = tuple[float, float, float]
COLOURS = {
    "mean": Setting(Colour, "R,G,B (subtracted from red, green and blue in [0, 1]; default: the file's or ImageNet's)"),
    "std": Setting(Colour, "R,G,B (divides red, green and blue after that; default: the file's or ImageNet's)"),
}
RAW_PIXELS = {
    "raw_pixels": Setting(bool, "true or false (the decoder predicts raw pixels; default: as the file says, or false)")
}


def pictures(patch: int, colours: Mapping[str, Colour] | None = None) -> Callable[[str, Grid], Image]:
    """MAE's pictures, by the kind of their positions and their grid."""

    def image(positions: str, grid: Grid) -> Image:
        size, chosen = (grid[0] * patch, grid[1] * patch), cast("MapPositions", positions)
        base = replace(cast("Image", MAE.modalities["image"]), size=size, patch=patch, positions=chosen)
        return replace(base, **(colours or {}))  # type: ignore[arg-type]

    return image


def read_colours(ledger: Ledger, options: Options, told: Mapping[str, object]) -> dict[str, Colour]:
    """The mean and deviation of colours: of the command line, or of a config; empty where neither says.

    Raises:
        OptionError: one of them is given without the other.
    """
    given = {name: value for name in COLOURS if (value := options.get(name)) is not None}
    if len(given) == 1:
        raise OptionError(f"--set gives {', '.join(given)} of the colours alone: give both, mean=R,G,B std=R,G,B.")
    found = given or {
        name: from_plain(Colour, told[name], f"{name} in config.json") for name in COLOURS if told.get(name) is not None
    }
    if lacking := " and ".join(name for name in COLOURS if name not in found):
        ledger.remarks.append(f"{lacking} of colours as ImageNet's, as nothing says others: --set mean=R,G,B std=R,G,B")
    return found


def read_normalised(ledger: Ledger, options: Options, told: object) -> bool:
    """Whether a decoder predicts normalised pixels: as the file's arguments say, else the option, else yes."""
    if isinstance(told, bool):
        return told
    raw: bool | None = options.get("raw_pixels")
    if raw is None:
        ledger.remarks.append("pixels to predict taken as normalised, as nothing says otherwise: --set raw_pixels=true")
    return not raw


def method_of(
    recipe: Method,
    modality: Modality,
    encoder: JointEncoder,
    decoder: Decoder | None,
    ledger: Ledger,
    options: Options,
    *,
    ratio: object,
    normalised: object,
) -> Method:
    """A recipe's method with what was read off a file.

    ratio, normalised: the share of hidden tokens and whether the target is normalised, where a file says so.
    """
    (name,) = recipe.modalities
    tasks = {}
    if decoder is not None:
        target = cast("Pixels", recipe.tasks[name].target)
        kind = target.normalise if read_normalised(ledger, options, normalised) else "none"
        tasks = {name: replace(recipe.tasks[name], target=replace(target, normalise=kind))}
    return Method(
        modalities={name: modality},
        masking=recipe.masking,
        budget=_hiding(recipe.budget, ratio, options),
        encoder=encoder,
        decoders={} if decoder is None else {name: decoder},
        tasks=tasks,
        objective={} if decoder is None else recipe.objective,
    )


def _hiding(budget: Budget, told: object, options: Options) -> Budget:
    """A recipe's budget, with as much hidden from the encoder as the file or an option says."""
    if isinstance(budget, DualMasking):
        return replace(budget, encoder=_hiding(budget.encoder, told, options))
    ratio = cast("Ratio", budget)
    known = float(told) if isinstance(told, int | float) else ratio.ratio
    return replace(ratio, ratio=options.need("ratio", known, "the ratio"))
