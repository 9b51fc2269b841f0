"""What another process makes of a modality and its files: what ranks of one run must agree on.

Processes of a run share nothing but their seed: each builds the model by itself and reads its own samples. Whatever
depends on the process (the order of a set, an id, a clock) trains several models as if they were one.
"""

import atexit
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO

import torch

from mmim.data.sample import compound_suffixes
from mmim.modality import Modality
from mmim.testing.example import Pass, one_pass, readable, toy_model
from mmim.testing.failure import CheckFailure, require

PATIENCE = 300
"""Seconds after which another process is given up."""
ENTRY = "from mmim.testing.ranks import serve; serve()"


@dataclass(frozen=True, eq=False)
class Rank:
    """What a process makes: the initial weights in their order, and a pass of its samples."""

    weights: dict[str, torch.Tensor]
    made: Pass


def rank_of(modality: Modality, files: Sequence[Path]) -> Rank:
    """What this process makes of files."""
    model = toy_model(modality)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return Rank(weights, one_pass(model, readable(modality, files), mean=False))


def elsewhere(modality: Modality, files: Sequence[Path]) -> Rank:
    """What another process makes of them, whose hashes of words are others.

    Raises:
        CheckFailure: it can't import the modality, or it fails where this one does not.
    """
    try:
        job = pickle.dumps((modality, list(files)))
    except Exception as error:  # a stranger's fields may be anything
        came = f"{type(error).__name__}: {error}"
        raise CheckFailure("a modality that can be sent to another process", came, type(modality).__name__) from error
    own = getattr(sys.modules.get(type(modality).__module__), "__file__", None)
    paths = [*sys.path, *([] if own is None else [str(Path(own).parent)])]
    answer = _ask(_other_process(), (paths, os.getcwd(), job))
    if not isinstance(answer, Rank):
        raise CheckFailure("another process to make what this one makes", answer, type(modality).__name__)
    return answer


def require_agreement(here: Rank, there: Rank, modality: Modality) -> None:
    """Weights are the same to the bit and in the same order; what is made of the same samples is left to the caller."""
    where, names, others = "embedder, position", list(here.weights), list(there.weights)
    require(names == others, f"weights in the order {', '.join(names[:3])} ...", others[:3], modality, where)
    bad = [name for name, tensor in here.weights.items() if not torch.equal(tensor, there.weights[name])]
    require(not bad, "the same initial weights in every process", f"others of {', '.join(bad[:3])}", modality, where)


# The other process


@cache
def _other_process() -> "subprocess.Popen[bytes]":
    """It imports mmim once and answers until this process ends."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", ENTRY]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    atexit.register(_end, process)
    return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill it and the fork that answers, which has the pipe as well."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _ask(process: "subprocess.Popen[bytes]", job: Any) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    watch = Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
    watch.start()
    try:
        _write(process.stdin, job)
        return _read(process.stdout)
    except (EOFError, OSError):
        _end(process)
        _other_process.cache_clear()
        return f"its end, or no answer within {PATIENCE} s"
    finally:
        watch.cancel()


def serve() -> None:
    """Answer jobs from stdin on stdout, each in a fork of its own, so that no module of one meets those of another."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed goes elsewhere
    compound_suffixes()  # imports the installed modalities, which each job would do by itself
    while True:
        try:
            job = _read(sys.stdin.buffer)
        except EOFError:
            return
        child = os.fork()
        if not child:
            _write(answers, _answer(*job))
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            _write(answers, "a crash")


def _answer(paths: list[str], folder: str, job: bytes) -> Any:
    """A Rank, or what went wrong."""
    try:
        sys.path[:] = paths
        os.chdir(folder)
        torch.set_num_threads(1)
        return rank_of(*pickle.loads(job))
    except BaseException as error:  # it may break in any way, and the other process is to say how
        return f"{type(error).__name__}: {error}"


def _write(file: BinaryIO | Any, job: Any) -> None:
    data = pickle.dumps(job)
    file.write(len(data).to_bytes(8, "big") + data)
    file.flush()


def _read(file: BinaryIO | Any) -> Any:
    head = file.read(8)
    if len(head) < 8:
        raise EOFError
    return pickle.loads(file.read(int.from_bytes(head, "big")))
