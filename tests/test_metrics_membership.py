"""Statistics of the membership audit, against enumeration, SciPy, literals and published tables."""

import doctest
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from xinv.metrics import area, chance, membership, roc
from xinv.metrics.stats import holm
from xinv.report.measures import measure
from xinv.types import InputError

TIED = np.array([1, 0, 1, 0]), np.array([9, 9, 5, 5])
EVERY = {factory.__name__: factory for factory in membership.FACTORIES}


def drawn(seed, members=60, others=80, apart=0.0):
    """Members and others with normal scores whose means are `apart`."""
    random = np.random.default_rng(seed)
    member = np.repeat([1, 0], [members, others])
    return member, random.normal(size=members + others) + apart * member


def grouped(seed, groups=40, size=10, apart=0.0):
    """Examples of groups whose scores are copies."""
    member, score = drawn(seed, groups, groups, apart)
    copies = (np.repeat(values, size) for values in (member, score, np.arange(2 * groups)))
    return tuple(copies)


# Operating points


def test_tied_scores():
    """Of two tied pairs the area is one half, and no operating point lies within a tie."""
    fpr, tpr = roc.roc(*TIED)
    assert list(zip(fpr, tpr, strict=True)) == [(0, 0), (0.5, 0.5), (1, 1)]
    assert membership.auc()(*TIED)["auc"].value == 0.5
    assert membership.tpr_at_fpr(0.01)(*TIED)["tpr_at_0.01"].value == 0


def test_realised_rate():
    """The realised rate never exceeds the target, whatever is tied."""
    random = np.random.default_rng(0)
    rates = (0.0, 0.001, 0.01, 0.05, 0.1, 0.29, 0.5, 0.9)
    metric = membership.tpr_at_fpr(rates)
    for kinds in (1, 2, 3, 10, 10**6) * 12:
        size = int(random.integers(2, 200))
        member, score = random.integers(0, 2, size), random.integers(0, kinds, size)
        member[:2] = 0, 1
        found = metric(member, score)
        fpr, tpr = roc.roc(member, score)
        for rate in rates:
            assert found[f"fpr_at_{rate}"].value <= rate
            # The best of all operating points that keep the rate
            assert found[f"tpr_at_{rate}"].value <= tpr[fpr <= rate].max()
            assert found[f"tpr_at_{rate}"].value in tpr


def test_allowed_false_positives():
    """The floor is of the rate as written, though 0.29 * 100 is 28.999999999999996."""
    assert [roc.allowed(0.29, 100), roc.allowed(0.001, 5000), roc.allowed(0.01, 999)] == [29, 5, 9]
    for others in range(1, 200):
        for count in range(others):
            assert roc.allowed(count / others, others) == count


def test_resolved_points():
    """A point is resolved from ten false positives on, counted in groups."""
    for others, expected in ((999, 0.0), (1000, 1.0)):
        member, score = drawn(0, 20, others)
        found = membership.tpr_at_fpr(0.01)(member, score)["resolved_at_0.01"]
        assert found == (expected, expected, expected, None)
    member, score, group = grouped(0, 150)
    assert membership.tpr_at_fpr(0.01)(member, score)["resolved_at_0.01"].value == 1
    assert membership.tpr_at_fpr(0.01)(member, score, group)["resolved_at_0.01"].value == 0


def test_carried_threshold():
    """Above 0 are 3 of 4 members and 1 of 5 others."""
    member = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0])
    score = np.array([1, 2, 3, -1, 4, 0, -1, -2, -3])
    found = membership.transferred()(member, score)
    for kind, count, total in (("tpr", 3, 4), ("fpr", 1, 5)):
        ends = scipy.stats.binomtest(count, total).proportion_ci()
        assert found[f"{kind}_at_shadow"][:3] == pytest.approx((count / total, *ends))
    balanced = found["balanced_accuracy"]
    assert balanced.value == pytest.approx((0.75 + 0.8) / 2)
    fisher = scipy.stats.fisher_exact([[3, 1], [1, 4]], alternative="greater")
    assert balanced.p == pytest.approx(fisher.pvalue)
    precise = membership.precision((0.01, 0.5))(member, score)
    assert precise["precision_at_prior_0.5"].value == pytest.approx(0.75 / 0.95)
    assert precise["precision_at_prior_0.01"].value == pytest.approx(0.0075 / (0.0075 + 0.198))


