"""A Hugging Face causal language model that reads and writes text and vectors of pictures.

A picture's vectors stand in the text as input embeddings; the state at a position goes to the
language head where text follows, and to a head for vectors where one is predicted. The folder is
that of the language model (`AutoModelForCausalLM` loads it), with `arra.json` and the weights of
everything else, `vectors.safetensors`, beside it. R rows of T positions, n vectors of C numbers a
picture, width D.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from arra.errors import InputError
from arra.files import read_json, to_plain, write_json
from arra.generators.base import Batch, Output
from arra.generators.batches import Store
from arra.generators.interleaving import Mixed, parts_of
from arra.generators.language_batches import LanguageVectorBatches
from arra.generators.raster import SIDE_FILE
from arra.generators.vectors import HEAD, SOLVED, VectorConfig, VectorGenerator, process_of
from arra.generators.vocabulary import ImageVocabulary, add_image_tokens
from arra.heads.base import Head
from arra.heads.diffusion import DiffusionHead
from arra.networks.cache import KVCache, left_padded
from arra.networks.language_model import (
    causal_lm_of,
    decoder_blocks,
    head_logits,
    hidden_states,
    llama_config,
    load_causal_lm,
    mask_for,
    model_settings,
)
from arra.networks.part import config_from_plain
from arra.networks.soft_codes import SoftLookup
from arra.orders.layout import visible
from arra.progress import without_library_bars
from arra.randomness import seeded
from arra.settings import BatchConfig, LlamaSize, VectorOptions

WEIGHTS = "vectors.safetensors"


@dataclass(frozen=True)
class LanguageVectorConfig(VectorConfig):
    """What a language model of vectors is; `size` is that of models made from scratch."""

    vocabulary: ImageVocabulary | None = None
    """Control tokens, and picture codes: those of a model that was converted, or one that stands
    for any vector."""
    language_model: dict[str, Any] = field(default_factory=dict)
    """The Hugging Face configuration, as its `to_dict` gives it."""
    temperature: float = 0.0
    """Of the soft reading of vectors as mixtures of the codes' embeddings; 0: a linear map."""
    scale: float = 1.0
    """The head sees vectors times this (Orthus: 0.1); what is read is not scaled."""


@dataclass
class Reading:
    """Rows that are being read: keys, values, and where each goes on."""

    cache: KVCache
    next: Tensor
    """(R,) int64: the next position of each row."""

    def truncate(self, stored: int, position: Tensor) -> None:
        """Forget all but the first `stored` positions; rows go on at `position` (R,)."""
        self.cache.truncate(stored)
        self.next = position

    def take_back(self, counts: Tensor) -> None:
        """Forget the last `counts` (R,) positions of each row, as if they had never been read."""
        left, seen = self.cache.next_position - counts, self.cache.visible
        self.cache.keep(seen & (seen.cumsum(dim=1) <= left[:, None]))
        self.next = self.next - counts


