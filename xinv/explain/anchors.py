"""Anchors: the superpixels of largest coverage that keep the prediction (Ribeiro et al. 2018).

The search is alibi's beam search with the KL-LUCB bandit (Kaufmann 2013), with one difference for
batching. alibi draws copies for two candidates at a time. Here a round draws `batch_size` copies
around each parent anchor A, and they count for every candidate A + f whose superpixel f they happen
to keep. Superpixels are kept independently, so a copy with f is distributed exactly as one drawn
for A + f. The draws of each candidate are thus independent and identically distributed, as the
bounds require; candidates merely share them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xinv.explain import door
from xinv.explain.perturbation import coalitions
from xinv.explain.perturbation.coalitions import Baseline
from xinv.explain.perturbation.segment import Labels, Segmenter, superpixels
from xinv.numbers import described, is_count, is_number
from xinv.plugins import cached
from xinv.space import Number, searched
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

SLACK = 0.05
"""Largest distance of a lower bound below the threshold (alibi's epsilon_stop)."""


# Phases of a search
_EMPTY, _RACE, _CHECK, _NEXT, _DONE = range(5)


class _Search(NamedTuple):
    """State of the beam search; an anchor is bool [M].

    Attributes:
      phase: _EMPTY tests the empty anchor, _RACE races the beam's extensions by one superpixel,
        _CHECK samples the winners, which are the beam by then. _NEXT is between two sizes.
      step: rounds drawn in this phase.
      rounds: rounds drawn so far.
      size: superpixels of each anchor in the beam.
      beam: [B,M], the best anchors of this size.
      alive: [B], False for the empty places of the beam.
      covers, draws, hits: [B], coverage, draws and hits of the anchors in the beam.
      open: [B*M], the extensions that are worth a trial.
      coverage, raced, won: [B*M], coverage, draws and hits of the extensions.
      best: the valid anchor of largest coverage.
      best_coverage: its coverage; -1 while there is none.
      spare: the most precise anchor met, the result if none is valid.
      spare_precision: its precision.
    """

    phase: jax.Array
    step: jax.Array
    rounds: jax.Array
    size: jax.Array
    beam: jax.Array
    alive: jax.Array
    covers: jax.Array
    draws: jax.Array
    hits: jax.Array
    open: jax.Array
    coverage: jax.Array
    raced: jax.Array
    won: jax.Array
    best: jax.Array
    best_coverage: jax.Array
    spare: jax.Array
    spare_precision: jax.Array


class _Rules(NamedTuple):
    """Settings of the search.

    Attributes:
      threshold, delta, tau, beam_size: as in `anchors`.
      max_rounds: rounds of one bandit or one check of precision.
      budget: rounds in all.
    """

    threshold: float
    delta: float
    tau: float
    beam_size: int
    max_rounds: int
    budget: int


@searched(
    threshold=Number(0.5, 0.99),
    tau=Number(0.05, 0.3),
    delta=Number(0.01, 0.3),
    p_sample=Number(0.2, 0.8),
    segments=Number(5, 15, whole=True),
    compactness=Number(1.0, 20.0, log=True),
)
@cached
def anchors(
    threshold: float = 0.95,
    delta: float = 0.1,
    tau: float = 0.15,
    batch_size: int = 100,
    coverage_samples: int = 10000,
    beam_size: int = 1,
    p_sample: float = 0.5,
    segments: int | None = None,
    compactness: float | None = None,
    *,
    max_size: int | None = None,
    max_rounds: int = 20,
    max_samples: int = 10000,
    baseline: Baseline = "mean",
    segmentation: str | Labels | Segmenter = "slic",
    sigma: float | None = None,
) -> Explainer:
    """Anchors: superpixels that keep the predicted class while others are replaced at random.

    Among the anchors A with P(prec(A) >= threshold) >= 1 - delta found by beam search, the result
    is the one of largest coverage; without any, the most precise one met. The empty anchor is tried
    first: a constant model has an empty map.

    Args:
      threshold: precision wanted, the share of copies whose predicted class is the label.
      delta: 1 - the confidence of all bounds.
      tau: the bandit stops when the best candidates are within tau of the best there are.
      batch_size: copies per round and beam member.
      coverage_samples: random coalitions; the share with the anchor in them estimates its coverage.
      beam_size: anchors kept per size.
      p_sample: probability of replacing a superpixel outside the anchor.
      segments, compactness, segmentation, sigma: see `segment.superpixels`. DeepLeak's Table VIII:
        15, 20, "slic", 0.5.
      max_size: largest anchor; None is all superpixels.
      max_rounds: bound on the rounds of each bandit and of each check of precision; alibi has none,
        and may not end.
      max_samples: bound on the copies of one image, for every model; an unsure model would
        otherwise take many times as many as a sure one. At the bound the search returns the best
        anchor so far, whose estimates hold as they are.
      baseline: value of a replaced superpixel: a number, one per channel, an image [H,W,C], or
        "mean", its own mean colour.

    Returns:
      An explainer with a map [H,W,1]: 1 on the anchor, 0 elsewhere.

    Raises:
      InputError: an option outside these.

    Cost: forward passes batch_size x beam_size x rounds, at most 2 x max_rounds for
    each anchor size tried, and max_samples in all. Each of the images mapped together costs its own
    rounds.
    """
    segmenter = superpixels(segmentation, segments, compactness, sigma, 15)
    baseline = coalitions.check_baseline(baseline)
    # Refuse options out of range now, before anything is traced.
    for name, share in {
        "threshold": threshold,
        "delta": delta,
        "tau": tau,
        "p_sample": p_sample,
    }.items():
        if not is_number(share) or not 0 < share < 1:
            raise InputError(f"anchors' {name} lies between 0 and 1, not {described(share)}")
    sizes = {"batch_size": batch_size, "coverage_samples": coverage_samples, "beam_size": beam_size}
    for name, size in {
        **sizes,
        "max_rounds": max_rounds,
        "max_size": 1 if max_size is None else max_size,
    }.items():
        if not is_count(size, 1):
            raise InputError(f"anchors' {name} is at least 1, not {described(size)}")
    if not is_count(max_samples, batch_size * beam_size):
        raise InputError(
            f"anchors' max_samples is at least batch_size x beam_size, not {described(max_samples)}"
        )
    rules = _Rules(
        threshold,
        delta,
        tau,
        beam_size,
        max_rounds,
        max_samples // (batch_size * beam_size),
    )

    @functools.partial(door.checked, least=2, draws=True)
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        game, count = coalitions.game(segmenter, image, baseline)
        coverage_key, key = jax.random.split(key)
        # Coverage is the share of these coalitions with all of an anchor in them. One set serves
        # all anchors, so that their coverages compare.
        covered = jax.random.bernoulli(
            coverage_key,
            1 - p_sample,
            (coverage_samples, count),
        )
        # A label without pixels has no effect: it joins no anchor.
        visible = jnp.zeros(count, bool).at[game.labels.reshape(-1)].set(True)

        def draw(
            key: Key,
            parents: jax.Array,
            active: jax.Array,
        ) -> tuple[jax.Array, jax.Array]:
            """Draws coalitions bool [B,batch_size,M] around `parents` [B,M], and their hits."""
            # A parent's own superpixels are always kept, the others with probability 1 - p_sample.
            present = (
                jax.random.bernoulli(key, 1 - p_sample, (len(parents), batch_size, count))
                | parents[:, None]
            )
            logits = coalitions.logits(
                apply,
                variables,
                game,
                present.reshape(-1, count),
                active,
            )
            # A hit: the copy's predicted class is the label.
            return present, (jnp.argmax(logits, -1) == label).reshape(present.shape[:2])

        anchor = _search(draw, covered, visible, max_size or count, rules, key)
        own = coalitions.logits(apply, variables, game, jnp.ones((1, count), bool))
        # NaN logits predict no class, and the search alone would not notice them.
        values = door.marked(anchor.astype(game.image.dtype), own)
        return coalitions.paint(values, game)

    return explain


def _search(
    draw,
    covered: jax.Array,
    visible: jax.Array,
    max_size: int,
    rules: _Rules,
    key: Key,
) -> jax.Array:
    """Returns the best anchor bool [M].

    One loop draws a round at a time, whatever its phase. So images mapped together take as many
    rounds as the longest search, and not as many as the longest of every phase.

    Args:
      draw: `(key, parents [B,M], active [])` -> coalitions and their hits.
      covered: bool [coverage_samples,M], the coalitions of the coverage.
      visible: bool [M], the superpixels with pixels.
      max_size, rules, key: limits, settings and randomness of the search.
    """

    def one_round(search: _Search) -> _Search:
        # Of images mapped together, those whose search is over cost no passes
        drawn = draw(_round_key(key, search), search.beam, search.phase != _DONE)
        search = _counted(search, rules, *drawn)
        # A phase without further rounds gives way to the next, which may need none
        for phase, undecided, then in (
            (_EMPTY, _is_unsure, _tested),
            (_RACE, _is_tied, _chosen),
            (_CHECK, lambda *state: _unclear(*state).any(), _settled),
        ):
            limited = (search.step < rules.max_rounds) & (search.rounds < rules.budget)
            over = (search.phase == phase) & ~(limited & undecided(search, rules))
            search = jax.lax.cond(over, functools.partial(then, rules=rules), _same, search)
        opened = lambda search: _opened(search, covered, visible, max_size, rules)
        return jax.lax.cond(search.phase == _NEXT, opened, _same, search)

    start = _start(rules.beam_size, len(visible))
    end = jax.lax.while_loop(lambda search: search.phase != _DONE, one_round, start)
    return jnp.where(end.best_coverage >= 0, end.best, end.spare)


def _same(search: _Search) -> _Search:
    return search


def _start(width: int, count: int) -> _Search:
    """The search before its first round: a beam with the empty anchor alone."""
    own = jnp.zeros(width, jnp.int32)
    extensions = jnp.zeros(width * count, jnp.int32)
    empty = jnp.zeros((width, count), bool)
    return _Search(
        phase=jnp.array(_EMPTY),
        step=jnp.array(0),
        rounds=jnp.array(0),
        size=jnp.array(0),
        beam=empty,
        alive=jnp.arange(width) < 1,
        covers=jnp.ones(width, jnp.float32),
        draws=own,
        hits=own,
        open=extensions > 0,
        coverage=jnp.zeros(width * count, jnp.float32),
        raced=extensions,
        won=extensions,
        best=empty[0],
        best_coverage=jnp.float32(-1),
        spare=empty[0],
        spare_precision=jnp.float32(-1),
    )


def _round_key(key: Key, search: _Search) -> Key:
    """The key of a round: of its size, phase and number."""
    # A race is for anchors of the next size
    race = search.phase == _RACE
    of_size = jax.random.fold_in(key, search.size + race)
    race_key, check_key = jax.random.split(of_size)
    of_phase = jnp.where(race, race_key, check_key)
    of_phase = jnp.where(search.phase == _EMPTY, of_size, of_phase)
    return jax.random.fold_in(of_phase, search.step)


def _counted(search: _Search, rules: _Rules, present: jax.Array, hit: jax.Array) -> _Search:
    """Counts a round: coalitions bool [B,batch_size,M] and their hits bool [B,batch_size]."""
    race = search.phase == _RACE
    # Only undecided anchors count new copies, so the estimates of the others stay
    own = (search.phase == _EMPTY) | (search.phase == _CHECK) & _unclear(search, rules)
    # In a race a copy counts for every extension whose superpixel it keeps
    more = present.sum(1, dtype=jnp.int32).reshape(-1)
    right = (present & hit[..., None]).sum(1, dtype=jnp.int32).reshape(-1)
    return search._replace(
        step=search.step + 1,
        rounds=search.rounds + 1,
        draws=search.draws + own * hit.shape[1],
        hits=search.hits + own * hit.sum(1, dtype=jnp.int32),
        raced=search.raced + race * more,
        won=search.won + race * right,
    )


def _is_unsure(search: _Search, rules: _Rules) -> jax.Array:
    """Tells if further rounds may show that the empty anchor holds."""
    # They can help only while the mean is high and its bound is too low
    likely = search.hits[0] > rules.threshold * search.draws[0]
    return likely & (_empty_low(search, rules) < rules.threshold - rules.tau)


def _tested(search: _Search, rules: _Rules) -> _Search:
    """Ends the test of the empty anchor, which covers every image: if it is valid, none is better.

    It holds if the label is predicted with every superpixel replaced at random.
    """
    holds = _empty_low(search, rules) > rules.threshold
    return search._replace(
        phase=jnp.array(_NEXT), best_coverage=jnp.where(holds, jnp.float32(1), -1)
    )


def _empty_low(search: _Search, rules: _Rules) -> jax.Array:
    draws = jnp.maximum(search.draws[0], 1)
    return lower_bound(search.hits[0] / draws, jnp.log(1 / rules.delta) / draws)


def _opened(
    search: _Search,
    covered: jax.Array,
    visible: jax.Array,
    max_size: int,
    rules: _Rules,
) -> _Search:
    """Opens a race of the beam's extensions by one superpixel, if any is worth a trial."""
    count = len(visible)
    # The coverage of A + f is the share of coalitions with all of A and f: one matrix product
    contains = (covered[:, None] | ~search.beam).all(-1).astype(jnp.float32)
    coverage = (contains.T @ covered.astype(jnp.float32) / len(covered)).reshape(-1)
    # Worth a trial: it adds a visible superpixel, no earlier parent gives the same set, and its
    # coverage would be a gain
    sets = _extensions(search.beam)
    new = (search.alive[:, None] & ~search.beam & visible).reshape(-1)
    equal = (sets[:, None] == sets).all(-1)
    again = (jnp.tril(equal, -1) & new).any(-1)
    worth = new & ~again & (coverage > search.best_coverage)
    # Full coverage cannot be surpassed, and without candidates nothing can grow
    more = (search.size < max_size) & (search.rounds < rules.budget)
    more &= (search.best_coverage < 1) & worth.any()
    none = jnp.zeros(len(search.beam) * count, jnp.int32)
    return search._replace(
        phase=jnp.where(more, jnp.array(_RACE), jnp.array(_DONE)),
        step=jnp.array(0),
        open=worth,
        coverage=coverage,
        raced=none,
        won=none,
    )


def _extensions(beam: jax.Array) -> jax.Array:
    """Every anchor of a beam [B,M] with one superpixel more, [B*M,M]."""
    count = beam.shape[1]
    return (beam[:, None] | jnp.eye(count, dtype=bool)).reshape(-1, count)


def _is_tied(search: _Search, rules: _Rules) -> jax.Array:
    """Tells if the best B extensions do not stand out by tau yet (KL-LUCB)."""
    means = _precision(search)
    # KL-LUCB stops by the gap from the weakest leader's lower bound to the strongest rival's
    # upper bound; the leaders are the B candidates of highest mean
    leaders = jnp.zeros_like(search.open).at[jax.lax.top_k(means, rules.beam_size)[1]].set(True)
    leaders &= search.open
    arms = jnp.maximum(search.open.sum(), 1)
    level = _beta(arms, search.step, rules.delta) / jnp.maximum(search.raced, 1e-6)
    best_rival = jnp.where(search.open & ~leaders, upper_bound(means, level), -jnp.inf).max()
    return best_rival - jnp.where(leaders, lower_bound(means, level), jnp.inf).min() > rules.tau


def _chosen(search: _Search, rules: _Rules) -> _Search:
    """Ends a race: the best extensions, by their estimates, are the next beam."""
    _, chosen = jax.lax.top_k(_precision(search), rules.beam_size)
    return search._replace(
        phase=jnp.array(_CHECK),
        step=jnp.array(0),
        size=search.size + 1,
        beam=_extensions(search.beam)[chosen],
        alive=search.open[chosen],
        covers=search.coverage[chosen],
        draws=search.raced[chosen],
        hits=search.won[chosen],
    )


def _precision(search: _Search) -> jax.Array:
    """The estimated precision of each extension [B*M]; -1 of one that is not worth a trial."""
    return jnp.where(search.open, search.won / jnp.maximum(search.raced, 1), -1)


def _unclear(search: _Search, rules: _Rules) -> jax.Array:
    """Tells of the beam's anchors [B] which are not clearly above or below the threshold."""
    mean, level = _estimated(search, rules)
    # The mean is on one side of the threshold, its bound still on the other
    high = (mean >= rules.threshold) & (lower_bound(mean, level) < rules.threshold - SLACK)
    low = (mean < rules.threshold) & (upper_bound(mean, level) >= rules.threshold + SLACK)
    return search.alive & (high | low)


def _settled(search: _Search, rules: _Rules) -> _Search:
    """Ends a check: keeps the valid anchor of largest coverage, and the most precise in reserve."""
    precision, level = _estimated(search, rules)
    low = lower_bound(precision, level)
    holds = search.alive & (precision >= rules.threshold) & (low > rules.threshold - SLACK)
    gain = jnp.where(holds & (search.covers > search.best_coverage), search.covers, -1)
    better = gain.max() > search.best_coverage
    top = jnp.argmax(jnp.where(search.alive, precision, -1))
    likelier = precision[top] > search.spare_precision
    return search._replace(
        phase=jnp.array(_NEXT),
        best=jnp.where(better, search.beam[jnp.argmax(gain)], search.best),
        best_coverage=jnp.where(better, gain.max(), search.best_coverage),
        spare=jnp.where(likelier, search.beam[top], search.spare),
        spare_precision=jnp.where(likelier, precision[top], search.spare_precision),
    )


def _estimated(search: _Search, rules: _Rules) -> tuple[jax.Array, jax.Array]:
    """The precision of the beam's anchors [B], and the level of its bounds."""
    # As in alibi, delta is divided among 1 + (B - 1) M anchors
    count = 1 + (rules.beam_size - 1) * search.beam.shape[1]
    mean = search.hits / jnp.maximum(search.draws, 1)
    return mean, jnp.log(count / rules.delta) / jnp.maximum(search.draws, 1e-6)


def _beta(arms: Array, rounds: Array, delta: float) -> jax.Array:
    """Exploration rate of KL-LUCB (Kaufmann 2013, theorem 1, with alpha 1.1 and k 405.5)."""
    rate = jnp.log(405.5 * arms * rounds**1.1 / delta)
    return rate + jnp.log(rate)


def upper_bound(mean: Array, level: Array) -> jax.Array:
    """The largest q >= mean with KL(mean, q) <= level, of Bernoulli variables."""
    # Pinsker's inequality, KL(p, q) >= 2 (p - q)^2, gives the first end beyond the bound.
    return _bisect(mean, jnp.minimum(mean + jnp.sqrt(level / 2), 1), mean, level)


def lower_bound(mean: Array, level: Array) -> jax.Array:
    """The smallest q <= mean with KL(mean, q) <= level, of Bernoulli variables."""
    return _bisect(mean, jnp.maximum(mean - jnp.sqrt(level / 2), 0), mean, level)


def _bisect(inside: Array, outside: Array, mean: Array, level: Array) -> jax.Array:
    """Finds q with KL(mean, q) = level between `inside`, where KL is less, and `outside`."""

    def halve(_: int, ends: tuple) -> tuple:
        inside, outside = ends
        middle = (inside + outside) / 2
        beyond = _kl(mean, middle) > level
        return jnp.where(beyond, inside, middle), jnp.where(beyond, middle, outside)

    # Sixteen halvings: to 2^-16 of the interval. Adding 0 * level gives both ends one shape.
    return jax.lax.fori_loop(0, 16, halve, (inside + 0 * level, outside))[1]


def _kl(p: Array, q: Array) -> jax.Array:
    # Clipped, since the logarithms are infinite at 0 and 1.
    p, q = jnp.clip(p, 1e-7, 1 - 1e-7), jnp.clip(q, 1e-7, 1 - 1e-7)
    return p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))