def test_precision_of_nothing():
    """If nobody is called a member, the value is the prior, and the interval is all there is."""
    member, score = drawn(0)
    found = membership.precision()(member, score - 100)
    assert found["precision_at_prior_0.1"][:3] == (0.1, 0, 1)


# Intervals and chance, against enumeration and SciPy


def test_clopper_pearson():
    """The interval is SciPy's; its ends are where a tail of the binomial is 2.5 %."""
    for trials in range(1, 11):
        for count in range(trials + 1):
            low, high = roc.proportion(count, trials)
            expected = scipy.stats.binomtest(count, trials).proportion_ci(0.95, method="exact")
            assert (low, high) == pytest.approx(tuple(expected), abs=1e-12)
            if count:
                assert _at_least(count, trials, low) == pytest.approx(0.025)
            if count < trials:
                assert 1 - _at_least(count + 1, trials, high) == pytest.approx(0.025)


def _at_least(count, trials, rate):
    """Probability of `count` or more, by its sum."""
    terms = range(count, trials + 1)
    return sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in terms)


@pytest.mark.parametrize(
    ("count", "trials", "expected"),
    [
        (0, 1250, (0, 0.295)),
        (0, 1500, (0, 0.246)),
        (0, 5000, (0, 0.074)),
        (0, 10_000, (0, 0.037)),
        (519, 5000, (9.55, 11.26)),
        (653, 1500, (41.0, 46.1)),
    ],
)
def test_table_of_rates(count, trials, expected):
    """Section 4.2 of the project's survey, computed there with SciPy, to its digits."""
    found = [100 * end for end in roc.proportion(count, trials)]
    assert found == pytest.approx(expected, abs=0.05 if count == 653 else 0.006)


@pytest.mark.parametrize(
    ("others", "rate", "expected"),
    [
        (500, 0.001, (0.005, 0.735)),
        (1000, 0.001, (0.024, 0.556)),
        (1250, 0.001, (0.019, 0.445)),
        (5000, 0.001, (0.044, 0.233)),
        (50_000, 0.001, (0.076, 0.132)),
        (1000, 0.01, (0.55, 1.83)),
        (5000, 0.01, (0.76, 1.32)),
        (10_000, 0.01, (0.82, 1.22)),
    ],
)
def test_table_of_true_rates(others, rate, expected):
    """Table 4.1: what N distinct scores of non-members say of the true rate."""
    score = np.arange(others + 1)
    member = score == others
    found = membership.tpr_at_fpr(rate)(member, score)[f"fpr_at_{rate}"]
    assert found.value == math.floor(rate * others) / others
    assert (100 * found.low, 100 * found.high) == pytest.approx(expected, abs=0.006)


def test_beta_of_order_statistics():
    """The true rate above the (k+1)-th largest of N uniform scores has its interval's coverage."""
    random, most, others = np.random.default_rng(0), 3, 40
    thresholds = np.sort(random.uniform(size=(20_000, others)))[:, -1 - most]
    low, high = roc.true_fpr(roc.Point(0, most, 0, most, False), others)
    law = scipy.stats.beta(most + 1, others - most)
    assert (low, high) == pytest.approx((law.ppf(0.025), law.ppf(0.975)))
    inside = (low <= 1 - thresholds) & (1 - thresholds <= high)
    assert inside.mean() == pytest.approx(0.95, abs=0.006)  # 4 standard errors


def test_true_rate_of_ties():
    """With few distinct scores the interval of the true rate still holds it."""
    random = np.random.default_rng(0)
    chances = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    held, trials = 0, 1000
    for _ in range(trials):
        scores = np.sort(random.choice(5, 60, p=chances))
        at = roc.point(roc.Ranked(scores, np.zeros(60, bool), np.arange(60)), 0.1)
        low, high = roc.true_fpr(at, 60)
        held += low <= chances[int(at.threshold) + 1 :].sum() <= high
    assert held >= 0.95 * trials


@pytest.mark.parametrize(("members", "others"), [(1, 1), (3, 4), (5, 5), (2, 8), (6, 3)])
def test_chance_by_enumeration(members, others):
    """Over all orders of members and others, the number above the threshold has the stated law."""
    total = members + others
    for most in range(others):
        counts = []
        for places in itertools.combinations(range(total), members):
            outside = [place for place in range(total) if place not in places]
            counts.append(sum(place < outside[most] for place in places))
        for true in range(members + 1):
            exact = Fraction(sum(count >= true for count in counts), len(counts))
            assert chance.chance_p(true, members, others, most) == pytest.approx(float(exact))
            law = scipy.stats.nhypergeom(total, members, most + 1)
            assert law.sf(true - 1) == pytest.approx(float(exact))
        mean, low, high = chance.chance_band(members, others, most / others)
        assert mean == pytest.approx(np.mean(counts) / members)
        ends = np.quantile(counts, [0.025, 0.975], method="inverted_cdf") / members
        assert (low, high) == pytest.approx(tuple(ends))