class LanguageVectorGenerator(VectorGenerator):
    """Language model, reader of vectors and head; subclasses say how pictures are seen and drawn.

    Its batches hold rows of both orders, so that it learns to draw and to read at once.
    """

    Config = LanguageVectorConfig
    config: LanguageVectorConfig
    laws = ("cross_entropy", "vectors")
    reads: ClassVar[tuple[str, ...]] = (*SOLVED, *HEAD, "reading", "asking")
    Batches: ClassVar[type[LanguageVectorBatches]] = LanguageVectorBatches

    def __init__(
        self,
        config: LanguageVectorConfig,
        tokenizer: PreTrainedTokenizerBase | None = None,
        lm: PreTrainedModel | None = None,
    ):
        super().__init__(config, tokenizer)
        if config.vocabulary is None:
            raise InputError("LanguageVectorConfig.vocabulary: none; use from_scratch")
        self.vocabulary = config.vocabulary
        self.lm: Any = causal_lm_of(config.language_model) if lm is None else lm
        text, options = self.lm.config.get_text_config(), config.options
        self.width, self.depth = text.hidden_size, len(decoder_blocks(self.lm))
        self.reader: nn.Module
        if config.temperature:
            codes = self.vocabulary.codes
            self.reader = SoftLookup(codes, config.dimensions, config.temperature)
        else:
            self.reader = nn.Linear(config.dimensions, self.width)
        self.head: Head = DiffusionHead(
            self.width,
            config.dimensions,
            process_of(options),
            inner=options.inner,
            depth=options.inner_depth,
            repeats=options.repeats,
        )

    # ---- making one, saving --------------------------------------------------------------------

    @classmethod
    def from_scratch(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        dimensions: int,
        grid: tuple[int, int],
        size: LlamaSize | None = None,
        options: VectorOptions | None = None,
        *,
        seed: int,
        longest: int = 0,
        codec: str = "",
        frames: int = 1,
    ) -> Self:
        """A small Llama with random weights, a function of `seed`. The tokenizer is extended in
        place by the token that stands for a vector."""
        if frames > 1:
            raise InputError(
                f"a {cls.registered_name} generator draws pictures, not clips of {frames} frames; "
                "blocks draws these"
            )
        longest = max(64, longest)
        needed = longest + grid[0] * grid[1] + 4
        size = size or LlamaSize()
        size = replace(size, positions=max(size.positions, needed))
        vocabulary = add_image_tokens(tokenizer, 1)
        language_model = llama_config(
            size,
            max(vocabulary.size, len(tokenizer)),
            bos_token_id=vocabulary.start,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=vocabulary.pad,
        )
        config = cls.Config(
            grid,
            dimensions,
            text=len(tokenizer),
            longest=longest,
            size=size,
            options=options or VectorOptions(),
            codec=codec,
            vocabulary=vocabulary,
            language_model=language_model.to_dict(),
        )
        with seeded(seed):
            return cls(config, tokenizer)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "language_model": model_settings(self.lm)}

    def _save_pretrained(self, save_directory: Path) -> None:
        with without_library_bars():
            self.lm.save_pretrained(save_directory)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)
        state = {name: x.detach().cpu().clone() for name, x in self._others().items()}
        save_file(state, str(save_directory / WEIGHTS))
        plain = to_plain(self.config)
        del plain["language_model"]  # stands in the model's own config.json
        write_json(save_directory / SIDE_FILE, {"generator": self.registered_name, **plain})

    def _others(self) -> dict[str, Tensor]:
        """The weights that are not the language model's."""
        return {n: x for n, x in self.state_dict().items() if not n.startswith("lm.")}

    @classmethod
    def from_pretrained(cls, source: str | Path, **kwargs: Any) -> Self:  # type: ignore[override]
        """Load a folder that `save_pretrained` wrote; `InputError` when it is none."""
        folder = Path(source)
        side = read_json(folder / SIDE_FILE)
        if side.pop("generator", None) != cls.registered_name:
            found = f"does not describe a {cls.registered_name} generator"
            raise InputError(f"{folder / SIDE_FILE}: {found}")
        config = config_from_plain(cls.Config, side, where=folder / SIDE_FILE)
        with without_library_bars():
            lm = load_causal_lm(folder, **kwargs)
        config = replace(config, language_model=lm.config.to_dict())
        with seeded(0):  # the weights are overwritten
            generator = cls(config, AutoTokenizer.from_pretrained(folder), lm)
        weights = load_file(str(folder / WEIGHTS))
        if wrong := sorted(set(weights) ^ set(generator._others())):
            raise InputError(f"{folder / WEIGHTS}: {wrong[0]} does not fit the configuration")
        generator.load_state_dict(weights, strict=False)
        return generator.eval()

    # ---- training ------------------------------------------------------------------------------

    def decoder_blocks(self) -> Sequence[nn.Module]:
        return list(decoder_blocks(self.lm))

    @property
    def end(self) -> int:
        """The id after which a row says nothing any more."""
        own = None if self.tokenizer is None else self.tokenizer.eos_token_id
        return self.vocabulary.end if own is None else own

    def _prompt(self, text: Sequence[int]) -> list[int]:
        return self.vocabulary.prompt(text)

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> LanguageVectorBatches:
        made = (store, config, features, self.vocabulary, self.config.cells, self.config.options)
        return self.Batches(*made, self.end, replay)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        if batch.latents is None or batch.read is None:
            missing = "latents" if batch.latents is None else "read"
            raise InputError(f"{type(self).__name__}: this batch has no Batch.{missing}")
        latents, predicted = batch.latents, batch.image
        x = self._embedded(batch)
        mask, position = self._mask(batch)
        with hidden_states(self.lm, layers) as found:
            final = self._decode(x, mask, position)
        text = batch.target >= 0
        target = latents[batch.segment[predicted], batch.place[predicted]]
        states = self._conditions(final[predicted], batch.place[predicted])
        losses = self.head.losses(self.config.scale * target, states, batch.stream())
        return Output(head_logits(self.lm, final[text]), batch.target[text], found, losses)

    def _decode(self, x: Tensor, mask: Tensor | None, position: Tensor | None) -> Tensor:
        """(R, T, D) final states of embeddings (R, T, D)."""
        out = self.lm.get_decoder()(
            inputs_embeds=x,
            attention_mask=mask_for(self.lm, mask),
            position_ids=position,
            use_cache=False,
        )
        return out.last_hidden_state

    def _embedded(self, batch: Batch) -> Tensor:
        """(R, T, D): tokens, and vectors where one is read."""
        assert batch.read is not None
        assert batch.latents is not None
        x, here = self.lm.get_input_embeddings()(batch.tokens), batch.read >= 0
        place = batch.read[here]
        vectors = self.read(batch.latents[batch.segment[here], place], place)
        return x.index_put((here,), vectors.to(x.dtype))

    def read(self, vectors: Tensor, place: Tensor) -> Tensor:
        """(M, D) input embeddings of vectors (M, C) that stand at places (M,) of their pictures."""
        if not isinstance(self.reader, SoftLookup):
            return self.reader(vectors)
        first = self.vocabulary.offset
        table = self.lm.get_input_embeddings().weight[first : first + self.vocabulary.codes]
        return self.reader(vectors, table)

    def _conditions(self, states: Tensor, place: Tensor) -> Tensor:
        """(M, D) what the head is told, of states that predict the places (M,)."""
        return states

    @abstractmethod
    def _mask(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Attention mask and positions for the language model; None: the plain causal ones."""

    # ---- reading -------------------------------------------------------------------------------

    @abstractmethod
    def moments(self, cell: Tensor, real: Tensor) -> Tensor:
        """(R, T) int64 when each position of new ones looks, from 0 in each row; `cell` (R, T) are
        those of pictures, `real` what is not padding."""

    def advance(self, x: Tensor, real: Tensor, now: Tensor, reading: Reading) -> Tensor:
        """(R, t, D) final states of new positions x (R, t, D), which join what was read.

        Each sees what was read before, and of the new ones those whose moment `now` (R, t) is not
        later; padding (not `real`) is seen by nobody.
        """
        segment = real.long() - 1
        among = visible(segment, now)
        before = reading.cache.visible[:, None].expand(-1, x.shape[1], -1)
        mask = torch.cat((before, among), dim=2)[:, None]
        position = (reading.next[:, None] + now).clamp(min=0)
        final = self.lm.get_decoder()(
            inputs_embeds=x,
            attention_mask=mask_for(self.lm, mask),
            position_ids=position,
            past_key_values=reading.cache.past,
            use_cache=True,
        ).last_hidden_state
        reading.cache.visible = torch.cat((reading.cache.visible, real), dim=1)
        reading.next = reading.next + torch.where(real, now + 1, 0).amax(dim=1)
        return final

    def prefill(self, rows: Sequence[Mixed]) -> tuple[Reading, Tensor]:
        """Read rows of text and whole pictures, of any lengths: where they stand, and the state
        (R, D) of the last position of each."""
        tokens, real = left_padded([row.tokens for row in rows], self.vocabulary.pad)
        place, _ = left_padded([row.places(self.vocabulary) for row in rows], -1)
        tokens, real, place = (x.to(self.device) for x in (tokens, real, place))
        x, cell = self.lm.get_input_embeddings()(tokens), place >= 0
        if bool(cell.any()):
            vectors = torch.cat([v for row in rows for v in row.vectors]).to(x)
            x = x.index_put((cell,), self.read(vectors, place[cell]).to(x.dtype))
        cache = KVCache.empty(len(rows), self.lm.config.get_text_config(), self.device)
        reading = Reading(cache, torch.zeros(len(rows), dtype=torch.int64, device=self.device))
        return reading, self.advance(x, real, self.moments(cell, real), reading)[:, -1]

    def say(self, ids: Tensor, real: Tensor, reading: Reading) -> Tensor:
        """(R, D) states after one more token (R,) of each row; of rows that are not `real` (R,)
        nothing is kept."""
        x = self.lm.get_input_embeddings()(ids)[:, None]
        now = torch.zeros_like(ids)[:, None]
        return self.advance(x, real[:, None], now, reading)[:, 0]

    @torch.inference_mode()
    def describe(
        self, codes: Tensor, prompts: Sequence[str] | None = None, most: int = 48
    ) -> list[str]:
        """What the model says of pictures, codes (B, ..., C): captions, or how it goes on after a
        prompt of its own for each picture (the words of a question, the beginning of a caption).

        The likeliest word follows the likeliest word, `most` at most. A picture's text does not
        depend on the others.
        """
        if self.tokenizer is None:
            raise InputError("describe: this generator has no tokenizer; load a saved folder")
        vectors = codes.reshape(len(codes), self.config.cells, self.dimensions)
        asked = [""] * len(vectors) if prompts is None else list(prompts)
        if len(asked) != len(vectors):
            raise InputError(f"describe: {len(asked)} prompts for {len(vectors)} pictures")
        rows = [
            Mixed.of([picture, self.caption_ids(text) if text else []], self.vocabulary)
            for picture, text in zip(vectors, asked, strict=True)
        ]
        reading, state = self.prefill(rows)
        said: list[list[int]] = [[] for _ in rows]
        going = torch.ones(len(rows), dtype=torch.bool, device=self.device)
        for _ in range(most):
            ids = self.text_logits(state).argmax(dim=1)
            going &= (ids != self.end) & (ids != self.vocabulary.begin)
            if not bool(going.any()):
                break
            for row in going.nonzero().flatten().tolist():
                said[row].append(int(ids[row]))
            state = self.say(ids, going, reading)
        return [str(self.tokenizer.decode(ids)) for ids in said]

    def text_logits(self, states: Tensor) -> Tensor:
        """(M, V) logits of text; what only stands for pictures, pads or begins a text is never
        said."""
        logits, vocabulary = head_logits(self.lm, states).float(), self.vocabulary
        logits[:, vocabulary.offset : vocabulary.offset + vocabulary.codes] = -torch.inf
        never = {vocabulary.pad, vocabulary.end, vocabulary.start} - {None, self.end}
        logits[:, sorted(i for i in never if i is not None)] = -torch.inf
        return logits

    def parts(self, row: Mixed) -> list[str | Tensor]:
        """Text and pictures (rows, columns, C) of a row."""
        assert self.tokenizer is not None
        found: list[str | Tensor] = []
        for part in parts_of(row, self.vocabulary, self.end):
            if isinstance(part, Tensor):
                found.append(part.view(*self.config.grid, self.dimensions))
            else:
                found.append(str(self.tokenizer.decode(part)))
        return found
