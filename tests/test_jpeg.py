"""Bytes of standard files as codes: JPEG, byte-pair encoding, and a language model over them."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from transformers import AutoModelForCausalLM

from arra.codecs import JpegCodec, JpegConfig, PatchCodec, PatchConfig
from arra.codecs.base import Codec
from arra.codecs.byte_bpe import ByteBPE, to_bytes, to_text
from arra.codecs.jpeg_scan import cleaned
from arra.codecs.streams import ByteStream
from arra.data.tokenizer import train_text_tokenizer
from arra.errors import InputError, ProvenanceError
from arra.generators.batches import IGNORE, collate, sequence
from arra.generators.fast import decoding
from arra.generators.raster import RasterGenerator
from arra.metrics.likelihood import held_out_bits
from arra.pixels import to_uint8, to_unit
from arra.samplers.ancestral import AncestralSampler
from arra.settings import BatchConfig, LlamaSize, SamplingConfig

CAPTIONS = ("a red 3", "a green 7 left of a blue 5", "")


def some_digits(count: int = 24, side: int = 16) -> np.ndarray:
    """(count, side, side, 3) uint8 grey digits."""
    grey = np.round(load_digits().images[:count] * (255 / 16)).astype(np.uint8)
    large = [np.array(Image.fromarray(x).resize((side, side), Image.BILINEAR)) for x in grey]
    return np.stack(large)[..., None].repeat(3, axis=-1)


def some_colours(count: int, side: int) -> np.ndarray:
    """(count, side, side, 3) uint8: smooth colours with a little noise."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.array(Image.fromarray(x).resize((side, side))) for x in small])


@pytest.fixture(scope="module")
def codec() -> JpegCodec:
    """Files of 2 x 2 units of 8 x 8 pixels."""
    return JpegCodec.fit(some_digits(64), JpegConfig((2, 2), 50, "grey", vocabulary=300))


