"""The baselines for one image, in NumPy float64, loop by loop from their formulas.

Every function is called as its reducer is in `REDUCERS`, takes a `Case` and the reducer, and returns a `Found`: the
tests find it by its name. `place` is the method's own order of the patch tokens, where it
has one.
"""

import math
from typing import NamedTuple

import numpy as np

from tests.reducers.reference import split


class Case(NamedTuple):
    x: np.ndarray  # [N, D] patch tokens
    size: np.ndarray  # [N]
    maps: np.ndarray  # [H, T, T]
    keys: np.ndarray  # [H, T, d]
    values: np.ndarray  # [H, T, d]
    keep: int
    prefix: int
    classes: int
    block: int
    depth: int
    place: list
    grid: tuple  # of the original patches
    origin: list  # of the patch tokens among them, -1 for a fused one


class Found(NamedTuple):
    kept: list
    features: np.ndarray
    sizes: np.ndarray
    place: list | None = None


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def mean_keys(c):
    return c.keys.mean(0)[c.prefix :]


def class_attention(c):
    rows = [[sum(head[k, i] for k in range(c.classes)) / c.classes for head in c.maps] for i in range(c.maps.shape[1])]
    return [float(np.mean(row)) for row in rows[c.prefix :]]


def received(c):
    return [float(np.mean([sum(head[:, i]) for head in c.maps])) for i in range(c.prefix, c.maps.shape[1])]


def weighted_means(c, kept, target, mass):
    """Every kept token with all that go to it, `target[j]` the kept row or None: the mean by mass, and summed sizes."""
    features, sizes = [], []
    for i in kept:
        group = [i] + [j for j, to in target.items() if to == i]
        features.append(sum(mass[j] * c.x[j] for j in group) / sum(mass[j] for j in group))
        sizes.append(sum(c.size[j] for j in group))
    return Found(kept, np.asarray(features), np.asarray(sizes))


def dropped(c, score):
    kept, _ = split(score, c.keep)
    return Found(kept, c.x[kept], c.size[kept])


def topk(c, reducer):
    return dropped(c, class_attention(c))


def evit(c, reducer):
    a = class_attention(c)
    kept, removed = split(a, c.keep)
    if not reducer.fuse:
        return Found(kept, c.x[kept], c.size[kept])
    fused = sum(a[j] * c.x[j] for j in removed)
    return Found(kept, np.vstack([c.x[kept], fused]), np.append(c.size[kept], sum(c.size[j] for j in removed)))


def halves(c):
    """The two halves of the patch tokens, in the method's order; a class token is the first of the first half."""
    order = sorted(range(len(c.x)), key=lambda i: c.place[i])
    turns = [None] * c.prefix + order
    return [i for i in turns[0::2] if i is not None], [i for i in turns[1::2] if i is not None]


def bipartite(c):
    """Which tokens of the first half merge into which of the second, and the order of the survivors."""
    keys, (first, second) = mean_keys(c), halves(c)
    best = {i: max(second, key=lambda j, i=i: cosine(keys[i], keys[j])) for i in first}
    merged = sorted(first, key=lambda i: -cosine(keys[i], keys[best[i]]))[: len(c.x) - c.keep]
    left = [i for i in first if i not in merged]
    return {i: best[i] for i in merged}, left + second


def tome(c, reducer):
    target, order = bipartite(c)
    kept = sorted(order)
    return weighted_means(c, kept, target, c.size)._replace(place=[order.index(i) for i in kept])


def tofu(c, reducer):
    target, order = bipartite(c)
    kept = sorted(order)
    found = weighted_means(c, kept, target, c.size)
    if c.block < reducer.prune_until * c.depth:
        return found._replace(features=c.x[kept], place=[order.index(i) for i in kept])
    for row, i in enumerate(kept):
        group = [i] + [j for j, to in target.items() if to == i]
        if len(group) > 1:
            found.features[row] *= max(np.linalg.norm(c.x[j]) for j in group) / np.linalg.norm(found.features[row])
    return found._replace(place=[order.index(i) for i in kept])


def pitome(c, reducer):
    keys, count, remove = mean_keys(c), len(c.x), len(c.x) - c.keep
    margin = reducer.margin * (1 - c.block / c.depth)
    alike = np.asarray([[cosine(a, b) for b in keys] for a in keys])
    energy = [
        np.mean([s - margin if s > margin else reducer.alpha * math.expm1(s - margin) for s in row]) for row in alike
    ]
    order = sorted(range(count), key=lambda i: -energy[i])
    if c.block >= c.depth / 2:
        order = order[: 2 * remove]
    first, second = order[0::2], order[1::2]
    best = {i: max(second, key=lambda j, i=i: alike[i, j]) for i in first}
    merged = sorted(first, key=lambda i: -alike[i, best[i]])[:remove]
    kept = [i for i in range(count) if i not in merged]
    return weighted_means(c, kept, {i: best[i] for i in merged}, c.size)


def diffrate(c, reducer):
    a, remove = class_attention(c), len(c.x) - c.keep
    order = sorted(range(len(c.x)), key=lambda i: -a[i])
    kept, rest = order[: c.keep], order[c.keep :]
    merged = rest[: remove - reducer.count(c.block, remove)]
    best = {j: max(kept, key=lambda i, j=j: cosine(c.x[i], c.x[j])) for j in merged}
    kept = sorted(kept)
    found = weighted_means(c, kept, best, np.ones(len(c.x)))
    sizes = [
        c.size[i] + sum(c.size[j] * max(cosine(c.x[i], c.x[j]), 0) for j, to in best.items() if to == i) for i in kept
    ]
    return found._replace(sizes=np.asarray(sizes))


