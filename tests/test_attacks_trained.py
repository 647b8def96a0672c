"""The trained inversions: what they read and learn, against literal formulas and on real digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xinv import attacks, data, models, parallel, train
from xinv.attacks import surrogate
from xinv.attacks.inverter import draw_release, join, logit_input, part, truncate
from xinv.attacks.joint import joint_loss, joint_variables
from xinv.types import InputError, Model, Observation

KEY = jax.random.key(0)
RECIPE = train.Recipe(batch_size=32, epochs=10, learning_rate=5e-3, validation=0)
TINY = {"width": 0.05, "recipe": RECIPE}


@functools.cache
def digits(count=320):
    """Real digits of 8×8 and their labels."""
    dataset = data.build("digits")
    return np.asarray(dataset.images[:count]), np.asarray(dataset.labels["digit"][:count]).astype(
        np.int32
    )


def predictions(count=320, sharpness=3.0):
    """Confident answers about the digits, of which the wrong classes differ by example."""
    noise = np.random.default_rng(0).normal(size=(count, 10))
    return np.array(
        jax.nn.softmax(jnp.float32(noise + sharpness * np.eye(10)[digits()[1][:count]]))
    )


def maps(*shape, count=320):
    """Averages of the images over blocks, as explanations of that shape; they tell something of the
    image.
    """
    return np.array(
        jax.image.resize(digits()[0] / np.float32(255), (count, *shape[:2], 1), "linear").repeat(
            shape[2], 3
        )
    )


def observe(explanation=None):
    return Observation(predictions(), explanation)


def mean_square(attack, state, observed):
    """The error on the images that it was fitted to, and that of the mean image."""
    images = digits()[0] / np.float32(255)
    guess = attack.predict(state, observed)
    assert guess.shape == images.shape
    assert guess.min() >= 0
    assert guess.max() <= 1
    return np.mean((guess - images) ** 2), images.var(axis=0).mean()


# Inputs and networks


@pytest.mark.slow
@pytest.mark.parametrize("network", ["decoder", "dropout_tcnn"])
def test_explanations_alone_suffice(network):
    """A decoder learns from explanations alone, and reads no prediction."""
    hyper = TINY if network == "decoder" else TINY | {"width": 0.5}
    attack = attacks.build(
        "decoder", inputs=["explanation"], encoder="flatten", network=network, **hyper
    )
    observed = observe(maps(8, 8, 1))
    assert attack.check(observed, digits()[0]) == (8, 8, 1)
    state = attack.fit(KEY, observed, digits()[0])
    error, ignorant = mean_square(attack, state, observed)
    assert error < 0.7 * ignorant
    blind = observed._replace(prediction=np.roll(observed.prediction, 1, axis=1))
    np.testing.assert_array_equal(attack.predict(state, observed), attack.predict(state, blind))


@pytest.mark.slow
def test_equal_releases_count_as_one():
    """Training on several equal releases gives what training on one gives."""
    attack, known = attacks.build("decoder", encoder="flatten", **TINY), observe(maps(4, 4, 2))
    equal = jax.tree.map(lambda part: np.repeat(part[:, None], 3, axis=1), known)
    assert attack.check(jax.eval_shape(lambda: equal), digits()[0]) == (8, 8, 1)
    alone, several = (attack.fit(KEY, one, digits()[0])["variables"] for one in (known, equal))
    jax.tree.map(np.testing.assert_array_equal, several, alone)


def test_releases_drawn_anew_each_step():
    """Of several releases a step reads one of each example, drawn anew."""
    tags = np.broadcast_to(np.arange(5.0), (64, 5))
    releases = Observation(tags[..., None], tags[..., None, None, None])
    first, again = (draw_release(releases, jax.random.key(seed))[0] for seed in (0, 1))
    np.testing.assert_array_equal(first.prediction[:, 0], first.explanation[:, 0, 0, 0])
    assert set(np.unique(first.prediction)) == set(range(5))
    assert np.mean(first.prediction != again.prediction) > 0.5
    assert not draw_release(releases, None)[0].prediction.any()


@pytest.mark.parametrize(
    ("prediction", "explanation"),
    [((320, 3, 10), (320, 2, 4, 4, 1)), ((320, 0, 10), None), ((320, 10), (320, 2, 4, 4, 1))],
)
def test_releases_that_do_not_match(prediction, explanation):
    """Releases that do not match are named."""
    wrong = Observation(
        np.zeros(prediction), None if explanation is None else np.zeros(explanation)
    )
    attack = attacks.build("decoder", encoder="flatten", **TINY)
    with pytest.raises(InputError, match="as many of explanations as of predictions"):
        attack.fit(KEY, wrong, digits()[0])
    with pytest.raises(InputError, match="give one of each image"):
        attack.predict({"image_shape": np.array([8, 8, 1])}, wrong)


@pytest.mark.parametrize("shape", [(2, 2, 10), (4, 4, 3), (7, 5, 2), (8, 8, 4)])
@pytest.mark.parametrize("encoder", ["flatten", "cnn", "unet", "flatten_unet"])
def test_encoders_take_any_stacked_maps(encoder, shape):
    """Every encoder takes stacked maps of any size."""
    attack = attacks.build("decoder", encoder=encoder, **TINY)
    shapes = (
        jax.ShapeDtypeStruct((4, 10), np.float32),
        jax.ShapeDtypeStruct((4, *shape), np.float32),
    )
    assert attack.check(Observation(*shapes), jax.ShapeDtypeStruct((4, 28, 20, 3), np.uint8)) == (
        28,
        20,
        3,
    )


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("decoder", {"inputs": ()}, "inputs"),
        ("decoder", {"inputs": ("explanation",), "encoder": "none"}, "'none'"),
        ("decoder", {"loss": "ssim"}, "'ssim'.*dssim"),
        ("decoder", {"rescale": "log"}, "'log'.*logits"),
        ("decoder", {"network": "gan"}, "'gan'.*tcnn"),
        ("decoder", {"network": "tcnn", "encoder": "unet"}, "'unet'.*flatten"),
        ("decoder", {"network": "gnime_decoder", "encoder": "cnn"}, "'cnn'.*flatten_unet"),
        ("attention_transfer", {"encoder": "none"}, "'none'"),
        ("attention_transfer", {"loss": "ssim"}, "'ssim'.*mse"),
        ("attention_transfer", {"weight": np.nan}, "weight is nan .* at least 0"),
        ("class_inference", {"network": "gan"}, "'gan'.*tcnn"),
        ("class_inference", {"width": "wide"}, "width is 'wide' .* positive"),
        ("decoder", {"width": np.inf}, "width is inf .* positive"),
        ("decoder", {"dtype": "float16"}, "'float16'.*bfloat16"),
    ],
)
def test_bad_settings_are_named(name, hyper, message):
    with pytest.raises(InputError, match=message):
        attacks.build(name, **hyper)


@pytest.mark.parametrize("name", ["decoder", "attention_transfer"])
def test_no_logarithm_of_logits(name):
    """A logarithm of logits would be NaN where they are negative."""
    with pytest.raises(InputError, match=r"rescale is 'logits', .* set it to 'none'"):
        attacks.build(name, rescale="logits", given={"logits": True})
    assert attacks.build(name, given={"logits": True}).logits
    assert not attacks.build(name, rescale="logits").logits


def test_unfit_inputs_named():
    """Inputs that do not fit the attack are named."""
    with pytest.raises(InputError, match="11 pixels"):
        attacks.build("decoder", loss="dssim", **TINY).check(observe(maps(8, 8, 1)), digits()[0])
    for name in ("decoder", "attention_transfer"):
        with pytest.raises(InputError, match="none"):
            attacks.build(name, **TINY).check(observe(), digits()[0])


@pytest.mark.parametrize("name", ["decoder", "attention_transfer", "class_inference"])
def test_unlearnable_data_refused(name):
    """No network is trained on what is not finite, nor on images of other observations."""
    attack = attacks.build(name, **TINY)
    broken = predictions()
    broken[5, 2] = np.nan
    with pytest.raises(InputError, match="prediction 5 of class 2 is nan: pred"):
        attack.fit(KEY, Observation(broken, maps(8, 8, 1)), digits()[0])
    few = Observation(predictions(), maps(8, 8, 1)[:9])
    for seen, images in (
        (Observation(predictions()[:9]), digits()[0]),
        (few, digits()[0]),
        (observe(), digits()[1]),
    ):
        with pytest.raises(InputError, match="do not fit the others: give"):
            attack.fit(KEY, seen, images)


# Rescaling: Yang 2019, Eq. 12

LINEAR = Model(
    init=lambda key, p: {"params": jnp.ones(p.shape[1])},
    apply=lambda variables, p: p * variables["params"][None],
    train=lambda variables, p, key: (p * variables["params"][None], {}),
)


def test_logits_recovered_up_to_constant():
    """Logits are recovered up to the constant, and truncated classes stay zero."""
    logits = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    model, prediction = logit_input(LINEAR), jax.nn.softmax(logits)
    variables = model.init(KEY, prediction)
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True)) + 10
    np.testing.assert_allclose(model.apply(variables, prediction), expected, rtol=1e-5)
    kept = np.asarray(truncate(prediction, 2)) > 0
    got = np.asarray(model.apply(variables, truncate(prediction, 2)))
    np.testing.assert_allclose(got[kept], expected[kept], rtol=1e-5)
    assert (got[~kept] == 0).all()
    slope = jax.grad(lambda p: model.apply(variables, truncate(p, 2)).sum())(prediction)
    np.testing.assert_allclose(slope, np.where(kept, 1 / prediction, 0), rtol=1e-5)


@pytest.mark.slow
def test_the_constant_is_learned():
    attack = attacks.build(
        "decoder", inputs=["prediction"], encoder="none", network="tcnn", rescale="logits", **TINY
    )
    observed = Observation(np.asarray(truncate(jnp.asarray(predictions()), 3)))
    state = attack.fit(KEY, observed, digits()[0])
    assert abs(float(state["variables"]["params"]["offset"]) - 10) > 1e-3
    assert attack.predict(state, observed).std() > 0.1


def test_truncation_keeps_the_largest():
    prediction = jnp.array([[0.6, 0.05, 0.06, 0.2, 0.09], [0.25, 0.25, 0.25, 0.25, 0]])
    np.testing.assert_allclose(
        truncate(prediction, 2), [[0.6, 0, 0, 0.2, 0], [0.25, 0.25, 0, 0, 0]]
    )  # Section III-A
    np.testing.assert_array_equal(truncate(prediction, 0), prediction)
    np.testing.assert_array_equal(truncate(prediction, 9), prediction)


# Attention transfer: Zhao 2021, Section 3.4


@pytest.mark.slow
def test_attention_transfer_from_predictions():
    """Attention transfer sees predictions alone when it attacks, and learns."""
    attack = attacks.build("attention_transfer", given={"inputs": ("prediction",)}, **TINY)
    observed = observe(maps(4, 4, 2))
    assert attack.check(observed, digits()[0]) == (8, 8, 1)
    state = attack.fit(KEY, observed, digits()[0])
    error, ignorant = mean_square(attack, state, Observation(predictions()))
    assert error < 0.9 * ignorant
    np.testing.assert_array_equal(
        attack.predict(state, observed), attack.predict(state, Observation(observed.prediction))
    )


@pytest.mark.slow
def test_attention_transfer_loss():
    """Attention transfer's loss is the sum of Eq. 1 and 2.

    From the two inverters, run one after the other.
    """
    prediction, explanation, images = (
        predictions()[:4],
        maps(4, 4, 1)[:4],
        digits()[0][:4] / np.float32(255),
    )
    parts = models.decoder((4, 4, 1), "none", 0.01), models.decoder((8, 8, 1), "unet", 0.01)
    keys = jax.random.split(KEY)
    own = parts[0].init(keys[0], prediction), parts[1].init(keys[1], prediction, explanation)
    network = surrogate._cascade(*parts)
    variables = network.init(KEY, prediction, explanation)
    jax.tree.map(
        np.testing.assert_array_equal, variables, join({"explanation": own[0], "image": own[1]})
    )
    batch = {"prediction": prediction, "explanation": explanation, "image": images}
    got, _ = surrogate._losses(network, "mse", 2.5)(variables, batch, None)
    rebuilt = parts[0].apply(own[0], prediction)
    guess = parts[1].apply(own[1], prediction, rebuilt)
    expected = np.mean((guess - images) ** 2, (1, 2, 3)) + 2.5 * np.mean(
        (rebuilt - explanation) ** 2, (1, 2, 3)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5)


# Training classes: Yang 2019, Scenario 2


@pytest.mark.slow
def test_class_image_by_answers_alone():
    """A class has one image, which is found by the model's answers alone."""
    chosen = np.isin(digits()[1], (1, 4, 7))
    answers = np.eye(10, dtype=np.float32)[digits()[1][chosen]] * 0.9
    recipe = train.Recipe(batch_size=32, epochs=30, learning_rate=5e-3, validation=0)
    attack = attacks.build("class_inference", width=0.25, recipe=recipe)
    state = attack.fit(KEY, Observation(answers), digits()[0][chosen])
    np.testing.assert_array_equal(state["classes"], [1, 4, 7])
    asked = Observation(
        np.eye(10, dtype=np.float32)[[4, 1, 4, 9]] * np.float32([[0.3], [0.5], [0.8], [1]])
    )
    images = attack.predict(state, asked)
    np.testing.assert_array_equal(images[0], images[2])
    means = {label: digits()[0][digits()[1] == label].mean(0) / 255 for label in (1, 4, 7)}
    nearest = [
        min(means, key=lambda label, image=image: np.square(image - means[label]).sum())
        for image in images[:2]
    ]
    assert nearest == [4, 1]
    assert np.isfinite(images[3]).all()


