"""Distances, intervals, neighbours, diversity and likelihood against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from arra.encoders import PretrainedConfig, PretrainedEncoder
from arra.errors import InputError
from arra.generators.base import Batch, Output
from arra.metrics.bootstrap import (
    bootstrap,
    clustered_bootstrap,
    minimum_detectable_effect,
    paired_difference,
    ratio,
)
from arra.metrics.diversity import (
    feature_diversity,
    ms_ssim,
    pairs_within,
    scales_for,
    ssim_diversity,
)
from arra.metrics.frechet import (
    Gaussian,
    distance_to_statistics,
    expected_floor,
    fd_infinity,
    frechet_distance,
    frechet_floor,
    gaussian_distance,
    kernel_distance,
    normalised,
    sample_distance,
)
from arra.metrics.image_text import image_text_score
from arra.metrics.likelihood import held_out_bits, picture_bits
from arra.metrics.manifold import manifold_scores
from arra.metrics.memorisation import memorisation
from arra.metrics.neighbours import nearest
from arra.metrics.towers import HubTowers


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Fréchet and kernel distances


def test_gaussian_distance_equals_the_closed_form_for_commuting_covariances() -> None:
    a = Gaussian(np.array([1.0, 2.0, 0.0]), np.diag([4.0, 1.0, 9.0]))
    b = Gaussian(np.array([0.0, 2.0, 2.0]), np.diag([1.0, 1.0, 0.0]))
    # |m|^2 = 5; per axis (s1 - s2)^2 = 1, 0, 9
    assert gaussian_distance(a, b) == pytest.approx(15.0, abs=1e-12)
    assert gaussian_distance(b, a) == pytest.approx(15.0, abs=1e-12)
    assert gaussian_distance(a, a) == pytest.approx(0.0, abs=1e-12)


def test_gaussian_distance_equals_the_formula_with_scipy_sqrtm() -> None:
    from scipy.linalg import sqrtm

    rng = _rng(1)
    x, y = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(40, 6)) + 0.5
    a, b = Gaussian.of(x), Gaussian.of(y)
    root = np.real(sqrtm(a.covariance @ b.covariance))
    gap = a.mean - b.mean
    expected = gap @ gap + np.trace(a.covariance + b.covariance - 2 * root)
    assert gaussian_distance(a, b) == pytest.approx(float(expected), rel=1e-9)
    measured = frechet_distance(x, y, encoder="six numbers", normalise="none")
    assert measured.value == pytest.approx(float(expected), rel=1e-9)
    assert measured.encoder == "six numbers"
    assert "six numbers" in str(measured)


@pytest.mark.parametrize("sizes", [(9, 12), (40, 9), (60, 50)])
def test_distance_of_few_samples_equals_that_of_their_gaussians(sizes) -> None:
    rng = _rng(12)
    mixed = rng.normal(size=(20, 20))
    x, y = (rng.normal(size=(n, 20)) @ mixed + shift for shift, n in enumerate(sizes))
    expected = gaussian_distance(Gaussian.of(x), Gaussian.of(y))
    assert sample_distance(x, y) == pytest.approx(expected, rel=1e-6)
    given = distance_to_statistics(Gaussian.of(x), y, encoder="e")
    assert given.value == pytest.approx(expected, rel=1e-6)
    assert given.n == sizes[1]


def test_statistics_travel_in_files_and_damaged_ones_are_refused(tmp_path) -> None:
    x = _rng(13).normal(size=(30, 5))
    path = tmp_path / "reference.npz"
    Gaussian.of(x).save(path)
    assert gaussian_distance(Gaussian.load(path), Gaussian.of(x)) == pytest.approx(0, abs=1e-9)
    with np.load(path) as arrays:  # the names that clean-fid and ADM use
        assert sorted(arrays.files) == ["mu", "sigma"]
    for arrays, complaint in (
        ({"mu": np.zeros(3)}, "mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "do not fit"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 5.0], [0.0, 1.0]])}, "symmetric"),
        ({"mu": np.array([np.nan]), "sigma": np.eye(1)}, "finite"),
        ({"mu": np.array([None]), "sigma": np.eye(1)}, "mu and sigma"),  # a pickle inside
    ):
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=complaint):
            Gaussian.load(path)


def test_standardised_distance_ignores_the_units_of_the_features() -> None:
    rng = _rng(2)
    x, y = rng.normal(size=(60, 4)), rng.normal(size=(60, 4)) + 0.3
    units = np.array([1.0, 1000.0, 0.01, 5.0])
    plain = frechet_distance(x, y, encoder="e").value
    assert frechet_distance(x * units, y * units, encoder="e").value == pytest.approx(plain)
    mixed = rng.normal(size=(4, 4))
    white = frechet_distance(x, y, encoder="e", normalise="whiten").value
    turned = frechet_distance(x @ mixed, y @ mixed, encoder="e", normalise="whiten").value
    assert turned == pytest.approx(white)
    dead = np.hstack([x, np.ones((60, 1))])
    assert normalised(dead, [dead], "standardise")[0].shape == (60, 4)


def test_floor_formula_agrees_with_simulation() -> None:
    rng = _rng(3)
    d, n = 16, 80
    values = [
        gaussian_distance(
            Gaussian.of(rng.normal(size=(n, d))), Gaussian.of(rng.normal(size=(n, d)))
        )
        for _ in range(40)
    ]
    assert np.mean(values) == pytest.approx(expected_floor(d, n), rel=0.05)
    pool = rng.normal(size=(4 * n, d))
    floor = frechet_floor(pool, n, n, encoder="e", rng=rng, normalise="whiten", repeats=20)
    assert floor.details["expected"] == pytest.approx(expected_floor(d, n))
    assert floor.value == pytest.approx(expected_floor(d, n), rel=0.1)
    assert floor.interval is not None
    assert floor.interval.low < floor.value < floor.interval.high
    with pytest.raises(InputError, match="disjoint"):
        frechet_floor(pool, 3 * n, 2 * n, encoder="e", rng=rng)


def test_extrapolation_removes_the_bias() -> None:
    rng = _rng(4)
    d, n = 8, 400
    real, made = rng.normal(size=(n, d)), rng.normal(size=(n, d))
    made[:, 0] += 2.0  # true distance 4
    plain = frechet_distance(real, made, encoder="e", normalise="none").value
    line = fd_infinity(
        real, made, encoder="e", rng=rng, normalise="none", sizes=(40, 50, 66, 100, 200, 400)
    )
    assert line.slope > 0
    assert line.distances[0] > line.distances[-1] > line.measured.value
    assert line.distances[-1] == pytest.approx(plain)  # the largest size is all there is
    with pytest.raises(InputError, match="five sizes"):
        fd_infinity(real, made, encoder="e", rng=rng, sizes=(10, 20))
    # Averaged over samples the intercept is the truth, where the plain value is too large.
    found, biased = [], []
    for _ in range(8):
        x, y = rng.normal(size=(100, d)), rng.normal(size=(100, d))
        y[:, 0] += 2.0
        limit = fd_infinity(x, y, encoder="e", rng=rng, normalise="none", repeats=3)
        found.append(limit.measured.value)
        biased.append(frechet_distance(x, y, encoder="e", normalise="none").value)
    assert abs(np.mean(found) - 4.0) < 0.35 < np.mean(biased) - 4.0


def test_frechet_interval_brackets_the_value_and_bad_features_are_named() -> None:
    rng = _rng(5)
    x, y = rng.normal(size=(100, 4)), rng.normal(size=(100, 4)) + 1
    measured = frechet_distance(x, y, encoder="e", rng=rng, resamples=50)
    assert measured.interval is not None
    assert measured.interval.low < measured.value < measured.interval.high
    y[7, 2] = np.nan
    with pytest.raises(InputError, match="row 7"):
        frechet_distance(x, y, encoder="e")


def test_kernel_distance_is_the_naive_unbiased_estimate() -> None:
    rng = _rng(6)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(9, 3)) + 0.4

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(9) for j in range(9) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    found = kernel_distance(x, y, encoder="e", rng=rng, subset=9, subsets=2, normalise="none")
    assert found.value == pytest.approx(within / 72 - 2 * across / 81)


def test_kernel_distance_is_zero_on_average_for_equal_laws() -> None:
    rng = _rng(7)
    values = [
        kernel_distance(
            rng.normal(size=(60, 4)),
            rng.normal(size=(60, 4)),
            encoder="e",
            rng=rng,
            subset=60,
            subsets=1,
            normalise="none",
        ).value
        for _ in range(150)
    ]
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3.5 * error
    assert min(values) < 0  # a biased estimate could not be negative


# Neighbours


def test_manifold_scores_of_identical_and_disjoint_sets() -> None:
    rng = _rng(8)
    x = rng.normal(size=(120, 5))
    repeated = np.repeat(x[:20], 8, axis=0)  # radii of zero: the strict rule alone would fail
    for features in (x, repeated):
        same = manifold_scores(features, features, encoder="e", k=3, block=50)
        assert same.precision.value == same.recall.value == same.coverage.value == 1.0
        assert same.density.value >= 1.0
    assert manifold_scores(x, x, encoder="e", k=3).density.value == pytest.approx(1.0)
    apart = manifold_scores(x, x + 100, encoder="e", k=3)
    for score in (apart.precision, apart.recall, apart.density, apart.coverage):
        assert score.value == 0.0


def test_precision_and_recall_are_not_swapped() -> None:
    rng = _rng(9)
    real = np.concatenate([rng.normal(size=(100, 3)), rng.normal(size=(100, 3)) + 50])
    one_mode = rng.normal(size=(200, 3))
    scores = manifold_scores(real, one_mode, encoder="e")
    assert scores.precision.value > 0.8  # what is made looks real
    assert 0.35 < scores.recall.value < 0.55  # half of the real pictures are never made
    assert scores.coverage.value < 0.55


def test_nearest_finds_exact_copies_at_distance_zero() -> None:
    rng = _rng(10)
    keys = rng.normal(size=(40, 7)) * 1e4
    distance, index = nearest(keys[[3, 11]], keys, block=1)
    assert distance.tolist() == [0.0, 0.0]
    assert index.tolist() == [3, 11]
    queries = rng.normal(size=(30, 7)) * 1e4
    table = np.linalg.norm(queries[:, None] - keys[None], axis=2)
    distance, index = nearest(queries, keys, block=7)
    assert index.tolist() == table.argmin(axis=1).tolist()
    assert distance == pytest.approx(table.min(axis=1))


def test_memorisation_flags_copies_and_clears_fresh_pictures() -> None:
    rng = _rng(11)
    pictures = rng.integers(0, 256, size=(700, 4, 4, 3)).astype(np.uint8)
    training, heldout, fresh = pictures[:300], pictures[300:500], pictures[500:]
    honest = memorisation(fresh, training, heldout, encoder="none")
    assert honest.share.value < 0.05
    copying = np.concatenate([training[[5, 9]], fresh[:98]])
    found = memorisation(copying, training, heldout, encoder="none")
    assert found.share.value >= 0.02
    assert found.share.details["exact_copies"] == 2
    assert {(p.generated, p.training, p.distance) for p in found.closest[:2]} == {
        (0, 5, 0.0),
        (1, 9, 0.0),
    }
    assert len(found.closest) == 5
    everything = memorisation(training[:100], training, heldout, encoder="none")
    assert everything.share.value == 1.0
    # Root mean square in [0, 1]: black to white is 1.
    black, white = (np.full((1, 4, 4, 3), v, dtype=np.uint8) for v in (0, 255))
    assert memorisation(black, white, black, encoder="none").generated[0] == pytest.approx(1.0)


# Intervals


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    rng = _rng(12)
    hits = 0
    for _ in range(80):
        interval = bootstrap(rng.normal(size=40) + 3.0, rng=rng, resamples=200, level=0.9)
        hits += interval.low <= 3.0 <= interval.high
    assert 0.78 <= hits / 80 <= 0.975


def test_bootstrap_of_a_ratio_resamples_prompts_whole() -> None:
    right, asked = np.array([2.0, 0, 1, 3, 1] * 8), np.array([2.0, 1, 1, 3, 2] * 8)
    for method in ("percentile", "BCa"):
        found = bootstrap(right, asked, rng=_rng(13), statistic=ratio, method=method)
        again = bootstrap(right, asked, rng=_rng(13), statistic=ratio, method=method)
        assert found == again
        assert found.value == pytest.approx(7 / 9)
        assert 0.55 < found.low < found.value < found.high <= 1.0
    constant = bootstrap(np.ones(5), rng=_rng(13))
    assert (constant.low, constant.high) == (1.0, 1.0)


def test_clustered_interval_is_wider_when_seeds_differ() -> None:
    rng = _rng(14)
    table = rng.normal(size=(8, 60))
    still = clustered_bootstrap(table, rng=rng, resamples=400)
    moved = clustered_bootstrap(table + np.arange(8)[:, None] - 3.5, rng=rng, resamples=400)
    assert moved.value == pytest.approx(still.value)
    assert moved.high - moved.low > 3 * (still.high - still.low)


def test_paired_difference_is_scipys_paired_t_test() -> None:
    from scipy import stats

    arm, base = [0.71, 0.74, 0.69, 0.80], [0.66, 0.70, 0.68, 0.71]
    found = paired_difference(arm, base)
    reference = stats.ttest_rel(arm, base)
    bounds = reference.confidence_interval(0.95)
    assert found.p_value == pytest.approx(reference.pvalue)
    assert (found.interval.low, found.interval.high) == pytest.approx((bounds.low, bounds.high))
    assert "4 paired seeds" in found.statement()
    with pytest.raises(InputError, match="at least two seeds"):
        paired_difference([1.0], [0.0])


def test_detectable_effect_is_detected_that_often() -> None:
    from scipy import stats

    effect = minimum_detectable_effect(2.0, pairs=5)
    drawn = _rng(15).normal(effect, 2.0, size=(4000, 5))
    found = stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)
    assert minimum_detectable_effect(2.0, pairs=20) < effect


# Diversity


def test_ms_ssim_is_one_for_identical_pictures_and_less_for_others() -> None:
    rng = _rng(16)
    for side in (10, 24, 64, 176):
        x = rng.integers(0, 256, size=(3, side, side, 3)).astype(np.uint8)
        assert ms_ssim(x, x) == pytest.approx(np.ones(3))
        assert (ms_ssim(x, x[::-1])[[0, 2]] < 0.6).all()
    assert len(scales_for(24).weights) == 2
    assert len(scales_for(176).weights) == 5
    assert all(sum(scales_for(s).weights) == pytest.approx(1) for s in (10, 24, 64, 128, 176))
    with pytest.raises(InputError, match="too small"):
        scales_for(8)


def test_diversity_sees_a_collapsed_generator() -> None:
    rng = _rng(17)
    real = rng.integers(0, 256, size=(12, 16, 16, 3)).astype(np.uint8)
    groups = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    collapsed = real[np.asarray(groups) * 3]
    alike = ssim_diversity(collapsed, groups, real, groups, rng=rng)
    assert alike.generated.value == pytest.approx(1.0)
    assert alike.gap > 0.4
    near = feature_diversity(
        collapsed.reshape(12, -1), groups, real.reshape(12, -1), groups, encoder="pixels", rng=rng
    )
    assert near.generated.value == 0.0
    assert near.gap < 0
    pairs = pairs_within(groups, rng, most_per_group=2)
    assert len(pairs) == 8
    assert all(groups[a] == groups[b] and a < b for a, b in pairs)
    with pytest.raises(InputError, match="share a prompt"):
        feature_diversity(real[:, 0, 0], range(12), real[:, 0, 0], groups, encoder="e", rng=rng)


# Likelihood


def _batch() -> Batch:
    """Two samples packed in one row of 6, text target first; the last position is padding."""
    return Batch(
        tokens=torch.zeros(1, 6, dtype=torch.long),
        segment=torch.tensor([[0, 0, 0, 1, 1, -1]]),
        position=torch.tensor([[0, 1, 2, 0, 1, 0]]),
        target=torch.tensor([[3, 0, 1, 2, -100, -100]]),
        image=torch.tensor([[False, True, True, True, False, False]]),
        place=torch.tensor([[-1, 0, 1, 0, -1, -1]]),
    )


class _Fixed(torch.nn.Module):
    """Probabilities a half and a quarter, an eighth where text is predicted."""

    device = torch.device("cpu")

    def forward(self, batch: Batch) -> Output:
        law = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log().repeat(4, 1)
        return Output(law, batch.target[batch.target != -100], {})


def test_bits_of_a_hand_computed_example() -> None:
    batch = _batch()
    model = _Fixed()
    bits, tokens = picture_bits(model(batch), batch)
    assert bits == pytest.approx([1 + 2, 3])  # the text target (3 bits) does not count
    assert tokens.tolist() == [2, 1]
    model.train()
    result = held_out_bits(model, [batch, batch])  # type: ignore[arg-type]
    assert model.training
    assert result.per_token == pytest.approx(12 / 6)
    assert result.per_picture == pytest.approx(3.0)
    measured = result.measured(_rng(18), codec="toy")
    assert measured.details["codec"] == "toy"
    with pytest.raises(InputError, match="rows of logits"):
        picture_bits(Output(torch.zeros(3, 4), torch.zeros(3).long(), {}), batch)
    with pytest.raises(InputError, match="no batch"):
        held_out_bits(model, [])  # type: ignore[arg-type]


# Image and text


def test_image_text_score_tells_matched_from_wrong_pairs() -> None:
    rng = _rng(19)
    pictures = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    axes = np.eye(4) * [[1.0], [2.0], [3.0], [4.0]]
    score = image_text_score(
        pictures,
        ["a", "b", "c", "d"],
        picture_features=lambda p: axes,
        text_features=lambda t: axes[::-1] * 0 + np.eye(4),
        encoder="axes",
        rng=rng,
    )
    assert score.matched.value == pytest.approx(1.0)
    assert score.shuffled.value == pytest.approx(0.0)
    slanted = image_text_score(
        pictures,
        ["a", "b", "c", "d"],
        picture_features=lambda p: axes + 1,
        text_features=lambda t: np.eye(4),
        encoder="axes",
        rng=rng,
    )
    a = (axes + 1) / np.linalg.norm(axes + 1, axis=1, keepdims=True)
    assert slanted.matched.value == pytest.approx(np.trace(a) / 4)
    assert slanted.shuffled.value == pytest.approx((a.sum() - np.trace(a)) / 12)


def test_clip_towers_equal_the_transformers_model(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    small["num_attention_heads"] = 2
    letters = [*"abcdeghlnorstu", *(c + "</w>" for c in "abcdeghlnorstu")]
    specials = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate([*letters, *specials])}
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 12}
    text |= {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config={**small, **text},
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(tmp_path)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(tmp_path)
    CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(tmp_path)
    towers = HubTowers(tmp_path, batch=2)
    pictures = _rng(20).integers(0, 256, size=(3, 24, 24, 3)).astype(np.uint8)
    captions = ["a red one", "a seal", "a blue hat on another late train"]
    a, b = towers.picture_features(pictures), towers.text_features(captions)
    assert a.shape == b.shape == (3, 8)
    lengths = [towers.length(caption) for caption in captions]
    assert towers.longest == 12
    assert [length > 12 for length in lengths] == [False, False, True]
    model = CLIPModel.from_pretrained(tmp_path).eval()
    pixels = CLIPImageProcessor.from_pretrained(tmp_path)(list(pictures), return_tensors="pt")
    ids = towers.tokenizer(
        captions, padding=True, truncation=True, max_length=12, return_tensors="pt"
    )
    with torch.no_grad():
        full = model(**ids, pixel_values=pixels["pixel_values"])
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    assert unit[0] == pytest.approx(full.image_embeds.numpy(), abs=1e-5)
    assert unit[1] == pytest.approx(full.text_embeds.numpy(), abs=1e-5)
    # an encoder made of its picture tower is recognised, with the projection and without
    for cls in ("pooled", "projected"):
        teacher = PretrainedEncoder(PretrainedConfig(str(tmp_path), cls=cls))  # type: ignore[arg-type]
        assert teacher.identity()["weights"] in towers.identities
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        HubTowers(tmp_path / "empty")


def test_siglip_towers_read_captions_padded_to_their_full_length(tmp_path):  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SiglipConfig,
        SiglipImageProcessor,
        SiglipModel,
        ViTConfig,
        ViTModel,
    )

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    small["num_attention_heads"] = 2
    words = ["<pad>", "</s>", "<unk>", "a", "red", "one", "seal", "on", "another", "train"]
    text = {"vocab_size": len(words), "max_position_embeddings": 6, "projection_size": 16}
    vision = {"image_size": 16, "patch_size": 8}
    config = SiglipConfig(text_config={**small, **text}, vision_config={**small, **vision})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SiglipModel(config).save_pretrained(tmp_path)
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    towers = HubTowers(tmp_path, batch=2)
    pictures = _rng(20).integers(0, 256, size=(3, 24, 24, 3)).astype(np.uint8)
    captions = ["a red one", "a seal", "a red one on another train"]
    a, b = towers.picture_features(pictures), towers.text_features(captions)
    assert (towers.longest, towers.published) == (6, False)
    model = SiglipModel.from_pretrained(tmp_path).eval()
    pixels = SiglipImageProcessor.from_pretrained(tmp_path)(list(pictures), return_tensors="pt")
    ids = tokenizer(captions, padding="max_length", max_length=6, return_tensors="pt")["input_ids"]
    assert ids.shape == (3, 6)
    with torch.no_grad():
        full = model(input_ids=ids, pixel_values=pixels["pixel_values"])
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    assert unit[0] == pytest.approx(full.image_embeds.numpy(), abs=1e-5)
    assert unit[1] == pytest.approx(full.text_embeds.numpy(), abs=1e-5)
    alone = towers.text_features(captions[1:2])  # the company of longer captions changes nothing
    assert alone[0] == pytest.approx(b[1], abs=1e-6)
    teacher = PretrainedEncoder(PretrainedConfig(str(tmp_path)))
    assert teacher.identity()["weights"] in towers.identities
    ViTModel(ViTConfig(**small, image_size=16, patch_size=8)).save_pretrained(tmp_path / "vit")
    with pytest.raises(InputError, match="'vit', expected clip or siglip"):
        HubTowers(tmp_path / "vit")
