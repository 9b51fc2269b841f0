"""Run by test_several: one compiled graph over presences and draws, for each budget; prints what came out as JSON."""

import json
from dataclasses import replace

import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mmim.masking.budget import Ratio
from mmim.masking.mixture import Mixture
from mmim.model import MaskedModel
from tests.several import SEVERAL, SHARED, batch_of

BUDGETS = {
    "ratio": SEVERAL.budget,
    "dirichlet": SHARED.budget,
    "mixture": Mixture(budgets=(Ratio(0.5), SHARED.budget), weights=(1.0, 2.0)),
}
THERE = ["", "a: 0 1, b: 2 3", "a: 0, c: 3", ""]


def sums(model: MaskedModel) -> list[dict[str, float]]:
    """The losses of batches with other draws and other samples absent."""
    found = []
    for seed, there in enumerate(THERE):
        terms = model(batch_of(4, there, seed))
        sum(term.total for term in terms.values()).backward()
        found.append({name: term.total.item() for name, term in terms.items()})
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {}
    for name, budget in BUDGETS.items():
        torch._dynamo.reset()
        model = MaskedModel(replace(SEVERAL, budget=budget))
        eager, counter = sums(model), CompileCounterWithBackend("aot_eager")
        model.compile(fullgraph=True, backend=counter)
        results[name] = {"eager": eager, "compiled": sums(model), "graphs": counter.frame_count}
    print(json.dumps(results))
