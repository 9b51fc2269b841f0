"""Audio-MAE: masked autoencoding of log-mel spectrograms.

Paper    Huang et al. 2022, Masked Autoencoders that Listen, arXiv:2207.06405
Run      accelerate launch recipes/audiomae.py --data path/to/sounds
Demo     accelerate launch recipes/audiomae.py
Cost     not measured yet (paper: 64 V100; hours of pre-training not given)
Result   not reproduced yet (paper: AudioSet-2M, ViT-B, 47.3 mAP after fine-tuning)
Differs  bf16 in place of fp16; a clip shorter than the spectrogram ends where it ends, while the official code trains
         on the zeros behind it too (--modalities.audio.padding zeros); stereo is mixed down in place of its first
         channel; starts, rolls and gains come from our own counter-based draws
"""

from mmim import run
from mmim.corruption.drop import Drop
from mmim.decoders.local_attention import LocalAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.pixels import Pixels
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from mmim.training.schedule import WarmupCosine
from modalities.audio import Audio

AUDIOMAE = Recipe(
    name="audiomae",
    modalities={"audio": Audio(frames=1024, mel=128, patch=16, positions="sincos_transposed", augment=True)},
    masking={"audio": RandomMasking()},  # section 3, "unstructured"
    budget=Ratio(0.8, rounding="kept_down"),  # section 4; int(512 * (1 - 0.8)) = 102 stay
    corruption={"audio": Drop()},
    encoder=JointEncoder(width=768, depth=12, heads=12, global_tokens=1),
    decoders={"audio": LocalAttentionDecoder(width=512, depth=16, heads=16)},  # official code
    tasks={"audio": Task(modality="audio", decoder="audio", target=Pixels(normalise="token"))},
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=2e-4, per=256, betas=(0.9, 0.95), weight_decay=1e-4, no_decay=()),  # official script
    schedule=WarmupCosine(warmup=3 / 33),
    epochs=33.0,
    batch=512,
    size="base",
)

# ViT-S, B and L with the default decoder; tiny is ours, for a CPU.
SIZES = {
    name: {
        "encoder.width": width,
        "encoder.depth": depth,
        "encoder.heads": heads,
        "decoders.audio.width": decoder_width,
        "decoders.audio.depth": decoder_depth,
        "decoders.audio.heads": decoder_heads,
    }
    for name, width, depth, heads, decoder_width, decoder_depth, decoder_heads in (
        ("tiny", 96, 3, 3, 64, 2, 2),
        ("small", 384, 12, 6, 512, 16, 16),
        ("base", 768, 12, 12, 512, 16, 16),
        ("large", 1024, 24, 16, 512, 16, 16),
    )
}

# What changes when no --data is given: small enough for two CPU cores. The sample world's sounds last two seconds.
DEMO = {
    "size": "tiny",
    "modalities.audio.frames": 192,
    "modalities.audio.mel": 64,
    "modalities.audio.augment": False,
    "optimiser.base_lr": 2e-3,
    "optimiser.per": 0,
    "steps": 280,
    "batch": 32,
    "precision": "fp32",
    "checkpoint_every": 140,
}

if __name__ == "__main__":
    run.main(AUDIOMAE, sizes=SIZES, demo=DEMO)
