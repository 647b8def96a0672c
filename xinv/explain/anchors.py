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


class _Search(NamedTuple):
    """State of the beam search; an anchor is bool [M].

    Attributes:
      rounds: rounds drawn so far.
      size: superpixels of each anchor in the beam.
      beam: [B,M], the best anchors of this size.
      alive: [B], False for the empty places of the beam.
      best: the valid anchor of largest coverage.
      best_coverage: its coverage; -1 while there is none.
      spare: the most precise anchor met, the result if none is valid.
      spare_precision: its precision.
    """

    rounds: jax.Array
    size: jax.Array
    beam: jax.Array
    alive: jax.Array
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
    each anchor size tried, and max_samples in all. Images mapped together take as many
    rounds as the hardest of them.
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

        def draw(key: Key, parents: jax.Array) -> tuple[jax.Array, jax.Array]:
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

    Args:
      draw: `(key, parents [B,M])` -> coalitions and their hits.
      covered: bool [coverage_samples,M], the coalitions of the coverage.
      visible: bool [M], the superpixels with pixels.
      max_size, rules, key: limits, settings and randomness of the search.
    """
    width = rules.beam_size
    count = len(visible)
    empty = jnp.zeros((width, count), bool)
    # The empty anchor covers every image: if it is valid, none can be better.
    rounds, holds = _empty_anchor_holds(
        draw,
        empty[:1],
        _within(rules, 0),
        jax.random.fold_in(key, 0),
    )
    # The beam starts with the empty anchor alone.
    start = _Search(
        rounds=rounds,
        size=jnp.array(0),
        beam=empty,
        alive=jnp.arange(width) < 1,
        best=empty[0],
        best_coverage=jnp.where(holds, 1.0, -1.0),
        spare=empty[0],
        spare_precision=jnp.array(-1.0),
    )

    def open_candidates(search: _Search) -> tuple[jax.Array, jax.Array, jax.Array]:
        return _candidates(search, covered, visible)

    def unfinished(search: _Search) -> jax.Array:
        # Full coverage cannot be surpassed, and without candidates nothing can grow.
        more = (search.size < max_size) & (search.rounds < rules.budget)
        return more & (search.best_coverage < 1) & open_candidates(search)[2].any()

    def grow(search: _Search) -> _Search:
        # Race the beam's extensions by one superpixel for the highest precision.
        sets, coverage, open_ = open_candidates(search)
        race_key, check_key = jax.random.split(jax.random.fold_in(key, search.size + 1))
        raced, draws, hits = _race(
            draw,
            search.beam,
            open_,
            _within(rules, search.rounds),
            race_key,
        )
        # The best of them, by their estimates, are the next beam.
        precision, chosen = jax.lax.top_k(
            jnp.where(
                open_,
                hits / jnp.maximum(draws, 1),
                -1,
            ),
            width,
        )
        sets, coverage, alive = sets[chosen], coverage[chosen], open_[chosen]
        # Sample these further, until the bounds decide which are valid.
        within = _within(rules, search.rounds + raced)
        checked, precision, low = _check(
            draw,
            sets,
            alive,
            draws[chosen],
            hits[chosen],
            within,
            check_key,
        )
        # Keep the valid anchor of largest coverage, and the most precise one in reserve.
        holds = alive & (precision >= rules.threshold) & (low > rules.threshold - SLACK)
        gain = jnp.where(holds & (coverage > search.best_coverage), coverage, -1)
        better = gain.max() > search.best_coverage
        top = jnp.argmax(jnp.where(alive, precision, -1))
        likelier = precision[top] > search.spare_precision
        return _Search(
            rounds=search.rounds + raced + checked,
            size=search.size + 1,
            beam=sets,
            alive=alive,
            best=jnp.where(better, sets[jnp.argmax(gain)], search.best),
            best_coverage=jnp.where(better, gain.max(), search.best_coverage),
            spare=jnp.where(likelier, sets[top], search.spare),
            spare_precision=jnp.where(
                likelier,
                precision[top],
                search.spare_precision,
            ),
        )

    end = jax.lax.while_loop(unfinished, grow, start)
    return jnp.where(end.best_coverage >= 0, end.best, end.spare)


def _within(rules: _Rules, rounds: Array) -> _Rules:
    """Limits the rounds of one bandit to the rest of the budget."""
    return rules._replace(max_rounds=jnp.minimum(rules.max_rounds, rules.budget - rounds))


def _candidates(
    search: _Search,
    covered: jax.Array,
    visible: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Extends every beam anchor by one superpixel.

    Returns:
      sets [B*M,M], their coverage [B*M], and bool [B*M], True for those worth a trial.
    """
    count = len(visible)
    sets = (search.beam[:, None] | jnp.eye(count, dtype=bool)).reshape(-1, count)
    # The coverage of A + f is the share of coalitions with all of A and f: one matrix product.
    contains = (covered[:, None] | ~search.beam).all(-1).astype(jnp.float32)
    coverage = (contains.T @ covered.astype(jnp.float32) / len(covered)).reshape(-1)
    # Worth a trial: it adds a visible superpixel, no earlier parent gives the same set, and its
    # coverage would be a gain.
    new = (search.alive[:, None] & ~search.beam & visible).reshape(-1)
    equal = (sets[:, None] == sets).all(-1)
    again = (jnp.tril(equal, -1) & new).any(-1)
    return sets, coverage, new & ~again & (coverage > search.best_coverage)


