"""What is minimized: teachers, restored tokens, labels of tokens; each against the model's own answers."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import models
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.ops.images import normalize
from tcvit_jax.training import losses
from tcvit_jax.training.mixing import Mixing
from tcvit_jax.training.objective import Objective, Teacher, mixed_patches
from tests.convert import cases
from tests.models.builders import SMALL, run, small, variables_of

PREPROCESSING = models.preprocessing("deit_tiny_patch16_224")
RNG = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(RNG.integers(0, 256, (4, 24, 24, 3), np.uint8)),
    "label": jnp.asarray(RNG.integers(0, 7, 4), jnp.int32),
}
KEY = jax.random.key(0)


def loss_of(objective, variables, taught=None, batch=BATCH, key=KEY):
    return np.asarray(jax.jit(objective)(variables, taught or {}, batch, key)[0])


def images(preprocessing=PREPROCESSING):
    return normalize(BATCH["image"], preprocessing.mean, preprocessing.std)


def labels():
    return losses.targets(BATCH["label"], 7, 0.1)


def test_labels_alone():
    model = small(tc.GTP(), 4, depth=2)
    variables = variables_of(model)
    expected = losses.cross_entropy(run(model, variables, images()), labels())
    np.testing.assert_allclose(loss_of(Objective(model, PREPROCESSING, 0.1), variables), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_teacher_sees_the_same_images_in_its_own_normalization(kind):
    model, teacher = small(tc.TCViT(), 4, depth=2), small(depth=2, embed_dim=48, num_heads=2)
    variables, taught = variables_of(model), variables_of(teacher, seed=1)
    other = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.3))
    objective = Objective(model, PREPROCESSING, 0.1, teacher=Teacher(teacher, other, kind, weight=0.3, temperature=2.0))
    student, said = run(model, variables, images()), run(teacher, taught, images(other))
    taught_loss = (
        losses.soft_distillation(student, said, 2.0) if kind == "soft" else losses.hard_distillation(student, said)
    )
    expected = 0.7 * losses.cross_entropy(student, labels()) + 0.3 * taught_loss
    np.testing.assert_allclose(loss_of(objective, variables, taught), expected, rtol=1e-4)


def test_a_teacher_gets_no_gradient():
    model = small(tc.GTP(), 4, depth=2)
    variables = variables_of(model)
    objective = Objective(model, PREPROCESSING, teacher=Teacher(small(depth=2), PREPROCESSING, tokens=1.0))
    gradient = jax.jit(jax.grad(lambda taught: objective(variables, taught, BATCH, KEY)[0].sum()))(
        variables_of(small(depth=2), seed=1)
    )
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_the_distillation_token_learns_from_the_teacher_and_the_class_token_from_labels():
    model, teacher = (
        tc.create_model("deit_tiny_distilled_patch16_224", tc.GTP(), 4, **{**SMALL, "depth": 2}),
        small(depth=2),
    )
    variables, taught = variables_of(model), variables_of(teacher, seed=1)
    heads, _ = jax.jit(partial(model.apply, method="outputs"))(variables, images())
    assert np.abs(heads.class_token - heads.distillation_token).max() > 1e-3
    said = run(teacher, taught, images())
    expected = 0.5 * losses.cross_entropy(heads.class_token, labels()) + 0.5 * losses.hard_distillation(
        heads.distillation_token, said
    )
    objective = Objective(model, PREPROCESSING, 0.1, teacher=Teacher(teacher, PREPROCESSING, "hard"))
    np.testing.assert_allclose(loss_of(objective, variables, taught), expected, rtol=1e-5)


def test_a_dense_twin_has_nothing_to_teach_a_model_that_removes_nothing():
    model = small(depth=2)
    variables = variables_of(model)
    objective = Objective(model, PREPROCESSING, teacher=Teacher(model, PREPROCESSING, weight=1.0, tokens=1.0))
    np.testing.assert_allclose(loss_of(objective, variables, variables), 0, atol=1e-6)


@pytest.mark.parametrize("reducer", [tc.TCViT(fuse="soft"), tc.TopK()])
def test_restored_tokens_are_drawn_to_the_dense_ones(reducer):
    model, teacher = small(reducer, 4, depth=2), small(depth=2)
    variables, taught = variables_of(model), variables_of(teacher, seed=1)
    objective = Objective(model, PREPROCESSING, teacher=Teacher(teacher, PREPROCESSING, weight=0.0, tokens=2.0))
    features = {m: partial(m.apply, method="features", restore=True) for m in (model, teacher)}
    restored, trace = jax.jit(partial(features[model], trace=True))(variables, images())
    dense = jax.jit(features[teacher])(taught, images())
    restored, dense = (np.asarray(grid).reshape(4, 36, -1) for grid in (restored, dense))
    held = np.asarray(trace.slots[-1]) >= 0
    squared = ((restored - dense) ** 2).mean(-1)
    expected = losses.cross_entropy(run(model, variables, images()), losses.targets(BATCH["label"], 7, 0.0))
    expected = expected + 2 * (squared * held).sum(-1) / held.sum(-1)
    np.testing.assert_allclose(loss_of(objective, variables, taught), expected, rtol=1e-4)


@pytest.fixture(scope="module")
def lvvit():
    """A small LV-ViT condensed by GTP, its variables and a batch."""
    _, sizes, _, _ = cases.case("lvvit")
    sizes = {**sizes, "depth": 2, "img_size": 64, "stem_channels": 8, "num_classes": 7}
    model = tc.create_model("lvvit_s", tc.GTP(), 3, **sizes)
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (4, 64, 64, 3), np.uint8)),
        "label": jnp.arange(4, dtype=jnp.int32),
    }
    return model, variables_of(model), batch


def apply_in_training(model, variables, shown, **options):
    found, _ = model.apply(
        variables,
        shown,
        train=True,
        method="outputs",
        patches=True,
        rngs={"dropout": KEY},
        mutable=["batch_stats"],
        **options,
    )
    return found


def test_tokens_are_labelled_by_what_they_hold(lvvit):
    """Without mixing every token's label is the image's, however the tokens were condensed."""
    model, variables, batch = lvvit
    shown = normalize(jnp.asarray(batch["image"]), PREPROCESSING.mean, PREPROCESSING.std)
    heads, tokens = apply_in_training(model, variables, shown)
    target = losses.targets(batch["label"], 7, 0.1)
    each = -(target[:, None] * jax.nn.log_softmax(heads.patch_tokens)).sum(-1)
    held = np.asarray(jax.nn.one_hot(tokens.slots, tokens.origin.shape[1])).sum(1)
    expected = losses.cross_entropy(heads.class_token, target) + 0.5 * (each * held).sum(-1) / held.sum(-1)
    found = loss_of(Objective(model, PREPROCESSING, 0.1, token_labels=0.5), variables, batch=batch)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_mixtoken_exchanges_patches_and_their_labels(lvvit):
    """The class target is of both images; each token's of those whose patches it holds, in plain loops."""
    model, variables, batch = lvvit
    shown = normalize(jnp.asarray(batch["image"]), PREPROCESSING.mean, PREPROCESSING.std)
    key = next(
        k for k in jax.random.split(KEY, 9) if 2 < mixed_patches(jax.random.fold_in(k, 3), model.grid).sum() < 14
    )
    mixed = np.asarray(mixed_patches(jax.random.fold_in(key, 3), model.grid))
    heads, tokens = apply_in_training(model, variables, shown, mix_mask=jnp.asarray(mixed))
    target = np.asarray(losses.targets(batch["label"], 7, 0.1))
    other, own = target[[1, 0, 3, 2]], 1 - mixed.mean()
    slots = np.asarray(tokens.slots)
    log_p = np.asarray(jax.nn.log_softmax(heads.patch_tokens))
    of_tokens = np.zeros(4)
    for b in range(4):
        for n, slot in enumerate(slots[b]):
            label = other[b] if mixed[n] else target[b]
            of_tokens[b] -= (label * log_p[b, slot]).sum() if slot >= 0 else 0
        of_tokens[b] /= (slots[b] >= 0).sum()
    expected = losses.cross_entropy(heads.class_token, jnp.asarray(own * target + (1 - own) * other)) + of_tokens
    objective = Objective(model, PREPROCESSING, 0.1, mix_token=True, token_labels=1.0)
    np.testing.assert_allclose(loss_of(objective, variables, batch=batch, key=key), expected, rtol=1e-4)


