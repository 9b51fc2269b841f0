"""Checks of a decoder, `check(decoder)`, behind a toy encoder, on tokens that it serves: full ones, and padded ones.

A decoder that `needs_all` has mask tokens in the hidden places, another one has them dropped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from mmim.corruption.mask_token import MaskToken
from mmim.decoders.decoder import Decoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import OptionError
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from mmim.model import MaskedModel, Method, Step, Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.records import Batch, map_raw
from mmim.testing.cuts import all_hidden, where
from mmim.testing.example import one_pass
from mmim.testing.failure import require
from mmim.testing.running import Check
from mmim.testing.storing import require_pickling, require_plain_fields
from mmim.testing.toys import TOYS, rows_of, toy_batch

FULL = ("maps", "series", "groups", "ids")
PADDED = ("padded_maps", "padded_series")
DECODER = "decoder"
WIDTH = 32
STEPS = 120
LEARNT = 0.7
"""The share of its first value below which the loss of one batch must fall within so many steps of Adam at 1e-3."""
WHERE = "forward"


def it_serves_some_tokens(decoder: Decoder) -> None:
    """Of maps, series, groups, ids and padded ones it refuses some at most, with an OptionError."""
    some = any(_builds(decoder, [name]) for name in (*FULL, *PADDED))
    require(some, f"a decoder for one of {', '.join((*FULL, *PADDED))}", "none", decoder, "build")


def predictions_have_the_asked_shapes(decoder: Decoder) -> None:
    """One for each of one or two tasks on a modality, floats `[b m p]` at the places that are asked for."""
    for name in _served(decoder):
        for count in (1, 2):
            step = _step(decoder, [name], tasks=count)
            found, places = _predictions(step), step.query("task0")[0].ids.shape
            tasks = {task: (*places, one.target.size(TOYS[name])) for task, one in step.method.tasks.items()}
            came = {task: tuple(pred.shape) for task, pred in found.items()}
            require(came == tasks, f"predictions {tasks} of {name}", came, decoder, WHERE)
            floats = all(pred.is_floating_point() for pred in found.values())
            require(floats, "predictions that are floats", [p.dtype for p in found.values()], decoder, WHERE)


def predictions_follow_the_places(decoder: Decoder) -> None:
    """Places that are asked for in another order get the same predictions in this order."""
    for name in _served(decoder):
        step = _step(decoder, [name])
        query = step.query("task0")[0]
        order = torch.randperm(query.ids.shape[1], generator=torch.Generator().manual_seed(1))
        valid = None if query.valid is None else query.valid[:, order]
        turned = _predictions(step, ids=query.ids[:, order], valid=valid)["task0"]
        error = _difference(turned, _predictions(step)["task0"][:, order], valid)
        said = "the same predictions whatever the order in which places are asked for"
        require(error < 1e-4, said, f"a difference of {error:.2g} of {name}", decoder, WHERE)


def hidden_content_stays_hidden(decoder: Decoder) -> None:
    """With other content in the hidden tokens that it is handed it predicts the same, to the bit."""
    for name in _served(decoder):
        step = _step(decoder, [name])
        query, tokens = step.query("task0")[0], step.tokens[name]
        asked = torch.zeros(tokens.values.shape[:2], dtype=torch.bool).scatter(1, query.ids, True)
        shown = ~asked.reshape(*asked.shape, *[1] * (tokens.values.ndim - 2))
        other = torch.where(shown, tokens.values, tokens.values.flip(0, 1))
        before, after = _predictions(step)["task0"], _predictions(step, values=other)["task0"]
        same = torch.equal(before, after)
        require(same, "predictions that do not know what is hidden", f"others of {name}: it leaks", decoder, WHERE)


def predictions_do_not_depend_on_neighbours(decoder: Decoder) -> None:
    """A sample alone, and one in another order of the batch, is predicted as it is among the others."""
    for name in _served(decoder):
        model, batch = _model(decoder, [name]).eval(), toy_batch([name])
        whole, valid = _of_batch(model, batch)
        turned = _of_batch(model, rows_of(batch, range(4)[::-1]))[0].flip(0)
        alone = torch.cat([_of_batch(model, rows_of(batch, [row]))[0] for row in range(4)])
        for other, how in ((turned, "in another order of the batch"), (alone, "alone")):
            error = _difference(other, whole, valid)
            came = f"a difference of {error:.2g} of {name}"
            require(error < 1e-4, f"the same predictions of a sample {how}", came, decoder, WHERE)


def absent_samples_do_not_reach_others(decoder: Decoder) -> None:
    """Whatever stands where a sample lacks a modality, what it has and other samples are predicted the same."""
    for names, tasks in _pairs(decoder):
        first, second = names
        model = _model(decoder, names, on=tasks).eval()
        batch = toy_batch(names, absent={first: [1], second: [0, 2]})
        noise = toy_batch(names, seed=9).views["main"]
        filled = {
            name: map_raw(lambda one, two, there=batch.present[name]: where(there, one, two), raw, noise[name])
            for name, raw in batch.views["main"].items()
        }
        before, valid = _of_batch(model, batch)
        after, _ = _of_batch(model, replace(batch, views={"main": filled}))
        error = _difference(after, before, where(batch.present[first], valid, torch.zeros_like(valid)))
        said = f"the same predictions of {first} whatever stands where {first} or {second} is absent"
        require(error < 1e-4, said, f"a difference of {error:.2g}", decoder, WHERE)


def different_places_get_different_predictions(decoder: Decoder) -> None:
    """Positions reach it: no two places of a sample are predicted alike."""
    for name in _served(decoder):
        pred, valid = _of_batch(_model(decoder, [name]).eval(), toy_batch([name]))
        for sample, there in zip(pred, valid, strict=True):
            apart = torch.pdist(sample[there].float())
            differ = not len(apart) or float(apart.min()) > 1e-6
            require(differ, "another prediction at each place", f"two alike of {name}", decoder, f"build, {WHERE}")


def every_parameter_gets_a_gradient(decoder: Decoder) -> None:
    """One that can't be learnt is a buffer, or says `requires_grad=False`."""
    for name in _served(decoder):
        gradients = one_pass(_model(decoder, [name]), toy_batch([name])).gradients
        own = {n: g for n, g in gradients.items() if n.startswith(f"decoders.{DECODER}.")}
        idle = [n for n, g in own.items() if g is None or not bool(g.any())]
        require(
            not idle, "a gradient for every parameter", f"none for {', '.join(idle[:3])}", decoder, f"build, {WHERE}"
        )


