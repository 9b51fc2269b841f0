"""A Python environment that sees all that is installed here, to install packages of strangers into with pip."""

import os
import subprocess
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = {
    "accelerate": "from accelerate.commands.accelerate_cli import main",
    "mmim": "from mmim.cli.main import main",
    "pytest": "from pytest import console_main as main",
    "torchrun": "from torch.distributed.run import main",
}
"""Commands of packages that are installed here, to run with the environment's Python."""
START = 'if __name__ == "__main__":\n    sys.exit(main())\n'
"""The guard is for commands that spawn processes."""
PIP = """import subprocess, sys
first, *rest = sys.argv[1:]
offline = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet"] if first == "install" else []
command = [sys.executable, "-m", "pip", "--disable-pip-version-check", first, *offline, *rest]
sys.exit(subprocess.run(command).returncode)
"""
"""pip without network: what a package needs is installed already, setuptools too."""


@dataclass(frozen=True)
class Environment:
    """Its folder."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Environment":
        venv.create(folder, with_pip=False, symlinks=True)
        bin = folder / "bin"
        (own,) = folder.glob("lib/python*/site-packages")
        here = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        lines = [f"import site; site.addsitedir({place!r})\n" for place in here]
        (own / "here.pth").write_text("".join(lines))  # a .pth in the folder itself, for what is installed editable
        texts = {name: f"import sys\n{line}\n{START}" for name, line in SCRIPTS.items()} | {"pip": PIP}
        for name, text in texts.items():
            (bin / name).write_text(f"#!{bin / 'python'}\n{text}")
            (bin / name).chmod(0o755)
        return cls(folder)

    def run(
        self, *command: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 280
    ) -> subprocess.CompletedProcess[str]:
        """What a command says, that its name finds in the environment; it fails if the command does."""
        found = self.environ(cwd) | dict(env or {})
        done = subprocess.run(command, cwd=cwd, env=found, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def environ(self, cwd: Path) -> dict[str, str]:
        """Its commands first, a cache of its own, one thread, no GPU."""
        return os.environ | {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "VIRTUAL_ENV": str(self.folder),
            "MMIM_CACHE": str(cwd / ".cache"),
            "ACCELERATE_USE_CPU": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
