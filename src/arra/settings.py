"""Settings that Python and the command line share.

They stand here and not beside what they set because torch and transformers take seconds to import,
and help on the command line must not wait for them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from arra.errors import InputError

ENCODER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""What one of several encoders may be called."""


def feature_name(encoder: str, kind: str) -> str:
    """What the `kind` ("cls", "mean", "patches") of an encoder is called in stores and batches."""
    return f"{encoder}/{kind}" if encoder else kind


Positions = Literal["hybnext", "rep", "last", "read"]
RowInit = Literal["mean", "random"]
LlamaName = Literal["111M", "343M", "775M", "1.4B", "3.1B"]
Target = Literal["cls", "mean", "both", "attention", "patch"]
Projector = Literal["mlp", "mlp3", "linear", "pool"]
Similarity = Literal["cosine", "mse"]
Schedule = Literal["constant", "stop", "anneal"]
Precision = Literal["fp32", "bf16", "int8"]
Decoder = Literal["auto", "plain", "fast"]
Sampler = Literal["auto", "speculative", "backtracking"]
"""How codes are drawn: as the generator does; by guesses that one pass judges; or with a backspace
that the model has learnt."""
Mixer = Literal["attention", "intra+scan", "intra", "scan"]
Entity = Literal["token", "cell", "subsample", "scale", "image"]
GuidanceSchedule = Literal["constant", "linear", "cosine", "steps", "sine", "log", "square", "root"]
_CHOICES = {
    "positions": get_args(Positions),
    "target": get_args(Target),
    "projector": get_args(Projector),
    "similarity": get_args(Similarity),
    "schedule": get_args(Schedule),
}


@dataclass(frozen=True)
class LlamaSize:
    """Size of a Llama that is made from scratch."""

    width: int = 256
    """Hidden size D."""
    depth: int = 4
    """Number of decoder blocks."""
    heads: int = 4
    """Attention heads."""
    feed_forward: int = 704
    """Width of the SwiGLU layer."""
    positions: int = 512
    """Longest sequence."""
    rope_theta: float = 10000.0
    """Base of the rotary embedding; short sequences learn faster with a small one (100)."""
    tied: bool = False
    """Whether input and output embeddings are one table: small models learn faster so."""

    @classmethod
    def named(cls, name: LlamaName) -> LlamaSize:
        """A size of LlamaGen (arXiv 2406.06525, table 1): B, L, XL, XXL and 3B.

        With its 16,384 codes and a class embedding they have the parameters that they are named
        after; a text vocabulary comes on top (twice: embedding and head).
        """
        width, depth, heads, feed_forward = {
            "111M": (768, 12, 12, 2048),
            "343M": (1024, 24, 16, 2816),
            "775M": (1280, 36, 20, 3584),
            "1.4B": (1536, 48, 24, 4096),
            "3.1B": (3200, 24, 32, 8704),
        }[name]
        return cls(width, depth, heads, feed_forward)


@dataclass(frozen=True)
class ScanSize:
    """Size of a linear-time scan (Mamba-2, arXiv 2405.21060)."""

    state: int = 64
    """Numbers that a head remembers of each of its own."""
    conv: int = 4
    """Positions that the short convolution before the scan reads."""
    expand: int = 2
    """Width inside, in widths of the model."""


@dataclass(frozen=True)
class ScaleSize:
    """Size of a next-scale transformer (VAR, arXiv 2404.02905)."""

    width: int = 256
    """Hidden size D."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 4
    """Attention heads."""
    feed_forward: int = 1024
    """Width of the feed-forward layer."""
    normalised: bool = True
    """Whether queries and keys are scaled to unit length before they are compared."""
    gate: float = 1e-2
    """Factor of the initial weights that set the blocks' gates; deep models need small ones."""
    inputs: float = 1.0
    """Factor of the initial weights that read pictures and captions; small models learn faster
    with large ones (10)."""
    drop_path: float = 0.0
    """Largest probability that training leaves out a block's branch; it grows with the depth."""
    positions: int = 64
    """Longest caption, in tokens."""
    mixer: Mixer = "attention"
    """What positions learn of each other by: attention to all coarser scales (VAR); attention
    within a scale and a linear-time scan over all positions (M-VAR); or one of these two alone."""
    scan: ScanSize = field(default_factory=ScanSize)
    """Of the scan, if there is one."""

    @classmethod
    def of_depth(cls, depth: int) -> ScaleSize:
        """The paper's model of this depth (16, 20, 24, 30): width 64 d, d heads, 73728 d^3 or so
        parameters."""
        gate = 1e-3 if depth < 24 else 1e-4 if depth < 30 else 1e-5
        width = 64 * depth
        return cls(width, depth, depth, 4 * width, gate=gate, drop_path=0.1 * depth / 24)

    @classmethod
    def beside(cls, llama: LlamaSize) -> ScaleSize:
        """About as many parameters in the blocks as a Llama of this size has.

        A block with adaptive norms has 10 w^2 + 2 w f of them, one of a Llama 4 w^2 + 3 w f.
        """
        step = 2 * llama.heads  # rotary or not, heads have an even size
        target = 4 * llama.width**2 + 3 * llama.width * llama.feed_forward
        width = max(step, round((target / 18) ** 0.5 / step) * step)
        return cls(width, llama.depth, llama.heads, 4 * width, positions=llama.positions)


