"""`mmim sample-data`."""

from pathlib import Path

from mmim import command
from mmim.data import world
from mmim.errors import OptionError
from mmim.modality import Modality
from mmim.parts import lookup, names


def sample_data(out: Path, scenes: int = 256, seed: int = 0, workers: int = 2) -> None:
    """Write the sample world: correlated scenes as real files, for trying things out.

    Every installed modality that can depict a scene writes its own file of it. A third of the scenes is held out.

    Args:
        out: folder to make.
        scenes: number of scenes.
        seed: of the world.
        workers: processes that write.
    """
    if scenes < 1 or workers < 1:
        raise OptionError(f"--scenes {scenes} and --workers {workers} must be at least 1.")
    found = {name: lookup("modality", name)() for name in names("modality")}
    modalities = {name: part for name, part in found.items() if isinstance(part, Modality)}
    depicters = {name: part for name, part in modalities.items() if type(part).depict is not Modality.depict}
    folder = world.build(out, world.scenes(scenes, seed), depicters, workers=workers)
    where = f"{folder}/train and {folder}/heldout, labels in index.csv"
    command.console().print(f"{scenes} scenes by {', '.join(depicters)} in {where}")