def test_mixed_patches_of_a_model_are_its_neighbours_patches():
    """With all patches mixed, an image is its neighbor, positions and all."""
    model = small(depth=2)
    variables = variables_of(model)
    whole, _ = model.apply(variables, images(), method="outputs", mix_mask=jnp.ones(36, bool))
    plain = model.apply(variables, images())
    np.testing.assert_allclose(whole.logits, np.asarray(plain)[[1, 0, 3, 2]], atol=1e-6)
    none, _ = model.apply(variables, images(), method="outputs", mix_mask=jnp.zeros(36, bool))
    np.testing.assert_array_equal(none.logits, plain)


def test_a_teacher_sees_the_patches_that_the_student_sees():
    """A dense twin has nothing to teach itself, also where patches are mixed."""
    model = small(depth=2)
    variables = variables_of(model)
    key = next(
        k for k in jax.random.split(KEY, 9) if 2 < mixed_patches(jax.random.fold_in(k, 3), model.grid).sum() < 34
    )
    objective = Objective(
        model, PREPROCESSING, mix_token=True, teacher=Teacher(model, PREPROCESSING, weight=1.0, tokens=1.0)
    )
    np.testing.assert_allclose(loss_of(objective, variables, variables, key=key), 0, atol=1e-6)
    assert (
        np.abs(loss_of(replace(objective, mix_token=False), variables, variables_of(model, seed=1), key=key)).min()
        > 0.01
    )


