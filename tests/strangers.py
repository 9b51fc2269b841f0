"""Modalities of strangers, imported from their folders as no package of ours."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from mmim import parts


@contextmanager
def imported(file: Path) -> Iterator[ModuleType]:
    """A module from its file; what it registers is forgotten afterwards."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, file.stem, module)  # where pickle looks for its classes
        patch.setattr(parts, "_registered", dict(parts._registered))
        spec.loader.exec_module(module)
        yield module
