"""Raster generation over an unmodified Hugging Face causal language model.

The sequence is [start] text <boi> x_1 ... x_n <eoi>; the model *is* the language model with a
longer vocabulary (LlamaGen, arXiv 2406.06525, and ARRA, arXiv 2503.07334, with text as ordinary
tokens). Its folder loads with `AutoModelForCausalLM` and `AutoTokenizer`; one file beside them,
`arra.json`, says which ids are picture codes and how large the grid is.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from arra.adapters.lora import adapt, frozen_fingerprint, is_adapted, merge
from arra.codecs.base import Codec
from arra.codecs.streams import ByteStream
from arra.errors import InputError
from arra.files import read_json, to_plain, write_json
from arra.generators.adapted import Adapted, load_base, read_adapter, write_adapter
from arra.generators.attention import attention
from arra.generators.base import Batch, CodeGenerator, Output
from arra.generators.batches import RasterBatches, Store
from arra.generators.native import own_vocabulary
from arra.generators.vocabulary import ImageVocabulary, add_image_tokens, as_chat, ending
from arra.networks.cache import KVCache, left_padded
from arra.networks.language_model import (
    causal_lm_of,
    checkpointed_activations,
    compile_blocks,
    decoder_blocks,
    early_states,
    head_logits,
    hidden_states,
    llama_config,
    load_causal_lm,
    mask_for,
    model_settings,
    unbranching,
)
from arra.networks.part import config_from_plain
from arra.networks.rows import extend_vocabulary, paint_rows
from arra.networks.tables import token_tables
from arra.networks.unpadded import Places
from arra.networks.unpadded_decoder import UnpaddedDecoder
from arra.orders.trees import Trees
from arra.progress import without_library_bars
from arra.randomness import seeded
from arra.registry import generators
from arra.settings import AdapterConfig, BatchConfig, LlamaSize, RowInit, Sizes

SIDE_FILE = "arra.json"


@dataclass(frozen=True)
class RasterConfig:
    """What a raster generator is, beside the configuration of its language model."""

    vocabulary: ImageVocabulary
    """Where picture codes stand among the token ids."""
    grid: tuple[int, int]
    """Rows and columns of codes; of the blocks of a picture where codes are a stream of bytes."""
    language_model: dict[str, Any] = field(default_factory=dict)
    """The Hugging Face configuration, as its `to_dict` gives it."""
    codec: str = ""
    """Fingerprint of the codec whose codes the model draws."""
    adapted: Adapted | None = None
    """Adapter, where the weights of the language model are not trained themselves."""
    stream: ByteStream | None = None
    """What the codes mean where they are the bytes of a file (JPEG-LM, arXiv 2408.08459): pictures
    then have as many codes as they take, and the code that ends them is <eoi>."""
    backspace: int | None = None
    """Id of the token that takes the last one back, if the model has learnt one (`backspacing`)."""


@generators.register("raster")
class RasterGenerator(CodeGenerator):
    """A causal language model that draws codes in raster order."""

    Config = RasterConfig
    config: RasterConfig

    def __init__(
        self,
        config: RasterConfig,
        lm: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        super().__init__(config)
        if lm is None:
            lm = causal_lm_of(config.language_model)
        self.tables = token_tables(lm)
        if self.tables.rows < config.vocabulary.size:
            raise InputError(
                f"language model: {self.tables.rows} embedding rows, expected "
                f"{config.vocabulary.size}; resize_token_embeddings was not called"
            )
        for module in self.tables.unused():
            module.requires_grad_(False)
        self.lm = lm
        self.tokenizer = tokenizer
        text = lm.config.get_text_config()
        self.width, self.depth = text.hidden_size, len(decoder_blocks(lm))

    # ---- making one ----------------------------------------------------------------------------

    @classmethod
    def for_store(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codec: Codec,
        grid: tuple[int, int],
        sizes: Sizes,
        *,
        seed: int,
        longest: int = 0,
    ) -> Self:
        if codec.stream is None and len(codec.codes_axes) != 2:
            raise InputError(
                f"a {codec.registered_name} codec: its codes are no grid, which a raster generator "
                "draws; train another generator (--generator) or prepare with another codec"
            )
        units = grid[0] * grid[1] if codec.stream is None else codec.stream.longest
        positions = longest + units + 2
        size = replace(sizes.llama, positions=max(sizes.llama.positions, positions))
        return cls.from_scratch(
            tokenizer,
            codec.vocabulary,
            grid,
            size,
            seed=seed,
            codec=codec.fingerprint(),
            appearance=codec.appearance(),
            stream=codec.stream,
        )

    @classmethod
    def from_scratch(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codes: int,
        grid: tuple[int, int],
        size: LlamaSize | None = None,
        *,
        seed: int,
        codec: str = "",
        appearance: Tensor | None = None,
        stream: ByteStream | None = None,
    ) -> Self:
        """A small Llama with random weights (a function of `seed`) over text and `codes` codes.

        `appearance` (codes, d) says what the codes look like (`Codec.appearance`): their embeddings
        then begin as a random projection of it, so that codes which look alike are near each other.
        `stream` is that of the codec, where it has one.
        """
        size = size or LlamaSize()
        vocabulary = ending(add_image_tokens(tokenizer, codes), stream)
        config = llama_config(
            size,
            max(vocabulary.size, len(tokenizer)),
            bos_token_id=vocabulary.start,
            eos_token_id=vocabulary.end,
            pad_token_id=vocabulary.pad,
        )
        with seeded(seed):
            lm = AutoModelForCausalLM.from_config(config)
            if appearance is not None:
                if appearance.ndim != 2 or len(appearance) != codes:
                    shape = tuple(appearance.shape)
                    raise InputError(f"appearance: {shape}, expected a row for each of {codes}")
                paint_rows(lm, vocabulary.offset, appearance)
        made = RasterConfig(vocabulary, grid, config.to_dict(), codec, stream=stream)
        return cls(made, lm, tokenizer)

    @classmethod
    def from_language_model(
        cls,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        codes: int,
        grid: tuple[int, int],
        *,
        seed: int = 0,
        codec: str = "",
        rows: RowInit = "mean",
        chat: bool = False,
        stream: ByteStream | None = None,
    ) -> Self:
        """A pretrained language model, its vocabulary extended in place by `codes` picture codes.

        Rows of new tokens begin near the mean of the old ones or spread as they are (`rows`); those
        of tokens that the tokenizer already has, as that of a model which arra trained, stay. An
        image-native model (Chameleon, Emu3, Janus) is not extended: its own picture codes are used.
        With `chat` captions are a user's turn in the tokenizer's chat template.

        Raises `InputError` when an image-native model has another number of codes, or `chat` is
        wanted of a tokenizer without a template.
        """
        vocabulary = own_vocabulary(lm, tokenizer, grid)
        if vocabulary is None:
            known = len(tokenizer)
            vocabulary = ending(add_image_tokens(tokenizer, codes), stream)
            size = max(vocabulary.size, len(tokenizer))
            extend_vocabulary(lm, size, range(known, len(tokenizer)), rows, seed)
        elif vocabulary.codes != codes:
            raise InputError(
                f"language model: a {lm.config.model_type} with {vocabulary.codes} picture codes "
                f"of its own, not {codes}; prepare the store with its codec (--codec)"
            )
        if chat:
            vocabulary = as_chat(vocabulary, tokenizer)
        made = RasterConfig(vocabulary, grid, lm.config.to_dict(), codec, stream=stream)
        return cls(made, lm, tokenizer)

    def adapt(self, config: AdapterConfig, *, base: str, rows: RowInit, seed: int) -> None:
        """Train from now on an adapter on the frozen language model, and its picture rows in full.

        `base` is where the language model was loaded from, `rows` and `seed` what
        `from_language_model` was given: a saved adapter finds them again.
        """
        if config.kind == "none":
            return
        if self.config.backspace is not None:
            raise InputError(
                "adapter: a model that has a backspace is trained in full (merge first)"
            )
        adapted = Adapted(config, base, rows, seed)
        self.config = replace(self.config, adapted=adapted)
        self._put_adapter()
        adapted = replace(adapted, frozen=frozen_fingerprint(self.lm))
        self.config = replace(self.config, adapted=adapted)

    def _put_adapter(self) -> None:
        adapted, vocabulary = self.config.adapted, self.config.vocabulary
        assert adapted is not None
        pictures = range(vocabulary.offset, vocabulary.offset + vocabulary.codes)
        ids = {*vocabulary.control, *pictures} - {*vocabulary.after}
        adapt(self.lm, adapted.config, [i for i in ids if i < self.tables.text], adapted.seed)

    def merge(self) -> None:
        """Add the adapter, if there is one, to the weights: a plain language model, for good."""
        if is_adapted(self.lm):
            merge(self.lm)
            for module in self.tables.unused():
                module.requires_grad_(False)
        self.config = replace(self.config, adapted=None)

    @classmethod
    def tiny(cls) -> Self:
        from arra.data.tokenizer import train_text_tokenizer

        tokenizer = train_text_tokenizer(["a red 3 left of a blue 5", "a green 7 above it"])
        size = LlamaSize(width=32, depth=2, heads=2, feed_forward=48, positions=64)
        return cls.from_scratch(tokenizer, 16, (3, 3), size, seed=0)

    # ---- saving --------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        settings = {**super()._settings(), "language_model": model_settings(self.lm)}
        for name in ("stream", "backspace"):
            if settings[name] is None:  # as those that were made before there were any
                del settings[name]
        if settings["adapted"] is not None:
            del settings["adapted"]["base"]  # a place, not what lies there
        return settings

    def _save_pretrained(self, save_directory: Path) -> None:
        if self.config.adapted is None:
            with without_library_bars():
                self.lm.save_pretrained(save_directory)
        else:  # the rest lies where the pretrained model lies
            write_adapter(self.lm, save_directory)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)
        plain = to_plain(self.config)
        del plain["language_model"]  # stands in the model's own config.json
        write_json(save_directory / SIDE_FILE, {"generator": self.registered_name, **plain})

    @classmethod
    def from_pretrained(cls, source: str | Path, **kwargs: Any) -> Self:  # type: ignore[override]
        """Load a folder that `save_pretrained` wrote.

        Raises `InputError` when it is none, `ProvenanceError` when an adapter's pretrained model
        has other weights than when it was trained.
        """
        folder = Path(source)
        side = read_json(folder / SIDE_FILE)
        if side.pop("generator", None) != cls.registered_name:
            raise InputError(f"{folder / SIDE_FILE}: does not describe a raster generator")
        config = config_from_plain(RasterConfig, side, where=folder / SIDE_FILE)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with without_library_bars():
            if config.adapted is None:
                lm = load_causal_lm(folder, **kwargs)
            else:
                lm = load_base(config.adapted, config.vocabulary, tokenizer, kwargs)
        config = replace(config, language_model=lm.config.to_dict())
        generator = cls(config, lm, tokenizer)
        if config.adapted is not None:
            generator._put_adapter()
            read_adapter(lm, config.adapted, folder)
        return generator.eval()

    # ---- training ------------------------------------------------------------------------------

    def decoder_blocks(self) -> Sequence[nn.Module]:
        return list(decoder_blocks(self.lm))

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> RasterBatches:
        vocabulary, stream = self.config.vocabulary, self.config.stream
        return RasterBatches(store, vocabulary, config, features, replay, stream)

    def compile_blocks(self) -> None:
        """Compile the decoder blocks in place (`torch.compile`)."""
        compile_blocks(self.lm)

    def checkpointed_activations(self) -> AbstractContextManager[None]:
        """Within the block training keeps only each block's input and computes it again."""
        return checkpointed_activations(self.lm)

    def forward(
        self, batch: Batch, layers: Sequence[int] = (), soft: Tensor | None = None
    ) -> Output:
        """Logits and states; with `soft` (see `embed`) codes are read as mixtures."""
        plain = self.training and soft is None and batch.dies is None
        if plain and (decoder := UnpaddedDecoder.of(self.lm)):
            return self._unpadded(decoder, batch, layers)
        with hidden_states(self.lm, layers) as states:
            final = self.lm.get_decoder()(**self._inputs(batch, soft)).last_hidden_state
        supervised = batch.target >= 0
        logits = self.tables.logits(final[supervised], batch.image[supervised])
        return Output(logits, batch.target[supervised], states)

    def _unpadded(self, decoder: UnpaddedDecoder, batch: Batch, layers: Sequence[int]) -> Output:
        """`forward` on real positions alone: the same within rounding, and faster."""
        places = Places.of(batch.segment, batch.position)
        embedded = self.embedded(batch.tokens.flatten()[places.flat][None])[0]
        passed = decoder(embedded, places, layers)
        states = {n: places.spread(x, batch.tokens) for n, x in passed.states.items()}
        target = batch.target.flatten()[places.flat]
        supervised = (target >= 0).nonzero().squeeze(1)
        final = decoder.decoder.norm(passed.last.index_select(0, supervised))
        image = batch.image.flatten()[places.flat][supervised]
        return Output(self.tables.logits(final, image), target[supervised], states)

    def states(self, batch: Batch, layers: Sequence[int], soft: Tensor | None = None) -> Output:
        """The states of `forward` alone (there are no logits); no block beyond them is run."""
        if not layers:
            raise InputError("RasterGenerator.states: no layers, expected at least one")
        states = early_states(self.lm, layers, **self._inputs(batch, soft))
        nothing = batch.target.new_empty(0)
        return Output(states[max(layers)].new_empty(0, self.tables.rows), nothing, states)

    def embed(self, batch: Batch, soft: Tensor) -> Tensor:
        """(R, T, D) input embeddings in which codes are mixtures of all codes' rows (GEAR).

        `soft` (B, n, K) weighs the K codes at each of the n places of each of the B samples; a row
        that is 1 at one code and 0 elsewhere gives that code's embedding, bit for bit. The gradient
        reaches `soft` (the last place's is 0 at all aligned states: nothing is predicted after it).
        """
        if batch.read is None:
            raise InputError("soft codes: this batch does not say which place a position reads")
        vocabulary, here = self.config.vocabulary, batch.read >= 0
        codes = torch.arange(vocabulary.codes, device=batch.tokens.device) + vocabulary.offset
        rows = self.embedded(codes[None])[0]
        with torch.autocast(rows.device.type, enabled=False):
            mixed = soft[batch.segment[here], batch.read[here]].to(rows.dtype) @ rows
        return self.embedded(batch.tokens).index_put((here,), mixed)

    def embedded(self, tokens: Tensor) -> Tensor:
        """(R, T, D) of tokens (R, T): as the model looks them up, some of which scale."""
        inputs = self.tables.inputs(tokens)
        own = inputs.get("inputs_embeds")
        return self.lm.get_input_embeddings()(tokens) if own is None else own

    def _inputs(self, batch: Batch, soft: Tensor | None) -> dict[str, Any]:
        mask, position = attention(batch)
        seen = {"attention_mask": mask_for(self.lm, mask), "position_ids": position}
        if soft is None:
            return {**self.tables.inputs(batch.tokens), **seen, "use_cache": False}
        return {"inputs_embeds": self.embed(batch, soft), **seen, "use_cache": False}

    def length(self, text: int) -> int:
        """Positions of a sequence with a caption of `text` ids."""
        vocabulary = self.config.vocabulary
        return len(vocabulary.prompt(range(text))) + len(vocabulary.picture(range(self.units)))

    # ---- text ----------------------------------------------------------------------------------

    @property
    def text_start(self) -> int | None:
        """Id of the token with which plain text begins, or None."""
        return None if self.tokenizer is None else self.tokenizer.bos_token_id

    @property
    def positions(self) -> int:
        """Longest sequence that the language model is made for."""
        most = getattr(self.lm.config.get_text_config(), "max_position_embeddings", None)
        return int(most or 2**30)

    def text_logits(self, ids: Tensor) -> Tensor:
        """(B, T, V) logits of plain text (B, T); padding stands on the right."""
        final = self.lm.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        return head_logits(self.lm, final)

    # ---- sampling ------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Number of codes in a picture; at most so many, where it ends by itself."""
        stream = self.config.stream
        return self.config.grid[0] * self.config.grid[1] if stream is None else stream.longest

    @property
    def end(self) -> int | None:
        """The code after which nothing is drawn any more, if there is one."""
        return None if self.config.stream is None else self.config.stream.end

    @property
    def codes(self) -> int:
        return self.config.vocabulary.codes

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        rows, columns = self.config.grid  # a list where it was read from a file
        return ((rows, columns),)

    @property
    def codes_shape(self) -> tuple[int, ...]:
        return self.grids[0] if (s := self.config.stream) is None else (s.longest,)

    def prompt_ids(self, caption: str | None) -> list[int]:
        """Token ids up to and with begin-of-image; None is the empty prompt of guidance."""
        ids = [] if caption is None else self.caption_ids(caption)
        return self.config.vocabulary.prompt(ids)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, KVCache]:
        """Read prompts of any lengths: logits (B, codes) of the first unit, and the cache."""
        tokens, real = left_padded(prompts, self.config.vocabulary.pad)
        cache = KVCache.empty(len(prompts), self.lm.config.get_text_config(), self.device)
        cache.prompt = tokens.shape[1]
        real = real.to(self.device)
        cache.state = self._read(tokens.to(self.device), *cache.extend(real), cache)[:, -1]
        return self.code_logits(cache.state), cache

    def step(self, codes: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, codes) of the next unit after `codes` (B,) were drawn; extends the cache."""
        vocabulary = self.config.vocabulary
        tokens = codes[:, None] + vocabulary.offset
        if vocabulary.row_end is not None:
            column = (cache.stored - cache.prompt) % (vocabulary.columns + 1)
            if column == vocabulary.columns - 1:
                tokens = F.pad(tokens, (0, 1), value=vocabulary.row_end)
        real = torch.ones_like(tokens, dtype=torch.bool)
        return self.code_logits(self._read(tokens, *cache.extend(real), cache)[:, -1])

    def undraftable(self, longest: int) -> str:
        if self.config.vocabulary.row_end is not None:
            return "its rows of codes end with a token, which is not drawn"
        return unbranching(self.lm, longest + self.units)

    def step_tree(self, codes: Tensor, trees: Trees, cache: KVCache) -> tuple[Tensor, Tensor]:
        """Logits (B, T, codes) of the unit after every node of a draft tree in each row, of `codes`
        (B, T), and what the head read for them (B, T, D); `cache.keep` then says which stay."""
        final = self._read(codes + self.config.vocabulary.offset, *cache.branch(trees), cache)
        logits = self.code_logits(final.flatten(0, 1)).unflatten(0, tuple(codes.shape))
        return logits, final

    def code_logits(self, final: Tensor) -> Tensor:
        """(M, codes): only codes are legal inside a picture, the others are never looked at."""
        vocabulary = self.config.vocabulary
        return self.tables.code_logits(final, vocabulary.offset, vocabulary.codes)

    def _read(self, tokens: Tensor, visible: Tensor, position: Tensor, cache: KVCache) -> Tensor:
        """(B, T, D) final states of new tokens (B, T); their keys and values join the cache."""
        return self.lm.get_decoder()(
            **self.tables.inputs(tokens),
            attention_mask=mask_for(self.lm, visible),
            position_ids=position,
            past_key_values=cache.past,
            use_cache=True,
        ).last_hidden_state
