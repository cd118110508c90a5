"""GTP-ViT and TC-ViT for one image, in NumPy float64, loop by loop from their formulas."""

import numpy as np


def split(score, keep):
    """Kept and removed rows, ascending; the higher score stays, ties to the lower index."""
    order = sorted(range(len(score)), key=lambda i: (-score[i], i))
    return sorted(order[:keep]), sorted(order[keep:])


def gtp_adjacency(x, grid, neighbors, kind):
    """Boolean `[N, N]`: the eight around on the grid, the nearest by cosine, or either."""
    n = len(x)
    adjacency = np.zeros((n, n), bool)
    for i in range(n):
        cosine = {j: float(x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])) for j in range(n) if j != i}
        nearest = sorted(cosine, key=lambda j: -cosine[j])[:neighbors]
        for j in range(n):
            near = max(abs(i // grid[1] - j // grid[1]), abs(i % grid[1] - j % grid[1])) == 1
            adjacency[i, j] = (near and kind != "semantic") or (j in nearest and kind != "spatial")
    return adjacency


def gtp(x0, x, size, origin, maps, keep, grid, *, neighbors=8, alpha=0.1, kind="mixed", prefix=1):
    """One block: kept and removed rows, new features and sizes of the patch tokens.

    `x0` are the embedded patches, `x [N, D]` the patch tokens now, `maps [H, T, T]` the attention of every head.
    """
    adjacency = gtp_adjacency(x0, grid, neighbors, kind)
    degree = adjacency.sum(1)
    score = []
    for i in range(len(x)):
        diagonal = max(head[prefix + i, prefix + i] for head in maps)
        received = max(sum(head[q, prefix + i] for q in range(len(head))) for head in maps)
        score.append(diagonal * received)
    kept, removed = split(score, keep)
    features, sizes = [], []
    for i in kept:
        feature, total = x[i].copy(), size[i]
        for j in removed:
            a, b = origin[i], origin[j]
            edge = adjacency[a, b] / np.sqrt(degree[a] * degree[b]) if adjacency[a, b] else 0.0
            feature += alpha * edge * x[j]
            total += alpha * edge * size[j]
        features.append(feature)
        sizes.append(total)
    return kept, removed, np.asarray(features), np.asarray(sizes)


def tcvit(x, size, maps, keep, *, order=2, match_order=None, balance=0.5, prefix=1):
    """One block: kept and removed rows, the kept row each removed one joins, new features and sizes."""
    walk = sum(maps) / len(maps)
    connected, match = walk, walk
    for _ in range(order - 1):
        connected = connected @ walk
    for _ in range((match_order or order) - 1):
        match = match @ walk
    n = len(x)
    c = np.asarray([sum(connected[prefix + j, prefix + i] for j in range(n)) for i in range(n)])
    score = balance * c / c.sum()
    if balance < 1:
        d = np.asarray([walk[0, prefix + i] for i in range(n)])
        score = score + (1 - balance) * d / d.sum()
    kept, removed = split(score, keep)
    target = [max(range(keep), key=lambda p, q=q: (match[prefix + q, prefix + kept[p]], -p)) for q in removed]
    features, sizes = [], []
    for place, i in enumerate(kept):
        members = [i, *(q for q, home in zip(removed, target, strict=True) if home == place)]
        total = sum(size[m] for m in members)
        features.append(sum(size[m] * x[m] for m in members) / total)
        sizes.append(total)
    return kept, removed, target, np.asarray(features), np.asarray(sizes)
