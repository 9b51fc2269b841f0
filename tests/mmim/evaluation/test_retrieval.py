from math import comb

import numpy as np
import pytest
from scipy.stats import bootstrap, hypergeom
from sklearn.metrics import label_ranking_average_precision_score, top_k_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity

from mmim.errors import DataError
from mmim.evaluation.retrieval import PLACES, Retrieval, retrieve

N = 120
RNG = np.random.default_rng(0)
CONTENT = RNG.normal(size=(N, 8))
QUERIES, CANDIDATES = (CONTENT + 0.8 * RNG.normal(size=(N, 8)) for _ in range(2))
GROUPS = [f"group {i}" for i in RNG.integers(30, size=N)]


def values(found: Retrieval) -> list[float]:
    return [*(found.recall[k].value for k in PLACES), found.median_rank.value]


def chances(found: Retrieval) -> list[float]:
    return [*(found.chance[k] for k in PLACES), found.chance_rank]


def ranks(queries, candidates, right) -> np.ndarray:
    """The first right place of each query, sorted in full; there are no ties."""
    order = np.argsort(-cosine_similarity(queries, candidates), axis=1)
    return np.take_along_axis(right, order, axis=1).argmax(axis=1) + 1


def test_recall_is_scikit_learns_top_k_accuracy():
    found = retrieve(QUERIES, CANDIDATES)
    cosines = cosine_similarity(QUERIES, CANDIDATES)
    for k in PLACES:
        assert found.recall[k].value == pytest.approx(top_k_accuracy_score(np.arange(N), cosines, k=k))
    assert 0.1 < found.recall[1].value < 0.9


