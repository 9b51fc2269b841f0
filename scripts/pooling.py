"""What the mean over tokens loses: the same encoder's tokens side by side, against their mean, by kNN and probe.

    python scripts/pooling.py --run runs/results/sign_digits-seed0 --data runs/results/sign_digits \
        --labels runs/results/sign_digits.labels.csv

Run, files and label table (columns file, label, part) are those that `scripts/results.py` leaves.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch

from mmim import checkpoint
from mmim.data.sources import find_samples
from mmim.embed import read
from mmim.evaluation.report import compare
from mmim.model import MaskedModel
from mmim.records import Batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("run", "data", "labels"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    trained = checkpoint.load(chosen.run)
    torch.manual_seed(0)
    untrained = MaskedModel(trained.method).eval()
    samples = find_samples(chosen.data, trained.method.modalities)
    found: dict[str, list[np.ndarray]] = {}
    for loaded in read(samples, trained.method.modalities, batch=64):
        for name, model in (("trained", trained), ("untrained", untrained)):
            with torch.no_grad():
                found.setdefault(f"{name}, mean", []).append(model.embed(loaded.batch).numpy())
                found.setdefault(f"{name}, tokens", []).append(tokens(model, loaded.batch))
    with chosen.labels.open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    labels = {"label": [rows[sample.id]["label"] for sample in samples]}
    test = np.array([rows[sample.id]["part"] == "test" for sample in samples])
    print("| method | vectors | accuracy |\n| --- | --- | --- |")
    for row in compare({name: np.concatenate(parts) for name, parts in found.items()}, labels, test):
        accuracy = [100 * share for share in (row.accuracy.value, row.accuracy.low, row.accuracy.high)]
        print(f"| {row.method} | {row.features} | {accuracy[0]:.1f} [{accuracy[1]:.1f}, {accuracy[2]:.1f}] |")


def tokens(model: MaskedModel, batch: Batch) -> np.ndarray:
    """All tokens of a sample side by side; padding is zero."""
    latents = model.latents(batch)
    values = latents.values if latents.valid is None else latents.values * latents.valid[..., None]
    return values.flatten(1).numpy()


if __name__ == "__main__":
    main()