def _race(
    draw,
    beam: jax.Array,
    open_: jax.Array,
    rules: _Rules,
    key: Key,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Samples the candidates until the best B stand out by tau or the rounds run out (KL-LUCB).

    Returns:
      rounds, and draws and hits [B*M] of the candidates.
    """

    def gap(carry: tuple) -> jax.Array:
        rounds, draws, hits = carry
        means = jnp.where(open_, hits / jnp.maximum(draws, 1), -1)
        # KL-LUCB stops by the gap from the weakest leader's lower bound to the strongest rival's
        # upper bound; the leaders are the B candidates of highest mean.
        leaders = (
            jnp.zeros_like(open_).at[jax.lax.top_k(means, rules.beam_size)[1]].set(True) & open_
        )
        level = _beta(open_.sum(), rounds, rules.delta) / jnp.maximum(draws, 1e-6)
        rivals = open_ & ~leaders
        best_rival = jnp.where(rivals, upper_bound(means, level), -jnp.inf).max()
        return best_rival - jnp.where(leaders, lower_bound(means, level), jnp.inf).min()

    def sample(carry: tuple) -> tuple:
        rounds, draws, hits = carry
        present, hit = draw(jax.random.fold_in(key, rounds), beam)
        # A copy counts for every candidate whose superpixel it keeps.
        more = present.sum(1, dtype=draws.dtype).reshape(-1)
        right = (present & hit[..., None]).sum(1, dtype=hits.dtype).reshape(-1)
        return rounds + 1, draws + more, hits + right

    def undecided(carry: tuple) -> jax.Array:
        # At least one round: without draws there are no means to compare.
        return (carry[0] < 1) | (carry[0] < rules.max_rounds) & (gap(carry) > rules.tau)

    none = jnp.zeros(open_.shape, jnp.int32)
    return jax.lax.while_loop(undecided, sample, (0, none, none))


def _check(
    draw,
    sets: jax.Array,
    alive: jax.Array,
    draws: jax.Array,
    hits: jax.Array,
    rules: _Rules,
    key: Key,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Samples the anchors `sets` [B,M] until each is clearly above or below the threshold.

    Returns:
      rounds, the precision [B] and its lower bound [B].
    """
    # As in alibi, delta is divided among 1 + (B - 1) M anchors.
    beta = jnp.log((1 + (rules.beam_size - 1) * sets.shape[1]) / rules.delta)

    def unclear(draws: jax.Array, hits: jax.Array) -> jax.Array:
        mean = hits / jnp.maximum(draws, 1)
        level = beta / jnp.maximum(draws, 1e-6)
        # The mean is on one side of the threshold, its bound still on the other.
        high = (mean >= rules.threshold) & (lower_bound(mean, level) < rules.threshold - SLACK)
        low = (mean < rules.threshold) & (upper_bound(mean, level) >= rules.threshold + SLACK)
        return alive & (high | low)

    def sample(carry: tuple) -> tuple:
        rounds, draws, hits = carry
        # Only undecided anchors count new copies, so the estimates of the others stay.
        more = unclear(draws, hits)
        hit = draw(jax.random.fold_in(key, rounds), sets)[1]
        return rounds + 1, draws + more * hit.shape[1], hits + more * hit.sum(1, dtype=hits.dtype)

    def go_on(carry: tuple) -> jax.Array:
        return (carry[0] < rules.max_rounds) & unclear(*carry[1:]).any()

    rounds, draws, hits = jax.lax.while_loop(go_on, sample, (0, draws, hits))
    mean = hits / jnp.maximum(draws, 1)
    return rounds, mean, lower_bound(mean, beta / jnp.maximum(draws, 1e-6))


def _empty_anchor_holds(
    draw,
    empty: jax.Array,
    rules: _Rules,
    key: Key,
) -> tuple[jax.Array, jax.Array]:
    """Tests if the label is predicted with every superpixel replaced at random.

    Returns:
      rounds, and bool [], True if the lower bound of its precision exceeds the threshold.
    """

    def low(carry: tuple) -> jax.Array:
        return lower_bound(
            carry[2] / jnp.maximum(carry[1], 1),
            jnp.log(1 / rules.delta) / jnp.maximum(carry[1], 1e-6),
        )

    def sample(carry: tuple) -> tuple:
        rounds, draws, hits = carry
        hit = draw(jax.random.fold_in(key, rounds), empty)[1]
        return rounds + 1, draws + hit.size, hits + hit.sum(dtype=hits.dtype)

    def unclear(carry: tuple) -> jax.Array:
        # Further rounds can help only while the mean is high and its bound is too low.
        likely = carry[2] > rules.threshold * carry[1]
        more = likely & (low(carry) < rules.threshold - rules.tau)
        return (carry[0] < 1) | (carry[0] < rules.max_rounds) & more

    end = jax.lax.while_loop(unclear, sample, (0, jnp.array(0), jnp.array(0)))
    return end[0], low(end) > rules.threshold


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
