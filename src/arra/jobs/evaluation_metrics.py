"""The table of measures of `arra evaluate`: what each needs, and how it is taken.

A measure yields results; what it needs gives the reason when it cannot be taken. To add one, write
its function and its row in `METRICS`; nothing else knows the measures one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from arra.adapters.lora import adapters_off
from arra.files import to_plain
from arra.jobs.evaluation_distances import distances, published_statistics
from arra.jobs.evaluation_parts import teachers
from arra.jobs.evaluation_reading import answers, asked, captions, reads
from arra.jobs.evidence import Drawn, Evidence
from arra.jobs.plain_text import pieces, speaks
from arra.jobs.validation import plain_batches
from arra.metrics.bootstrap import mean_measured
from arra.metrics.classifier_score import classifier_score
from arra.metrics.diversity import ms_ssim, scales_for, ssim_diversity
from arra.metrics.image_text import ImageTextScore, image_text_score
from arra.metrics.likelihood import held_out_law
from arra.metrics.measured import Measured
from arra.metrics.memorisation import memorisation
from arra.metrics.prompts import (
    PromptScores,
    chance_level,
    prompt_accuracy,
    reader_error,
    shuffled_control,
)
from arra.metrics.text import text_likelihood

Need = Callable[[Evidence], str | None]
"""Why a measure cannot be taken, or None."""
_FEWEST = 8  # pictures a side: with fewer a distance says nothing
_SPLITS = 10
_SMALLEST = 10  # pixels: SSIM's window of 7 needs room


@dataclass(frozen=True)
class Metric:
    """A row of the table."""

    name: str
    needs: tuple[Need, ...]
    run: Callable[[Evidence, np.random.Generator], Iterator[Measured]]

    def missing(self, evidence: Evidence) -> str | None:
        """The first reason why it cannot be taken, or None."""
        return next((why for need in self.needs if (why := need(evidence)) is not None), None)


# ---- needs -------------------------------------------------------------------------------------


def _held_out_rows(e: Evidence) -> str | None:
    if e.model is None or e.ground.held_out is None:
        return "no store"
    return "a student says no likelihoods" if e.model.generator.taught else None


def _files(e: Evidence) -> str | None:
    if e.model is None or e.model.codec.stream is None:
        return "the codes are not the bytes of files"
    return None if e.job.pictures is None else "the pictures were not drawn for this"


def _scenes(e: Evidence) -> str | None:
    if e.config is None:
        return "only for digit scenes (--scenes)"
    return None if e.scenes else "the pictures have no prompts"


def _someone_looks(e: Evidence) -> str | None:
    return None if e.eyes else "no encoder: name one with --encoders, or give --inception"


def _enough_real(e: Evidence) -> str | None:
    if e.sides >= _FEWEST:
        return None
    return (
        f"{e.sides} pictures a side, expected {_FEWEST}: {len(e.drawn[0].pictures)} to judge, and "
        f"half of {len(e.real)} real ones (the floor takes the other half)"
    )


def _statistics(e: Evidence) -> str | None:
    return None if e.job.statistics is not None else "no statistics (--statistics)"


def _classes(e: Evidence) -> str | None:
    if e.inception is None and e.classifier is None:
        return "no classifier: give --inception, or name one with --classifier"
    few = len(e.drawn[0].pictures) < 2 * _SPLITS
    return f"fewer than {2 * _SPLITS} pictures for {_SPLITS} splits" if few else None


def _large_enough(e: Evidence) -> str | None:
    side = min(e.drawn[0].pictures.shape[1:3])
    return f"pictures of {side} pixels are too small" if side < _SMALLEST else None


def _several_of_a_prompt(e: Evidence) -> str | None:
    if len(e.real) < 2:
        return "fewer than two real pictures"
    captions = e.drawn[0].captions
    if captions is None:
        return "the pictures have no captions"
    several = e.model is not None and e.job.diversity_seeds >= 2 and e.job.diversity_prompts > 0
    repeated = e.model is None and len(set(captions)) < len(captions)
    return None if several or repeated else "no prompt has several pictures"


def _shared_captions(e: Evidence) -> str | None:
    if e.drawn[0].captions is None or e.real.captions is None:
        return "one of the sets has no captions"
    shared = set(e.drawn[0].captions) & set(e.real.captions)
    return None if len(shared) >= 2 else "fewer than two captions stand in both sets"


def _towers(e: Evidence) -> str | None:
    if e.job.towers is None:
        return "no towers: name some with --towers"
    captions = e.drawn[0].captions
    if captions is None:
        return "the pictures have no captions"
    return "fewer than two pictures" if len(captions) < 2 else None


def _plain_text(e: Evidence) -> str | None:
    if not e.job.text:
        return "no plain text (--text)"
    assert e.model is not None
    return "the checkpoint has no tokenizer" if e.model.generator.tokenizer is None else None


def _both_splits(e: Evidence) -> str | None:
    ground = e.ground
    if ground.training is None or ground.held_out is None or ground.trained_on:
        return "no training or no held-out rows"
    return None


# ---- measures ----------------------------------------------------------------------------------


def _bits(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """Held-out likelihood under the checkpoint's own codec."""
    assert e.model is not None
    assert e.ground.held_out is not None
    rows = e.ground.held_out
    batches = plain_batches(rows, e.model.generator, e.job.batch)
    codec = f"{e.model.codec.registered_name}:{e.model.codec.fingerprint()[:12]}"
    found = held_out_law(e.model.generator, batches).measured(rng, codec)
    if e.ground.trained_on:
        found = replace(found, name=f"{found.name} (of training pictures)")
    yield found


