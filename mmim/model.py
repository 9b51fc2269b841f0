"""MaskedModel and the Step: DESIGN's paragraph "one step, as data" in code.

files -> tokenize -> rank -> cut -> corrupt -> gather then embed what is visible -> position -> branch -> pack -> joint
-> decode -> targets at the hidden places -> terms. No part looks at an earlier one's private state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor, nn

from mmim.corruption.corruption import Corruption, Sides
from mmim.corruption.drop import Drop
from mmim.decoders.decoder import Decoder, Query
from mmim.draw import Draw
from mmim.encoders.encoder import Encoder, Trunk, Visible
from mmim.errors import OptionError
from mmim.masking.budget import Budget, groups_of
from mmim.modality import MaskingPolicy, Modality, Target
from mmim.objectives.term import Term
from mmim.parts import check_name
from mmim.records import Batch, Latents, LossTerm, Split, Tokens

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to predict.

    The decoder by name, since several tasks may share one and one modality may have several tasks.
    """

    modality: str
    """What is predicted."""
    decoder: str
    """Who predicts it."""
    target: Target
    """As what."""
    weight: float = 1.0
    """Factor of its loss."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A masked-modelling method, all that a checkpoint must know to rebuild the model."""

    modalities: dict[str, Modality]
    """What goes in, by a name of your choice."""
    masking: dict[str, MaskingPolicy]
    """Which token of each modality goes first."""
    budget: Budget
    """How many tokens stay visible."""
    corruption: dict[str, Corruption] = field(default_factory=dict)
    """What the encoder gets in the hidden places; a modality without an entry drops them."""
    encoder: Encoder
    """Who sees the visible tokens."""
    decoders: dict[str, Decoder]
    """Who predicts the hidden ones."""
    tasks: dict[str, Task]
    """What is predicted."""
    objective: dict[str, Term]
    """The terms of the loss, added up."""

    def check(self) -> None:
        """Raise an OptionError for what can't be built: every name must lead somewhere."""
        for name in (*self.decoders, *self.tasks, *self.objective):
            check_name(name)
        for name in self.modalities:
            check_name(name, reserved={"joint", "id", "present"})  # the other columns of embeddings
        for kind, asked, there in (
            ("masking policy", self.masking, self.modalities),
            ("corruption", self.corruption, self.modalities),
            ("task's modality", [task.modality for task in self.tasks.values()], self.modalities),
            ("task's decoder", [task.decoder for task in self.tasks.values()], self.decoders),
        ):
            if unknown := [name for name in asked if name not in there]:
                raise OptionError(f"A {kind} names {unknown[0]!r}; there are {', '.join(there)}.")
        if bare := [name for name in self.modalities if name not in self.masking]:
            raise OptionError(f"The modality {bare[0]!r} has no masking policy: give it one in `masking`.")
        for name, policy in self.masking.items():
            if policy.hint is not None:
                raise OptionError(f"The masking of {name!r} wants the hint {policy.hint!r}, and no part here gives it.")
        if idle := sorted(set(self.decoders) - {task.decoder for task in self.tasks.values()}):
            raise OptionError(f"No task uses the decoder {idle[0]!r}: name it in a task, or leave it out.")
        self._check_drops()

    def _check_drops(self) -> None:
        """Raise an OptionError if tokens are dropped that the encoder or a decoder can't do without."""
        dropped = [name for name in self.modalities if not self.corruption.get(name, Drop()).keeps_all]
        if self.encoder.whole_maps and dropped:
            raise OptionError(
                f"{type(self.encoder).__name__} needs whole maps, and the hidden tokens of {dropped[0]!r} are dropped: "
                "use the corruption mask_token."
            )
        for task in self.tasks.values():
            if self.decoders[task.decoder].needs_all and task.modality in dropped:
                raise OptionError(
                    f"The decoder {task.decoder!r} reads hidden places off the encoder's output, and those of "
                    f"{task.modality!r} are dropped: use the corruption mask_token, or the self_attention decoder."
                )