@pytest.mark.parametrize(
    ("size", "rate", "mean", "high"),
    [
        (5000, 0.001, 0.12, 0.28),
        (1500, 0.001, 0.133, 0.467),
        (1250, 0.001, 0.16, 0.56),
        (1250, 0.01, 1.04, 1.92),
        (10_000, 0.001, 0.11, 0.21),
    ],
)
def test_table_of_chance(size, rate, mean, high):
    """Table 4.2, and one array of rates gives the same."""
    found = chance.chance_band(size, size, np.array([rate, rate]))
    assert 100 * found[0][1] == pytest.approx(mean, abs=0.006)
    assert 100 * found[2][1] == pytest.approx(high, abs=0.006)


def test_null_audits():
    """2,000 audits of scores that know nothing: intervals hold, and p-values are no smaller."""
    random, audits, members, others, most = np.random.default_rng(0), 2000, 150, 200, 10
    scores = random.uniform(size=(audits, members + others))
    thresholds = np.sort(scores[:, members:])[:, -1 - most]
    hits = (scores[:, :members] > thresholds[:, None]).sum(axis=1)
    slack = 2.33 * math.sqrt(0.05 * 0.95 / audits)  # 99 % of a binomial
    # Given its threshold, the true-positive rate of uniform scores is 1 − threshold
    ends = np.array([roc.proportion(count, members) for count in range(members + 1)])[hits]
    held = (ends[:, 0] <= 1 - thresholds) & (1 - thresholds <= ends[:, 1])
    assert held.mean() >= 0.95
    p = np.array([chance.chance_p(n, members, others, most) for n in range(members + 1)])[hits]
    assert (p <= 0.05).mean() <= 0.05 + slack
    # The whole metric says the same as its parts
    member = np.repeat([1, 0], [members, others])
    metric = membership.tpr_at_fpr(0.05)
    for row in range(20):
        found = metric(member, scores[row])["tpr_at_0.05"]
        assert found == pytest.approx((hits[row] / members, *ends[row], p[row]))


def test_null_areas():
    """Areas of noise: DeLong's interval holds one half, and the p-values are uniform."""
    metric = membership.auc()
    found = [metric(*drawn(seed))["auc"] for seed in range(400)]
    held = np.mean([one.low <= 0.5 <= one.high for one in found])
    assert held >= 0.95 - 2.33 * math.sqrt(0.05 * 0.95 / 400)
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.05 + 2.33 * math.sqrt(0.05 * 0.95 / 400)
    assert scipy.stats.kstest([one.p for one in found], "uniform").pvalue > 0.01


# Areas


def literal_delong(member, score):
    """DeLong, DeLong and Clarke-Pearson 1988, pair by pair."""
    ins, outs = score[member == 1], score[member == 0]
    kernel = (ins[:, None] > outs) + 0.5 * (ins[:, None] == outs)
    variance = kernel.mean(axis=1).var(ddof=1) / len(ins)
    return kernel.mean(), variance + kernel.mean(axis=0).var(ddof=1) / len(outs)


@pytest.mark.parametrize("digits", [0, 1, 12])
def test_delong(digits):
    """Area and variance are those of all pairs, with many ties, few and none."""
    member, score = drawn(1, 50, 70, apart=0.8)
    score = np.round(score, digits)
    value, variance = literal_delong(member, score)
    assert value == pytest.approx(roc_auc_score(member, score))
    assert area.area(roc.ranked(member, score)) == pytest.approx((value, variance))
    found = membership.auc()(member, score)["auc"]
    half = 1.959964 * math.sqrt(variance)
    assert found[:3] == pytest.approx((value, value - half, value + half))
    test = scipy.stats.mannwhitneyu(score[member == 1], score[member == 0], alternative="greater")
    assert found.p == pytest.approx(test.pvalue)


