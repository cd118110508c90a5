"""References of GTP-ViT and TC-ViT for one image, in NumPy float64 loops written from their formulas.

In all functions, `maps [H, T, T]` are the attention maps of the heads with queries as rows, the `prefix` tokens come
first, and `values [H, T, d]` are the values of attention.
"""

import math

import numpy as np


def split(score, keep):
    """Return kept and removed rows in ascending order; the highest scores are kept, ties keep the lower index."""
    order = sorted(range(len(score)), key=lambda i: (-score[i], i))
    return sorted(order[:keep]), sorted(order[keep:])


def sparsify(maps, keep_fraction):
    """Return maps in which the entries of each head below its int(T * T * (1 - keep_fraction))-th smallest are zero."""
    rank = int(maps.shape[1] * maps.shape[2] * (1 - keep_fraction))
    if rank == 0:
        return maps
    return np.stack([np.where(head < sorted(head.ravel())[rank - 1], 0, head) for head in maps])


# GTP-ViT


def gtp_adjacency(x, grid, neighbors, kind):
    """Return `[N, N]` bool: the eight neighbors on the grid, the nearest tokens by cosine, or their union."""
    n = len(x)
    adjacency = np.zeros((n, n), bool)
    for i in range(n):
        cosine = {j: float(x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])) for j in range(n) if j != i}
        nearest = sorted(cosine, key=lambda j: -cosine[j])[:neighbors]
        for j in range(n):
            is_adjacent = max(abs(i // grid[1] - j // grid[1]), abs(i % grid[1] - j % grid[1])) == 1
            adjacency[i, j] = (is_adjacent and kind != "semantic") or (j in nearest and kind != "spatial")
    return adjacency


def gtp_score(maps, name, prefix):
    """Return the score of every patch token, as defined by the published code."""
    heads, tokens = range(len(maps)), range(prefix, maps.shape[1])
    kind, reduction = name.split("_")
    over_heads = {"mean": np.mean, "max": np.max}[reduction]
    diagonal = [over_heads([maps[h][i, i] for h in heads]) for i in tokens]
    received = [over_heads([sum(maps[h][q, i] for q in range(maps.shape[1])) for h in heads]) for i in tokens]
    if kind == "cosine":
        rows = [over_heads([maps[h][i] for h in heads], axis=0) for i in tokens]
        rows = [row / np.linalg.norm(row) for row in rows]
        return [-sum(float(a @ b) for b in rows) for a in rows]
    return {
        "cls": [over_heads([maps[h][0, i] for h in heads]) for i in tokens],
        "diag": diagonal,
        "received": received,
        "mixed": [d * r for d, r in zip(diagonal, received, strict=True)],
        "sum": [d + r for d, r in zip(diagonal, received, strict=True)],
    }[kind]


def gtp(x0, x, size, origin, maps, keep, grid, reducer, prefix):
    """Return kept and removed rows of one block, and new features and sizes of the patch tokens.

    `x0` are the embedded patches, `x [N, D]` the current patch tokens.
    """
    kept, removed = split(gtp_score(maps, reducer.score, prefix), keep)
    features, sizes = [x[i].copy() for i in kept], [size[i] for i in kept]
    if reducer.propagation == "mean":
        features.append(sum(x[j] for j in removed) / len(removed))
        sizes.append(sum(size[j] for j in removed))
    elif reducer.propagation == "graph":
        adjacency = gtp_adjacency(x0, grid, reducer.neighbors, reducer.graph)
        degree = adjacency.sum(1)
        for row, i in enumerate(kept):
            for j in removed:
                a, b = origin[i], origin[j]
                if adjacency[a, b]:
                    edge = reducer.alpha / math.sqrt(degree[a] * degree[b])
                    features[row] += edge * x[j]
                    sizes[row] += edge * size[j]
    return kept, removed, np.asarray(features), np.asarray(sizes)


# TC-ViT


def tcvit_transition_matrix(maps, reducer, prefix):
    """Return the transition matrix `W`, with all options of section 3.1."""
    tokens = maps.shape[1]
    walk = np.zeros((tokens, tokens))
    for i in range(tokens):
        for j in range(tokens):
            entries = [head[i, j] for head in maps]
            walk[i, j] = sum(entries) / len(entries) if reducer.heads == "mean" else max(entries)
            if (reducer.graph == "patch" and min(i, j) < prefix) or (i == j and not reducer.self_loops):
                walk[i, j] = 0
    loses_entries = reducer.graph == "patch" or not reducer.self_loops
    if reducer.heads == "max" or (reducer.renormalize and loses_entries):
        for i in range(tokens):
            if walk[i].sum() > 0:
                walk[i] /= walk[i].sum()
    return walk


def tcvit_walk(walk, kind, order, gamma):
    """Return the full matrix `C_K`, from the definition of each kind of walk (section 3.2)."""
    identity = np.eye(len(walk))
    powers = [identity]
    for _ in range(order):
        powers.append(powers[-1] @ walk)
    if kind == "power":
        return powers[order]
    if kind == "cumulative":
        return sum(powers[1:]) / order
    if kind == "katz":
        weights = [gamma ** (k - 1) for k in range(1, order + 1)]
        return sum(w * p for w, p in zip(weights, powers[1:], strict=True)) / sum(weights)
    lazy = (identity + walk) / 2
    product = identity
    for _ in range(order):
        product = product @ lazy
    return product


def tcvit_affinity(x, maps, keys, reducer, prefix):
    """Return the affinity of the patch tokens, `[N, N]`, or None for the attention graph."""
    if reducer.affinity == "attention":
        return None
    walk = tcvit_transition_matrix(maps, reducer, prefix)
    count, tokens = len(x), len(walk)
    affinity = np.zeros((count, count))
    received = [sum(walk[i, m] for i in range(prefix, tokens)) for m in range(tokens)]
    rows = keys.mean(0)[prefix:] if reducer.affinity == "keys" else x
    for i in range(count):
        for j in range(count):
            a, b = prefix + i, prefix + j
            if reducer.affinity == "symmetric":
                affinity[i, j] = (walk[a, b] + walk[b, a]) / 2
            elif reducer.affinity == "meeting":
                affinity[i, j] = sum(walk[a, m] * walk[b, m] / received[m] for m in range(tokens) if received[m] > 0)
            else:
                cosine = rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j])
                affinity[i, j] = math.exp((cosine - 1) / reducer.affinity_temperature)
    return affinity


