"""Run by tests: one compiled graph, over other samples, masks and epochs; prints what came out as JSON."""

import json

import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mmim.model import MaskedModel
from tests.videomae import batch_of, random_clips, toy


def losses(model: MaskedModel) -> list[float]:
    """The loss of three batches."""
    found = []
    for seed in range(3):
        term = model(batch_of(random_clips(2, seed=seed), torch.tensor([seed, seed + 9])))["reconstruction/video"]
        term.total.backward()
        found.append((term.total / term.count).item())
    return found


if __name__ == "__main__":
    torch.manual_seed(0)
    model = MaskedModel(toy())
    eager = losses(model)
    counter = CompileCounterWithBackend("inductor")
    model.compile(fullgraph=True, backend=counter)
    print(json.dumps({"eager": eager, "compiled": losses(model), "graphs": counter.frame_count}))
