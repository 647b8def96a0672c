"""Attacks on membership by statistics: each equals its formula, and scores are calibrated."""

import doctest
import inspect

import jax
import numpy as np
import pytest
from scipy.special import log_ndtr, ndtr
from scipy.stats import norm, rankdata
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from xinv import attacks, store
from xinv.attacks import calibration, likelihood, moments
from xinv.attacks.confidence import log_odds
from xinv.attacks.signals import SIGNALS, logarithms, measured, signals
from xinv.types import InputError, Observation, Population

KEY = jax.random.key(0)
FACTORIES = [factory for factory in attacks.FACTORIES if factory().goal == "membership"]


def parameter(factory):
    """The factory as a parameter of a test, slow where the attack trains networks."""
    marks = [pytest.mark.slow] if factory is attacks.membership_network else []
    return pytest.param(factory, id=factory.__name__, marks=marks)


every = pytest.mark.parametrize("factory", [parameter(factory) for factory in FACTORIES])


class Sliced:
    """Reads an array in slices alone, as a stack of stored maps of many models is read."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self.values[rows]

    def __array__(self, *args, **kwargs):
        raise AssertionError("read whole")


def halves(random, count, models):
    """Training sets [N,S] of shadow models: each example is in half of them."""
    order = np.argsort(random.random((count, models)), axis=1)
    return (order < models // 2).astype(int)


def gaussian(effect, models, count=2000, seed=0, scale=1.0):
    """Statistics of shadow models and of a target: N(m, scale²), shifted by `effect` for members.

    The middle m differs from example to example, so no common threshold tells members.
    """
    random = np.random.default_rng(seed)
    truth = halves(random, count, models)
    member = random.permutation(np.arange(count) % 2)
    middle = random.normal(0, 3, (count, 1))
    effect, scale = np.reshape(effect, (-1, 1)), np.reshape(scale, (-1, 1))
    noise = random.normal(size=(count, models + 1))
    values = middle + scale * noise + effect * np.column_stack([truth, member])
    maps = np.exp(values)[:, :, None, None, None]
    shadows = Observation(np.ones((count, models, 2)) / 2, maps[:, :-1])
    return shadows, truth, Observation(np.ones((count, 2)) / 2, maps[:, -1]), member


def scores(problem, **hyper):
    """Scores of the target by the likelihood ratio of one statistic."""
    shadows, truth, target, _ = problem
    attack = attacks.likelihood_ratio(statistics=("l1",), **hyper)
    return attack.predict(attack.fit(KEY, shadows, truth), target)


def confident(models, count=60, seed=0, classes=5):
    """Predictions of shadow models and a target that are surer of members, with labels."""
    random = np.random.default_rng(seed)
    truth, member = halves(random, count, models), random.permutation(np.arange(count) % 2)
    label = random.integers(0, classes, count)
    logits = random.normal(size=(count, models + 1, classes))
    hot = np.eye(classes)[label][:, None]
    # Examples differ in how easy they are
    easy = random.normal(1, 2, (count, 1, 1))
    logits += hot * (easy + 2 * np.column_stack([truth, member])[:, :, None])
    prediction = np.asarray(jax.nn.softmax(logits), np.float32)
    return Observation(prediction[:, :-1]), truth, Observation(prediction[:, -1]), member, label


def problem(attack, count=200):
    """Observations, truths and holdings that `attack` may be fitted to, and shown."""
    shadows, truth, target, member, label = confident(4, count)
    random = np.random.default_rng(3)
    held = {"label": label} if "label" in attack.needs else {}
    if "population" in attack.needs:
        held["population"] = public(4)
    size = np.exp(-np.column_stack([truth, member]))[:, :, None, None, None]
    maps = random.normal(size=(count, 5, 6, 6, 2)).astype(np.float32) * size
    if attack.summary:
        summary = signals(attack.summary)
        maps = np.asarray(jax.vmap(jax.vmap(summary))(maps))[:, :, None, None]
    shadows = shadows._replace(explanation=maps[:, :-1])
    target = target._replace(explanation=maps[:, -1])
    if not attack.paired:
        shadows, truth = jax.tree.map(lambda leaf: leaf[:, 0], shadows), truth[:, 0]
    return shadows, truth, target, member, held


def public(models, count=80):
    """Public examples as `confident` models answer them that were trained on none."""
    shadows, truth, *_, label = confident(models, count, seed=1)
    # Without the advantage that members have there
    odds = np.log(shadows.prediction) - 2 * truth[..., None] * np.eye(5)[label][:, None]
    return Population(np.asarray(jax.nn.softmax(odds), np.float32), label)


def view_of_tests(held):
    """Holdings beside what the target releases: it answers public examples as the first shadow."""
    if "population" not in held:
        return held
    population = held["population"]
    return held | {"population": population._replace(prediction=population.prediction[:, 0])}


# What every such attack keeps to


@pytest.mark.slow
@every
def test_contract(factory, tmp_path):
    """Is documented, checked by shapes, tells members, and keeps its state as arrays."""
    name = factory.__name__
    assert name in attacks.__all__
    assert inspect.getdoc(factory)
    attack = attacks.build(name)
    assert attack is attacks.build(name)
    shadows, truth, target, member, held = problem(attack)
    shapes = jax.eval_shape(lambda: (shadows, truth, held))
    assert attack.check(*shapes[:2], **shapes[2]) == ()
    state = attack.fit(KEY, shadows, truth, **held)
    guess = attack.predict(state, target, **view_of_tests(held))
    assert guess.shape == member.shape
    assert guess.dtype in (np.float32, np.float64)
    assert roc_auc_score(member, guess) > 0.6
    assert balanced_accuracy_score(member, guess > 0) > 0.58
    if attack.parts is not None:
        parts = attack.parts(state, target, **view_of_tests(held))
        assert parts.shape == (5, *guess.shape)
        np.testing.assert_array_equal(parts.mean(axis=0), guess)
    if state:
        store.save_tree(tmp_path / "state", state)
        stored = store.load_tree(tmp_path / "state")
        np.testing.assert_array_equal(attack.predict(stored, target, **view_of_tests(held)), guess)


@every
def test_labels_required(factory):
    """An attack without the labels that it needs says so; none can be fitted to other truth."""
    attack = factory()
    shadows, truth, target, _, held = problem(attack)
    if held:
        with pytest.raises(InputError, match="give label"):
            attack.check(shadows, truth)
        with pytest.raises(InputError, match=r"labels \[N\], and not"):
            attack.predict({}, target, **view_of_tests(held) | {"label": held["label"][:3]})
    if factory is not attacks.gap:
        with pytest.raises(InputError, match="truth has shape"):
            attack.fit(KEY, shadows, truth[:5], **held)
        with pytest.raises(InputError, match="other values than 0 and 1"):
            attack.fit(KEY, shadows, truth + 1, **held)


def test_docstring_examples():
    """The examples of the statistics run; tests/test_examples.py has that of the package."""
    found = doctest.testmod(inspect.getmodule(signals))
    assert found.attempted
    assert not found.failed


# Statistics of a map


def literal(name, values):
    """The statistic in float64, from its definition."""
    values = np.asarray(values, np.float64)
    sizes = np.abs(values).ravel()
    if name == "variance":
        return values.reshape(-1, values.shape[-1]).var(axis=0, ddof=1).sum()
    if name in ("l1", "l2"):
        return np.linalg.norm(sizes, int(name[1]))
    if name == "max":
        return sizes.max()
    if name == "entropy":
        share = sizes / sizes.sum()
        return -(share * np.log(share)).sum()
    if name == "gini":
        return np.abs(sizes[:, None] - sizes).mean() / (2 * sizes.mean())
    found = 0
    for channel in np.moveaxis(values, -1, 0):
        down, across = np.abs(np.diff(channel, axis=0)), np.abs(np.diff(channel, axis=1))
        found += np.concatenate([down.ravel(), across.ravel()]).mean()
    return found


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize(("middle", "scale"), [(0, 1), (1e3, 1), (0, 1e-15)])
def test_signal_equals_definition(name, middle, scale):
    """Of far-off and of tiny maps too: float32 neither cancels, overflows nor vanishes."""
    random = np.random.default_rng(1)
    maps = (scale * random.normal(middle, 1, (3, 32, 24, 3))).astype(np.float32)
    expected = [literal(name, one) for one in maps]
    np.testing.assert_allclose(measured((name,), maps)[:, 0], expected, rtol=2e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5, 2)])
def test_signals_of_constant_maps(value, shape):
    """Are finite, also of one pixel; such a map varies by exactly nothing."""
    values = measured(tuple(SIGNALS), np.full((1, *shape), value, np.float32))[0]
    found = dict(zip(SIGNALS, values, strict=True))
    assert np.isfinite(list(found.values())).all()
    assert found["variance"] == found["total_variation"] == 0
    assert found["entropy"] == pytest.approx(np.log(np.prod(shape)), abs=1e-6)
    assert found["gini"] == pytest.approx(0, abs=1e-6)
    assert found["l2"] == pytest.approx(abs(value) * np.prod(shape) ** 0.5)
    assert np.isfinite(logarithms(tuple(SIGNALS), list(found.values()))).all()


def test_signals_are_one_object():
    """The same names give one function, however spelled; wrong names are refused."""
    assert signals(["l1", "max"]) is signals(("l1", "max"))
    assert signals(("max", "l1")) is not signals(("l1", "max"))
    for names, message in (("l1", "sequence"), ((), "sequence"), (("l1", "l1"), "once")):
        with pytest.raises(InputError, match=message):
            signals(names)
    with pytest.raises(InputError, match="unknown statistic 'L3'"):
        signals(("L3",))
    with pytest.raises(InputError, match="explanation 1 has the l1 nan"):
        measured(("l1",), np.array([1, np.nan])[:, None, None, None])


# Thresholds


def test_threshold_equals_search():
    """No threshold has a higher balanced accuracy, with and without ties."""
    random = np.random.default_rng(0)
    for levels in (3, 1000):
        score = random.integers(0, levels, 80) / 7
        member = random.random(80) < 0.4
        best = max(balanced_accuracy_score(member, score > at) for at in [-1, *score])
        found = calibration.threshold(member, score)
        assert balanced_accuracy_score(member, score > found) == pytest.approx(best)
        assert levels == 3 or found not in score


def test_threshold_without_signal():
    """If members score lower, or all alike, nobody is called a member."""
    member = np.arange(6) < 3
    for score in (np.arange(6.0), np.ones(6)):
        assert not (score > calibration.threshold(member, score)).any()
    close = np.array([1, np.nextafter(1, 2)])
    assert (close > calibration.threshold(np.array([False, True]), close)).tolist() == [False, True]
    with pytest.raises(InputError, match="there are 6 and 0"):
        calibration.threshold(np.ones(6, bool), np.arange(6))


# One shadow


@pytest.mark.parametrize("quiet", [0, 1])
def test_variance_of_maps(quiet):
    """Learned between the variances of the two kinds, on whichever side members are."""
    random = np.random.default_rng(0)
    member = random.integers(0, 2, 400)
    spread = np.where(quiet == member, 0.5, 2.0)
    maps = random.normal(size=(400, 6, 6, 1)) * spread[:, None, None, None]
    observed = Observation(np.zeros((400, 2)), maps)
    for statistic in ("variance", "best"):
        attack = attacks.map_statistic(statistic)
        state = attack.fit(KEY, observed, member)
        assert ((attack.predict(state, observed) > 0) == member).mean() > 0.98
    threshold = attacks.map_statistic("variance").fit(KEY, observed, member)["threshold"]
    assert np.log(0.25) < threshold < np.log(4)


def test_best_statistic_of_shadow():
    """The one statistic that tells members is found; what the others say is not heard."""
    random = np.random.default_rng(0)
    member = random.integers(0, 2, 300)
    maps = random.choice([-1.0, 1.0], (300, 8, 8, 1))
    # Members have the same magnitudes in patches: only neighbours tell
    patches = np.kron(random.choice([-1.0, 1.0], (300, 2, 2)), np.ones((4, 4)))[..., None]
    maps = np.where(member[:, None, None, None], patches, maps)
    observed = Observation(np.zeros((300, 2)), maps)
    state = attacks.map_statistic().fit(KEY, observed, member)
    assert list(SIGNALS)[state["statistic"]] == "total_variation"
    assert state["sign"] == -1
    with pytest.raises(InputError, match="unknown statistic 'mean'"):
        attacks.map_statistic("mean")
    for explanation in (None, np.zeros((300, 2, 4, 4, 1))):
        with pytest.raises(InputError, match="map_statistic reads"):
            attacks.map_statistic().check(observed._replace(explanation=explanation), member)


def test_gap_is_correctness():
    """A correct prediction is a member's; balanced accuracy is 1/2 plus half the gap."""
    *_, target, member, label = confident(4, 400)
    attack = attacks.gap()
    assert attack.fit(KEY, target, member, label=label) == {}
    guess = attack.predict({}, target, label=label)
    correct = target.prediction.argmax(axis=1) == label
    np.testing.assert_array_equal(guess, np.where(correct, np.float32(1), np.float32(-1)))
    difference = correct[member == 1].mean() - correct[member == 0].mean()
    accuracy = balanced_accuracy_score(member, guess > 0)
    assert accuracy == pytest.approx(0.5 + difference / 2)