class MaskedModel(nn.Module):
    """A method with weights. `forward` is the only entry for training: DDP, FSDP and compile hook there."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        method.check()
        self.method = method
        self.trunk = Trunk(method.modalities, method.encoder, method.corruption)
        self.decoders = nn.ModuleDict()
        for name, decoder in method.decoders.items():
            tasks = {t: task for t, task in method.tasks.items() if task.decoder == name}
            sizes = {
                t: (task.modality, task.target.size(method.modalities[task.modality])) for t, task in tasks.items()
            }
            built = decoder.build(method.modalities, method.encoder, sizes)
            built.tie(self.trunk.embedders)
            self.decoders[name] = built
        targets = {name: (task.target, task.weight) for name, task in method.tasks.items()}
        self.terms = nn.ModuleDict(
            {name: term.build(targets, method.encoder.latent_width) for name, term in method.objective.items()}
        )

    def forward(self, batch: Batch, splits: Mapping[str, Split] | None = None) -> dict[str, LossTerm]:
        """The losses of a batch, named `term/task`. Given `splits` replace what policy and budget would choose."""
        step = Step(self, batch, splits)
        return {f"{name}/{part}": loss for name, term in self.terms.items() for part, loss in term(step).items()}

    @torch.no_grad()
    def counts(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The counts that `forward` will return, without running the network."""
        return self.survey(batch)[0]

    @torch.no_grad()
    def survey(self, batch: Batch) -> tuple[dict[str, Float[Tensor, ""]], dict[str, Int64[Tensor, "2"]]]:
        """The counts, and of each modality that is padded: its valid tokens, and the places they are padded to."""
        step = Step(self, batch)
        counts = {f"{name}/{part}": n for name, term in self.terms.items() for part, n in term.counts(step).items()}  # type: ignore[operator, union-attr]
        filled = {
            name: torch.stack([valid.sum(), torch.ones_like(valid).sum()])
            for name, valid in ((name, tokens.valid) for name, tokens in step.tokens.items())
            if valid is not None
        }
        return counts, filled

    def latents(self, batch: Batch, modalities: Sequence[str] | None = None) -> Latents:
        """Encode with everything visible: the joint pass over the given modalities (all of the method's by default)."""
        chosen = tuple(modalities or self.method.modalities)
        step = Step(self, batch, everything=True)
        return step.latents(chosen)

    def embed(self, batch: Batch, modalities: Sequence[str] | None = None) -> Float[Tensor, "b d"]:
        """One vector a sample: the mean over all (valid) tokens of the encoder's output."""
        latents = self.latents(batch, modalities)
        if latents.valid is None:
            return latents.values.mean(dim=1)
        weights = latents.valid[..., None].to(latents.values.dtype)
        return (latents.values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class Step:
    """One pass of one batch through a model, each part computed once and on demand. Lives and dies inside a call."""

    def __init__(
        self, model: MaskedModel, batch: Batch, splits: Mapping[str, Split] | None = None, *, everything: bool = False
    ) -> None:
        self.model = model
        self.method = model.method
        self.batch = batch
        self.given = splits
        self.everything = everything
        self._made: dict[Any, Any] = {}

    def _once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[no-any-return]

    @property
    def tokens(self) -> dict[str, Tokens]:
        """The tokens of every modality."""
        raws, modalities = self.batch.views["main"], self.method.modalities
        return self._once(("tokens",), lambda: {name: part.tokenize(raws[name]) for name, part in modalities.items()})

    @property
    def splits(self) -> dict[str, Split]:
        """What is visible and what is hidden."""
        return self._once(("splits",), self._split)

    def _split(self) -> dict[str, Split]:
        if self.everything:
            return {name: _everything(tokens) for name, tokens in self.tokens.items()}
        if self.given is not None:
            return dict(self.given)
        draw = Draw(self.batch.keys)  # named by place, not by name: a modality that is called otherwise draws the same
        ranks = {
            name: _fixed_last(self.method.masking[name].rank(tokens, draw.named(f"modality {place}")), tokens)
            for place, (name, tokens) in enumerate(self.tokens.items())
        }
        groups = {name: groups_of(self.method.masking[name], tokens) for name, tokens in self.tokens.items()}
        return self.method.budget.cut(ranks, self.tokens, draw.named("budget"), groups)

    @property
    def sides(self) -> dict[str, Sides]:
        """Tokens and splits as encoder and decoders have them."""
        return self._once(("sides",), self._sides)

    def _sides(self) -> dict[str, Sides]:
        if self.everything:
            return {name: Sides(*(self.tokens[name], self.splits[name]) * 2) for name in self.tokens}
        return {name: self.model.trunk.sides(name, self.tokens[name], self.splits[name]) for name in self.tokens}

    def branch(self, name: str) -> Visible:
        """A modality's visible tokens after its own blocks."""

        def run() -> Visible:
            side, place = self.sides[name], list(self.method.modalities).index(name)
            draw = Draw(self.batch.keys).named(f"corruption {place}")
            return self.model.trunk.branch(name, side.tokens, side.split, self.batch.present[name], draw)

        return self._once(("branch", name), run)

    def latents(self, modalities: tuple[str, ...] | None = None) -> Latents:
        """The joint pass over some modalities, all by default."""
        chosen = modalities or tuple(self.method.modalities)
        layout = tuple((name, side.tokens.count) for name, side in self.sides.items())

        def joint() -> Latents:
            return self.model.trunk.encoder.joint(
                {name: self.branch(name) for name in chosen}, layout, self.batch.present
            )

        return self._once(("latents", chosen), joint)

    def query(self, task: str) -> tuple[Query, Bool[Tensor, "b m"]]:
        """What a task predicts, and which of it counts: hidden, valid, and of a sample that has the modality."""
        name = self.method.tasks[task].modality
        side = self.sides[name]
        split = side.asked_split
        counted = self.batch.present[name][:, None].expand(split.ids_masked.shape)
        for flags in (split.masked_valid, split.counted):
            counted = counted if flags is None else counted & flags
        return Query(side.asked, split.ids_masked, split.masked_valid, split.counted is not None), counted

    def prediction(self, task: str) -> Float[Tensor, "b m p"]:
        """The prediction of one task; its decoder runs once for all its tasks."""
        decoder = self.method.tasks[task].decoder

        def decode() -> dict[str, Tensor]:
            tasks = [name for name, other in self.method.tasks.items() if other.decoder == decoder]
            queries = {self.method.tasks[name].modality: self.query(name)[0] for name in tasks}
            seen = {name: side.tokens for name, side in self.sides.items()}
            predictions: dict[str, Tensor] = self.model.decoders[decoder](self.latents(), seen, queries)
            return predictions

        return self._once(("decode", decoder), decode)[task]

    def target(self, task: str) -> Num[Tensor, "b m *p"]:
        """What a task's prediction should be, in full precision and without gradient."""
        chosen = self.method.tasks[task]
        query, _ = self.query(task)
        with torch.no_grad(), torch.autocast(query.ids.device.type, enabled=False):
            return chosen.target.values(query.tokens, query.ids, self.method.modalities[chosen.modality])


def _fixed_last(rank: Float[Tensor, "b n"], tokens: Tokens) -> Float[Tensor, "b n"]:
    """Ranks in which the fixed tokens are the last to be hidden."""
    return rank if tokens.fixed is None else rank.masked_fill(tokens.fixed, -torch.inf)


def _everything(tokens: Tokens) -> Split:
    ids = torch.arange(tokens.count, device=tokens.values.device).expand(tokens.values.shape[0], -1)
    return Split(ids, ids[:, :0], tokens.valid)
