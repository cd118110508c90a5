"""The objective: distillation, token distillation and token labels, compared with the outputs of the models."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import models
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.ops.images import normalize
from tcvit_jax.training import losses
from tcvit_jax.training.mixing import Mixing
from tcvit_jax.training.objective import Objective, Teacher, draw_mix_mask
from tests.convert import cases
from tests.models.builders import SMALL, run, small, variables_of

PREPROCESSING = models.preprocessing("deit_tiny_patch16_224")
RNG = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(RNG.integers(0, 256, (4, 24, 24, 3), np.uint8)),
    "label": jnp.asarray(RNG.integers(0, 7, 4), jnp.int32),
}
KEY = jax.random.key(0)


def compute_loss(objective, variables, teacher_variables=None, batch=BATCH, key=KEY):
    return np.asarray(jax.jit(objective)(variables, teacher_variables or {}, batch, key)[0])


def normalized_images(preprocessing=PREPROCESSING, batch=BATCH):
    return normalize(batch["image"], preprocessing.mean, preprocessing.std)


def label_targets():
    return losses.label_targets(BATCH["label"], 7, 0.1)


def test_loss_without_a_teacher_is_cross_entropy():
    model = small(tc.GTP(), 4, depth=2)
    variables = variables_of(model)
    expected = losses.cross_entropy(run(model, variables, normalized_images()), label_targets())
    np.testing.assert_allclose(compute_loss(Objective(model, PREPROCESSING, 0.1), variables), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_teacher_gets_the_images_in_its_own_normalization(kind):
    model, teacher = small(tc.TCViT(), 4, depth=2), small(depth=2, embed_dim=48, num_heads=2)
    variables, teacher_variables = variables_of(model), variables_of(teacher, seed=1)
    teacher_preprocessing = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.3))
    objective = Objective(
        model, PREPROCESSING, 0.1, teacher=Teacher(teacher, teacher_preprocessing, kind, weight=0.3, temperature=2.0)
    )
    student_logits = run(model, variables, normalized_images())
    teacher_logits = run(teacher, teacher_variables, normalized_images(teacher_preprocessing))
    if kind == "soft":
        distillation_loss = losses.soft_distillation(student_logits, teacher_logits, 2.0)
    else:
        distillation_loss = losses.hard_distillation(student_logits, teacher_logits)
    expected = 0.7 * losses.cross_entropy(student_logits, label_targets()) + 0.3 * distillation_loss
    np.testing.assert_allclose(compute_loss(objective, variables, teacher_variables), expected, rtol=1e-4)


def test_teacher_gets_no_gradient():
    model = small(tc.GTP(), 4, depth=2)
    variables = variables_of(model)
    objective = Objective(model, PREPROCESSING, teacher=Teacher(small(depth=2), PREPROCESSING, tokens=1.0))
    gradient = jax.jit(
        jax.grad(lambda teacher_variables: objective(variables, teacher_variables, BATCH, KEY)[0].sum())
    )(variables_of(small(depth=2), seed=1))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_distillation_token_learns_from_the_teacher_and_class_token_from_labels():
    model, teacher = (
        tc.create_model("deit_tiny_distilled_patch16_224", tc.GTP(), 4, **{**SMALL, "depth": 2}),
        small(depth=2),
    )
    variables, teacher_variables = variables_of(model), variables_of(teacher, seed=1)
    heads, _ = jax.jit(partial(model.apply, method="outputs"))(variables, normalized_images())
    assert np.abs(heads.class_token - heads.distillation_token).max() > 1e-3
    teacher_logits = run(teacher, teacher_variables, normalized_images())
    expected = 0.5 * losses.cross_entropy(heads.class_token, label_targets()) + 0.5 * losses.hard_distillation(
        heads.distillation_token, teacher_logits
    )
    objective = Objective(model, PREPROCESSING, 0.1, teacher=Teacher(teacher, PREPROCESSING, "hard"))
    np.testing.assert_allclose(compute_loss(objective, variables, teacher_variables), expected, rtol=1e-5)


def test_self_distillation_without_reduction_has_zero_loss():
    model = small(depth=2)
    variables = variables_of(model)
    objective = Objective(model, PREPROCESSING, teacher=Teacher(model, PREPROCESSING, weight=1.0, tokens=1.0))
    np.testing.assert_allclose(compute_loss(objective, variables, variables), 0, atol=1e-6)


@pytest.mark.parametrize("reducer", [tc.TCViT(fuse="soft"), tc.TopK()])
def test_token_distillation_compares_restored_and_dense_patches(reducer):
    model, teacher = small(reducer, 4, depth=2), small(depth=2)
    variables, teacher_variables = variables_of(model), variables_of(teacher, seed=1)
    objective = Objective(model, PREPROCESSING, teacher=Teacher(teacher, PREPROCESSING, weight=0.0, tokens=2.0))
    features = {m: partial(m.apply, method="features", restore=True) for m in (model, teacher)}
    restored, trace = jax.jit(partial(features[model], trace=True))(variables, normalized_images())
    dense = jax.jit(features[teacher])(teacher_variables, normalized_images())
    restored, dense = (np.asarray(grid).reshape(4, 36, -1) for grid in (restored, dense))
    mask = np.asarray(trace.slots[-1]) >= 0
    squared = ((restored - dense) ** 2).mean(-1)
    expected = losses.cross_entropy(
        run(model, variables, normalized_images()), losses.label_targets(BATCH["label"], 7, 0.0)
    )
    expected = expected + 2 * (squared * mask).sum(-1) / mask.sum(-1)
    np.testing.assert_allclose(compute_loss(objective, variables, teacher_variables), expected, rtol=1e-4)


@pytest.fixture(scope="module")
def lvvit():
    """A small LV-ViT with GTP, its variables and a batch."""
    _, sizes, _, _ = cases.case("lvvit")
    sizes = {**sizes, "depth": 2, "img_size": 64, "stem_channels": 8, "num_classes": 7}
    model = tc.create_model("lvvit_s", tc.GTP(), 3, **sizes)
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (4, 64, 64, 3), np.uint8)),
        "label": jnp.arange(4, dtype=jnp.int32),
    }
    return model, variables_of(model), batch


def apply_in_training(model, variables, images, **options):
    outputs, _ = model.apply(
        variables,
        images,
        train=True,
        method="outputs",
        patches=True,
        rngs={"dropout": KEY},
        mutable=["batch_stats"],
        **options,
    )
    return outputs


@pytest.mark.slow
def test_token_labels_without_mixing_are_the_image_label(lvvit):
    """Each token is weighted by the number of its patches."""
    model, variables, batch = lvvit
    images = normalized_images(batch=batch)
    heads, tokens = apply_in_training(model, variables, images)
    target = losses.label_targets(batch["label"], 7, 0.1)
    token_loss = -(target[:, None] * jax.nn.log_softmax(heads.patch_tokens)).sum(-1)
    count = np.asarray(jax.nn.one_hot(tokens.slots, tokens.origin.shape[1])).sum(1)
    expected = losses.cross_entropy(heads.class_token, target) + 0.5 * (token_loss * count).sum(-1) / count.sum(-1)
    actual = compute_loss(Objective(model, PREPROCESSING, 0.1, token_labels=0.5), variables, batch=batch)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_mixtoken_mixes_patches_and_their_labels(lvvit):
    """The class target is weighted by area, and the target of a token by its patches, compared with loops."""
    model, variables, batch = lvvit
    images = normalized_images(batch=batch)
    key = next(
        k for k in jax.random.split(KEY, 9) if 2 < draw_mix_mask(jax.random.fold_in(k, 3), model.grid).sum() < 14
    )
    mask = np.asarray(draw_mix_mask(jax.random.fold_in(key, 3), model.grid))
    heads, tokens = apply_in_training(model, variables, images, mix_mask=jnp.asarray(mask))
    target = np.asarray(losses.label_targets(batch["label"], 7, 0.1))
    partner_target, weight = target[[1, 0, 3, 2]], 1 - mask.mean()
    slots = np.asarray(tokens.slots)
    log_p = np.asarray(jax.nn.log_softmax(heads.patch_tokens))
    token_loss = np.zeros(4)
    for b in range(4):
        for n, slot in enumerate(slots[b]):
            label = partner_target[b] if mask[n] else target[b]
            token_loss[b] -= (label * log_p[b, slot]).sum() if slot >= 0 else 0
        token_loss[b] /= (slots[b] >= 0).sum()
    expected = (
        losses.cross_entropy(heads.class_token, jnp.asarray(weight * target + (1 - weight) * partner_target))
        + token_loss
    )
    objective = Objective(model, PREPROCESSING, 0.1, mix_token=True, token_labels=1.0)
    np.testing.assert_allclose(compute_loss(objective, variables, batch=batch, key=key), expected, rtol=1e-4)


def test_mix_mask_takes_patches_from_the_partner():
    """With a full mask, the logits are those of the partner; with an empty mask, they are unchanged."""
    model = small(depth=2)
    variables = variables_of(model)
    full, _ = model.apply(variables, normalized_images(), method="outputs", mix_mask=jnp.ones(36, bool))
    expected = model.apply(variables, normalized_images())
    np.testing.assert_allclose(full.logits, np.asarray(expected)[[1, 0, 3, 2]], atol=1e-6)
    empty, _ = model.apply(variables, normalized_images(), method="outputs", mix_mask=jnp.zeros(36, bool))
    np.testing.assert_array_equal(empty.logits, expected)


def test_teacher_gets_the_same_mixed_patches_as_the_student():
    """Self-distillation without reduction has zero loss, also with MixToken."""
    model = small(depth=2)
    variables = variables_of(model)
    key = next(
        k for k in jax.random.split(KEY, 9) if 2 < draw_mix_mask(jax.random.fold_in(k, 3), model.grid).sum() < 34
    )
    objective = Objective(
        model, PREPROCESSING, mix_token=True, teacher=Teacher(model, PREPROCESSING, weight=1.0, tokens=1.0)
    )
    np.testing.assert_allclose(compute_loss(objective, variables, variables, key=key), 0, atol=1e-6)
    assert (
        np.abs(compute_loss(replace(objective, mix_token=False), variables, variables_of(model, seed=1), key=key)).min()
        > 0.01
    )


def test_distillation_compares_heads_of_the_same_kind(lvvit):
    """With token labels the class token's head learns from the teacher's class token, otherwise the logits are compared."""
    model, variables, batch = lvvit
    images = normalized_images(batch=batch)
    teacher_heads, _ = jax.jit(partial(model.apply, method="outputs"))(variables, images)
    heads, _ = apply_in_training(model, variables, images)
    teacher = Teacher(model, PREPROCESSING, weight=1.0)
    for token_labels, student_logits, teacher_logits in (
        (1e-6, heads.class_token, teacher_heads.class_token),
        (0.0, heads.logits, teacher_heads.logits),
    ):
        objective = Objective(model, PREPROCESSING, token_labels=token_labels, teacher=teacher)
        expected = losses.soft_distillation(student_logits, teacher_logits, 1.0)
        np.testing.assert_allclose(compute_loss(objective, variables, variables, batch), expected, rtol=1e-3, atol=1e-4)


def test_mix_mask_has_the_expected_area():
    keys = jax.random.split(jax.random.key(1), 4000)
    area = np.asarray(jax.jit(jax.vmap(lambda key: draw_mix_mask(key, (14, 14)).mean()))(keys))
    # The same in NumPy: a uniform area and center, clipped at the borders.
    rng, expected = np.random.default_rng(0), []
    for lam, row, column in zip(rng.random(4000), *rng.integers(0, 14, (2, 4000)), strict=True):
        side = int(14 * np.sqrt(1 - lam))
        height, width = (min(c + (side + 1) // 2, 14) - max(c - side // 2, 0) for c in (row, column))
        expected.append(height * width / 196)
    assert area.mean() == pytest.approx(np.mean(expected), abs=0.015)
    assert area.std() == pytest.approx(np.std(expected), abs=0.015)
    assert area.min() == 0
    assert area.max() > 0.8


def test_mixing_and_erasing_change_the_loss():
    model = small(depth=2)
    variables = variables_of(model)
    baseline = Objective(model, PREPROCESSING, 0.1)
    mixup = Objective(model, PREPROCESSING, 0.1, mixing=Mixing(mixup=0.8))
    erasing = Objective(model, PREPROCESSING, 0.1, erasing=1.0)
    loss = compute_loss(baseline, variables)
    assert np.abs(compute_loss(mixup, variables) - loss).max() > 1e-3
    assert np.abs(compute_loss(erasing, variables) - loss).max() > 1e-3
    assert (baseline.uses_pairs, mixup.uses_pairs, erasing.uses_pairs) == (False, True, False)
