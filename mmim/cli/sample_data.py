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
    console, depicters = command.console(), dict[str, Modality]()
    for name in names("modality"):
        try:
            part = lookup("modality", name)()
        except (OptionError, TypeError) as error:
            console.print(f"Note: {name} is left out: {error}", markup=False, highlight=False)
            continue
        if isinstance(part, Modality) and type(part).depict is not Modality.depict:
            depicters[name] = part
    folder = world.build(out, world.scenes(scenes, seed), depicters, workers=workers)
    where = f"{folder}/train and {folder}/heldout, labels in index.csv"
    console.print(f"{scenes} scenes by {', '.join(depicters)} in {where}")
