"""CAV-MAE's weights, as its code writes them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast

from torch import Tensor

from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError
from mmim.interop.converter import Importer, Options, Setting
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import (
    Grid,
    Grids,
    Table,
    block_names,
    mlp_ratio,
    move_affine,
    move_blocks,
    read_grids,
    read_heads,
    read_positions,
    square_patch,
)
from mmim.layers.positions import MapPositions
from mmim.masking.budget import Ratio
from mmim.model import Method
from mmim.targets.pixels import Pixels
from modalities.audio import Audio
from modalities.image import Image
from recipes.cavmae import CAVMAE
from recipes.weights.mae import DECODER_HEADS
from recipes.weights.pixels import RAW_PIXELS, read_normalised

LETTERS = {"audio": "a", "image": "v"}
"""What the file calls our modalities."""
MEL = 128
"""Bands of its spectrograms, which its code fixes."""
EPS = 1e-5
"""Of every norm; trap: MAE has 1e-6."""
ENCODER, DECODER = "trunk.encoder.", "decoders.shared."


class CAVMAEImporter(Importer):
    """From the official CAV-MAE (github.com/YuanGongND/cav-mae), with or without the decoder.

    Its spectrograms are (mel, time) where ours are (time, mel), so patches, the values they predict and the rows of
    position tables turn round.
    """

    about: ClassVar[str] = "Official CAV-MAE: pictures and spectrograms, branches and shared blocks, decoder or none."
    settings: ClassVar[Mapping[str, Setting]] = RAW_PIXELS

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        width, channels, *_ = shape = ledger.shape("patch_embed_a.proj.weight", 4)
        if channels != 1:
            raise CheckpointError(f"CAV-MAE hears 1 channel, and 'patch_embed_a.proj.weight' has {channels}.")
        patch = {"audio": square_patch(shape), "image": square_patch(ledger.shape("patch_embed_v.proj.weight", 4))}
        decoder = _read_decoder(ledger, options) if "decoder_embed.weight" in ledger else None
        audio = _read_audio(ledger, width, decoder, patch["audio"])
        image = _read_image(ledger, width, decoder, patch["image"], options)
        ledger.move("trunk.embedders.audio.proj.weight", "patch_embed_a.proj.weight", lambda w: w.transpose(2, 3))
        ledger.move("trunk.embedders.audio.proj.bias", "patch_embed_a.proj.bias")
        move_affine(ledger, "trunk.embedders.image.proj", "patch_embed_v.proj")
        encoder = _read_encoder(ledger, width, options)
        if decoder is not None:
            _move_decoder(ledger, decoder, patch["audio"])
        return _method(audio, image, encoder, decoder, ledger, options)


def _method(
    audio: Audio,
    image: Image,
    encoder: JointEncoder,
    decoder: SelfAttentionDecoder | None,
    ledger: Ledger,
    options: Options,
) -> Method:
    """The recipe's method with what was read off a file."""
    tasks = {}
    if decoder is not None:
        normalised = read_normalised(ledger, options, None)
        tasks = CAVMAE.tasks if normalised else {n: replace(task, target=Pixels()) for n, task in CAVMAE.tasks.items()}
    budget = cast("Ratio", CAVMAE.budget)
    contrastive = {"contrastive": CAVMAE.objective["contrastive"]}
    return Method(
        modalities={"audio": audio, "image": image},
        masking=CAVMAE.masking,
        budget=replace(budget, ratio=options.need("ratio", budget.ratio, "the ratio")),
        encoder=encoder,
        decoders={} if decoder is None else {"shared": decoder},
        tasks=tasks,
        objective=contrastive if decoder is None else CAVMAE.objective,
    )


def _tables(name: str, width: int, decoder: SelfAttentionDecoder | None) -> list[Table]:
    """The position tables of a modality; those of spectrograms have their rows in the other order."""
    turned, letter = name == "audio", LETTERS[name]
    found = [Table(f"pos_embed_{letter}", f"trunk.positions.{name}.table", width, turned)]
    if decoder is not None:
        place = f"{DECODER}positions.{name}.table"
        found.append(Table(f"decoder_pos_embed_{letter}", place, decoder.width, turned))
    return found


