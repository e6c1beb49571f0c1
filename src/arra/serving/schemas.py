"""The bodies of requests and answers: OpenAI's, with what arra adds to them."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from arra.settings import GuidanceSchedule, SamplingConfig

# The seeds of all pictures of a request are below 2^63, the generators' limit.
_SEEDS = 2**63 - 1000
# A seed that is picked has 32 bits, so that clients whose numbers are doubles can send it back.
_PICKED = 2**32
# Something that is not white space, and no control characters but white space.
_LINE = r"^(\s|[^\x00-\x1f\x7f-\x9f])*[^\s\x00-\x1f\x7f-\x9f](\s|[^\x00-\x1f\x7f-\x9f])*$"
_WITHOUT_EFFECT = "Accepted, and without effect: OpenAI's models have it, these have not."


def _whole(value: Any) -> Any:
    """To JSON 3.0 is an integer; anything else is for the type to judge."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)


class _Body(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class ImageRequest(_Body):
    """What to draw. Fields that are null or missing take the server's defaults."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    # The pattern is for readers of the description; `clean_caption` decides.
    prompt: Annotated[str, Field(max_length=4096, json_schema_extra={"pattern": _LINE})]
    """Text without control characters; white space of any kind and length is one space."""
    model: Annotated[str, Field(max_length=200)] | None = None
    """One of those at /v1/models; the first of them unless given."""
    n: Annotated[int, Field(ge=1, le=1000), _WHOLE] | None = None
    """Pictures, with the seeds `seed`, `seed` + 1, ...; 1 unless given."""
    size: Annotated[str, Field(max_length=20)] | None = None
    """WIDTHxHEIGHT as the model draws them, or auto."""
    response_format: (
        Annotated[str, Field(max_length=20, json_schema_extra={"enum": ["b64_json"]})] | None
    ) = None
    """b64_json: pictures stand in the answer, as PNG files."""
    stream: bool | None = None
    """Send server-sent events while the pictures are drawn."""
    partial_images: Annotated[int, Field(ge=0, le=64), _WHOLE] | None = None
    """With `stream`, how often each picture is shown before it is whole; else without effect."""

    seed: Annotated[int, Field(ge=0, lt=_SEEDS), _WHOLE] | None = None
    """The same seed, prompt and settings give the same picture; picked at random unless given."""
    guidance: Annotated[float, Field(ge=0.0, lt=1e4)] | None = None
    """Scale of classifier-free guidance; 1 is none, and costs half."""
    guidance_schedule: GuidanceSchedule | None = None
    """How guidance grows from the first unit to the last."""
    temperature: Annotated[float, Field(ge=0.0, lt=1e4)] | None = None
    """Divides the logits; 0 takes the most likely unit."""
    top_k: Annotated[int, Field(ge=0, lt=2**31), _WHOLE] | None = None
    """Keep the k most likely units; 0 keeps all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Keep the smallest set of units with at least this probability."""

    user: Annotated[str | None, Field(description=_WITHOUT_EFFECT, max_length=200)] = None
    safety_identifier: Annotated[str | None, Field(description=_WITHOUT_EFFECT, max_length=200)] = (
        None
    )
    quality: Annotated[
        Literal["auto", "standard", "hd", "low", "medium", "high", "xhigh", "max"] | None,
        Field(description=_WITHOUT_EFFECT),
    ] = None
    style: Annotated[Literal["vivid", "natural"] | None, Field(description=_WITHOUT_EFFECT)] = None
    moderation: Annotated[Literal["auto", "low"] | None, Field(description=_WITHOUT_EFFECT)] = None
    background: Literal["auto", "opaque"] | None = None
    """Pictures are opaque."""
    output_format: Literal["png"] | None = None
    """Pictures are PNG files."""

    def first_seed(self) -> int:
        """The seed that was asked for, or one picked at random."""
        return secrets.randbelow(_PICKED) if self.seed is None else self.seed

    def sampling(self, defaults: SamplingConfig) -> SamplingConfig:
        """The settings that were asked for, and `defaults` for the rest."""
        names = ("guidance", "guidance_schedule", "temperature", "top_k", "top_p")
        asked = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(defaults, **asked)


class TokensOfInput(_Body):
    """OpenAI's details of what was read."""

    text_tokens: int
    image_tokens: int = 0


class Usage(_Body):
    """What was read and drawn, in tokens: the prompt's once, and the codes of all pictures."""

    input_tokens: int
    input_tokens_details: TokensOfInput
    output_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt: int, codes: int) -> Usage:
        """Of a prompt and pictures of so many tokens."""
        return cls(
            input_tokens=prompt,
            input_tokens_details=TokensOfInput(text_tokens=prompt),
            output_tokens=codes,
            total_tokens=prompt + codes,
        )


class Picture(_Body):
    """One picture of an answer."""

    b64_json: str
    """A PNG file (of a clip an animated one) in base64, with prompt, seed, settings and checkpoint
    in its text chunks."""
    seed: int


class ImagesResponse(_Body):
    """Pictures, and all that is needed to draw them again."""

    created: int
    data: list[Picture]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png"] = "png"
    size: str
    usage: Usage
    model: str
    seed: int
    """Of the first picture."""
    sampling: dict[str, Any]
    """All settings of drawing, those included that nobody asked for."""
    fingerprint: str
    """Hex digest of weights, token layout, codec and tokenizer."""


class _Event(_Body):
    b64_json: str
    created_at: int
    size: str
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png"] = "png"
    index: int
    """Which of the `n` pictures it is, from 0."""
    seed: int


class PartialImage(_Event):
    """A picture that is still being drawn; what is missing is grey."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    partial_image_index: int
    """From 0; indices are left out where the reader was too slow for a picture."""


class CompletedImage(_Event):
    """A picture that is whole."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    usage: Usage
    model: str
    sampling: dict[str, Any]
    fingerprint: str


class Model(_Body):
    """A checkpoint that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["arra"] = "arra"
    size: str
    """WIDTHxHEIGHT of its pictures."""
    units: int
    """Steps in which a picture is drawn."""
    way: str
    """How the server draws it."""
    fingerprint: str


class Models(_Body):
    """The checkpoints that are served."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(_Body):
    """How the server is."""

    status: Literal["ok", "ready"]


class Error(_Body):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    """The field of the request that is wrong."""
    code: str | None = None


class ErrorBody(_Body):
    """The body of every answer that is an error."""

    error: Error