def test_log_odds():
    """Equal to log p − log(1 − p), precise where p rounds to 1, and finite at 0 and 1."""
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 40.0, 1.0], [0.0, 90.0, -200.0]])
    prediction = np.asarray(jax.nn.softmax(logits))
    found = log_odds(np.concatenate([prediction, prediction[2:]]), np.array([0, 1, 1, 2]))
    others = np.log(np.exp(1) + 1)
    np.testing.assert_allclose(found[:2], [2 - others, 40 - others], rtol=1e-6)
    assert found[2] == -found[3] == pytest.approx(87.3, abs=0.1)
    with pytest.raises(InputError, match="example 1 has label 3, but there are 3 classes"):
        log_odds(prediction, np.array([0, 3, 0]))
    with pytest.raises(InputError, match="prediction 2 has a value that is not finite"):
        log_odds(np.where([[0], [0], [1]], np.nan, prediction), np.zeros(3, int))
    with pytest.raises(InputError, match="labels are float64"):
        log_odds(prediction, np.zeros(3))


def test_log_odds_of_logits():
    """z_y − log Σ exp(z_j) over the other classes, in float64 and without a bound."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 200, (40, 3, 5)).astype(np.float32)
    label = random.integers(0, 5, 40)
    found = log_odds(logits, label, logits=True)
    for row, model in np.ndindex(40, 3):
        others = np.delete(logits[row, model].astype(np.float64), label[row])
        expected = np.float64(logits[row, model, label[row]]) - np.logaddexp.reduce(others)
        assert found[row, model] == pytest.approx(expected, rel=1e-14)
    assert np.abs(found).max() > 200
    with pytest.raises(InputError, match=r"predictions are below 0: .*logits=True"):
        log_odds(logits, label)
    with pytest.raises(InputError, match="prediction 0 has a value that is not finite"):
        log_odds(np.zeros((2, 1)), np.zeros(2, int), logits=True)


@pytest.mark.parametrize(
    ("factory", "hyper"),
    [
        (attacks.confidence, {}),
        (attacks.relative, {}),
        (attacks.likelihood_ratio, {"signal": "confidence"}),
    ],
)
def test_logits_as_probabilities(factory, hyper):
    """A service of logits is attacked as well as by their softmax in float64."""
    shadows, truth, target, _, held = problem(factory(**hyper))
    shown = view_of_tests(held)

    def logits(values, shift):
        return np.log(np.float64(values)) + shift

    def shifted(holdings):
        if "population" not in holdings:
            return holdings
        public = holdings["population"]
        return holdings | {"population": public._replace(prediction=logits(public.prediction, -9))}

    def scores(attack, shadows, target, held, shown):
        return attack.predict(attack.fit(KEY, shadows, truth, **held), target, **shown)

    expected = scores(factory(**hyper), shadows, target, held, shown)
    of_logits = factory(**hyper, logits=True)
    assert of_logits.logits
    assert not factory(**hyper).logits
    shadows = Observation(logits(shadows.prediction, 3))
    target = Observation(logits(target.prediction, 7))
    found = scores(of_logits, shadows, target, shifted(held), shifted(shown))
    np.testing.assert_allclose(found, expected, atol=1e-4)


# Many shadows


def test_online_reaches_theory():
    """With many shadow models the area is Φ(d/√2), within three standard deviations."""
    found = gaussian(1.0, 100)
    deviation = ((2000 + 1) / (12 * 1000 * 1000)) ** 0.5
    for mode in ("online", "offline"):
        area = roc_auc_score(found[3], scores(found, mode=mode))
        assert abs(area - ndtr(1 / 2**0.5)) < 3 * deviation
    assert roc_auc_score(found[3], found[2].explanation[:, 0, 0, 0]) < 0.62


@pytest.mark.parametrize("variance", ["own", "shared", "shrunk"])
def test_online_equals_literal(variance):
    """Equal to LiRA written out example by example in float64, of two statistics."""
    random = np.random.default_rng(4)
    truth = halves(random, 30, 6)
    values = np.exp(random.normal(size=(30, 7, 2)))[:, :, None, None]
    attack = attacks.likelihood_ratio(statistics=("l2", "max"), variance=variance)
    state = attack.fit(KEY, Observation(np.ones((30, 6, 2)), values[:, :-1]), truth)
    found = attack.predict(state, Observation(np.ones((30, 2)), values[:, -1]))

    expected = np.zeros(30)
    for statistic in range(2):
        x = np.log(values[:, :, 0, 0, statistic])
        for kind, side in ((1, 1), (0, -1)):
            groups = [x[i, :-1][truth[i] == kind] for i in range(30)]
            squares = np.array([group.var(ddof=1) for group in groups])
            shared = squares.mean()
            # Three models of a kind: d = 2, so E[s⁴] is (1 + 2/2) E[σ⁴]
            excess = (squares**2).mean() / 2 / shared**2 - 1
            prior = 2 * (1 + excess) / excess if excess > 0 else 1e300
            used = {
                "own": squares,
                "shared": np.full(30, shared),
                "shrunk": (prior * shared + 2 * squares) / (prior + 2),
            }[variance]
            for i, group in enumerate(groups):
                expected[i] += side * norm.logpdf(x[i, -1], group.mean(), used[i] ** 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_offline_equals_literal():
    """One-sided, in the learned direction; its order is that of Pr[Z < x] for one statistic."""
    found = gaussian(-2.0, 8, 40)
    shadows, truth, target, _ = found
    x, new = np.log(shadows.explanation[..., 0, 0, 0]), np.log(target.explanation[:, 0, 0, 0])
    outs = [row[kind == 0] for row, kind in zip(x, truth, strict=True)]
    deviations = [-(new[i] - out.mean()) / out.std(ddof=1) for i, out in enumerate(outs)]
    guess = scores(found, mode="offline", variance="own")
    np.testing.assert_array_equal(rankdata(guess), rankdata(ndtr(deviations)))
    np.testing.assert_allclose(np.diff(guess), np.diff(-log_ndtr(-np.array(deviations))))


def test_offline_resolves_the_surest():
    """Far above all others, where Pr[Z < x] rounds to 1, scores are still in order."""
    shadows, truth, target, _ = found = gaussian(9.0, 8, 50)
    far = target._replace(explanation=np.exp(np.linspace(60, 80, 50))[:, None, None, None])
    shadows = shadows._replace(explanation=np.tile(shadows.explanation[:1], (50, 1, 1, 1, 1)))
    guess = scores((shadows, np.tile(truth[:1], (50, 1)), far, found[3]), mode="offline")
    assert (np.diff(guess) > 0).all()


def test_online_beats_offline():
    """Where members shift by different amounts, what "in" models show is worth knowing."""
    effect = np.random.default_rng(9).normal(1, 2, 2000)
    found = gaussian(effect, 16)
    area = {mode: roc_auc_score(found[3], scores(found, mode=mode)) for mode in likelihood.MODES}
    assert area["online"] > area["offline"] + 0.05


@pytest.mark.parametrize("scale", [1.0, np.exp(np.random.default_rng(5).normal(0, 0.7, 4000))])
def test_shrunk_beats_own(scale):
    """With eight shadow models, whether or not examples scatter alike."""
    found = gaussian(scale, 8, 4000, scale=scale)
    own, shrunk = (scores(found, variance=rule) for rule in ("own", "shrunk"))
    assert roc_auc_score(found[3], shrunk) > roc_auc_score(found[3], own) + 0.005


def test_prior_freedom_recovered():
    """Of variances s0² ν/χ²(ν), the moments find 2 + 2/C, C = 2/(ν − 4); without scatter ∞."""
    random = np.random.default_rng(0)
    true = 3 * 20 / random.chisquare(20, (200_000, 1))
    own = true * random.chisquare(4, true.shape) / 4
    freedom = np.full(true.shape, 4.0)
    found = moments.prior_freedom(own, freedom, own.mean(axis=0))
    assert found == pytest.approx(2 + (20 - 4), rel=0.1)
    constant = random.chisquare(4, true.shape) / 4
    assert moments.prior_freedom(constant, freedom, constant.mean(axis=0)) > 200


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("effect", [1.5, -1.5])
def test_threshold_transfers(mode, effect):
    """At 0 the balanced accuracy of the target is nearly the best that any threshold has."""
    found = gaussian(effect, 8, 4000)
    score, member = scores(found, mode=mode), found[3]
    thresholds = np.quantile(score, np.linspace(0, 1, 200))
    best = max(balanced_accuracy_score(member, score > at) for at in thresholds)
    assert balanced_accuracy_score(member, score > 0) > best - 0.02


def test_confidence_ratio():
    """Of confidences, both modes tell members better than one threshold for all."""
    shadows, truth, target, member, label = confident(16, 1000)
    alone = attacks.confidence()
    state = alone.fit(KEY, Observation(shadows.prediction[:, 0]), truth[:, 0], label=label)
    common = roc_auc_score(member, alone.predict(state, target, label=label))
    for mode in likelihood.MODES:
        attack = attacks.likelihood_ratio("confidence", mode=mode)
        assert attack.needs == ("label",)
        assert not attack.summary
        state = attack.fit(KEY, shadows, truth, label=label)
        assert roc_auc_score(member, attack.predict(state, target, label=label)) > common + 0.01


def test_relative_equals_literal():
    """RMIA equals a double loop over examples and population, in float64."""
    shadows, truth, target, member, label = confident(8, 200)
    held = {"label": label, "population": public(8)}
    attack = attacks.relative(gamma=1.5, a=0.4)
    state = attack.fit(KEY, shadows, truth, **held)

    def ratio(of_target, of_shadows, place):
        own = of_shadows[:, place].astype(np.float64)
        return float(of_target[place]) / ((1.4 * own.mean() + 0.6) / 2)

    common, expected = [], []
    shown, known = view_of_tests(held)["population"], held["population"]
    for i in range(80):
        common.append(ratio(shown.prediction[i], known.prediction[i], known.label[i]))
    for i in range(200):
        mine = ratio(target.prediction[i], shadows.prediction[i, truth[i] == 0], label[i])
        expected.append(np.mean([mine / other >= 1.5 for other in common]))
    found = attack.predict(state, target, **view_of_tests(held))
    np.testing.assert_allclose(found + state["threshold"], expected, rtol=1e-12)
    assert 0 < state["threshold"] < 1
    assert balanced_accuracy_score(member, found > 0) > 0.6


def test_relative_population():
    """Examples given together do not change each other's score; a wrong population is refused."""
    shadows, truth, target, _, label = confident(4)
    population = public(4)
    attack = attacks.relative()
    state = attack.fit(KEY, shadows, truth, label=label, population=population)
    shown = view_of_tests({"population": population})["population"]
    whole = attack.predict(state, target, label=label, population=shown)
    cut = attack.fit(
        KEY,
        Observation(shadows.prediction[:30]),
        truth[:30],
        label=label[:30],
        population=population,
    )
    half = attack.predict(
        cut, Observation(target.prediction[:30]), label=label[:30], population=shown
    )
    np.testing.assert_allclose(half + cut["threshold"], whole[:30] + state["threshold"], rtol=1e-12)
    with pytest.raises(InputError, match="give a population"):
        attack.check(shadows, truth, label)
    with pytest.raises(InputError, match=r"reads predictions \[P,4,5\] and labels \[P\] of public"):
        attack.check(shadows, truth, label, shown)
    with pytest.raises(InputError, match="is shown 3 public examples and was fitted to 80"):
        attack.predict(
            state, target, label=label, population=jax.tree.map(lambda leaf: leaf[:3], shown)
        )


