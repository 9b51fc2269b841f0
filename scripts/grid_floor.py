"""The floor of retrieval on GRID: canonical correlation of plain features of picture and sound.

python scripts/grid_floor.py path/to/grid_av    (500 clips and their index.csv; half a minute)

Every fourth clip is a query and a candidate, the others fit. Beside it the same, fitted on shuffled pairs, and with the
picture averaged over time: a still picture and a mean spectrum know nothing of when a word is said.
"""

import sys
from pathlib import Path

import numpy as np

from mmim.data.sources import Sample
from mmim.embed import read
from mmim.evaluation.cca import cca_vectors
from mmim.evaluation.retrieval import retrieve
from mmim.evaluation.tables import read_table
from mmim.modality import Source
from modalities.audio import Audio
from modalities.video import Video

MODALITIES = {"video": Video(frames=16, size=64, stride=4), "audio": Audio()}


def features(folder: Path) -> dict[str, np.ndarray]:
    """Plain features of every clip, in the order of its index."""
    files = read_table(folder).keys
    samples = [Sample(file, dict.fromkeys(MODALITIES, Source(folder / file))) for file in files]
    batches = [loaded.batch.views["main"] for loaded in read(samples, MODALITIES)]
    return {
        name: np.concatenate([modality.features(views[name]).numpy() for views in batches])
        for name, modality in MODALITIES.items()
    }


def tell(what: str, video: np.ndarray, audio: np.ndarray, order: np.ndarray) -> None:
    apart = np.arange(len(video)) % 4 == 3
    sides = cca_vectors(video[~apart], audio[~apart][order], video[apart], audio[apart])
    for direction, (queries, candidates) in {"video -> audio": sides, "audio -> video": sides[::-1]}.items():
        found = retrieve(queries, candidates)
        shares = "  ".join(
            f"R@{k} {100 * r.value:.1f} [{100 * r.low:.1f}, {100 * r.high:.1f}] chance {100 * found.chance[k]:.1f}"
            for k, r in found.recall.items()
        )
        print(f"{what:16} {direction}  {shares}  median rank {found.median_rank.value:.0f}")


def main() -> None:
    found = features(Path(sys.argv[1]))
    video, audio = found["video"], found["audio"]
    kept = np.arange((np.arange(len(video)) % 4 != 3).sum())
    tell("fitted", video, audio, kept)
    tell("shuffled pairs", video, audio, np.random.default_rng(0).permutation(kept))
    tell("still picture", video.reshape(len(video), 3, 4, 64).mean(axis=2).reshape(len(video), -1), audio, kept)


if __name__ == "__main__":
    main()