@dataclass(frozen=True)
class GridOptions:
    """What a Llama over a grid of codes (LlamaGen, ELM) has beside its size, a `LlamaSize`."""

    condition: Literal["class", "tokens", "features"] = "tokens"
    """"tokens": learned embeddings of the caption's tokens and of their places; "class": a caption
    is one token, embedded without a place; "features": what a frozen text encoder says of it."""
    token_dropout: float = 0.0
    """Dropout of everything that is read, condition and codes; 0.1 in the papers, which train for
    hundreds of epochs."""
    dropout: float = 0.0
    """Dropout of what attention and feed-forward layers add (0.1 in the papers)."""
    drop_path: float = 0.0
    """Largest probability that training leaves out a block's branch; it grows with the depth."""
    rounds: int = 10
    """Of a generator that draws masked codes: passes that draw a picture."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"GridOptions.rounds: {self.rounds}, expected at least 1")
        if self.condition not in (known := ("class", "tokens", "features")):
            raise InputError(
                f"GridOptions.condition: {self.condition!r}, expected one of {', '.join(known)}"
            )
        for name in ("token_dropout", "dropout", "drop_path"):
            if not 0.0 <= (value := getattr(self, name)) < 1.0:
                raise InputError(f"GridOptions.{name}: {value}, expected 0 to less than 1")


@dataclass(frozen=True)
class VectorOptions:
    """What a generator of vectors has beside its network's size, a `LlamaSize`."""

    objective: Literal["flow", "v", "epsilon"] = "flow"
    """What the head predicts of noisy vectors: the velocity of a straight flow, or of a diffusion v
    or the noise. Of a generator of scales it is flow."""
    steps: int = 25
    """Evaluations of the head, or of the network, that draw a unit."""
    noise_schedule: Literal["cosine", "zero-terminal"] = "cosine"
    """Of a diffusion: the cosine schedule, or one that ends in noise alone, for v only."""
    stochastic: bool = False
    """Whether every such step adds new noise (ancestral diffusion, or the stochastic flow of SiT)
    or only the first (DDIM, Euler)."""
    solver: Literal["own", "dpm++", "unipc"] = "own"
    """What follows noise to vectors: our steps (DDIM, Euler), or a solver of second order of
    diffusers, as many evaluations for less error."""
    logit: bool = False
    """Whether times of training are logistic normal and not uniform, for flow."""
    inner: int = 256
    """Width of the head's own network."""
    inner_depth: int = 3
    """Blocks of the head's own network."""
    repeats: int = 4
    """Times and noises with which a head of single vectors learns each vector at once."""
    rounds: int = 8
    """Of a generator that draws hidden cells: passes that draw a picture."""
    reading: float = 0.5
    """Of a language model of vectors: share of a batch's rows where the picture stands before its
    caption, which is read off it. Less than 1."""
    asking: float = 0.5
    """Of a language model of vectors: share of the rows that are read of which, where they have
    questions, one is answered and not the caption said. The question is not predicted."""
    least: float = 0.7
    """Of a masked language model of vectors: least share of cells that training hides."""
    widened: int = 0
    """Of a masked language model of vectors: training step from which any share of the cells may be
    hidden, as its last rounds need it (MMAR's second stage); 0: never."""
    entity: Entity = "cell"
    """Of entities only: what is drawn at once."""
    side: int = 2
    """Rows and columns of a cell, of a subsample's members, or of a block."""
    context: Literal["noisy", "clean"] = "noisy"
    """Of entities only: whether they are trained to read noisy predecessors, in one pass, or a
    clean copy of them, in a sequence twice as long."""
    sequence: int = 5
    """Of a generator that remembers its trajectory: pictures of a caption in a training sequence,
    from noisy to clean; 1: it remembers nothing."""
    read_decay: Literal["chunk", "raster"] = "chunk"
    """Of its memory: how much a picture reads is one number for all of its positions, or falls from
    the first to the last (ARFlow's released code)."""
    gate_root: float = 16.0
    """Of its memory: gates are this root of a logistic function. 16 in the released code, where a
    picture begins by taking 4 % away from what is remembered; with 1 it takes a half."""
    scales: tuple[int, ...] = ()
    """Of a generator of scales: growing sides, the last standing for the whole grid; unless given,
    1 and each twice the one before."""
    stages: int = 3
    """Of a generator of stages: how many at most, each twice as large as the one before; as many as
    the grid can be halved to."""
    blur: float = 0.0
    """Of a generator of stages: deviation of new noise upon what later stages read of earlier ones,
    in training and in drawing. With 0 a stage is told where it begins, and nothing can vary."""
    told: Literal["spatial", "pooled", "crossed"] = "spatial"
    """Of a head over maps: whether every position is told its own state; all are told the mean of
    states; or positions also look at all states by cross-attention."""
    guided_until: float = 1.0
    """Of a head over maps: share of noise up to which guidance counts (FlowAR: 0.7 to 0.9)."""

    def __post_init__(self) -> None:
        if self.objective not in (known := ("flow", "v", "epsilon")):
            raise InputError(
                f"VectorOptions.objective: {self.objective!r}, expected one of {', '.join(known)}"
            )
        choices_of = {
            "entity": get_args(Entity),
            "context": ("noisy", "clean"),
            "read_decay": ("chunk", "raster"),
            "told": ("spatial", "pooled", "crossed"),
            "solver": ("own", "dpm++", "unipc"),
        }
        for name, choices in choices_of.items():
            if (chosen := getattr(self, name)) not in choices:
                raise InputError(
                    f"VectorOptions.{name}: {chosen!r}, expected one of {', '.join(choices)}"
                )
        counts = (
            "steps",
            "inner",
            "inner_depth",
            "repeats",
            "rounds",
            "side",
            "sequence",
            "stages",
        )
        for name in counts:
            if (value := getattr(self, name)) < 1:
                raise InputError(f"VectorOptions.{name}: {value}, expected at least 1")
        if not 0.0 <= self.guided_until <= 1.0:
            raise InputError(f"VectorOptions.guided_until: {self.guided_until}, expected 0 to 1")
        if not 0.0 <= self.reading < 1.0:
            raise InputError(f"VectorOptions.reading: {self.reading}, expected 0 to less than 1")
        for name in ("asking", "least"):
            if not 0.0 <= (share := getattr(self, name)) <= 1.0:
                raise InputError(f"VectorOptions.{name}: {share}, expected 0 to 1")
        if self.blur < 0.0:
            raise InputError(f"VectorOptions.blur: {self.blur}, expected 0 or more")
        if self.widened < 0:
            raise InputError(f"VectorOptions.widened: {self.widened}, expected 0 (never) or more")