def one_batch_can_be_learnt(decoder: Decoder) -> None:
    """The loss of one batch, with the same masks in every step, falls below a share of its first value."""
    for name in _served(decoder)[:1]:
        model, batch = _model(decoder, [name]), toy_batch([name])
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        losses: list[float] = []
        while len(losses) < STEPS:
            losses.append(one_pass(model, batch).loss)
            if losses[-1] < LEARNT * losses[0]:
                return
            optimiser.step()
        said = f"a loss below {LEARNT} of its first value {losses[0]:.3g} within {STEPS} steps on one batch of {name}"
        require(False, said, f"{min(losses):.3g} at best", decoder, f"build, {WHERE}")


def a_sample_without_visible_tokens_is_finite(decoder: Decoder) -> None:
    """Where all of a sample is hidden, or all of all samples, losses and gradients are finite."""
    for name in _served(decoder):
        model, batch = _model(decoder, [name]), toy_batch([name])
        for rows in ([0], range(4)):
            step = Step(model, batch)
            split = all_hidden(step.tokens[name], step.splits[name], rows)
            bad = one_pass(model, batch, {name: split}).not_finite()
            said = f"a finite loss and finite gradients where nothing of {len(rows)} of 4 samples is visible"
            require(not bad, said, f"none for {', '.join(bad[:3])}", decoder, WHERE)


def bfloat16_is_finite(decoder: Decoder) -> None:
    """Under autocast losses and gradients are finite."""
    for name in _served(decoder)[:1]:
        with torch.autocast("cpu", torch.bfloat16):
            bad = one_pass(_model(decoder, [name]), toy_batch([name])).not_finite()
        said = "a finite loss and finite gradients in bfloat16"
        require(not bad, said, f"none for {', '.join(bad[:3])}", decoder, WHERE)


def it_survives_pickling(decoder: Decoder) -> None:
    """An equal decoder comes out of a pickle."""
    require_pickling(decoder)


def its_fields_survive_a_recipe_file(decoder: Decoder) -> None:
    """Equal fields come out of `recipe.yaml` and of a checkpoint's `config.json`."""
    require_plain_fields(decoder)