def tcvit_connection(affinity, reducer, order):
    """Return the connectivity of all pairs of patch tokens, `C_ij`, or `C_ij / sqrt(C_ii C_jj)` of a kernel."""
    degree = affinity.sum(1)
    reach = tcvit_walk(affinity / np.sqrt(np.outer(degree, degree)), reducer.walk, order, reducer.gamma)
    if reducer.affinity == "symmetric":
        return reach
    diagonal = np.diag(reach)
    return reach / np.sqrt(np.outer(diagonal, diagonal))


def tcvit_cover(score, match):
    """Return minus the largest match of each token with a token that ranks above it; the first has infinity."""
    result = []
    for i, own in enumerate(score):
        above = [j for j, other in enumerate(score) if other > own or (other == own and j < i)]
        result.append(-max((match[i, j] for j in above), default=-np.inf))
    return result


def tcvit_normalize(x, kind):
    """Return the normalized score (section 3.3)."""
    x = np.asarray(x)
    if kind == "sum":
        return x / x.sum() if x.sum() > 0 else x
    if kind == "minmax":
        return (x - x.min()) / (x.max() - x.min())
    if kind == "zscore":
        return (x - x.mean()) / x.std()
    if kind == "rank":
        return np.asarray([sum(a > b for b in x) + 0.5 * (sum(a == b for b in x) - 1) for a in x])
    return x


def tcvit_scores(maps, values, walk, reach, affinity, reducer, prefix, class_tokens):
    """Return connectivity, dominance and representative score of every patch token (sections 3.3 to 3.5)."""
    tokens, heads = maps.shape[1], range(len(maps))
    patches = range(prefix, tokens)
    over_heads = {"mean": np.mean, "max": np.max}[reducer.heads]
    starts = patches if reducer.columns == "patch" else range(tokens)
    connectivity = [sum(reach[j, i] for j in starts) for i in patches]
    if affinity is not None:
        steps = tcvit_walk(affinity / affinity.sum(1, keepdims=True), reducer.walk, reducer.order, reducer.gamma)
        connectivity = list(steps.sum(0))
    if reducer.balance == 1:
        dominance = None
    elif reducer.dominance == "gap":
        dominance = [sum(walk[j, i] for j in patches) / len(patches) for i in patches]
    elif reducer.dominance == "cls_walk":
        dominance = [sum(reach[c, i] for c in range(class_tokens)) / class_tokens for i in patches]
    else:
        dominance = []
        for i in patches:
            rows = [sum(maps[h][c, i] for c in range(class_tokens)) / class_tokens for h in heads]
            if reducer.dominance == "cls_values":
                rows = [row * np.linalg.norm(values[h][i]) for h, row in enumerate(rows)]
            dominance.append(over_heads(rows))
            if reducer.dominance == "cls_lift":
                dominance[-1] /= over_heads([sum(maps[h][j, i] for j in range(tokens)) for h in heads])
    score = reducer.balance * tcvit_normalize(connectivity, reducer.score_norm) if reducer.balance > 0 else 0
    if dominance is not None:
        score = score + (1 - reducer.balance) * tcvit_normalize(dominance, reducer.score_norm)
    return connectivity, dominance, score


