"""The sample world: small correlated scenes, drawn on first use, for the demo, the checks and joint tests.

The world knows factors only (`scene`). It can draw them (`picture`) and play them (`sound`) for whichever modality
wants that, and `build` lets each modality write its own file of every scene.
"""

from mmim.data.world.build import Depicter, build, ensure_world
from mmim.data.world.scene import FACTORS, Scene, scenes, split_of, train_and_heldout

__all__ = ["FACTORS", "Depicter", "Scene", "build", "ensure_world", "scenes", "split_of", "train_and_heldout"]
