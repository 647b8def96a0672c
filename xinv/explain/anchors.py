"""Anchors: the largest-coverage set of superpixels that holds the prediction (Ribeiro 2018),
searched under jit.

The search is alibi's beam search with the KL-LUCB bandit (Kaufmann 2013), with one difference that
makes it batched: where alibi draws copies for two candidates at a time, a round here draws
`batch_size` copies around each parent anchor A, and they count for every candidate A + f whose
superpixel f they happen to keep. Given that it keeps f, such a copy is distributed exactly as one
drawn for A + f, because superpixels are kept independently. So the draws of each candidate are
independent and identically distributed as the bounds require; candidates merely share them.
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
"""Distance below the threshold at which a lower bound may stay (alibi's epsilon_stop)."""


class _Search(NamedTuple):
    """Anchors are bool [M]; `beam` [B,M] are the best of the current size, those with `alive` [B]
    False are empty.
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
    threshold: float
    delta: float
    tau: float
    beam_size: int
    max_rounds: int
    """Of one bandit or check of precision."""
    budget: int
    """Rounds in all."""


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
    """The superpixels that, kept while others are replaced at random, keep the predicted class
    equal to the label.

    Of the anchors A with P(prec(A) >= threshold) >= 1 - delta found by beam search, the one of
    largest coverage; where there is none, the most precise one met. The empty anchor is tried
    first: a constant model has an empty map.

    Args:
      threshold: precision wanted, the share of copies whose predicted class is the label.
      delta: 1 - the confidence of all bounds.
      tau: the bandit stops when the best candidates are within tau of the best there are.
      batch_size: copies per round and beam member.
      coverage_samples: random coalitions from which coverage, the share that contains the anchor,
          is estimated.
      beam_size: anchors kept per size.
      p_sample: probability that a superpixel outside the anchor is replaced.
      segments, compactness, segmentation, sigma: see `segment.superpixels`. DeepLeak's Table VIII:
          15, 20, "slic", 0.5.
      max_size: largest anchor; None is all superpixels.
      max_rounds: bound on the rounds of each bandit and of each check of precision; alibi has none,
          and may not end.
      max_samples: bound on the copies of one image, whatever the model; a model that is unsure
        would else take many times as many as a sure one. The search then ends with what it has
        found, which holds as well as it says.
      baseline: what a replaced superpixel becomes: a number, one per channel, an image [H,W,C], or
        "mean", its own mean colour.

    Returns:
      An explainer whose map is [H,W,1]: 1 on the anchor, 0 elsewhere.

    Raises:
      InputError: an option outside these.

    Cost: forward passes batch_size x beam_size x rounds, at most 2 x max_rounds for each anchor
    size tried, and max_samples in all. Images mapped together take as many rounds as the hardest of
    them.
    """
    segmenter = superpixels(segmentation, segments, compactness, sigma, 15)
    baseline = coalitions.check_baseline(baseline)
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
        covered = jax.random.bernoulli(
            coverage_key,
            1 - p_sample,
            (coverage_samples, count),
        )
        visible = jnp.zeros(count, bool).at[game.labels.reshape(-1)].set(True)

        def draw(key: Key, parents: jax.Array) -> tuple[jax.Array, jax.Array]:
            """Coalitions bool [B, batch_size, M] that contain each parent [B, M]; whether the label
            is predicted.
            """
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
            return present, (jnp.argmax(logits, -1) == label).reshape(present.shape[:2])

        anchor = _search(draw, covered, visible, max_size or count, rules, key)
        own = coalitions.logits(apply, variables, game, jnp.ones((1, count), bool))
        values = door.marked(anchor.astype(game.image.dtype), own)  # NaN predicts no class
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
    """The best anchor bool [M]; `draw(key, parents[B,M])` samples, `visible` [M] are the
    superpixels with pixels.
    """
    width = rules.beam_size
    count = len(visible)
    empty = jnp.zeros((width, count), bool)
    rounds, holds = _empty_anchor_holds(
        draw,
        empty[:1],
        _within(rules, 0),
        jax.random.fold_in(key, 0),
    )
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
        more = (search.size < max_size) & (search.rounds < rules.budget)
        return more & (search.best_coverage < 1) & open_candidates(search)[2].any()

    def grow(search: _Search) -> _Search:
        sets, coverage, open_ = open_candidates(search)
        race_key, check_key = jax.random.split(jax.random.fold_in(key, search.size + 1))
        raced, draws, hits = _race(
            draw,
            search.beam,
            open_,
            _within(rules, search.rounds),
            race_key,
        )
        precision, chosen = jax.lax.top_k(
            jnp.where(
                open_,
                hits / jnp.maximum(draws, 1),
                -1,
            ),
            width,
        )
        sets, coverage, alive = sets[chosen], coverage[chosen], open_[chosen]
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
    """The rules where that many rounds are over."""
    return rules._replace(max_rounds=jnp.minimum(rules.max_rounds, rules.budget - rounds))


def _candidates(
    search: _Search,
    covered: jax.Array,
    visible: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Every beam anchor with one more superpixel: sets [B*M, M], coverage [B*M], and whether each
    is worth trying.
    """
    count = len(visible)
    sets = (search.beam[:, None] | jnp.eye(count, dtype=bool)).reshape(-1, count)
    contains = (covered[:, None] | ~search.beam).all(-1).astype(jnp.float32)
    coverage = (contains.T @ covered.astype(jnp.float32) / len(covered)).reshape(-1)
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
    """Rounds, draws and hits [B*M] of the candidates, sampled until the best B stand out by tau or
    rounds run out.
    """

    def gap(carry: tuple) -> jax.Array:
        rounds, draws, hits = carry
        means = jnp.where(open_, hits / jnp.maximum(draws, 1), -1)
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
        more = present.sum(1, dtype=draws.dtype).reshape(-1)
        right = (present & hit[..., None]).sum(1, dtype=hits.dtype).reshape(-1)
        return rounds + 1, draws + more, hits + right

    def undecided(carry: tuple) -> jax.Array:
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
    """Rounds, precision [B] of the anchors `sets` [B,M] and its lower bound, until each is clear of
    the threshold.
    """
    beta = jnp.log((1 + (rules.beam_size - 1) * sets.shape[1]) / rules.delta)

    def unclear(draws: jax.Array, hits: jax.Array) -> jax.Array:
        mean = hits / jnp.maximum(draws, 1)
        level = beta / jnp.maximum(draws, 1e-6)
        high = (mean >= rules.threshold) & (lower_bound(mean, level) < rules.threshold - SLACK)
        low = (mean < rules.threshold) & (upper_bound(mean, level) >= rules.threshold + SLACK)
        return alive & (high | low)

    def sample(carry: tuple) -> tuple:
        rounds, draws, hits = carry
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
    """Rounds, and whether the label is predicted whatever is replaced: its precision's lower bound
    is high enough.
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
    return _bisect(mean, jnp.minimum(mean + jnp.sqrt(level / 2), 1), mean, level)


def lower_bound(mean: Array, level: Array) -> jax.Array:
    """The smallest q <= mean with KL(mean, q) <= level, of Bernoulli variables."""
    return _bisect(mean, jnp.maximum(mean - jnp.sqrt(level / 2), 0), mean, level)


def _bisect(inside: Array, outside: Array, mean: Array, level: Array) -> jax.Array:
    def halve(_: int, ends: tuple) -> tuple:
        inside, outside = ends
        middle = (inside + outside) / 2
        beyond = _kl(mean, middle) > level
        return jnp.where(beyond, inside, middle), jnp.where(beyond, middle, outside)

    return jax.lax.fori_loop(0, 16, halve, (inside + 0 * level, outside))[1]


def _kl(p: Array, q: Array) -> jax.Array:
    p, q = jnp.clip(p, 1e-7, 1 - 1e-7), jnp.clip(q, 1e-7, 1 - 1e-7)
    return p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))