def tcvit_match(walk, affinity, kept, removed, reducer, prefix):
    """Return the match of removed and kept tokens, `[R, K]` (section 3.6)."""
    if affinity is not None:
        return tcvit_connection(affinity, reducer, reducer.match_order or reducer.order)[np.ix_(removed, kept)]
    reach = tcvit_walk(walk, reducer.walk, reducer.match_order or reducer.order, reducer.gamma)
    match = np.zeros((len(removed), len(kept)))
    for a, q in enumerate(removed):
        for b, p in enumerate(kept):
            to_kept, from_kept = reach[prefix + q, prefix + p], reach[prefix + p, prefix + q]
            both = (to_kept + from_kept) / 2
            match[a, b] = {"to_kept": to_kept, "from_kept": from_kept, "both": both}[reducer.direction]
            if reducer.match_norm == "lift":
                match[a, b] /= sum(reach[j, prefix + p] for j in range(prefix, len(reach)))
        if reducer.match_norm == "softmax":
            match[a] = np.exp(match[a]) / np.exp(match[a]).sum()
    return match


def tcvit_share(match, reducer):
    """Return the share of each removed token that each kept token receives, `[R, K]`."""
    share = np.zeros_like(match)
    for a, row in enumerate(match):
        best = sorted(range(len(row)), key=lambda p: (-row[p], p))
        if reducer.fuse == "hard":
            share[a, best[0]] = 1
        else:
            for p in best[: reducer.top_m] if reducer.fuse == "topm" else best:
                share[a, p] = row[p] ** (1 / reducer.temperature)
            share[a] /= share[a].sum()
    return share


def tcvit(x, size, maps, keys, values, keep, reducer, prefix=1, class_tokens=1):
    """Return kept and removed rows of one block, shares `[R, K]` of removed tokens, and new features and sizes."""
    walk = tcvit_transition_matrix(maps, reducer, prefix)
    reach = tcvit_walk(walk, reducer.walk, reducer.order, reducer.gamma)
    affinity = tcvit_affinity(x, maps, keys, reducer, prefix)
    connectivity, dominance, score = tcvit_scores(maps, values, walk, reach, affinity, reducer, prefix, class_tokens)
    ranking = score
    if reducer.selection == "cover":
        ranking = tcvit_cover(score, tcvit_match(walk, affinity, range(len(x)), range(len(x)), reducer, prefix))
    kept, removed = split(ranking, keep)
    features, sizes = [x[p].copy() for p in kept], [size[p] for p in kept]
    if reducer.fuse == "drop":
        return kept, removed, None, np.asarray(features), np.asarray(sizes)
    if reducer.fuse == "single":
        weight = [c / len(x) for c in connectivity] if dominance is None else dominance
        features.append(sum(weight[q] * x[q] for q in removed))
        sizes.append(sum(size[q] for q in removed))
        return kept, removed, None, np.asarray(features), np.asarray(sizes)
    match = tcvit_match(walk, affinity, kept, removed, reducer, prefix)
    share = tcvit_share(match, reducer)
    mass = {"mean": np.ones(len(x)), "score": score}.get(reducer.fuse_weight, size)
    for b, p in enumerate(kept):
        total = mass[p]
        feature = mass[p] * x[p]
        weights = [
            share[a, b] * mass[q] * (match[a, b] if reducer.fuse_weight == "connectivity" else 1)
            for a, q in enumerate(removed)
        ]
        if sum(weights) > 0 and mass[p] / (mass[p] + sum(weights)) < reducer.host_share:
            scale = mass[p] * (1 - reducer.host_share) / reducer.host_share / sum(weights)
            weights = [scale * weight for weight in weights]
        for a, (q, weight) in enumerate(zip(removed, weights, strict=True)):
            feature = feature + weight * x[q]
            total += weight
            sizes[b] += share[a, b] * size[q]
        features[b] = feature / total
    return kept, removed, share, np.asarray(features), np.asarray(sizes)