DECODER_CHECKS: tuple[Check, ...] = (
    it_serves_some_tokens,
    predictions_have_the_asked_shapes,
    predictions_follow_the_places,
    hidden_content_stays_hidden,
    predictions_do_not_depend_on_neighbours,
    absent_samples_do_not_reach_others,
    different_places_get_different_predictions,
    every_parameter_gets_a_gradient,
    one_batch_can_be_learnt,
    a_sample_without_visible_tokens_is_finite,
    bfloat16_is_finite,
    it_survives_pickling,
    its_fields_survive_a_recipe_file,
)
"""Every property that any decoder must have, `check(decoder)`."""


def _served(decoder: Decoder) -> list[str]:
    """The first kind of full tokens that it serves, and the first of padded ones."""
    firsts = (next((name for name in kinds if _builds(decoder, [name])), None) for kinds in (FULL, PADDED))
    return [name for name in firsts if name is not None]


def _pairs(decoder: Decoder) -> Iterator[tuple[list[str], int]]:
    """Two modalities, the first of which it serves, and how many of them it predicts: both if it can."""
    for first in _served(decoder)[:1]:
        names = [first, "padded_series"]
        yield from [(names, count) for count in (2, 1) if _builds(decoder, names, on=count)][:1]


def _builds(decoder: Decoder, names: Sequence[str], on: int = 1) -> bool:
    """Whether it does not refuse these modalities."""
    return _encoder_width(decoder, names, on) is not None


def _encoder_width(decoder: Decoder, names: Sequence[str], on: int) -> int | None:
    """The toy encoder's; that of the decoder if it has no projection, and so refuses another; None if it refuses both.

    Found without making weights.
    """
    own = {field.name: getattr(decoder, field.name) for field in fields(decoder)}  # type: ignore[arg-type]
    for width in dict.fromkeys((WIDTH, int(own.get("width", WIDTH)))):
        try:
            with torch.device("meta"):
                MaskedModel(_method(decoder, names, 1, on, width))
        except OptionError:
            continue
        return width
    return None


def _method(decoder: Decoder, names: Sequence[str], tasks: int, on: int, width: int) -> Method:
    """Each of the first `on` modalities has so many tasks; the names of the tasks count through."""
    targets = [name for name in names[:on] for _ in range(tasks)]
    return Method(
        modalities={name: TOYS[name] for name in names},
        masking=dict.fromkeys(names, RandomMasking()),
        budget=Ratio(0.5, rounding="hidden_down"),
        corruption=dict.fromkeys(names, MaskToken()) if decoder.needs_all else {},
        encoder=JointEncoder(width=width, depth=1, heads=2),
        decoders={DECODER: decoder},
        tasks={
            f"task{number}": Task(modality=name, decoder=DECODER, target=TOYS[name].target)
            for number, name in enumerate(targets)
        },
        objective={"reconstruction": Reconstruction()},
    )


def _model(decoder: Decoder, names: Sequence[str], *, tasks: int = 1, on: int = 1) -> MaskedModel:
    """A toy model of modalities that it serves, always with the same weights."""
    width = _encoder_width(decoder, names, on)
    assert width is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MaskedModel(_method(decoder, names, tasks, on, width))


def _step(decoder: Decoder, names: Sequence[str], *, tasks: int = 1) -> Step:
    """A pass of a batch through the toy model, without dropout."""
    return Step(_model(decoder, names, tasks=tasks).eval(), toy_batch(names))


@torch.no_grad()
def _predictions(
    step: Step, *, ids: Tensor | None = None, valid: Tensor | None = None, values: Tensor | None = None
) -> Mapping[str, Tensor]:
    """Of all tasks on the only modality; with other places asked for, or other content in its tokens."""
    (name,) = step.given
    tokens, query = step.sides[name].tokens, step.query("task0")[0]
    tokens = tokens if values is None else replace(tokens, values=values)
    query = replace(query, tokens=tokens)
    if ids is not None:
        query = replace(query, ids=ids, valid=valid)
    found: Mapping[str, Tensor] = step.model.decoders[DECODER](step.latents(), {name: tokens}, {name: query})
    return found


@torch.no_grad()
def _of_batch(model: MaskedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Predictions of the first task, and which of its places are valid."""
    step = Step(model, batch)
    query = step.query("task0")[0]
    valid = torch.ones_like(query.ids, dtype=torch.bool) if query.valid is None else query.valid
    return step.prediction("task0"), valid


def _difference(first: Tensor, second: Tensor, valid: Tensor | None) -> float:
    """The largest at a valid place."""
    apart = (first - second).abs().amax(dim=-1)
    chosen = apart if valid is None else apart[valid]
    return float(chosen.max()) if chosen.numel() else 0.0