def test_class_image_of_logits():
    """Logits are read by their softmax, with either rescale."""
    recipe = train.Recipe(batch_size=32, epochs=1, validation=0)
    logits = Observation(np.log(predictions()) + np.float32(5))
    probabilities = Observation(np.asarray(jax.nn.softmax(logits.prediction)))
    for rescale in ("none", "logits"):
        guesses = []
        for seen, given in ((probabilities, {}), (logits, {"logits": True})):
            hyper = dict(rescale=rescale, width=1 / 64, given=given | {"recipe": recipe})
            attack = attacks.build("class_inference", **hyper)
            guesses.append(attack.predict(attack.fit(KEY, seen, digits()[0]), seen))
        np.testing.assert_array_equal(*guesses)


# Joint training: Yang 2019, Eq. 11


@functools.cache
def classifier():
    return models.cnn(10, (8,), 16)


@pytest.mark.slow
@pytest.mark.parametrize(("truncation", "weight"), [(0, 1.0), (3, 64.0)])
def test_joint_loss_is_equation_11(truncation, weight):
    """The joint loss is Eq. 11."""
    images, labels = digits()[0][:16] / np.float32(255), digits()[1][:16]
    inversion = models.tcnn((8, 8, 1), width=0.03)
    variables = joint_variables(jax.random.split(KEY), classifier(), inversion, images)
    loss = joint_loss(classifier(), inversion, truncation, weight)
    got, updates = loss(variables, {"image": images, "label": labels}, None)
    logits = np.asarray(classifier().apply(part(variables, "classifier"), images), np.float64)
    prediction = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    entropy = -np.log(prediction[np.arange(16), labels])
    if truncation:
        prediction *= prediction >= np.sort(prediction, axis=1)[:, [-truncation]]
    guess = inversion.apply(part(variables, "inverter"), np.float32(prediction))
    expected = entropy + weight * np.mean((guess - images) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert not jax.tree.leaves(updates)


@pytest.mark.slow
def test_both_networks_learn_from_reconstruction():
    """The classifier's gradient is the sum's, and the inverter's BatchNorm follows the batch."""
    images, labels = digits()[0][:16] / np.float32(255), digits()[1][:16]
    inversion = models.tcnn((8, 8, 1), width=0.03)
    variables = joint_variables(jax.random.split(KEY), classifier(), inversion, images)

    def gradient(weight):
        def mean(parameters):
            batch = {"image": images, "label": labels}
            losses, updates = joint_loss(classifier(), inversion, 0, weight)(
                {**variables, "params": parameters}, batch, KEY
            )
            return losses.mean(), updates

        run = jax.vmap(
            lambda parameters: jax.grad(mean, has_aux=True)(parameters), axis_name=parallel.AXIS
        )
        return jax.jit(run)(jax.tree.map(lambda leaf: leaf[None], variables["params"]))

    (alone, _), (together, updates) = gradient(0.0), gradient(1.0)
    assert optax.tree.norm(optax.tree.sub(alone["classifier"], together["classifier"])) > 1e-4
    assert optax.tree.norm(alone["inverter"]) == 0
    assert optax.tree.norm(together["inverter"]) > 1e-4
    assert list(updates["batch_stats"]) == ["inverter"]


@pytest.mark.slow
def test_joint_training_classifies_and_inverts():
    """The decoder attack reads the state; a classifier's answers are inverted to well below the
    images' variance.
    """
    images, labels = digits()
    recipe = train.Recipe(batch_size=32, epochs=25, learning_rate=5e-3, validation=0)
    hyper = {"network": "tcnn", "rescale": "logits", "width": 0.25, "recipe": recipe}
    variables, state = attacks.fit_jointly(KEY, images, labels, classifier(), weight=64.0, **hyper)
    logits = classifier().apply(variables, images / np.float32(255))
    assert (np.argmax(logits, axis=1) == labels).mean() > 0.9
    attack = attacks.decoder(("prediction",), "none", **hyper)
    error, ignorant = mean_square(attack, state, Observation(np.asarray(jax.nn.softmax(logits))))
    assert error < 0.4 * ignorant
    assert len(state["history"]["loss"]) == recipe.epochs


@pytest.mark.parametrize(
    "wrong", [{"truncation": -1}, {"truncation": 1.5}, {"weight": np.nan}, {"width": 0}]
)
def test_joint_training_bad_settings(wrong):
    """A wrong setting of joint training is named."""
    ((name, value),) = wrong.items()
    with pytest.raises(InputError, match=f"{name} is {value} but must be"):
        attacks.fit_jointly(KEY, *digits(), classifier(), **wrong)