def test_shadows_read_in_slices():
    """Observations of many models are never in memory whole."""
    found = gaussian(1.0, 4, 100)
    shadows, truth, target, member = found
    lazy = shadows._replace(explanation=Sliced(shadows.explanation))
    np.testing.assert_array_equal(scores((lazy, truth, target, member)), scores(found))
    shadows, truth, target, member, label = confident(4)
    for attack in (attacks.relative(), attacks.likelihood_ratio("confidence")):
        held = {"label": label, "population": public(4)}
        held = {name: held[name] for name in attack.needs}
        whole = attack.fit(KEY, shadows, truth, **held)
        sliced = attack.fit(KEY, Observation(Sliced(shadows.prediction)), truth, **held)
        jax.tree.map(np.testing.assert_array_equal, whole, sliced)


def test_degenerate_signals_finite():
    """Equal statistics, zero maps and two shadow models give finite scores."""
    random = np.random.default_rng(0)
    truth = halves(random, 20, 2)
    shape = (20, 3, 1, 1, 3)
    for values in (np.zeros(shape), np.ones(shape), random.random(shape)):
        for variance in moments.VARIANCES:
            attack = attacks.likelihood_ratio(variance=variance)
            state = attack.fit(KEY, Observation(np.ones((20, 2, 2)), values[:, :2]), truth)
            target = Observation(np.ones((20, 2)), values[:, 2])
            assert np.isfinite(attack.predict(state, target)).all()


