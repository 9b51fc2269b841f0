"""How much of a batch of texts is padding, by the size of micro-batches.

python scripts/padding.py --run RUN --data FILE [--batch 256]

RUN is a run or checkpoint whose model has one modality of several lengths; the samples are in the order of
training. "unsorted" is what a plain order would give.
"""

import argparse
from pathlib import Path

import numpy as np

from mmim import checkpoint
from mmim.data.order import Layout, Order
from mmim.data.sources import find_samples

STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=256)
    chosen = parser.parse_args()
    modalities = checkpoint.load(chosen.run).method.modalities
    ((name, modality),) = modalities.items()
    samples = find_samples(chosen.data, modalities)
    raws = [modality.read(sample.sources[name], None) for sample in samples]
    lengths = [sample.length(modalities) for sample in samples]
    print(f"{len(samples)} samples of {np.mean([int(raw['length']) for raw in raws]):.1f} tokens")
    for micro in (64, 32, 16):
        layout, shares = Layout(chosen.batch, micro), []
        for sorting in (None, lengths):
            order = Order([sample.hash for sample in samples], 0, 1, sorting)
            batches = [
                modality.collate([raws[visit.index] for visit in visits])
                for visits in order.micro_batches(layout, 0, 0, STEPS)
            ]
            used = sum(int(batch["length"].sum()) for batch in batches)
            shares.append(1 - used / sum(batch["ids"].numel() for batch in batches))
        print(f"micro-batch {micro}: padding {shares[1]:.0%}, unsorted {shares[0]:.0%}")


if __name__ == "__main__":
    main()