def _whole_files(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """Share of the drawn files that need no repair."""
    assert e.model is not None
    codec = f"{e.model.codec.registered_name}:{e.model.codec.fingerprint()[:12]}"
    arms = [arm.label for arm in e.drawn]  # draws them
    for label, values in zip(arms, e.whole.values(), strict=True):
        if len(values):
            yield mean_measured(f"whole files{label}", values.astype(float), codec, rng)


def _prompt_reading(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """Prompt accuracy on digit scenes, beside its controls and the reader's own error."""
    reader = e.reader
    assert reader is not None
    label = f"scene-reader:{reader.fingerprint()[:12]}"

    def named(scores: PromptScores, encoder: str, what: str) -> Iterator[Measured]:
        for one in scores.measured(encoder, rng).values():
            yield replace(one, name=one.name + what)

    for arm in e.drawn:
        readings = reader.read(arm.pictures)
        scenes = e.scenes[: len(arm.pictures)]
        yield from named(prompt_accuracy(readings, scenes, e.config), label, arm.label)
        if len(scenes) > 1 and not arm.label:
            shuffled = shuffled_control(readings, scenes, rng, e.config)
            yield from named(shuffled, label, ", shuffled prompts")
            yield from named(chance_level(scenes, rng, e.config), "none", ", chance level")
    error = reader_error(reader, rng, e.config)
    yield from named(error.scores, label, ", real test scenes")
    e.extra["reader_error"] = {
        "true_positive": error.scores.values(),
        "false_positive": error.false_positive,
        "pictures": error.pictures,
    }


def _class_score(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """Inception score, in Inception's classes and in those of the named classifier."""
    for arm in e.drawn:
        if e.inception is not None:
            logits = e.seen_by_inception(f"drawn{arm.label}", arm.pictures)[1]
            found = classifier_score(logits, encoder=e.inception.name, seed=e.job.seed)
            name = "Inception score" if e.inception.genuine else found.name
            yield replace(found, name=name + arm.label)
        if e.classifier is not None:
            logits = e.classifier.logits(arm.pictures)
            found = classifier_score(logits, encoder=e.classifier.name, seed=e.job.seed)
            yield replace(found, name=found.name + arm.label)


def _diversity(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """Likeness of the pictures of one prompt, generated beside real."""
    job, arm = e.job, e.drawn[0]
    assert arm.captions is not None
    if e.model is not None:
        prompts = list(dict.fromkeys(arm.captions))[: job.diversity_prompts]
        drawn = e.draw("diversity", prompts, job.diversity_seeds)
        groups = np.repeat(np.arange(len(prompts)), job.diversity_seeds).tolist()
    else:
        drawn, groups = arm.pictures, _groups(arm.captions)
    same = _groups(e.real.captions or [""] * len(e.real))
    repeated = e.real.captions is not None and len(set(same)) < len(same)
    found = ssim_diversity(
        drawn,
        groups,
        e.real.pictures,
        same if repeated else [0] * len(same),
        rng=rng,
        most_per_group=50,
    )
    real = found.real
    if not repeated:
        real = replace(real, name="MS-SSIM, real pictures of different captions")
    yield from (found.generated, real)


def _groups(captions: list[str]) -> list[int]:
    kinds = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    return [kinds[caption] for caption in captions]


def _likeness(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """MS-SSIM of pictures and real ones of their captions, and of wrong ones: the medical way."""
    assert e.real.captions is not None
    real_of = {caption: i for i, caption in reversed(list(enumerate(e.real.captions)))}
    for arm in e.drawn:
        pairs = [(i, real_of[c]) for i, c in enumerate(arm.captions or ()) if c in real_of]
        mine, theirs = (np.asarray(side) for side in zip(*pairs, strict=True))
        scales = scales_for(min(arm.pictures.shape[1:3]))
        details: dict[str, float | int | str] = {
            "scales": len(scales.weights),
            "window": scales.window,
            "sigma": scales.sigma,
        }
        for what, other in (("", theirs), (", of wrong captions", np.roll(theirs, 1))):
            values = ms_ssim(arm.pictures[mine], e.real.pictures[other], scales)
            name = f"MS-SSIM, generated against real{what}{arm.label}"
            yield mean_measured(name, values, "none", rng, details)


def _image_text(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """How well pictures fit their captions in a pair of towers, generated beside real."""
    towers = e.towers
    assert towers is not None
    real = Drawn(e.real.pictures, e.real.captions, ", real pictures")
    for arm in (*e.drawn, real):
        if arm.captions is None or len(arm.captions) < 2:
            continue
        score = image_text_score(
            arm.pictures,
            arm.captions,
            picture_features=towers.picture_features,
            text_features=towers.text_features,
            encoder=towers.name,
            rng=rng,
        )
        cut = sum(towers.length(caption) > towers.longest for caption in arm.captions)
        if cut:
            e.warnings.append(
                f"{towers.name}: {cut} of {len(arm.captions)} captions{arm.label} are longer than "
                f"the {towers.longest} tokens it reads; the rest of them was not scored"
            )
        for found in _image_text_rows(score, towers.published, cut, towers.longest):
            yield replace(found, name=found.name + arm.label)
    if towers.identities & teachers(e.ground, e.job.checkpoint):
        e.warnings.append(
            f"{towers.name}: the generator was aligned with this very picture tower, so its "
            "image-text score is circular: score with other towers"
        )


def _image_text_rows(
    score: ImageTextScore, published: bool, cut: int, longest: int
) -> Iterator[Measured]:
    facts: dict[str, float | int | str] = {"truncated": cut, "longest": longest}
    matched = replace(score.matched, details={**facts, "scale": "raw cosine"})
    yield matched
    yield score.shuffled
    if published:
        value = float(100 * np.clip(score.cosines, 0, None).mean())
        details = {**facts, "scale": "x 100, clipped at 0 (as torchmetrics)"}
        yield replace(matched, name="CLIP-score", value=value, interval=None, details=details)


def _copies(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """Are drawn pictures nearer to training pictures than held-out ones are?"""
    training, held_out = e.training
    drawn = e.drawn[0].pictures
    found = memorisation(drawn, training, held_out, encoder="none")
    yield found.share
    pairs = {"none": to_plain(found.closest)}
    for eye in e.eyes:
        seen = memorisation(
            e.features(eye, "drawn", drawn),
            e.features(eye, "training", training),
            e.features(eye, "held-out", held_out),
            encoder=eye.name,
        )
        yield seen.share
        pairs[eye.name] = to_plain(seen.closest)
    e.extra["closest_pairs"] = pairs


def _perplexity(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """How well the model predicts plain text; with an adapter also without it."""
    assert e.model is not None
    generator = speaks(e.model.generator)
    found = pieces(generator, e.job.text)
    yield from _text_rows(text_likelihood(generator, found).measured(rng), "")
    if generator.config.adapted is not None:
        with adapters_off(generator.lm):
            without = text_likelihood(generator, found).measured(rng)
        yield from _text_rows(without, ", adapter off")


def _text_rows(nats: Measured, what: str) -> Iterator[Measured]:
    """Nats per token, and the perplexity that people know, with the interval carried over."""
    yield replace(nats, name=nats.name + what)
    interval = nats.interval
    if interval is not None:
        low, value, high = map(math.exp, (interval.low, interval.value, interval.high))
        interval = replace(interval, value=value, low=low, high=high)
    name = f"text perplexity{what}"
    yield replace(nats, name=name, value=math.exp(nats.value), interval=interval, details={})


METRICS = (
    Metric("bits per image token", (_held_out_rows,), _bits),
    Metric("whole files", (_files,), _whole_files),
    Metric("prompt accuracy", (_scenes,), _prompt_reading),
    Metric("captions", (reads,), captions),
    Metric("answers", (reads, asked), answers),
    Metric("Fréchet distance", (_someone_looks, _enough_real), distances),
    Metric("Fréchet distance to given statistics", (_statistics,), published_statistics),
    Metric("Inception score", (_classes,), _class_score),
    Metric("MS-SSIM", (_large_enough, _several_of_a_prompt), _diversity),
    Metric("MS-SSIM against real", (_large_enough, _shared_captions), _likeness),
    Metric("image-text score", (_towers,), _image_text),
    Metric("copies of training pictures", (_both_splits,), _copies),
    Metric("text perplexity", (_plain_text,), _perplexity),
)
