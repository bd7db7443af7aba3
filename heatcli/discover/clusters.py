"""Groups of maps: spectral clustering on a graph of nearest neighbours (SpRAy, Lapuschkin et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatcli.system.extras import optional

MOST = 6  # clusters of a class
BOOTSTRAPS, KEPT = 8, 0.8


@dataclass(frozen=True, eq=False)
class Grouping:
    """`labels` int [N]; `silhouette` [N] in the features; `stability`: the mean adjusted Rand index with the clustering
    of random parts."""

    labels: NDArray[np.int64]
    silhouette: NDArray[np.float64]
    stability: float


def needed(module: str) -> Any:
    """A module of scikit-learn. Raises `UsageError` where it is not installed."""
    return optional(f"sklearn.{module}", "discover needs scikit-learn", "discover")


def embedding(features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest eigenvalues and vectors of the normalised Laplacian of the symmetrised graph: [K], [N, K]."""
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import eigsh

    n = len(features)
    near = min(n - 1, max(5, round(np.log(n) * 2)))
    graph = needed("neighbors").kneighbors_graph(features, near, mode="connectivity")
    matrix = laplacian(0.5 * (graph + graph.T), normed=True)
    start = np.random.default_rng(0).standard_normal(n)
    values, vectors = eigsh(matrix, k=min(MOST + 1, n - 1), sigma=-0.01, v0=start)
    order = values.argsort()
    return values[order], vectors[:, order]


def _cluster(features: NDArray[np.float32], count: int | None, seed: int) -> Any:
    values, vectors = embedding(features)
    count = count or 2 + int(np.diff(values)[1:].argmax())  # eigengap; at least two, which the score then judges
    rows = vectors[:, :count] / np.linalg.norm(vectors[:, :count], axis=1, keepdims=True).clip(min=1e-12)
    return needed("cluster").KMeans(count, n_init=10, random_state=seed).fit_predict(rows)


def group(features: NDArray[np.float32], seed: int = 0) -> Grouping:
    """Cluster features [N, F] of at least 20 pictures; the same seed gives the same clusters."""
    metrics = needed("metrics")
    labels = _cluster(features, None, seed)
    count, rng, alike = int(labels.max()) + 1, np.random.default_rng(seed), []
    for _ in range(BOOTSTRAPS):
        rows = np.sort(rng.choice(len(features), round(KEPT * len(features)), replace=False))
        alike.append(metrics.adjusted_rand_score(labels[rows], _cluster(features[rows], count, seed)))
    silhouette = metrics.silhouette_samples(features, labels)
    return Grouping(labels.astype(np.int64), silhouette, float(np.mean(alike)))