def test_perfect_separation():
    """A perfect area keeps a lower end below 1, at least as far as Clopper-Pearson's."""
    member = np.repeat([1, 0], [30, 50])
    found = membership.auc()(member, member)["auc"]
    assert found[:3] == pytest.approx((1, scipy.stats.binomtest(30, 30).proportion_ci()[0], 1))
    assert found.p < 1e-9
    group = np.arange(80) // 10
    several = membership.auc()(member, member, group)["auc"]
    assert several.low == pytest.approx(scipy.stats.binomtest(3, 3).proportion_ci()[0])
    # One of the 56 ways to choose three groups of eight
    assert several.p == pytest.approx(1 / 56)


def test_groups_widen():
    """Copies say nothing new: with groups, intervals are as wide as without copies."""
    member, score, group = grouped(2, apart=0.5)
    copied, clustered = (membership.auc()(member, score, g)["auc"] for g in (None, group))
    single = membership.auc()(member[::10], score[::10])["auc"]
    assert copied.value == clustered.value == pytest.approx(single.value)
    widths = [one.high - one.low for one in (copied, clustered, single)]
    assert widths[1] > 2.5 * widths[0]
    assert widths[1] == pytest.approx(widths[2], rel=0.1)
    assert clustered.p > copied.p
    # The clustered variance is DeLong's of one copy
    ranked, one = roc.ranked(member, score, group), roc.ranked(member[::10], score[::10])
    assert area.area(ranked) == pytest.approx(area.area(one))
    assert roc.effective(ranked) == (40, 40)


def test_groups_and_rates():
    """Rates of copies have the intervals of single examples, and chance permutes groups."""
    member, score, group = grouped(3, apart=1.0)
    metric = membership.tpr_at_fpr((0.05, 0.2))
    copied, single = metric(member, score, group), metric(member[::10], score[::10])
    for name, expected in single.items():
        if name.startswith(("tpr", "resolved")):
            assert copied[name][:3] == pytest.approx(expected[:3]), name
        if name.startswith("fpr"):
            # Copies tie, which keeps the value and the upper end
            assert copied[name][::2] == pytest.approx(expected[::2]), name
            assert copied[name].low < expected.low, name
    assert copied["tpr_at_0.2"].p == pytest.approx(single["tpr_at_0.2"].p, abs=0.03)
    chances = (found["chance_at_0.2"][:3] for found in (copied, single))
    assert next(chances) == pytest.approx(next(chances), abs=0.03)
    assert membership.transferred()(member, score, group)["balanced_accuracy"].p < 0.01


def test_groups_of_one():
    """Groups of a single example change nothing."""
    member, score = drawn(4, apart=0.5)
    for factory in membership.FACTORIES:
        assert factory()(member, score, np.arange(len(member))) == factory()(member, score)


# Epsilon


@pytest.mark.parametrize(
    ("true", "members", "most", "others", "expected"),
    [
        (519, 5000, 5, 5000, 3.71),
        (100, 5000, 5, 5000, 1.94),
        (125, 1250, 12, 1250, 1.61),
        (1250, 1250, 0, 1250, 5.82),
        (5000, 5000, 0, 5000, 7.21),
        (10_000, 10_000, 0, 10_000, 7.90),
        (0, 5000, 5, 5000, 0.0),
    ],
)
def test_table_of_epsilon(true, members, most, others, expected):
    """Table 4.4: one threshold, both rates at 97.5 %."""
    found = roc.epsilon_bound(true, members, most, others)
    assert found == pytest.approx(expected, abs=0.006)


def test_epsilon_of_points():
    """The largest bound over the points, each at a third of the error, and its ceiling."""
    member, score = drawn(5, 2000, 3000, apart=2.0)
    found = membership.epsilon()(member, score)["epsilon_lower_bound"]
    bounds = []
    for rate in (0.001, 0.01, 0.05):
        at = roc.point(roc.ranked(member, score), rate)
        low = scipy.stats.beta.ppf(0.025 / 3, at.true, 2000 - at.true + 1)
        high = scipy.stats.beta.ppf(1 - 0.025 / 3, at.allowed + 1, 3000 - at.allowed)
        bounds.append(math.log(low / high))
    assert found.value == found.low == pytest.approx(max(bounds))
    perfect = membership.epsilon()(member, 100 * member + score)["epsilon_lower_bound"]
    assert found.value < found.high == perfect.value == perfect.high
    assert membership.epsilon(delta=0.5)(member, score)["epsilon_lower_bound"].value < found.value