# ---- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 16, 40])
@pytest.mark.parametrize("quality", [25, 50, 95])
def test_taking_the_tables_out_and_putting_them_back_loses_nothing(side, quality):
    """Pixel for pixel what Pillow reads of the plain file with the same settings."""
    pictures = some_digits(20, side)
    config = JpegConfig((side // 8, side // 8), quality, "grey")
    codec = JpegCodec.fit(pictures, config)
    painted = to_uint8(codec.decode(codec.encode(to_unit(pictures))))
    for picture, found in zip(pictures, painted, strict=True):
        out = io.BytesIO()
        Image.fromarray(picture).convert("L").save(
            out, "JPEG", quality=quality, restart_marker_blocks=1
        )
        plain = np.array(Image.open(out).convert("RGB"))
        assert np.array_equal(found, plain)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_colour_too(subsampling):
    unit = 16 if subsampling == "4:2:0" else 8
    pictures = some_colours(6, 64)
    codec = JpegCodec.fit(pictures, JpegConfig((64 // unit,) * 2, 25, subsampling))
    codes = codec.encode(to_unit(pictures))
    assert codec.valid(codes).all()
    for picture, found in zip(pictures, to_uint8(codec.decode(codes)), strict=True):
        out = io.BytesIO()
        Image.fromarray(picture).save(
            out, "JPEG", quality=25, subsampling=subsampling, restart_marker_blocks=1
        )
        assert np.array_equal(found, np.array(Image.open(out)))


def test_any_viewer_opens_the_files(codec):
    codes = codec.encode(to_unit(some_digits(4)))
    for data, painted in zip(codec.files(codes), to_uint8(codec.decode(codes)), strict=True):
        assert np.array_equal(np.array(Image.open(io.BytesIO(data)).convert("RGB")), painted)


def test_the_header_is_that_of_the_size_and_the_tables_are_those_of_the_quality():
    made = [JpegCodec(JpegConfig((2, 2), quality, "grey")) for quality in (25, 50)]
    assert torch.equal(made[0].header, made[1].header)
    assert len(made[0].header) == 49
    assert not torch.equal(made[0].tables, made[1].tables)
    other = JpegCodec(JpegConfig((2, 3), 25, "grey"))
    assert torch.equal(other.tables, made[0].tables)
    assert not torch.equal(other.header, made[0].header)
    assert made[0].fingerprint() != made[1].fingerprint() != other.fingerprint()


def test_markers_count_the_units_and_a_prompt_is_cut_behind_one():
    """255 of them at 256 x 256 pixels, 31 of which are FF D7; int(32 ratio) groups of eight blocks
    are what the official prompt keeps."""
    picture = some_colours(1, 256)
    codec = JpegCodec.seeded(JpegConfig(), 0)
    codes = codec.encode(to_unit(picture))
    body = codec.spell(codes)[0]
    marks = [body[i + 1] for i in range(len(body) - 1) if body[i] == 255 and body[i + 1]]
    assert marks == [0xD0 + n % 8 for n in range(255)]
    assert marks.count(0xD7) == 31
    for ratio in (0.25, 0.375, 0.5):
        groups = int(32 * ratio)
        prompt = codec.bpe.decode(codec.prompts(codes, 8 * groups)[0].tolist())
        official = b"\xff\xd7".join(body.split(b"\xff\xd7")[:groups]) + b"\xff\xd7"
        assert prompt == official
    with pytest.raises(InputError, match="blocks: 256"):
        codec.prompts(codes, 256)


def test_an_error_stays_in_its_unit(codec):
    """Whatever bit of a unit is flipped (no FF comes or goes), other units keep their pixels."""
    rng = np.random.default_rng(0)
    checked = 0
    for body in codec.spell(codec.encode(to_unit(some_digits(12)))):
        whole, ends = codec.read(body), [0, *codec.stream.ends_of_blocks(body), len(body) + 2]
        for block in range(4):
            place = int(rng.integers(ends[block], ends[block + 1] - 2))
            damaged = bytearray(body)
            damaged[place] ^= 1 << int(rng.integers(8))
            around = body[max(place - 1, 0) : place + 2]
            if 255 in around or damaged[place] == 255:
                continue
            gap = (codec.read(bytes(damaged)) != whole).any(axis=-1)
            gap[8 * (block // 2) :, 8 * (block % 2) :][:8, :8] = False
            assert not gap.any()
            checked += 1
    assert checked > 20


TINY = JpegCodec.tiny()


@given(st.binary(max_size=120))
@settings(deadline=None, max_examples=50)
def test_whatever_comes_has_the_right_size_and_sound_files_open(data):
    codec = TINY
    assert codec.read(data).shape == (16, 16, 3)
    assert cleaned(cleaned(data)) == cleaned(data)
    if codec.sound(data):
        Image.open(io.BytesIO(codec.file(data))).load()


def test_a_cut_off_file_is_read_as_far_as_it_goes(codec):
    body = codec.spell(codec.encode(to_unit(some_digits(1))))[0]
    whole, ends = codec.read(body), codec.stream.ends_of_blocks(body)
    for count in (1, 2, 3):
        half = codec.read(body[: ends[count - 1]])
        for block in range(count):
            here = np.s_[8 * (block // 2) : 8 * (block // 2) + 8, 8 * (block % 2) :][0:2]
            assert np.array_equal(half[here][:, :8], whole[here][:, :8])
        assert not np.array_equal(half, whole)
    assert codec.read(b"").shape == whole.shape


def test_valid_says_what_is_whole(codec):
    codes = codec.encode(to_unit(some_digits()))
    end = codec.stream.end
    assert codec.valid(codes).all()
    assert codec.opens(codes).all()
    cut = codes.clone()
    cut[:, 20:] = end
    assert not codec.valid(cut).any()
    row = codec.stream.content(codes[0].tolist())
    endless = torch.tensor([[*row, *[row[0]] * (codec.config.longest - len(row))]])
    after = codes[:1].clone()
    after[0, -1] = 3
    assert not codec.valid(endless).any()
    assert not codec.valid(after).any()
    body = codec.spell(codes)[0]
    for wrong in (b"\xff\xd1", b"\xff\xc4", b"\xff\xff"):
        assert not codec.sound(body.replace(b"\xff\xd0", wrong))
    assert not codec.sound(body + b"\x00")
    assert not codec.sound(body[:-1])


def test_another_encoders_tables_are_not_written_with_but_read_with(codec, tmp_path):
    codes = codec.encode(to_unit(some_digits(2)))
    codec.save_pretrained(tmp_path / "codec")
    again = Codec.from_pretrained(tmp_path / "codec")
    assert torch.equal(again.encode(to_unit(some_digits(2))), codes)
    assert again.stream == codec.stream
    changed = again.tables.clone()
    changed[20] += 1  # one step of quantisation
    again.tables = changed
    again._arrange()
    assert again.fingerprint() != codec.fingerprint()
    assert again.decode(codes).shape == codec.decode(codes).shape
    with pytest.raises(ProvenanceError, match="other tables"):
        again.encode(to_unit(some_digits(2)))


def test_a_file_without_room_is_refused():
    codec = JpegCodec.fit(some_digits(8), JpegConfig((2, 2), 50, "grey"))
    noise = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="longest"):
        codec.encode(to_unit(noise))


@pytest.mark.parametrize(
    "wrong",
    [{"quality": 0}, {"grid": (0, 2)}, {"subsampling": "4:1:1"}, {"vocabulary": 256}],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(InputError, match=f"JpegConfig.{next(iter(wrong))}"):
        JpegCodec(JpegConfig(**wrong))


# ---- byte-pair encoding ------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=8), st.binary(max_size=80))
@settings(deadline=None, max_examples=30)
def test_bytes_come_back(files, other):
    bpe = ByteBPE.learn(files, 280)
    for data, codes in zip([*files, other], bpe.encode([*files, other]), strict=True):
        assert bpe.decode(codes) == data
        assert to_bytes(to_text(data)) == data
    plain = ByteBPE()
    assert plain.encode([other]) == [list(other)]
    again = ByteBPE(bpe.merges)
    assert again.pieces == bpe.pieces
    assert again.encode([other]) == bpe.encode([other])


@given(st.lists(st.binary(min_size=2, max_size=12), min_size=1, max_size=6), st.binary(max_size=12))
@settings(deadline=None, max_examples=30)
def test_merges_are_applied_in_order(files, data):
    """As the definition says: the earliest merge that applies anywhere, until none does."""
    bpe = ByteBPE.learn(files, 264)
    rank = {pair: number for number, pair in reversed([*enumerate(bpe.merges)])}
    ids = {piece: code for code, piece in reversed([*enumerate(bpe.pieces)])}
    codes = list(data)
    while True:
        pairs = [(rank[p], i) for i, p in enumerate(itertools.pairwise(codes)) if p in rank]
        if not pairs:
            break
        place = min(pairs)[1]
        codes[place : place + 2] = [ids[bpe.pieces[codes[place]] + bpe.pieces[codes[place + 1]]]]
    assert bpe.encode([data]) == [codes]


def test_a_merge_of_what_is_not_there_is_refused():
    with pytest.raises(InputError, match="merges"):
        ByteBPE([(0, 256)])
    with pytest.raises(InputError, match="256"):
        ByteBPE.learn([b"a"], 255)


def test_blocks_are_completed_where_their_marker_is():
    """Also where a merge spans several of them, and where the two bytes are two codes."""
    pieces = ("00", "ff", "d0", "d1", "ffd0", "00ffd000", "ffd10000", "")
    stream = ByteStream(pieces, 9, ("ffd0", "ffd1"), cells=3)
    assert stream.completed([0, 4, 0, 6, 0]) == [-1, 0, -1, 1, -1, 2]
    assert stream.completed([0, 1, 2, 0, 1, 3]) == [-1, -1, 0, -1, -1, 1, 2]
    assert stream.completed([5, 6]) == [0, 1, 2]
    assert replace(stream, separators=()).completed([5, 6]) == [-1, -1, -1]
    assert replace(stream, cells=2).completed([5, 6]) == [0, 1, 0]  # the first cell of a frame
    assert stream.content([0, 7, 4, 7]) == [0]
    assert stream.spell([5, 1, 7]) == b"\x00\xff\xd0\x00\xff"


@pytest.mark.parametrize("across", [True, False])
def test_a_prompt_is_the_beginning_of_the_codes_where_no_merge_spans_blocks(across):
    pictures = some_digits(64)
    config = JpegConfig((2, 2), 10, "grey", vocabulary=320, across=across)
    codec = JpegCodec.fit(pictures, config)
    codes = codec.encode(to_unit(pictures))
    prompts = codec.prompts(codes, 2)
    mine = codes[:, : prompts.shape[1]]
    assert bool(torch.where(prompts < 0, True, prompts == mine).all()) == (not across)
    completed = [codec.stream.completed(codec.stream.content(row)) for row in codes.tolist()]
    every = [[place for place in row if place >= 0] == [0, 1, 2, 3] for row in completed]
    assert all(every) or across
    assert codec.files(codes) == JpegCodec.seeded(config, 0).files(
        JpegCodec.seeded(replace(config, longest=200), 0).encode(to_unit(pictures))
    )


# ---- squares of pixels -------------------------------------------------------------------------


def test_pixels_are_rounded_to_levels():
    pictures = some_digits(3)
    codes = PatchCodec.levels(16).encode(to_unit(pictures))
    assert torch.equal(codes, torch.from_numpy(np.round(pictures[..., 0] / 17.0)).long())
    every = PatchCodec.levels(256)
    assert np.array_equal(to_uint8(every.decode(every.encode(to_unit(pictures)))), pictures)
    colours = some_colours(2, 8)
    found = to_uint8(PatchCodec.levels(6, colour=True)(to_unit(colours)).reconstruction)
    assert np.array_equal(found, (np.round(colours / 51.0) * 51).astype(np.uint8))


def test_the_nearest_square_is_the_nearest_and_clusters_help():
    pictures = some_digits(40)
    codec = PatchCodec.fit(pictures, PatchConfig(4, 12))
    squares = codec.squares(to_unit(pictures[:4])).permute(0, 2, 3, 1)
    naive = (squares[..., None, :] - codec.table).square().sum(-1).argmin(-1)
    assert torch.equal(codec.encode(to_unit(pictures[:4])), naive)
    units = to_unit(pictures)
    untrained = PatchCodec.seeded(codec.config, 0)
    errors = [(c.decode(c.encode(units)) - units).square().mean() for c in (codec, untrained)]
    assert errors[0] < 0.5 * errors[1]
    assert torch.equal(codec.prompts(naive, 3), naive.flatten(1)[:, :3])


# ---- a language model over bytes ---------------------------------------------------------------


def make_generator(codec: JpegCodec, seed: int = 0) -> RasterGenerator:
    tokenizer = train_text_tokenizer([c for c in CAPTIONS if c])
    size = LlamaSize(width=32, depth=2, heads=2, feed_forward=48, positions=128)
    return RasterGenerator.from_scratch(
        tokenizer,
        codec.vocabulary,
        (2, 2),
        size,
        seed=seed,
        codec=codec.fingerprint(),
        stream=codec.stream,
    ).eval()


@pytest.fixture(scope="module")
def generator(codec) -> RasterGenerator:
    return make_generator(codec)


class SomeStore:
    """Rows of digits, their features the number of the row."""

    def __init__(self, generator, codes):
        self.codes = codes
        self.texts = [generator.tokenizer.encode(c, add_special_tokens=False) for c in CAPTIONS]

    def __len__(self):
        return len(self.texts)

    def text_lengths(self, indices):
        return np.array([len(self.texts[i]) for i in indices])

    def rows(self, indices, features=None):
        texts = [self.texts[i] for i in indices]
        row = {"row": torch.tensor(indices)[:, None]}
        return SimpleNamespace(text_ids=texts, codes=self.codes[indices], features=row)


def some_batch(generator, codec, layout="right"):
    codes = codec.encode(to_unit(some_digits(3)))
    config = BatchConfig(3, drop_caption=0.0, layout=layout, packed_length=256)
    return generator.batches(SomeStore(generator, codes), config).batch(0), codes


def test_a_picture_is_its_codes_and_the_end(generator, codec):
    """Loss up to and with the first end, none on what fills the row; a place for each block."""
    batch, codes = some_batch(generator, codec)
    vocabulary, end = generator.config.vocabulary, codec.stream.end
    for number, row in enumerate(batch.features["row"].squeeze(1).tolist()):
        mine = batch.segment == number
        content = codec.stream.content(codes[row].tolist())
        target = batch.target[mine & (batch.target != IGNORE)] - vocabulary.offset
        assert target.tolist() == [*content, end]
        assert torch.equal(batch.image[mine], batch.target[mine] != IGNORE)
        places = batch.place[mine & batch.image].tolist()
        assert [p for p in places if p >= 0] == [0, 1, 2, 3]
        data = b""
        for code, place in zip(content, places, strict=False):  # the marker has just been spelled
            before = len(codec.stream.ends_of_blocks(data))
            data += codec.stream.spelled[code]
            after = len(codec.stream.ends_of_blocks(data))
            assert place == (after - 1 if after > before else -1)
        assert places[-1] == 3
        read = batch.read[mine].tolist()
        assert read[-len(content) :] == places[:-1]  # read one position after it was predicted
    assert vocabulary.end == vocabulary.offset + end == generator.lm.config.eos_token_id


@pytest.mark.parametrize("layout", ["left", "packed"])
def test_padding_and_packing_change_nothing(generator, codec, layout):
    found = []
    for how in ("right", layout):
        batch, _ = some_batch(generator, codec, how)
        output = generator(batch)
        owner = batch.segment[batch.target >= 0]
        rows = batch.features["row"].squeeze(1)
        found.append({int(r): output.logits[owner == i] for i, r in enumerate(rows)})
    for row in range(3):
        torch.testing.assert_close(found[0][row], found[1][row], rtol=0, atol=2e-6)


def test_cached_equals_teacher_forced_and_nothing_sees_the_future(generator, codec):
    batch, codes = some_batch(generator, codec)
    vocabulary = generator.config.vocabulary
    logits, cache = generator.prefill([generator.prompt_ids(c) for c in CAPTIONS])
    steps = [logits, *(generator.step(unit, cache) for unit in codes.unbind(1)[:-1])]
    cached = torch.stack(steps, dim=1)
    output = generator(batch)
    owner = batch.segment[batch.target >= 0]
    for number, row in enumerate(batch.features["row"].squeeze(1).tolist()):
        forced = output.logits[owner == number][:, vocabulary.offset :][:, : vocabulary.codes]
        torch.testing.assert_close(cached[row, : len(forced)], forced, rtol=0, atol=3e-6)
    cut = batch.tokens.shape[1] // 2
    changed = batch.tokens.clone()
    changed[:, cut:] = changed[:, cut:].flip(1)
    before, after = (
        generator(replace(batch, tokens=t), layers=(2,)) for t in (batch.tokens, changed)
    )
    assert torch.equal(before.hidden[2][:, :cut], after.hidden[2][:, :cut])


class Oracle:
    """Knows what comes: the codes of one picture a row."""

    def __init__(self, codec: JpegCodec, codes: torch.Tensor):
        self.codes, self.end, self.vocabulary = codes, codec.stream.end, codec.vocabulary
        self.units, self.steps = codes.shape[1], 0

    def prompt_ids(self, caption):
        return [0]

    def _logits(self, unit):
        return 50.0 * torch.nn.functional.one_hot(self.codes[:, unit], self.vocabulary).float()

    def prefill(self, prompts):
        return self._logits(0), None

    def step(self, codes, cache):
        self.steps += 1
        return self._logits(self.steps)


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"top_k": 1}, {"temperature": 1.0}])
def test_an_oracle_writes_the_file_byte_for_byte_and_stops(codec, sampling):
    codes = codec.encode(to_unit(some_digits(5)))
    oracle, seen = Oracle(codec, codes), []
    sampler = AncestralSampler(SamplingConfig(guidance=1.0, **sampling))
    drawn = sampler(oracle, [None] * 5, range(5), on_unit=seen.append)
    assert torch.equal(drawn, codes)
    assert codec.files(drawn) == codec.files(codes)
    taken = (codes != codec.stream.end).sum(dim=1)
    assert oracle.steps == int(taken.max())  # the end itself is the last that is drawn
    assert sum(seen) == 5 * oracle.units


def test_drawing_is_the_same_in_any_company_and_stops_at_the_end(generator, codec):
    sampler = AncestralSampler(SamplingConfig(guidance=2.0))
    codes = sampler(generator, CAPTIONS, [1, 2, 3])
    apart = torch.cat(
        [sampler(generator, [c], [s]) for c, s in zip(CAPTIONS, (1, 2, 3), strict=True)]
    )
    assert torch.equal(codes, apart)
    ended = codes == codec.stream.end
    assert torch.equal(ended, ended.cummax(dim=1).values)  # nothing after the first
    assert codec.decode(codes).shape == (3, 3, 16, 16)


@pytest.mark.parametrize("captions", [CAPTIONS, CAPTIONS[:1]])
def test_our_decoders_draw_the_same(generator, captions):
    """Early stop included, which changes no picture: the plain steps without it end alike."""
    config = SamplingConfig(guidance=1.0)
    way = decoding(generator, 10**6, prompt=16)
    assert way.kind in ("native", "eager")
    fast = AncestralSampler(config)(way.stepper, captions, [4, 5, 6][: len(captions)])
    plain = AncestralSampler(config)(generator, captions, [4, 5, 6][: len(captions)])
    assert torch.equal(fast, plain)


def test_completions_keep_the_pixels_of_their_prompt(generator, codec):
    """Whatever an untrained model goes on with."""
    pictures = some_digits(6)
    codes = codec.encode(to_unit(pictures))
    whole, cut = to_uint8(codec.decode(codes)), codec.prompts(codes, 2)
    assert cut.min() == -1  # of different lengths
    sampler = AncestralSampler(SamplingConfig(guidance=1.0))
    for start in (0, 100):
        drawn = sampler(generator, [None] * 6, range(start, start + 6), prefix=cut)
        kept = torch.where(cut >= 0, cut, drawn[:, : cut.shape[1]])
        assert torch.equal(kept, drawn[:, : cut.shape[1]])
        painted = to_uint8(codec.decode(drawn))
        assert np.array_equal(painted[:, :8], whole[:, :8])
        assert not np.array_equal(painted[:, 8:], whole[:, 8:])


def test_a_prefix_may_be_ragged(generator):
    sampler = AncestralSampler(SamplingConfig(guidance=1.0))
    prefix = torch.tensor([[5, 6, 7], [5, -1, -1]])
    drawn = sampler(generator, [None, None], [1, 2], prefix=prefix)
    one = sampler(generator, [None], [1], prefix=prefix[:1])
    other = sampler(generator, [None], [2], prefix=prefix[1:, :1])
    assert torch.equal(drawn, torch.cat((one, other)))


def test_plain_transformers_loads_it_and_stops_at_the_end(generator, codec, tmp_path):
    generator.save_pretrained(tmp_path / "model")
    again = RasterGenerator.from_pretrained(tmp_path / "model")
    assert again.fingerprint() == generator.fingerprint()
    assert again.config.stream == codec.stream
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    vocabulary = generator.config.vocabulary
    assert lm.generation_config.eos_token_id == vocabulary.end
    with torch.no_grad():  # a model that likes the end above all
        lm.get_output_embeddings().weight[vocabulary.end] = 0
        lm.get_output_embeddings().weight[vocabulary.end] += 1e3 * lm.model.norm(
            lm.model(torch.tensor([generator.prompt_ids(None)])).last_hidden_state[0, -1]
        )
    ids = torch.tensor([generator.prompt_ids(None)])
    out = lm.generate(ids, do_sample=False, max_new_tokens=20)
    assert out[0, ids.shape[1] :].tolist() == [vocabulary.end]


def test_bits_of_a_segmentation_bound_those_of_the_bytes(codec):
    """The sum over tokens is the bits of this segmentation; all segmentations of the same bytes
    together are more likely, so the bytes take fewer bits."""
    generator, vocabulary = make_generator(codec), None
    vocabulary, stream = generator.config.vocabulary, codec.stream
    body = codec.spell(codec.encode(to_unit(some_digits(1))))[0]
    start = body.index(b"\xff\xd0") - 1
    data = body[start : start + 6]
    ways: list[list[int]] = []

    def split(rest: bytes, codes: list[int]) -> None:
        if not rest:
            ways.append(codes)
        for code, piece in enumerate(stream.spelled[:-1]):
            if rest.startswith(piece):
                split(rest[len(piece) :], [*codes, code])

    split(data, [])
    canonical = codec.bpe.encode([data])[0]
    assert len(ways) > 2
    assert canonical in ways

    def bits(codes: list[int]) -> float:
        sample = sequence([], codes, vocabulary, False, stream)
        return held_out_bits(generator, [collate([sample], {}, vocabulary.pad)]).per_picture

    everything = -math.log2(sum(2.0 ** -bits(codes) for codes in ways))
    assert everything < bits(canonical)
    ids = torch.tensor([[*vocabulary.prompt([]), *vocabulary.picture(canonical), vocabulary.end]])
    with torch.no_grad():
        law = generator.lm(ids).logits.log_softmax(-1)[0, :-1]
    taken = law.gather(1, ids[0, 1:, None])[-len(canonical) - 1 :].sum().item()
    assert bits(canonical) == pytest.approx(-taken / math.log(2), rel=1e-5)


def test_generators_of_places_are_what_they_were():
    """A configuration without a stream has the fingerprint that it had before there were any."""
    assert "stream" not in RasterGenerator.tiny()._settings()