def _read_audio(ledger: Ledger, width: int, decoder: SelfAttentionDecoder | None, patch: int) -> Audio:
    """Spectrograms, as long as their position table is."""
    places = ledger.shape("pos_embed_a", 3)[1]
    bands, rest = divmod(MEL, patch)
    if rest or places % bands:
        raise CheckpointError(
            f"'pos_embed_a' has {places} places, and {MEL} bands in patches of {patch} can't have them: "
            "the file is not of this format."
        )
    grid = (places // bands, bands)

    def audio(positions: str, grid: Grid) -> Audio:
        chosen, base = cast("MapPositions", positions), cast("Audio", CAVMAE.modalities["audio"])
        return replace(base, frames=grid[0] * patch, mel=MEL, patch=patch, positions=chosen)

    kinds = ("sincos_row_first", "sincos")
    positions, _ = read_positions(ledger, _tables("audio", width, decoder), kinds, audio, Grids(grid, grid), False)
    return audio(positions, grid)


def _read_image(
    ledger: Ledger, width: int, decoder: SelfAttentionDecoder | None, patch: int, options: Options
) -> Image:
    """Pictures; `--size` is theirs."""
    grids = read_grids(ledger.shape("pos_embed_v", 3)[1], patch, options, {})

    def image(positions: str, grid: Grid) -> Image:
        chosen, base = cast("MapPositions", positions), cast("Image", CAVMAE.modalities["image"])
        return replace(base, size=(grid[0] * patch, grid[1] * patch), patch=patch, positions=chosen)

    positions, _ = read_positions(ledger, _tables("image", width, decoder), ["sincos"], image, grids, False)
    return image(positions, grids.asked)


def _read_encoder(ledger: Ledger, width: int, options: Options) -> JointEncoder:
    """Branches, shared blocks, and three sets of norms for these."""
    depth, shared = ledger.count("blocks_a."), ledger.count("blocks_u.")
    for name, letter in LETTERS.items():
        if ledger.count(f"blocks_{letter}.") != depth:
            raise CheckpointError(f"'blocks_a' are {depth} and 'blocks_{letter}' {ledger.count(f'blocks_{letter}.')}.")
        move_blocks(ledger, f"{ENCODER}branches.{name}.", f"blocks_{letter}.", depth, block_names("qkv"))
        ledger.move(f"{ENCODER}vectors.{name}", f"modality_{letter}")
        move_affine(ledger, f"{ENCODER}own_norm.{name}", f"norm_{letter}")
        for number in range(shared):
            for norm in ("norm1", "norm2"):
                new = f"{ENCODER}blocks.{number}.own.{name}.{norm}"
                move_affine(ledger, new, f"blocks_u.{number}.{norm}_{letter}")
    move_blocks(ledger, f"{ENCODER}blocks.", "blocks_u.", shared, block_names("qkv"))
    move_affine(ledger, f"{ENCODER}norm", "norm")
    _leave_idle_norms(ledger)
    return JointEncoder(
        width=width,
        branch_depth=depth,
        depth=shared,
        heads=read_heads(ledger, options, width),
        mlp_ratio=mlp_ratio(ledger, "blocks_u.0."),
        eps=EPS,
        modality_vectors=True,
        own_norms=True,
    )


def _leave_idle_norms(ledger: Ledger) -> None:
    """Leave out the norms of single modalities in blocks that never use them."""
    idle = [
        name
        for blocks in ("blocks_a.", "blocks_v.", "decoder_blocks.")
        for number in range(ledger.count(blocks))
        for norm in ("norm1", "norm2")
        for letter in LETTERS.values()
        for name in ledger.leave(f"{blocks}{number}.{norm}_{letter}.")
    ]
    if idle:
        ledger.remarks.append(
            f"{len(idle)} weights of norms that no pass uses are left out, such as {idle[0].rpartition('.')[0]!r}"
        )


def _read_decoder(ledger: Ledger, options: Options) -> SelfAttentionDecoder:
    width, _ = ledger.shape("decoder_embed.weight", 2)
    return SelfAttentionDecoder(
        width=width,
        depth=ledger.count("decoder_blocks."),
        heads=read_heads(ledger, options, width, DECODER_HEADS, "decoder"),
        mlp_ratio=mlp_ratio(ledger, "decoder_blocks.0."),
        eps=EPS,
        modality_vectors=True,
    )


def _move_decoder(ledger: Ledger, decoder: SelfAttentionDecoder, patch: int) -> None:
    move_blocks(ledger, f"{DECODER}blocks.", "decoder_blocks.", decoder.depth, block_names("qkv"))
    ledger.move(f"{DECODER}mask_token", "mask_token")
    move_affine(ledger, f"{DECODER}embed", "decoder_embed")
    move_affine(ledger, f"{DECODER}norm", "decoder_norm")
    for name, letter in LETTERS.items():
        ledger.move(f"{DECODER}vectors.{name}", f"decoder_modality_{letter}")
    move_affine(ledger, f"{DECODER}heads.image", "decoder_pred_v")

    def turned(rows: Tensor) -> Tensor:
        """Values of a patch in the order (time, mel)."""
        exchanged: Tensor = rows.unflatten(0, (patch, patch)).transpose(0, 1).flatten(0, 1)
        return exchanged

    for kind in ("weight", "bias"):
        ledger.move(f"{DECODER}heads.audio.{kind}", f"decoder_pred_a.{kind}", turned)