def test_epsilon_of_noise():
    """Scores of a private mechanism seldom give a bound above its ε."""
    random, rate = np.random.default_rng(0), math.e / (1 + math.e)
    member = np.repeat([1, 0], 500)
    metric = membership.epsilon((0.01, 0.05))
    above = 0
    for _ in range(400):
        # Randomised response with ε = 1, told apart by a small continuous part
        right = random.uniform(size=1000) < rate
        score = np.where(right == member, 1.0, -1.0) + 0.1 * random.uniform(size=1000)
        above += metric(member, score)["epsilon_lower_bound"].value > 1
    assert above <= 0.05 * 400


# Families of tests


def test_holm():
    """Against the definition, step by step, and an example of Holm's procedure."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    random = np.random.default_rng(0)
    for size in (1, 2, 15):
        p = random.uniform(size=size) ** 3
        adjusted, largest = np.empty(size), 0.0
        for rank, index in enumerate(np.argsort(p)):
            largest = max(largest, min(1.0, (size - rank) * p[index]))
            adjusted[index] = largest
        assert holm(p) == pytest.approx(adjusted)
    assert holm([]).shape == (0,)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="p is"):
            holm([0.5, bad])


# What every metric keeps to


@pytest.mark.parametrize("name", EVERY)
def test_figures_are_plain(name):
    """Every figure is a finite Python number, its interval in order, its p-value in [0, 1]."""
    cases = [drawn(0), drawn(1, 1, 1), drawn(2, 1, 30), drawn(3, 30, 1), drawn(4, apart=50)]
    cases += [(member, np.zeros(len(member))) for member, _ in cases]
    cases += [grouped(5), grouped(6, 1), grouped(7, 2, apart=50)]
    for case in cases:
        for figure, found in EVERY[name]()(*case).items():
            assert all(type(value) is float for value in found[:3]), figure
            assert np.isfinite(found[:3]).all(), figure
            assert found.low <= found.high, figure
            assert found.p is None or (type(found.p) is float and 0 <= found.p <= 1), figure
            # The true rate lies above a realised rate of 0, see `roc.true_fpr`
            assert found.value <= found.high, figure
            assert figure.startswith("fpr_at_0") or found.low <= found.value, figure
            assert measure(figure).meaning, figure


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (([0, 1], [0, math.nan]), "score 1 is nan"),
        (([0, 1], [math.inf, 0]), "score 0 is inf"),
        (([1, 1], [0, 1]), "got 2 and 0"),
        (([0, 0], [0, 1]), "got 0 and 2"),
        (([], []), "got 0 and 0"),
        (([0, 1], [0, 1, 2]), "3 scores for 2"),
        (([0, 2], [0, 1]), "member holds 2"),
        (([0, 1], [0, 1], [0]), "1 groups for 2"),
        (([0, 1, 0], [0, 1, 2], [3, 7, 7]), "group 7 holds members and non-members"),
    ],
)
def test_bad_scores(name, inputs, message):
    """One sentence names the bad value."""
    with pytest.raises(InputError, match=message):
        EVERY[name]()(*inputs)


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("tpr_at_fpr", {"fpr": 1}, "fpr is 1 "),
        ("tpr_at_fpr", {"fpr": (0.1, -0.1)}, "fpr is -0.1"),
        ("tpr_at_fpr", {"fpr": ()}, r"fpr is \(\)"),
        ("tpr_at_fpr", {"fpr": (0.1, 0.1)}, "several different"),
        ("tpr_at_fpr", {"fpr": "low"}, "fpr is 'low'"),
        ("epsilon", {"fpr": math.nan}, "fpr is nan"),
        ("epsilon", {"delta": 1.0}, "delta is 1.0"),
        ("precision", {"priors": (0.0,)}, "priors is 0.0"),
        ("precision", {"priors": 1}, "priors is 1 "),
        ("auc", {"level": 0.9}, "has no parameter 'level'"),
    ],
)
def test_bad_parameters(name, hyper, message):
    """A factory refuses them before any score is seen."""
    with pytest.raises(InputError, match=message):
        membership.build(name, **hyper)


def test_lists_and_numbers():
    """One rate needs no list, and a list is as good as a tuple."""
    names = [set(membership.build("tpr_at_fpr", fpr=fpr)(*TIED)) for fpr in (0.1, [0.1], (0.1,))]
    assert names[0] == names[1] == names[2]
    assert "chance_at_0.1" in names[0]


@pytest.mark.parametrize("module", [membership, roc])
def test_examples(module):
    """The examples of the module's docstring run."""
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
