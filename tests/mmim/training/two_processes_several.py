"""Run by test_several_modalities under torchrun: gradients of one step of several modalities, by the main process."""

import sys
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from mmim.data.order import Layout
from mmim.model import MaskedModel
from mmim.training.loop import backward, forget_unused, global_counts
from tests.several import SEVERAL, SHARED, batch_of, rows_of
from tests.videomae import float64, redraw

BATCH = 8
METHODS = {"ratio": SEVERAL, "dirichlet": SHARED}
ABSENT = {
    "everybody": "",
    "some absent": "a: 0 1 2 5 7, b: 1 2 3 4 6, c: 0 3 4 5",
    "a process without a modality": "a: 0 1 2 3, b: 1 2 6 7",
    "a process without anything": "a: 0 1, b: 1 2, c: 0 3",
    "nobody has one": "c:",
}


def gradients(method: str, case: str, micro: int, accelerator: Accelerator) -> dict[str, torch.Tensor | None]:
    """The gradients of the joint batch, in whatever parts this process has of it."""
    layout = Layout(BATCH, micro, accelerator.num_processes)
    with float64():
        whole = batch_of(BATCH, ABSENT[case])
        turns = [layout.places(0, accelerator.process_index, turn) for turn in range(layout.accumulation)]
        batches = [rows_of(whole, list(places)) for places in turns]
        model = MaskedModel(METHODS[method])
        redraw(model)
        wrapped = accelerator.prepare(model)
        backward(wrapped, batches, global_counts(model, batches, accelerator)[0], accelerator)
        forget_unused(model)
    return {name: p.grad for name, p in model.named_parameters()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=60))])
    assert accelerator.num_processes == 2
    found = {(method, case): gradients(method, case, BATCH // 2, accelerator) for method in METHODS for case in ABSENT}
    if accelerator.is_main_process:
        torch.save(found, sys.argv[1])
    accelerator.end_training()
