"""mmim: masked modelling over any mixture of modalities."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmim.checkpoint import load

__all__ = ["load"]


def __getattr__(name: str) -> object:
    """`mmim.load`, imported on first use so that `import mmim` stays light."""
    if name == "load":
        from mmim.checkpoint import load

        return load
    raise AttributeError(f"module 'mmim' has no attribute {name!r}")
