"""Three toy modalities in one recipe, and batches of them in which anything may be absent."""

from dataclasses import replace

import torch

from mmim.decoders.cross_attention import CrossAttentionDecoder
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.dirichlet import Dirichlet
from mmim.masking.random import RandomMasking
from mmim.model import Task
from mmim.objectives.contrastive import Contrastive
from mmim.objectives.reconstruction import Reconstruction
from mmim.records import Batch
from mmim.targets.pixels import Pixels
from tests.toy import TOY, Toy

SIZES = {"a": (8, 4), "b": (12, 3), "c": (6, 5)}  # rows, columns
TASKS = {
    name: Task(modality=name, decoder="own" if name == "c" else "joint", target=Pixels(), weight=1.0 + place)
    for place, name in enumerate(SIZES)
}
SEVERAL = replace(
    TOY,
    name="several",
    modalities={name: Toy(rows=rows, columns=columns) for name, (rows, columns) in SIZES.items()},
    masking={name: RandomMasking() for name in SIZES},
    encoder=JointEncoder(
        width=16, branch_depth=1, depth=2, heads=2, own_norms=True, modality_vectors=True, global_tokens=1
    ),
    decoders={
        "joint": SelfAttentionDecoder(width=8, depth=1, heads=2, modality_vectors=True),
        "own": CrossAttentionDecoder(width=8, depth=1, heads=2),
    },
    tasks=TASKS,
    objective={
        "reconstruction": Reconstruction(),
        "contrastive": Contrastive(learned=True, width=6, temperature=0.2, weight=0.5),
    },
)
"""Half of each modality hidden; two of them share a decoder, all pairs are contrasted."""

SHARED = replace(SEVERAL, budget=Dirichlet(total=10))
"""The same with a budget that they share."""

RECONSTRUCTION = {"reconstruction": Reconstruction()}


def presence(text: str, b: int) -> dict[str, torch.Tensor]:
    """Who has what: `a: 0 1 2, b: 1`; a modality that is not named everybody has, one without numbers nobody."""
    found = {name: torch.ones(b, dtype=torch.bool) for name in SIZES}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, rows = part.partition(":")
        found[name] = torch.zeros(b, dtype=torch.bool)
        found[name][[int(row) for row in rows.split()]] = True
    return found


def batch_of(b: int, there: str = "", seed: int = 0, *, zeros: bool = True) -> Batch:
    """A batch of noise. zeros: what nobody has is left out, as the loader does; else it holds noise."""
    generator = torch.Generator().manual_seed(seed)
    present = presence(there, b)
    raws = {
        name: torch.randn(b, *size, generator=generator, dtype=torch.float64).to(torch.get_default_dtype())
        for name, size in SIZES.items()
    }
    if zeros:
        raws = {name: raw * present[name][:, None, None] for name, raw in raws.items() if present[name].any()}
    ids = torch.arange(b)
    return Batch({"main": raws}, present, ids, ids * 7919 + 1, torch.tensor(0))


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    """Some samples of a batch, as the loader would hand them over by themselves."""
    present = {name: flags[rows] for name, flags in batch.present.items()}
    raws = {name: raw[rows] for name, raw in batch.views["main"].items() if present[name].any()}
    return Batch({"main": raws}, present, batch.ids[rows], batch.keys[rows], batch.step)
