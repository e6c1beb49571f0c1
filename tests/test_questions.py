"""Questions from a listing or a scene to the store, the tokenizer, the command line, a measure."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arra import cli
from arra.data.blocks import ArrayPictures
from arra.data.captions import MOST_QUESTIONS, clean_questions
from arra.data.pictures import open_pictures
from arra.data.prepare import prepare, prepare_arrays
from arra.data.rows import BadRow, Question
from arra.data.scene_captions import is_true
from arra.data.scene_questions import questions
from arra.data.scenes import DigitScenes
from arra.data.subset import Subset
from arra.data.tokenizer import train_text_tokenizer
from arra.errors import InputError
from arra.jobs.evaluation_reading import OTHER, Shown, answers, captions
from arra.jobs.options import SourceOptions
from arra.jobs.sources import open_source, sample_pictures
from arra.metrics.understanding import answered, kind_of, likeliest_answers
from arra.text_to_image import TextToImage
from store_parts import PatchCodec, contents

CODEC = PatchCodec(PatchCodec.Config())
CAPTIONS = ["a red three", "a blue five on navy", "a green one"]
ASKED = (
    (Question("what colour ?", "red"), Question("which digit ?", "three")),
    (),
    (Question("how many ?", "one"),),
)


@pytest.fixture(scope="module")
def words():
    texts = [text for row in ASKED for one in row for text in (one.question, one.answer)]
    return train_text_tokenizer([*CAPTIONS, *texts], 64)


def arrays(folder, words, questions=ASKED, **options):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    source = ArrayPictures(pictures, CAPTIONS, questions=questions)
    settings = {"size": 8, "batch": 2, "quiet": True, **options}
    return prepare(source, folder, codec=CODEC, tokenizer=words, **settings)


# ---- store ---------------------------------------------------------------------------------------


def test_questions_come_back_as_texts_and_as_ids(tmp_path, words):
    store = arrays(tmp_path / "store", words, shard_rows=2)
    assert store.asks
    assert store.questions([2, 0, 1, 0]) == [ASKED[2], ASKED[0], (), ASKED[0]]
    ids = store.rows([1, 2, 0]).questions
    wanted = [
        [tuple(words(text)["input_ids"] for text in (q.question, q.answer)) for q in ASKED[row]]
        for row in (1, 2, 0)
    ]
    assert ids == wanted
    assert words.unk_token_id not in {
        i for row in ids for pair in row for part in pair for i in part
    }
    part = Subset(store, [2, 1])
    assert part.questions([0, 1]) == [ASKED[2], ()]
    assert part.asks
    assert store.longest_text() == max(len(words(c)["input_ids"]) for c in CAPTIONS) == 5


def test_the_longest_text_may_be_a_question_with_its_answer(tmp_path, words):
    long = Question("what colour which digit how many ?", "red three")
    store = arrays(tmp_path / "store", words, ((), (long,), ()))
    assert store.longest_text() == 9


def test_without_questions_a_store_is_what_it_was(tmp_path, words):
    """No column, no word in its provenance: what was made before still opens, and is not redone."""
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    options = {"codec": CODEC, "tokenizer": words, "batch": 2, "quiet": True}
    plain = prepare_arrays(pictures, CAPTIONS, tmp_path / "plain", **options)
    none = arrays(tmp_path / "none", words, ((), (), ()))
    assert contents(tmp_path / "plain") == contents(tmp_path / "none")
    assert "question" not in (tmp_path / "plain" / "store.json").read_text()
    assert not plain.asks
    assert none.rows([0, 1]).questions == []
    assert none.questions([0, 1]) == [(), ()]


def test_other_questions_are_another_store(tmp_path, words):
    arrays(tmp_path / "store", words)
    before = contents(tmp_path / "store")
    arrays(tmp_path / "store", words)
    assert contents(tmp_path / "store") == before
    other = (ASKED[0], (), (Question("how many ?", "three"),))
    with pytest.raises(InputError, match=r"source\.identity"):
        arrays(tmp_path / "store", words, other)
    with pytest.raises(InputError, match="questions: of 2 rows for 3"):
        arrays(tmp_path / "other", words, ASKED[:2])


def test_scenes_ask_when_told_to(tmp_path, words):
    plain, asking = (open_source("scenes:9", SourceOptions(scene_questions=n)) for n in (0, 3))
    assert not plain.asks
    assert "questions" not in plain.identity()
    assert asking.identity()["questions"] == 3
    assert asking.block(2, 4).questions == asking.block(0, 9).questions[2:4]
    assert all(len(row) == 3 for row in asking.block(0, 9).questions)
    assert asking.read(2).questions == asking.block(2, 3).questions[0]
    assert np.array_equal(plain.block(0, 9).pictures, asking.block(0, 9).pictures)
    sample = sample_pictures(asking, 24)
    assert {"?", "many"} & {word for text in sample.texts for word in text.split()}
    assert sample_pictures(plain, 24).texts == sample_pictures(plain, 24).captions
    assert len(sample.head(2).texts) == 2 + 2 * 2 * 3
    with pytest.raises(InputError, match="questions: -1"):
        open_source("scenes:9", SourceOptions(scene_questions=-1))


# ---- listings ------------------------------------------------------------------------------------


def listing(folder, rows):
    folder.mkdir()
    for number, row in enumerate(rows):
        Image.new("RGB", (8, 8), (9 * number, 0, 0)).save(folder / f"{number}.png")
        row.setdefault("image", f"{number}.png")
    lines = [json.dumps(row) for row in rows]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def test_questions_of_a_listing_are_read_and_bad_ones_named(tmp_path):
    asked = [{"question": " what\ncolour ?", "answer": "red", "kind": "ink"}]
    rows = [
        {"caption": "a", "questions": asked},
        {"caption": "b"},
        {"caption": "c", "questions": [{"question": "which ?"}]},
        {"caption": "d", "questions": [{"question": "which ?", "answer": " "}]},
        {"caption": "e", "questions": "which ?"},
        {"caption": "f", "questions": [{"question": 3, "answer": "x"}]},
    ]
    source = open_pictures(listing(tmp_path / "p", rows))
    assert source.asks
    assert [source.read(i).questions for i in range(2)] == [(Question("what colour ?", "red"),), ()]
    reasons = {bad.name: str(bad) for bad in source.problems if "line" in bad.name}
    for line, reason in {
        3: "a question is not an object with question and answer (question 1",
        4: "the answer is empty",
        5: "its questions are not a list (they are str)",
        6: "the question is not text (it is int)",
    }.items():
        assert reason in reasons[f"captions.jsonl line {line}"]
    before = source.identity()["sha256"]
    plain = [{"caption": "a"}, {"caption": "b"}]
    other = open_pictures(listing(tmp_path / "q", plain))
    assert not other.asks
    assert other.identity()["sha256"] != before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["question", "answer", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_whatever_stands_there_is_questions_or_a_bad_row(raw):
    try:
        found = clean_questions(raw, "row")
    except BadRow:
        return
    assert raw is None or len(found) == len(raw)
    assert all(one.question and one.answer for one in found)


def test_there_is_a_limit():
    one = {"question": "q", "answer": "a"}
    assert len(clean_questions([one] * MOST_QUESTIONS, "row")) == MOST_QUESTIONS
    with pytest.raises(BadRow, match="more questions"):
        clean_questions([one] * (MOST_QUESTIONS + 1), "row")


# ---- measures ------------------------------------------------------------------------------------


def test_the_likeliest_answer_of_a_kind():
    asked = [("how many digits ?", "two"), ("How many dots ?", "two"), ("how many ?", "one")]
    known = [Question(*pair) for pair in [*asked, ("what colour ?", "red")]]
    assert likeliest_answers(known) == {"how many": "two", "what colour": "red"}
    assert kind_of("Which  digit is blue ?") == "which digit"


def test_questions_of_a_picture_are_redrawn_together():
    """Ten equal answers a picture are worth one: the interval is that of the pictures' own."""
    once = np.random.default_rng(0).integers(0, 2, 40).astype(float)
    one = answered("a", once, np.arange(40), np.random.default_rng(1))
    ten = answered("a", np.repeat(once, 10), np.repeat(np.arange(40), 10), np.random.default_rng(1))
    assert (one.n, ten.n) == (40, 400)
    assert one.value == ten.value == once.mean()
    assert (one.interval.low, one.interval.high) == (ten.interval.low, ten.interval.high)
    assert answered("a", np.ones(2), np.zeros(2, int), np.random.default_rng(1)).interval is None