def tps(c, reducer):
    kept, removed = split(class_attention(c), c.keep)
    best = {j: max(kept, key=lambda i, j=j: cosine(c.x[i], c.x[j])) for j in removed}
    features, sizes = [], []
    for i in kept:
        total, feature, size = math.e, math.e * c.x[i], c.size[i]
        for j in (j for j, to in best.items() if to == i):
            weight = math.exp(cosine(c.x[i], c.x[j]))
            total, feature, size = total + weight, feature + weight * c.x[j], size + c.size[j]
        features.append(feature / total)
        sizes.append(size)
    return Found(kept, np.asarray(features), np.asarray(sizes))


def distances(c):
    return np.asarray([[np.linalg.norm(a - b) for b in c.x] for a in c.x])


def dpcknn(c, reducer):
    distance = distances(c) / math.sqrt(c.x.shape[1])
    density = [math.exp(-np.mean(sorted(row**2)[: reducer.neighbors])) for row in distance]
    score = []
    for i, own in enumerate(density):
        higher = [distance[i, j] for j, other in enumerate(density) if other > own]
        score.append(own * (min(higher) if higher else distance.max()))
    kept, removed = split(score, c.keep)
    best = {j: min(kept, key=lambda i, j=j: distance[i, j]) for j in removed}
    return weighted_means(c, kept, best, np.ones(len(c.x)))


def kmedoids(c, reducer):
    distance = distances(c)
    medoids, _ = split(received(c), c.keep)
    for _ in range(reducer.iterations):
        clusters = {m: [] for m in medoids}
        for i in range(len(c.x)):
            clusters[min(medoids, key=lambda m, i=i: distance[i, m])].append(i)
        medoids = [min(own, key=lambda i, own=own: sum(distance[i, j] for j in own)) for own in clusters.values()]
    kept = sorted(medoids)
    sizes = dict.fromkeys(kept, 0.0)
    for i in range(len(c.x)):
        sizes[min(kept, key=lambda m, i=i: distance[i, m])] += c.size[i]
    return Found(kept, c.x[kept], np.asarray(list(sizes.values())))


def mctf(c, reducer):
    keys, attended, remove = mean_keys(c), received(c), len(c.x) - c.keep
    unimportance = [1 / a for a in attended]
    smallness = [1 / s for s in c.size]

    def fit(i, j):
        value = ((cosine(keys[i], keys[j]) + 1) / 2) ** (1 / reducer.similarity)
        value *= (unimportance[i] * unimportance[j] / max(unimportance) ** 2) ** (1 / reducer.importance)
        return value * (smallness[i] * smallness[j] / max(smallness) ** 2) ** (1 / reducer.size)

    first, second = halves(c)
    there = {i: max(second, key=lambda j, i=i: fit(i, j)) for i in first}
    gone = sorted(first, key=lambda i: -fit(i, there[i]))[: remove // 2]
    left = [i for i in first if i not in gone]
    back = {j: max(left, key=lambda i, j=j: fit(i, j)) for j in second}
    gone_back = sorted(second, key=lambda j: -fit(j, back[j]))[: remove - remove // 2]
    target = {j: back[j] for j in gone_back}
    target |= {i: target.get(there[i], there[i]) for i in gone}
    order = left + [j for j in second if j not in gone_back]
    kept = sorted(order)
    mass = np.asarray(attended) * c.size
    return weighted_means(c, kept, target, mass)._replace(place=[order.index(i) for i in kept])


def ats(c, reducer):
    weight = []
    for i in range(c.prefix, c.maps.shape[1]):
        attention = sum(sum(head[k, i] for k in range(c.classes)) / c.classes for head in c.maps)
        weight.append(attention * math.sqrt(sum(np.linalg.norm(v[i]) ** 2 for v in c.values)))
    real = [i for i in range(len(c.x)) if c.size[i] > 0]
    share = [weight[i] / sum(weight[j] for j in real) if i in real else 0 for i in range(len(c.x))]
    order = sorted(real, key=lambda i: share[i])
    reached = np.cumsum([share[i] for i in order])
    picked = {order[int(np.abs(reached - (2 * p - 1) / (2 * c.keep)).argmin())] for p in range(1, c.keep + 1)}
    fill = [i for i in range(len(c.x)) if i not in picked][: c.keep - len(picked)]
    kept = sorted([*picked, *fill])
    return Found(kept, c.x[kept], np.asarray([c.size[i] if i in picked else 0 for i in kept]))


def farthest_first(grid):
    """The place of each patch in farthest-point sampling of the grid, from its middle."""
    height, width = grid
    chosen = [height // 2 * width + width // 2]

    def apart(i, j):
        return (i // width - j // width) ** 2 + (i % width - j % width) ** 2

    while len(chosen) < height * width:
        rest = [i for i in range(height * width) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(apart(i, j) for j in chosen)))
    return [chosen.index(i) for i in range(height * width)]


def uniform(c, reducer):
    places = farthest_first(c.grid)
    return dropped(c, [-places[max(patch, 0)] for patch in c.origin])
