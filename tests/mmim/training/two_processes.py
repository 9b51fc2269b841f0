"""Run by test_loop under torchrun: the gradients of one optimiser step, written by the main process."""

import sys
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from mmim.data.order import Layout
from mmim.model import MaskedModel
from mmim.training.loop import backward, global_counts
from tests.videomae import batch_of, float64, random_clips, redraw, toy

BATCH = 8
ABSENT = {"nobody absent": [], "some absent": [1, 6], "a whole process absent": [4, 5, 6, 7]}


def gradients(case: str, micro: int, accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """The gradients of the joint batch, in whatever parts this process has of it."""
    clips, keys = random_clips(BATCH), torch.arange(BATCH)
    present = torch.ones(BATCH, dtype=torch.bool)
    present[ABSENT[case]] = False
    clips[~present] = 0
    layout = Layout(BATCH, micro, accelerator.num_processes)
    turns = [list(layout.places(0, accelerator.process_index, turn)) for turn in range(layout.accumulation)]
    batches = [batch_of(clips[rows], keys[rows], present[rows]) for rows in turns]
    with float64():
        model = MaskedModel(toy())
        redraw(model)
        wrapped = accelerator.prepare(model)
        backward(wrapped, batches, global_counts(model, batches, accelerator)[0], accelerator)
    return {name: p.grad for name, p in model.named_parameters()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=60))])
    assert accelerator.num_processes == 2
    found = {case: gradients(case, 2, accelerator) for case in ABSENT}
    if accelerator.is_main_process:
        torch.save(found, sys.argv[1])
    accelerator.end_training()