@dataclass(frozen=True)
class Sizes:
    """Sizes of the networks that generators make from scratch; each reads its own."""

    llama: LlamaSize = field(default_factory=LlamaSize)
    """Of a causal language model."""
    scale: ScaleSize = field(default_factory=ScaleSize)
    """Of a next-scale transformer."""
    grid: GridOptions = field(default_factory=GridOptions)
    """What a Llama over a grid of codes, whose size is `llama`, has beside it."""
    vectors: VectorOptions = field(default_factory=VectorOptions)
    """What a generator of vectors, whose network has the size `llama`, has beside it."""


@dataclass(frozen=True)
class AdapterConfig:
    """How a pretrained language model is adapted without training all of its weights."""

    kind: Literal["none", "lora", "dora", "randlora"] = "none"
    """None trains everything. LoRA (arXiv 2106.09685), weight-decomposed LoRA (DoRA, arXiv
    2402.09353), or random bases of full rank (RandLoRA, arXiv 2502.00987)."""
    rank: int = 16
    """Rank of each update. RandLoRA's counts the other way: fewer parameters the larger it is."""
    alpha: float | None = None
    """Scale of the update, times 1 / rank. Unless given: twice the rank, RandLoRA 20 times."""
    dropout: float = 0.0
    """Of the adapter's input."""
    targets: tuple[str, ...] = ()
    """Last names of the linear layers in the decoder blocks that are adapted, such as q_proj
    v_proj; unless given, all of them."""
    save: Literal["merged", "adapter"] = "merged"
    """What a run's model/ is: a plain language model with the update added to its weights, or the
    adapter alone, which needs the pretrained model at its place."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"AdapterConfig.rank: {self.rank}, expected 1 or more")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"AdapterConfig.dropout: {self.dropout}, expected 0 to less than 1")
        if self.alpha is not None and self.alpha <= 0:
            raise InputError(f"AdapterConfig.alpha: {self.alpha}, expected more than 0")


@dataclass(frozen=True)
class BatchConfig:
    """How rows of a store become training sequences."""

    size: int = 64
    """Samples in a batch (one process, one accumulation step)."""
    drop_caption: float = 0.1
    """Share of samples that lose their caption, for classifier-free guidance."""
    supervise_text: bool = False
    """Whether text tokens are predicted too (for a model that should keep its language)."""
    layout: Literal["right", "left", "packed"] = "right"
    """Padding on the right or left, or several samples in one row."""
    packed_length: int = 512
    """Row length of the packed layout."""
    multiple: int = 8
    """Rows are padded to a multiple of this length: few shapes, so little recompilation."""
    bucket: int = 8
    """Batches are formed among this many batches' worth of samples of similar length."""
    shuffle_features: bool = False
    """Control: every sample gets the encoder features of another, fixed, random sample."""
    replay: float = 0.0
    """Share of a batch's samples that are plain text, beside the `size` pictures."""
    seed: int = 0
    """Seed of the data order and of dropped captions."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.bucket < 1 or self.multiple < 1:
            raise InputError("BatchConfig: size, bucket and multiple are at least 1")
        if not 0.0 <= self.drop_caption <= 1.0:
            raise InputError(f"BatchConfig.drop_caption: {self.drop_caption}, expected 0 to 1")
        if not 0.0 <= self.replay < 1.0:
            raise InputError(f"BatchConfig.replay: {self.replay}, expected 0 to less than 1")

    @property
    def replayed(self) -> int:
        """Samples of plain text in a batch."""
        return round(self.size * self.replay / (1.0 - self.replay))


@dataclass(frozen=True)
class AlignmentConfig:
    """What is aligned with what, how, and how strongly."""

    layers: tuple[int, ...] = (1,)
    """Decoder blocks whose output is aligned, counted from 1; several losses are averaged."""
    positions: Positions = "hybnext"
    """Every position that predicts image content; only the first of them (one representation
    position, REP); only the last; or, for ablation, every position that has just read it."""
    encoder: str = ""
    """Which encoder of the store, by name; empty is the one without a name."""
    target: Target = "cls"
    """The CLS vector, the mean of the patch vectors, both side by side, the patch vectors weighed
    by a learned attention, or at each position the vector of the patch that it predicts (or has
    read)."""
    spatial_norm: float | None = None
    """Of the patch target: subtract this share of each channel's mean over the picture and divide
    by its deviation (0.6 in iREPA); unless given, patches stay as they are."""
    projector: Projector = "mlp"
    """Linear-GELU-Linear (ARRA), Linear-SiLU-Linear-SiLU-Linear (REPA), one linear map, or
    parameter-free pooling of channels."""
    hidden: int | None = None
    """Width of the projector's hidden layers; unless given that of the feature, 2048 for mlp3."""
    similarity: Similarity = "cosine"
    """1 - cosine (the gradient of REPA's -cosine), or mean squared error."""
    weight: float = 1.0
    """Lambda, the weight of the loss."""
    schedule: Schedule = "constant"
    """Constant; constant until step `until`, then nothing; or falling linearly to 0 at `until`."""
    until: int = 0
    """Step at which "stop" and "anneal" reach 0."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise InputError(
                    f"AlignmentConfig.{name}: {value!r}, expected one of {', '.join(choices)}"
                )
        if not self.layers or min(self.layers) < 1:
            raise InputError(f"AlignmentConfig.layers: {self.layers}, blocks are counted from 1")
        if not 0 <= self.weight < math.inf:
            raise InputError(f"AlignmentConfig.weight: {self.weight}, expected 0 or more")
        if self.spatial_norm is not None and self.target != "patch":
            raise InputError(
                f"AlignmentConfig.spatial_norm: for target 'patch' only, not {self.target!r}"
            )
        if self.spatial_norm is not None and not 0 <= self.spatial_norm <= 1:
            raise InputError(f"AlignmentConfig.spatial_norm: {self.spatial_norm}, expected 0 to 1")
        if self.hidden is not None and (self.hidden < 1 or not self.projector.startswith("mlp")):
            raise InputError(
                f"AlignmentConfig.hidden: {self.hidden}, expected 1 or more, with an mlp projector"
            )
        if self.schedule != "constant" and self.until < 1:
            raise InputError(f"AlignmentConfig.until: needed by schedule {self.schedule!r}")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Which features of a store the target needs."""
        kinds = {"cls": ("cls",), "mean": ("mean",), "both": ("cls", "mean")}
        return tuple(
            feature_name(self.encoder, kind) for kind in kinds.get(self.target, ("patches",))
        )


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are drawn."""

    guidance: float = 2.0
    """Scale s of classifier-free guidance, u + s (c - u); 1 is none, and costs half."""
    guidance_schedule: GuidanceSchedule = "constant"
    """Constant, or growing to `guidance` at the last unit: "linear" and "cosine" from 1 at the
    first unit (VAR), the others as in ELM (arXiv 2410.16257) with the share r = j / n of unit j,
    counted from 1: "steps" r, "sine" sin(pi r / 2), "log" ln(1 + (e - 1) r), "square" r^2, and
    "root" sqrt((j - 1) / n), which stays a little below."""
    guidance_units: int = 0
    """Of the linear schedule: units after the first in which `guidance` is reached at the latest;
    it grows on where there are more (FlexVAR's code has 9). 0: reached at the last, never more."""
    guidance_from: float = 0.0
    """Share of the picture at which guidance begins."""
    guidance_until: float = 1.0
    """Share of the picture at which guidance ends; outside of the interval the scale is 1."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely unit."""
    top_k: int = 0
    """Keep the k most likely units; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of units with at least this probability."""

    def __post_init__(self) -> None:
        checks = (
            ("guidance", self.guidance, 0.0 <= self.guidance < 1e4, "0 or more"),
            ("guidance_from", self.guidance_from, 0.0 <= self.guidance_from <= 1.0, "0 to 1"),
            ("guidance_until", self.guidance_until, 0.0 <= self.guidance_until <= 1.0, "0 to 1"),
            ("guidance_units", self.guidance_units, self.guidance_units >= 0, "0 (off) or more"),
            ("temperature", self.temperature, 0.0 <= self.temperature < 1e4, "0 or more"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (off) or more"),
            ("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "above 0, at most 1"),
        )
        for name, value, fine, expected in checks:
            if not fine:  # NaN fails every comparison, and so lands here
                raise InputError(f"SamplingConfig.{name}: {value}, expected {expected}")

    @property
    def guided(self) -> bool:
        """Whether any unit needs the unconditional branch."""
        return self.guidance != 1.0 and self.guidance_from < self.guidance_until

    @property
    def steady(self) -> bool:
        """Whether the scale of guidance is the same at all units."""
        always = self.guidance_from == 0.0 and self.guidance_until == 1.0
        return self.guidance_schedule == "constant" and always

    def scale(self, unit: int, units: int) -> float:
        """Guidance scale for unit `unit` of `units`."""
        share = unit / max(units - 1, 1)
        if not self.guidance_from <= share <= self.guidance_until:
            return 1.0
        done = (unit + 1) / units
        rise = min(units - 1, self.guidance_units) if self.guidance_units else units - 1
        ramp = {
            "constant": 1.0,
            "linear": unit / max(rise, 1),
            "cosine": (1.0 - math.cos(math.pi * share)) / 2.0,
            "steps": done,
            "sine": math.sin(math.pi / 2.0 * done),
            "log": math.log1p((math.e - 1.0) * done),
            "square": done**2,
            "root": (unit / units) ** 0.5,
        }[self.guidance_schedule]
        return 1.0 + (self.guidance - 1.0) * ramp
