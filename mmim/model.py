"""MaskedModel and the Step: DESIGN's paragraph "one step, as data" in code.

files -> tokenize -> rank -> cut -> corrupt -> gather then embed what is visible -> position -> branch -> pack -> joint
-> decode -> targets at the hidden places -> terms. No part looks at an earlier one's private state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor, nn

from mmim.corruption.corruption import Corruption, Sides
from mmim.corruption.drop import Drop
from mmim.decoders.decoder import Decoder, Query
from mmim.draw import Draw
from mmim.encoders.encoder import Encoder, Pass, Trunk, Visible
from mmim.errors import OptionError
from mmim.masking.budget import Budget, groups_of
from mmim.modality import MaskingPolicy, Modality, Target
from mmim.objectives.term import Term
from mmim.parts import OTHER_COLUMNS, check_name
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
    shared_embedders: dict[str, str] = field(default_factory=dict)
    """Modalities that use the embedder of another one, by its name; their pieces are alike (OmniMAE: image, video)."""
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
            check_name(name, reserved=OTHER_COLUMNS)
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
        self._check_shared()
        self._check_drops()
        self.budget.check(self.modalities)
        for term in self.objective.values():
            if term.weight:
                term.check(self.modalities)

    def _check_shared(self) -> None:
        """Raise an OptionError if an embedder can't be shared as asked."""
        for name, owner in self.shared_embedders.items():
            if name not in self.modalities or owner not in self.modalities or owner in self.shared_embedders:
                own = [other for other in self.modalities if other not in self.shared_embedders]
                raise OptionError(
                    f"shared_embedders has {name!r} use the embedder of {owner!r}; it must be one of "
                    f"{', '.join(self.modalities)} that uses one of {', '.join(own)}."
                )
            mine, its = self.modalities[name].piece, self.modalities[owner].piece
            if mine != its:
                raise OptionError(
                    f"{name!r} can't use the embedder of {owner!r}: its pieces are {mine}, the other's {its}. "
                    "Use sizes that agree."
                )

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
        self.trunk = Trunk(method.modalities, method.encoder, method.corruption, method.shared_embedders)
        active = {name: term for name, term in method.objective.items() if term.weight}
        predicted = (
            {task for term in active.values() for task in term.tasks_of(method.tasks)} if active else method.tasks
        )
        self.tasks = {name: task for name, task in method.tasks.items() if name in predicted}
        self.decoders = nn.ModuleDict()
        for name, decoder in method.decoders.items():
            sizes = {
                t: (task.modality, task.target.size(method.modalities[task.modality]))
                for t, task in self.tasks.items()
                if task.decoder == name
            }
            if sizes:
                built = decoder.build(method.modalities, method.encoder, sizes)
                built.tie({modality: self.trunk.embedder(modality) for modality in method.modalities})
                self.decoders[name] = built
        targets = {name: (task.target, task.weight) for name, task in method.tasks.items()}
        width, modalities = method.encoder.latent_width, tuple(method.modalities)
        self.terms = nn.ModuleDict({name: term.build(targets, width, modalities) for name, term in active.items()})

    def forward(self, batch: Batch, splits: Mapping[str, Split] | None = None) -> dict[str, LossTerm]:
        """The losses of a batch, named `term/task`. Given `splits` replace what policy and budget would choose.

        With several modalities, or nobody there, every parameter gets a gradient, zero where the batch has no use for
        it: DDP waits for all of them on every process.
        """
        step = Step(self, batch, splits)
        terms = {f"{name}/{part}": loss for name, term in self.terms.items() for part, loss in term(step).items()}
        if (len(self.method.modalities) > 1 or not step.given) and torch.is_grad_enabled():
            first, loss = next(iter(terms.items()))
            terms[first] = replace(loss, total=loss.total + self._nothing())
        return terms

    def _nothing(self) -> Float[Tensor, ""]:
        """Zero, of which every parameter is a part."""
        firsts = [parameter.reshape(-1)[:1] for parameter in self.parameters() if parameter.requires_grad]
        return torch.cat(firsts).sum() * 0.0

    @torch.no_grad()
    def counts(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The counts that `forward` will return, without running the network."""
        return self.survey(batch)[0]

    @torch.no_grad()
    def survey(self, batch: Batch) -> tuple[dict[str, Float[Tensor, ""]], dict[str, Int64[Tensor, "2"]]]:
        """The counts, and by modality how full it is where it is padded: valid tokens, and places for them.

        `joint` says the same of the shared blocks, where several modalities meet. All names are always there, with
        zeros where nothing is padded, so that processes can add theirs up.
        """
        step = Step(self, batch)
        counts = {f"{name}/{part}": n for name, term in self.terms.items() for part, n in term.counts(step).items()}  # type: ignore[operator, union-attr]
        nothing = torch.zeros(2, dtype=torch.int64, device=batch.ids.device)
        filled = dict.fromkeys(self.method.modalities, nothing)
        for name, tokens in step.tokens.items():
            if tokens.valid is not None:
                filled[name] = torch.stack([tokens.valid.sum(), torch.ones_like(tokens.valid).sum()])
        if len(self.method.modalities) > 1:
            filled["joint"] = step.fullness() if step.given else nothing
        return counts, filled

    def latents(self, batch: Batch, modalities: Sequence[str] | None = None) -> Latents:
        """Encode with everything visible: the joint pass over the given modalities (all of the method's by default)."""
        chosen = tuple(modalities or self.method.modalities)
        step = Step(self, batch, everything=True)
        return step.latents(tuple(name for name in chosen if name in step.given), own=len(chosen) == 1)

    def embed(self, batch: Batch, modalities: Sequence[str] | None = None) -> Float[Tensor, "b d"]:
        """One vector a sample: the mean over all (valid) tokens of the encoder's output.

        modalities: which of those that a sample has go in, all by default; one alone with norms of its own, where the
        encoder has them. A sample without any of them gets zeros.
        """
        chosen = tuple(modalities or self.method.modalities)
        there = torch.stack([batch.present[name] for name in chosen]).any(dim=0)
        if not any(name in batch.views["main"] for name in chosen):
            return next(self.parameters()).new_zeros(len(there), self.method.encoder.latent_width)
        return self.latents(batch, chosen).mean() * there[:, None]


class Step:
    """One pass of one batch through a model, each part computed once and on demand. Lives and dies inside a call."""

    def __init__(
        self, model: MaskedModel, batch: Batch, splits: Mapping[str, Split] | None = None, *, everything: bool = False
    ) -> None:
        self.model = model
        self.method = model.method
        self.batch = batch
        self._chosen = splits
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
        return self._once(("tokens",), lambda: {name: modalities[name].tokenize(raws[name]) for name in self.given})

    @property
    def given(self) -> tuple[str, ...]:
        """The modalities that somebody in the batch has."""
        return tuple(name for name in self.method.modalities if name in self.batch.views["main"])

    @property
    def present(self) -> Mapping[str, Bool[Tensor, " b"]]:
        """Who has a modality, of all modalities of the method."""
        return self.batch.present

    def seen(self, name: str) -> Bool[Tensor, " b"]:
        """Of whom the encoder sees a token of a modality."""
        present = self.batch.present[name]
        if name not in self.given:
            return present
        split = self.sides[name].split
        if split.keep_valid is None:
            return present if split.ids_keep.shape[1] else torch.zeros_like(present)
        return present & split.keep_valid.any(dim=1)

    @property
    def splits(self) -> dict[str, Split]:
        """What is visible and what is hidden."""
        return self._once(("splits",), lambda: self._split() if self.given else {})

    def _split(self) -> dict[str, Split]:
        if self.everything:
            return {name: _everything(tokens) for name, tokens in self.tokens.items()}
        if self._chosen is not None:
            return dict(self._chosen)
        draw = Draw(self.batch.keys)  # named by place, not by name: a modality that is called otherwise draws the same
        ranks = {
            name: _fixed_last(
                self.method.masking[name].rank(self.tokens[name], draw.named(f"modality {place}")), self.tokens[name]
            )
            for place, name in enumerate(self.method.modalities)
            if name in self.tokens
        }
        groups = {name: groups_of(self.method.masking[name], tokens) for name, tokens in self.tokens.items()}
        present = {name: self.batch.present[name] for name in self.method.modalities}
        return self.method.budget.cut(ranks, self.tokens, draw.named("budget"), groups, present)

    @property
    def sides(self) -> dict[str, Sides]:
        """Tokens and splits as encoder and decoders have them."""
        return self._once(("sides",), self._sides)

    def _sides(self) -> dict[str, Sides]:
        if self.everything:
            return {name: Sides(*(self.tokens[name], self.splits[name]) * 2) for name in self.tokens}
        return {name: self.model.trunk.sides(name, self.tokens[name], self.splits[name]) for name in self.tokens}

    def fullness(self) -> Int64[Tensor, "2"]:
        """Visible tokens of all samples, and the places that the shared blocks have for them."""
        seen, places = self.batch.ids.new_zeros(()), 0
        for name in self.given:
            split, present = self.sides[name].split, self.batch.present[name]
            kept = torch.ones_like(split.ids_keep, dtype=torch.bool) if split.keep_valid is None else split.keep_valid
            seen, places = seen + (kept & present[:, None]).sum(), places + kept.shape[1]
        places = min(places, self.method.budget.total or places)
        return torch.stack([seen, torch.full_like(seen, places * len(self.batch.ids))])

    def branch(self, name: str) -> Visible:
        """A modality's visible tokens after its own blocks."""

        def run() -> Visible:
            side, place = self.sides[name], list(self.method.modalities).index(name)
            draw = Draw(self.batch.keys).named(f"corruption {place}")
            return self.model.trunk.branch(name, side.tokens, side.split, self.batch.present[name], draw)

        return self._once(("branch", name), run)

    def latents(self, modalities: tuple[str, ...] | None = None, *, own: bool = False, chained: bool = True) -> Latents:
        """The joint pass over some modalities, all that are inputs by default."""
        inputs = tuple(name for name in self.given if self.sides[name].split.ids_keep.shape[1])
        chosen = modalities or inputs or self.given  # of what is only predicted there are no tokens
        layout = tuple((name, self.sides[name].tokens.count) for name in chosen)
        how = Pass(own=own, chained=chained, room=None if self.everything else self.method.budget.total)

        def joint() -> Latents:
            return self.model.trunk.encoder.joint(
                {name: self.branch(name) for name in chosen}, layout, self.batch.present, how
            )

        return self._once(("latents", chosen, how), joint)

    def query(self, task: str) -> tuple[Query, Bool[Tensor, "b m"]]:
        """What a task predicts, and which of it counts: hidden, valid, and of a sample that has the modality."""
        name = self.method.tasks[task].modality
        if name not in self.given:
            return self._nobody(name)
        side = self.sides[name]
        split = side.asked_split
        counted = self.batch.present[name][:, None].expand(split.ids_masked.shape)
        for flags in (split.masked_valid, split.counted):
            counted = counted if flags is None else counted & flags
        return Query(side.asked, split.ids_masked, split.masked_valid, split.counted is not None), counted

    def _nobody(self, name: str) -> tuple[Query, Bool[Tensor, "b 0"]]:
        """What is asked of a modality that nobody in the batch has: nothing."""
        b, device = len(self.batch.ids), self.batch.ids.device
        piece = self.method.modalities[name].piece
        none = torch.zeros(b, 0, dtype=torch.int64, device=device)
        tokens = Tokens(torch.zeros(b, 0, *piece, device=device), torch.zeros(1, 0, 1, device=device))
        return Query(tokens, none), none.bool()

    def predicts(self, task: str) -> bool:
        """Whether somebody in the batch has what a task predicts."""
        return self.method.tasks[task].modality in self.given

    def prediction(self, task: str) -> Float[Tensor, "b m p"]:
        """The prediction of one task; its decoder runs once for all its tasks."""
        decoder = self.method.tasks[task].decoder

        def decode() -> dict[str, Tensor]:
            tasks = [
                name
                for name, other in self.model.tasks.items()
                if other.decoder == decoder and other.modality in self.given
            ]
            queries = {self.method.tasks[name].modality: self.query(name)[0] for name in tasks}
            if len(queries) > 1:  # they may meet in one sequence
                queries = {name: self._of_present(name, query) for name, query in queries.items()}
            seen = {name: side.tokens for name, side in self.sides.items()}
            predictions: dict[str, Tensor] = self.model.decoders[decoder](self.latents(), seen, queries)
            return predictions

        return self._once(("decode", decoder), decode)[task]

    def _of_present(self, name: str, query: Query) -> Query:
        """A query whose places are not valid in samples that lack the modality, so that nothing else looks at them."""
        there = self.batch.present[name][:, None].expand(query.ids.shape)
        return replace(query, valid=there if query.valid is None else there & query.valid)

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