# ---- command line --------------------------------------------------------------------------------

TRAIN = (
    *("--steps", 2, "--batch.size", 8, "--llama.width", 32, "--llama.depth", 2, "--samples", 0),
    *("--llama.heads", 2, "--llama.feed-forward", 48, "--no-align", "--precision", "fp32"),
    *("--vectors.inner", 16, "--vectors.inner-depth", 1, "--vectors.steps", 2),
)
CELLS = ("--train-codec", "pixels", "--codec.downsample", 12)


def run(*arguments):
    return cli.run([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    root = tmp_path_factory.mktemp("work")
    asking = ("--scene-questions", 4)
    assert run("prepare", "scenes:80", *asking, "--out", root / "store", *CELLS) == 0
    kind = ("--generator", "masked-language")
    assert run("train", root / "store", "--out", root / "run", *kind, *TRAIN) == 0
    source = open_source("scenes:3", SourceOptions(split="test"))
    pictures = [root / f"{number}.png" for number in range(3)]
    for number, path in enumerate(pictures):
        source.read(number).image.save(path)
    return SimpleNamespace(root=root, run=root / "run", pictures=pictures)


def test_describe_says_what_the_model_says(work, capsys):
    capsys.readouterr()
    questions = ("--ask", "how many digits ?", "--ask", "a red", "--batch", 2)
    assert run("describe", work.run, *work.pictures, *questions, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["picture"], one["asked"]) for one in found] == [
        (str(path), asked) for path in work.pictures for asked in ("how many digits ?", "a red")
    ]
    model = TextToImage.from_pretrained(work.run, "cpu")
    pixels = np.stack([np.asarray(Image.open(path)) for path in work.pictures])
    assert [one["text"] for one in found[1::2]] == model.describe(pixels, ["a red"] * 3)
    assert run("describe", work.run, work.pictures[0], "--most", 3) == 0
    out = capsys.readouterr().out
    (said,) = model.describe(pixels[:1], most=3)
    assert out.strip() == f"{work.pictures[0]}: {said}".strip()
    heard = model.generator.caption_ids("how many ?")
    assert model.generator.tokenizer.unk_token_id not in heard
    with pytest.raises(InputError, match="expected uint8"):
        model.describe(pixels[:, :12])


def test_wrong_descriptions_are_explained(work, capsys):
    (work.root / "words.png").write_text("no picture")
    for arguments, message in (
        ((work.run, work.root / "none.png"), "there is no such file"),
        ((work.run, work.root / "words.png"), "not a picture"),
        ((work.run, work.pictures[0], "--ask", " "), "--ask 1: the question is empty"),
        ((work.run, work.pictures[0], "--most", 0), "most 0"),
        ((work.root, work.pictures[0]), "no checkpoint here"),
    ):
        assert run("describe", *arguments) == 2
        assert message in capsys.readouterr().err


def test_evaluation_measures_reading_beside_drawing(work, capsys):
    settings = ("--count", 24, "--diversity-seeds", 0)
    capsys.readouterr()
    arguments = ("evaluate", work.run, "--out", work.root / "held", *settings)
    assert run(*arguments, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    values = {one["name"]: one for one in result["measures"]}
    for what in ("exact captions", "exact answers"):
        assert values[what]["interval"]["low"] <= values[what]["value"] <= 1
        assert f"{what}, another picture" in values
    assert values["exact captions"]["n"] == 4  # held-out rows
    assert values["exact answers"]["n"] == 16
    assert values["exact answers, the most frequent of the kind"]["value"] > 0
    assert "true captions" not in values

    scenes = ("--scenes", "--reader-steps", 2)
    arguments = ("evaluate", work.run, "--out", work.root / "scenes", *settings, *scenes)
    assert run(*arguments, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    values = {one["name"]: one for one in result["measures"]}
    assert values["true captions"]["n"] == 24
    assert values["true captions"]["value"] >= values["exact captions"]["value"]
    kinds = [name for name in values if name.startswith("exact answers, ")]
    assert "exact answers, how many" in kinds
    assert "prompt accuracy, digit" in values
    assert any(note.startswith("Captions and answers") for note in result["notes"])


def test_who_cannot_read_says_so(tmp_path, capsys):
    prepared = ("prepare", "scenes:40", "--out", tmp_path / "store", *CELLS)
    assert run(*prepared) == 0
    kind = ("--generator", "masked-vectors")
    assert run("train", tmp_path / "store", "--out", tmp_path / "run", *kind, *TRAIN) == 0
    Image.new("RGB", (24, 24)).save(tmp_path / "a.png")
    capsys.readouterr()
    assert run("describe", tmp_path / "run", tmp_path / "a.png") == 2
    assert "a masked-vectors generator draws and does not read" in capsys.readouterr().err
    arguments = ("--out", tmp_path / "out", "--count", 2, "--diversity-seeds", 0, "--json")
    assert run("evaluate", tmp_path / "run", *arguments) == 0
    skipped = json.loads(capsys.readouterr().out)["skipped"]
    assert skipped["captions"] == skipped["answers"]
    assert "draws and does not read" in skipped["answers"]


def test_a_true_reader_is_right_about_everything():
    """The measure itself: a model that knows the truth, and one that sees another picture."""
    scenes = DigitScenes(split="test")
    found = [scenes.prompt(i) for i in range(60)]
    asked = [questions(scene, scenes.config) for scene in found]
    texts = [scene.caption for scene in found]
    shown = Shown(torch.arange(60), texts, asked, found)

    def describe(codes, prompts=None):
        if prompts is None:
            return [texts[int(code)] for code in codes]
        known = [{one.question: one.answer for one in asked[int(code)]} for code in codes]
        return [one.get(prompt, "no") for one, prompt in zip(known, prompts, strict=True)]

    class Rows(list):
        def questions(self, rows):
            return [self[row] for row in rows]

    evidence = SimpleNamespace(
        shown=shown,
        config=scenes.config,
        model=SimpleNamespace(reader=SimpleNamespace(describe=describe)),
        ground=SimpleNamespace(training=Rows(asked)),
    )
    rng = np.random.default_rng(0)
    values = {one.name: one.value for one in captions(evidence, rng)}
    assert values["exact captions"] == values["true captions"] == 1.0
    assert values[f"true captions{OTHER}"] < 0.1
    assert is_true(texts[0], found[0], scenes.config)
    values = {one.name: one.value for one in answers(evidence, rng)}
    assert values["exact answers"] == values["exact answers, which digit"] == 1.0
    assert values[f"exact answers{OTHER}"] < 0.5
    assert 0.1 < values["exact answers, the most frequent of the kind"] < 0.7
