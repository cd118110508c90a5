"""References of the baselines for one image, in NumPy float64 loops written from their formulas.

Each reference has the name of its reducer in `REDUCERS`, by which the tests look it up. It takes a `Case` and the
reducer and returns a `Result`.
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
    position: list  # position of each patch token in the order of the method
    grid: tuple  # grid of the original patches
    origin: list  # original patch index of each patch token, -1 for a fused token
    x0: np.ndarray  # [N0, D] embedded patches


class Result(NamedTuple):
    kept: list
    features: np.ndarray
    sizes: np.ndarray
    position: list | None = None


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def mean_keys(c):
    return c.keys.mean(0)[c.prefix :]


def class_attention(c):
    rows = [[sum(head[k, i] for k in range(c.classes)) / c.classes for head in c.maps] for i in range(c.maps.shape[1])]
    return [float(np.mean(row)) for row in rows[c.prefix :]]


def received_attention(c):
    return [float(np.mean([sum(head[:, i]) for head in c.maps])) for i in range(c.prefix, c.maps.shape[1])]


def weighted_means(c, kept, target, mass):
    """Merge removed tokens into kept ones by the mean weighted by `mass`; `target[j]` is the kept row of token `j`."""
    features, sizes = [], []
    for i in kept:
        group = [i] + [j for j, row in target.items() if row == i]
        features.append(sum(mass[j] * c.x[j] for j in group) / sum(mass[j] for j in group))
        sizes.append(sum(c.size[j] for j in group))
    return Result(kept, np.asarray(features), np.asarray(sizes))


def drop(c, score):
    kept, _ = split(score, c.keep)
    return Result(kept, c.x[kept], c.size[kept])


def topk(c, reducer):
    return drop(c, class_attention(c))


def evit(c, reducer):
    a = class_attention(c)
    kept, removed = split(a, c.keep)
    if not reducer.fuse:
        return Result(kept, c.x[kept], c.size[kept])
    fused = sum(a[j] * c.x[j] for j in removed)
    return Result(kept, np.vstack([c.x[kept], fused]), np.append(c.size[kept], sum(c.size[j] for j in removed)))


def halves(c):
    """Return the two halves of the patch tokens in the order of the method; the class token starts the first half."""
    order = sorted(range(len(c.x)), key=lambda i: c.position[i])
    sequence = [None] * c.prefix + order
    return [i for i in sequence[0::2] if i is not None], [i for i in sequence[1::2] if i is not None]


def bipartite(c):
    """Return the target of each removed token, and the order of the survivors."""
    keys, (first, second) = mean_keys(c), halves(c)
    best = {i: max(second, key=lambda j, i=i: cosine(keys[i], keys[j])) for i in first}
    removed = sorted(first, key=lambda i: -cosine(keys[i], keys[best[i]]))[: len(c.x) - c.keep]
    left = [i for i in first if i not in removed]
    return {i: best[i] for i in removed}, left + second


def tome(c, reducer):
    target, order = bipartite(c)
    kept = sorted(order)
    return weighted_means(c, kept, target, c.size)._replace(position=[order.index(i) for i in kept])


def wardtome(c, reducer):
    keys, (first, second) = mean_keys(c), halves(c)

    def cost(i, j):
        return c.size[i] * c.size[j] / (c.size[i] + c.size[j]) * (1 - cosine(keys[i], keys[j]))

    best = {i: min(second, key=lambda j, i=i: cost(i, j)) for i in first}
    removed = sorted(first, key=lambda i: cost(i, best[i]))[: len(c.x) - c.keep]
    order = [i for i in first if i not in removed] + second
    kept = sorted(order)
    result = weighted_means(c, kept, {i: best[i] for i in removed}, c.size)
    return result._replace(position=[order.index(i) for i in kept])


def tofu(c, reducer):
    target, order = bipartite(c)
    kept = sorted(order)
    result = weighted_means(c, kept, target, c.size)
    if c.block < reducer.prune_until * c.depth:
        return result._replace(features=c.x[kept], position=[order.index(i) for i in kept])
    for row, i in enumerate(kept):
        group = [i] + [j for j, row in target.items() if row == i]
        if len(group) > 1:
            result.features[row] *= max(np.linalg.norm(c.x[j]) for j in group) / np.linalg.norm(result.features[row])
    return result._replace(position=[order.index(i) for i in kept])


def pitome(c, reducer):
    keys, count, remove = mean_keys(c), len(c.x), len(c.x) - c.keep
    margin = reducer.margin * (1 - c.block / c.depth)
    similarity = np.asarray([[cosine(a, b) for b in keys] for a in keys])
    energy = [
        np.mean([s - margin if s > margin else reducer.alpha * math.expm1(s - margin) for s in row])
        for row in similarity
    ]
    order = sorted(range(count), key=lambda i: -energy[i])
    if c.block >= c.depth / 2:
        order = order[: 2 * remove]
    first, second = order[0::2], order[1::2]
    best = {i: max(second, key=lambda j, i=i: similarity[i, j]) for i in first}
    removed = sorted(first, key=lambda i: -similarity[i, best[i]])[:remove]
    kept = [i for i in range(count) if i not in removed]
    return weighted_means(c, kept, {i: best[i] for i in removed}, c.size)


def diffrate(c, reducer):
    a, remove = class_attention(c), len(c.x) - c.keep
    order = sorted(range(len(c.x)), key=lambda i: -a[i])
    kept, tail = order[: c.keep], order[c.keep :]
    merged_tokens = tail[: remove - reducer.count(c.block, remove)]
    best = {j: max(kept, key=lambda i, j=j: cosine(c.x[i], c.x[j])) for j in merged_tokens}
    kept = sorted(kept)
    result = weighted_means(c, kept, best, np.ones(len(c.x)))
    sizes = [
        c.size[i] + sum(c.size[j] * max(cosine(c.x[i], c.x[j]), 0) for j, row in best.items() if row == i) for i in kept
    ]
    return result._replace(sizes=np.asarray(sizes))


def saliency(c):
    """Return the distance of each embedded patch from the mean of those around it, for each patch token."""
    height, width = c.grid
    result = []
    for patch in range(height * width):
        row, column = divmod(patch, width)
        around = [
            c.x0[i * width + j]
            for i in range(max(row - 1, 0), min(row + 2, height))
            for j in range(max(column - 1, 0), min(column + 2, width))
            if (i, j) != (row, column)
        ]
        result.append(np.linalg.norm(c.x0[patch] - np.mean(around, axis=0)))
    return [result[patch] for patch in c.origin]


def saliencymerging(c, reducer):
    a, o = class_attention(c), saliency(c)
    m = [reducer.alpha * x / sum(a) + (1 - reducer.alpha) * y / sum(o) for x, y in zip(a, o, strict=True)]
    kept, removed = split(m, c.keep)
    best = {j: max(kept, key=lambda i, j=j: cosine(c.x[i], c.x[j])) for j in removed}
    return weighted_means(c, kept, best, m)


def representationshift(c, reducer):
    """Of the norm of the mean value of each token, which stands for that of the MLP in `scenes.attend`."""
    score = [np.linalg.norm(value) for value in c.values.mean(0)[c.prefix :]]
    if reducer.fuse == "drop":
        return drop(c, score)
    kept, removed = split(score, c.keep)
    best = {j: max(kept, key=lambda i, j=j: cosine(c.x[i], c.x[j])) for j in removed}
    return weighted_means(c, kept, best, c.size)


def grids_of(grid):
    """Return the grids of CubistMerge: the side with the larger fraction left loses a line, the columns first."""
    height, width = rows, columns = grid
    while True:
        yield rows, columns
        if rows == columns == 1:
            return
        if rows == 1 or (columns > 1 and columns / width >= rows / height):
            columns -= 1
        else:
            rows -= 1


def grid_of(grid, count):
    return next((rows, columns) for rows, columns in grids_of(grid) if rows * columns == count)


def merge_line(line, remove):
    """Merge cells of a line, `[(tokens, value, metric, size)]` with the token of the cell first."""
    scores = {}
    for i in range(1, len(line), 2):
        sides = {i - 1: cosine(line[i][2], line[i - 1][2])}
        if i + 1 < len(line):
            sides[i + 1] = cosine(line[i][2], line[i + 1][2])
        target = max(sides, key=lambda j, sides=sides: sides[j])
        scores[i] = sides[target], target
    removed = sorted(scores, key=lambda i: -scores[i][0])[:remove]
    result = []
    for j, cell in enumerate(line):
        if j in removed:
            continue
        members, value, metric, size = cell
        for i in sorted(i for i in removed if scores[i][1] == j):
            other = line[i]
            value = np.asarray([b if abs(b) > abs(a) else a for a, b in zip(value, other[1], strict=True)])
            members, size = members + other[0], size + other[3]
        result.append((members, value, metric, size))
    return result


def cubistmerge(c, reducer):
    grid, new_grid = grid_of(c.grid, len(c.x)), grid_of(c.grid, c.keep)
    keys = mean_keys(c)
    cells = sorted(range(len(c.x)), key=lambda i: c.position[i])

    def with_metric(cell):
        members, value, _, size = cell
        return members, value, value if reducer.metric == "features" else keys[members[0]], size

    lines = [
        [with_metric(([i], c.x[i], None, c.size[i])) for i in cells[row * grid[1] : (row + 1) * grid[1]]]
        for row in range(grid[0])
    ]
    lines = [list(map(with_metric, merge_line(line, grid[1] - new_grid[1]))) for line in lines]
    columns = [merge_line(list(column), grid[0] - new_grid[0]) for column in zip(*lines, strict=True)]
    assert (len(columns[0]), len(columns)) == new_grid
    raster = [cell for row in zip(*columns, strict=True) for cell in row]
    result = sorted((cell[0][0], position, cell) for position, cell in enumerate(raster))
    return Result(
        [kept for kept, _, _ in result],
        np.asarray([cell[1] for _, _, cell in result]),
        np.asarray([cell[3] for _, _, cell in result]),
        [position for _, position, _ in result],
    )


def tps(c, reducer):
    kept, removed = split(class_attention(c), c.keep)
    best = {j: max(kept, key=lambda i, j=j: cosine(c.x[i], c.x[j])) for j in removed}
    features, sizes = [], []
    for i in kept:
        total, feature, size = math.e, math.e * c.x[i], c.size[i]
        for j in (j for j, row in best.items() if row == i):
            weight = math.exp(cosine(c.x[i], c.x[j]))
            total, feature, size = total + weight, feature + weight * c.x[j], size + c.size[j]
        features.append(feature / total)
        sizes.append(size)
    return Result(kept, np.asarray(features), np.asarray(sizes))


def distances(c):
    return np.asarray([[np.linalg.norm(a - b) for b in c.x] for a in c.x])


def dpcknn(c, reducer):
    distance = distances(c) / math.sqrt(c.x.shape[1])
    density = [math.exp(-np.mean(sorted(row**2)[: reducer.neighbors])) for row in distance]
    score = []
    for i, rho in enumerate(density):
        higher = [distance[i, j] for j, other in enumerate(density) if other > rho]
        score.append(rho * (min(higher) if higher else distance.max()))
    kept, removed = split(score, c.keep)
    best = {j: min(kept, key=lambda i, j=j: distance[i, j]) for j in removed}
    return weighted_means(c, kept, best, np.ones(len(c.x)))


def kmedoids(c, reducer):
    distance = distances(c)
    medoids, _ = split(received_attention(c), c.keep)
    for _ in range(reducer.iterations):
        clusters = {m: [] for m in medoids}
        for i in range(len(c.x)):
            clusters[min(medoids, key=lambda m, i=i: distance[i, m])].append(i)
        medoids = [
            min(members, key=lambda i, members=members: sum(distance[i, j] for j in members))
            for members in clusters.values()
        ]
    kept = sorted(medoids)
    sizes = dict.fromkeys(kept, 0.0)
    for i in range(len(c.x)):
        sizes[min(kept, key=lambda m, i=i: distance[i, m])] += c.size[i]
    return Result(kept, c.x[kept], np.asarray(list(sizes.values())))


def mctf(c, reducer):
    keys, received, remove = mean_keys(c), received_attention(c), len(c.x) - c.keep
    unimportance = [1 / a for a in received]
    smallness = [1 / s for s in c.size]

    def pair_score(i, j):
        value = ((cosine(keys[i], keys[j]) + 1) / 2) ** (1 / reducer.similarity)
        value *= (unimportance[i] * unimportance[j] / max(unimportance) ** 2) ** (1 / reducer.importance)
        return value * (smallness[i] * smallness[j] / max(smallness) ** 2) ** (1 / reducer.size)

    first, second = halves(c)
    second_target = {i: max(second, key=lambda j, i=i: pair_score(i, j)) for i in first}
    first_removed = sorted(first, key=lambda i: -pair_score(i, second_target[i]))[: remove // 2]
    left = [i for i in first if i not in first_removed]
    first_target = {j: max(left, key=lambda i, j=j: pair_score(i, j)) for j in second}
    second_removed = sorted(second, key=lambda j: -pair_score(j, first_target[j]))[: remove - remove // 2]
    target = {j: first_target[j] for j in second_removed}
    target |= {i: target.get(second_target[i], second_target[i]) for i in first_removed}
    order = left + [j for j in second if j not in second_removed]
    kept = sorted(order)
    mass = np.asarray(received) * c.size
    return weighted_means(c, kept, target, mass)._replace(position=[order.index(i) for i in kept])


def ats(c, reducer):
    weight = []
    for i in range(c.prefix, c.maps.shape[1]):
        attention = sum(sum(head[k, i] for k in range(c.classes)) / c.classes for head in c.maps)
        weight.append(attention * math.sqrt(sum(np.linalg.norm(v[i]) ** 2 for v in c.values)))
    tokens = [i for i in range(len(c.x)) if c.size[i] > 0]
    share = [weight[i] / sum(weight[j] for j in tokens) if i in tokens else 0 for i in range(len(c.x))]
    order = sorted(tokens, key=lambda i: share[i])
    cumulative = np.cumsum([share[i] for i in order])
    samples = {order[int(np.abs(cumulative - (2 * p - 1) / (2 * c.keep)).argmin())] for p in range(1, c.keep + 1)}
    padding = [i for i in range(len(c.x)) if i not in samples][: c.keep - len(samples)]
    kept = sorted([*samples, *padding])
    return Result(kept, c.x[kept], np.asarray([c.size[i] if i in samples else 0 for i in kept]))


def farthest_point_order(grid):
    """Return the position of each patch in farthest-point sampling of the grid, starting in the middle."""
    height, width = grid
    order = [height // 2 * width + width // 2]

    def squared_distance(i, j):
        return (i // width - j // width) ** 2 + (i % width - j % width) ** 2

    while len(order) < height * width:
        others = [i for i in range(height * width) if i not in order]
        order.append(max(others, key=lambda i: min(squared_distance(i, j) for j in order)))
    return [order.index(i) for i in range(height * width)]


def uniform(c, reducer):
    position = farthest_point_order(c.grid)
    return drop(c, [-position[max(patch, 0)] for patch in c.origin])