def test_ranks_are_those_of_scikit_learns_label_ranking():
    first = ranks(QUERIES, CANDIDATES, np.eye(N, dtype=bool))
    assert label_ranking_average_precision_score(np.eye(N), cosine_similarity(QUERIES, CANDIDATES)) == pytest.approx(
        (1 / first).mean()
    )
    assert retrieve(QUERIES, CANDIDATES).median_rank.value == np.sort(first)[(N - 1) // 2]


def test_with_groups_the_first_candidate_of_the_group_counts():
    named = np.array(GROUPS)
    first = ranks(QUERIES, CANDIDATES, named[:, None] == named)
    expected = [*((first <= k).mean() for k in PLACES), np.sort(first)[(N - 1) // 2]]
    assert values(retrieve(QUERIES, CANDIDATES, GROUPS)) == pytest.approx(expected)
    assert retrieve(QUERIES, CANDIDATES, GROUPS).recall[1].value > retrieve(QUERIES, CANDIDATES).recall[1].value


def test_groups_of_one_are_no_groups():
    assert retrieve(QUERIES, CANDIDATES, [str(i) for i in range(N)]) == retrieve(QUERIES, CANDIDATES)


def test_chance_is_k_of_n_and_the_median_rank_half_of_n():
    found = retrieve(QUERIES, CANDIDATES)
    assert chances(found) == pytest.approx([1 / N, 5 / N, 10 / N, N / 2])


def test_chance_of_groups_is_hypergeometric():
    found = retrieve(QUERIES, CANDIDATES, GROUPS)
    sizes = np.array([GROUPS.count(group) for group in GROUPS])
    for k in PLACES:
        assert found.chance[k] == pytest.approx((1 - hypergeom.pmf(0, N, sizes, k)).mean())
        assert found.chance[k] == pytest.approx(np.mean([1 - comb(N - r, k) / comb(N, k) for r in sizes]))


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_random_vectors_score_chance_on_average(groups):
    rng = np.random.default_rng(1)
    drawn = [values(retrieve(*rng.normal(size=(2, N, 3)), groups)) for _ in range(100)]
    means, errors = np.mean(drawn, axis=0), np.std(drawn, axis=0) / 10
    assert (np.abs(means - chances(retrieve(QUERIES, CANDIDATES, groups))) < 4 * errors + [0, 0, 0, 0.5]).all()


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("rows", [np.full((N, 8), 0.3), np.zeros((N, 8)), np.linspace(1, 2, N)[:, None] * QUERIES[:1]])
def test_constant_vectors_score_exactly_chance(rows, groups):
    for found in (retrieve(QUERIES, rows, groups), retrieve(rows, rows, groups)):
        assert values(found) == chances(found)


def test_queries_that_are_all_the_same_score_chance():
    found = retrieve(np.ones((N, 8)), CANDIDATES)
    assert values(found) == pytest.approx(chances(found))


def test_a_tie_counts_as_its_random_order():
    queries = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    found = retrieve(queries, queries)  # each with its neighbour: first or second
    assert found.recall[1].value == 0.5
    assert found.recall[5].value == 1
    assert found.median_rank.value == 1


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_the_order_of_rows_decides_nothing(groups):
    order = np.random.default_rng(2).permutation(N)
    again = retrieve(QUERIES[order], CANDIDATES[order], groups and [groups[i] for i in order])
    assert again == retrieve(QUERIES, CANDIDATES, groups)


def test_lengths_of_vectors_decide_nothing():
    lengths = np.random.default_rng(3).uniform(0.01, 100, size=(2, N, 1))
    assert retrieve(lengths[0] * QUERIES, lengths[1] * CANDIDATES) == retrieve(QUERIES, CANDIDATES)


def test_a_rotation_of_both_sides_decides_nothing():
    turned = np.linalg.qr(np.random.default_rng(4).normal(size=(8, 8)))[0]
    assert retrieve(QUERIES @ turned, CANDIDATES @ turned) == retrieve(QUERIES, CANDIDATES)


def test_the_other_direction_ranks_by_the_transposed_cosines():
    first = ranks(QUERIES, CANDIDATES, np.eye(N, dtype=bool))
    back = (cosine_similarity(QUERIES, CANDIDATES).T.argsort(axis=1)[:, ::-1] == np.arange(N)[:, None]).argmax(1) + 1
    assert not np.array_equal(first, back)
    for k in PLACES:
        assert retrieve(CANDIDATES, QUERIES).recall[k].value == pytest.approx((back <= k).mean())


def test_samples_without_one_of_the_vectors_are_left_out_of_both_sides():
    queries, candidates = QUERIES.copy(), CANDIDATES.copy()
    queries[:10], candidates[5:20] = np.nan, np.nan
    assert retrieve(queries, candidates, GROUPS) == retrieve(QUERIES[20:], CANDIDATES[20:], GROUPS[20:])
    assert retrieve(queries, candidates).pairs == N - 20


def test_fewer_candidates_than_places_are_all_found():
    found = retrieve(QUERIES[:4], CANDIDATES[:4])
    assert found.recall[5].value == found.recall[10].value == found.chance[5] == 1


def test_float32_scores_as_float64():
    assert retrieve(QUERIES.astype(np.float32), CANDIDATES.astype(np.float32)) == retrieve(QUERIES, CANDIDATES)


def test_intervals_agree_with_scipys_bootstrap():
    first = ranks(QUERIES, CANDIDATES, np.eye(N, dtype=bool))
    found = retrieve(QUERIES, CANDIDATES)
    for interval, statistic in (
        (found.recall[1], lambda x, axis: (x <= 1).mean(axis=axis)),
        (found.recall[10], lambda x, axis: (x <= 10).mean(axis=axis)),
        (found.median_rank, lambda x, axis: np.sort(x, axis=axis).take((N - 1) // 2, axis=axis)),
    ):
        expected = bootstrap(
            (first.astype(float),), statistic, method="percentile", n_resamples=9999, rng=0
        ).confidence_interval
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.01)
        assert interval.low < interval.value < interval.high


@pytest.mark.parametrize(
    ("queries", "candidates", "groups", "message"),
    [
        (QUERIES, CANDIDATES[:, :5], None, r"Can't compare 120 vectors of 8 numbers with 120 of 5: give one of each"),
        (QUERIES, CANDIDATES[:7], None, r"120 vectors of 8 numbers with 7 of 8"),
        (QUERIES, CANDIDATES, GROUPS[:3], r"120 of 8 and 3 groups"),
        (QUERIES[:1], CANDIDATES[:1], None, r"1 of 1 samples have both vectors, and a retrieval needs 2"),
        (np.full((N, 8), np.nan), CANDIDATES, None, r"0 of 120 samples have both vectors"),
        (QUERIES, CANDIDATES, ["same"] * N, r"All 120 samples are of one group, so every candidate is right"),
        (np.where(np.eye(N, 8), np.nan, 1.0), CANDIDATES, None, r"8 of 120 hold NaN or infinity, the first is row 0"),
        (QUERIES, np.where(np.eye(N, 8), np.inf, 1.0), None, r"8 of 120 hold NaN or infinity"),
    ],
)
def test_what_cannot_be_ranked_is_refused(queries, candidates, groups, message):
    with pytest.raises(DataError, match=message):
        retrieve(queries, candidates, groups)


def test_centred_vectors_are_ranked_without_what_all_have_in_common():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(40, 8))
    other = one + 0.1 * rng.normal(size=(40, 8))
    shifted = [side + 50 * rng.normal(size=8) for side in (one, other)]
    assert retrieve(*shifted).recall[1].value < 0.5
    assert retrieve(*shifted, centred=True) == retrieve(one, other, centred=True)
    assert retrieve(*shifted, centred=True).recall[1].value > 0.9


def test_equal_vectors_score_chance_when_they_are_centred():
    same = np.full((10, 4), 0.1, dtype=np.float32)
    assert retrieve(same, same, centred=True).recall[1].value == pytest.approx(0.1)