# Bad input


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        (dict(signal="loss"), "unknown signal 'loss'"),
        (dict(mode="both"), "unknown mode 'both'"),
        (dict(variance="median"), "unknown variance 'median'"),
        (dict(statistics=["l1", "l7"]), "unknown statistic 'l7'"),
        (dict(statistics=["l1"], signal="confidence"), 'but signal "maps" alone reads it'),
    ],
)
def test_words_refused(hyper, message):
    with pytest.raises(InputError, match=message):
        attacks.build("likelihood_ratio", **hyper)


@pytest.mark.parametrize("hyper", [dict(gamma=0.0), dict(a=1.5), dict(a=True)])
def test_relative_ranges(hyper):
    with pytest.raises(InputError, match="must be"):
        attacks.relative(**hyper)


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_shadows_refused(mode):
    """Too few models, an odd number, an example without "in" or "out", and other shapes."""
    shadows, truth, target, _ = gaussian(1.0, 4, 20)
    attack = attacks.likelihood_ratio(statistics=("l1",), mode=mode)

    def fit(models, truth):
        cut = jax.tree.map(lambda leaf: leaf[:, :models], shadows)
        return attack.fit(KEY, cut, truth[:, :models])

    for models in (0, 3) if mode == "online" else (2, 3):
        with pytest.raises(InputError, match=f"learns from {models} shadow models"):
            fit(models, truth)
    changed = truth.copy()
    changed[7] = 1
    with pytest.raises(InputError, match="example 7 was trained on by every shadow model"):
        fit(4, changed)
    with pytest.raises(InputError, match=r"trained on (by no shadow|any of the examples)"):
        fit(4, 0 * truth)
    with pytest.raises(InputError, match=r"statistics \[N,S,1,1,1\]"):
        attack.fit(KEY, target, truth)
    state = fit(4, truth)
    with pytest.raises(InputError, match="is shown 5 examples and was fitted to 20"):
        attack.predict(state, jax.tree.map(lambda leaf: leaf[:5], target))
    with pytest.raises(InputError, match="reads an explanation, and the arm reads none"):
        attack.predict(state, target._replace(explanation=None))
    with pytest.raises(InputError, match=r"reads statistics \[N,1,1,1\]"):
        attack.predict(state, target._replace(explanation=np.ones((20, 4, 4, 1))))
    with pytest.raises(InputError, match="statistic that is not finite"):
        attack.predict(state, target._replace(explanation=np.inf * target.explanation))