def test_heads_of_the_same_kind_are_compared(lvvit):
    """With token labels a class token's head learns from the teacher's, and not from what it and the patches say."""
    model, variables, batch = lvvit
    shown = normalize(jnp.asarray(batch["image"]), PREPROCESSING.mean, PREPROCESSING.std)
    said, _ = jax.jit(partial(model.apply, method="outputs"))(variables, shown)
    heads, _ = apply_in_training(model, variables, shown)
    teacher = Teacher(model, PREPROCESSING, weight=1.0)
    for token_labels, mine, theirs in ((1e-6, heads.class_token, said.class_token), (0.0, heads.logits, said.logits)):
        objective = Objective(model, PREPROCESSING, token_labels=token_labels, teacher=teacher)
        expected = losses.soft_distillation(mine, theirs, 1.0)
        np.testing.assert_allclose(loss_of(objective, variables, variables, batch), expected, rtol=1e-3, atol=1e-4)


def test_a_box_of_patches_has_the_area_that_was_drawn():
    keys = jax.random.split(jax.random.key(1), 4000)
    share = np.asarray(jax.jit(jax.vmap(lambda key: mixed_patches(key, (14, 14)).mean()))(keys))
    # The same in NumPy: a uniform area, a uniform center, cut off at the borders.
    rng, expected = np.random.default_rng(0), []
    for lam, row, column in zip(rng.random(4000), *rng.integers(0, 14, (2, 4000)), strict=True):
        side = int(14 * np.sqrt(1 - lam))
        height, width = (min(c + (side + 1) // 2, 14) - max(c - side // 2, 0) for c in (row, column))
        expected.append(height * width / 196)
    assert share.mean() == pytest.approx(np.mean(expected), abs=0.015)
    assert share.std() == pytest.approx(np.std(expected), abs=0.015)
    assert share.min() == 0
    assert share.max() > 0.8


def test_mixing_and_erasing_change_the_loss_and_pairs_are_asked_for():
    model = small(depth=2)
    variables = variables_of(model)
    plain = Objective(model, PREPROCESSING, 0.1)
    mixed = Objective(model, PREPROCESSING, 0.1, mixing=Mixing(mixup=0.8))
    erased = Objective(model, PREPROCESSING, 0.1, erasing=1.0)
    before = loss_of(plain, variables)
    assert np.abs(loss_of(mixed, variables) - before).max() > 1e-3
    assert np.abs(loss_of(erased, variables) - before).max() > 1e-3
    assert (plain.pairs, mixed.pairs, erased.pairs) == (False, True, False)
