"""Clusters of maps: spectral clustering on a graph of nearest neighbours (SpRAy, Lapuschkin et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatcli.system.extras import optional

MOST = 6  # the most clusters of a class
NEEDS = "discover needs scikit-learn"
BOOTSTRAPS, KEPT = 8, 0.8  # the number of random parts, and the share of pictures in each


@dataclass(frozen=True, eq=False)
class Grouping:
    """A clustering of N maps.

    `labels`: the cluster of each, int64 [N]. `silhouette`: of each, float64 [N], in the space of features. `stability`:
    the mean adjusted Rand index with clusterings of random parts.
    """

    labels: NDArray[np.int64]
    silhouette: NDArray[np.float64]
    stability: float


def needed(module: str) -> Any:
    """A module of scikit-learn. Raises `UsageError` if it is not installed."""
    return optional(f"sklearn.{module}", NEEDS, "discover")


def embedding(features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The smallest eigenvalues [K] and their vectors [N, K] of the normalised Laplacian of the neighbour graph.

    `features`: float32 [N, F]. The graph is made symmetric.
    """
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import eigsh

    n = len(features)
    near = min(n - 1, max(5, round(np.log(n) * 2)))
    graph = needed("neighbors").kneighbors_graph(features, near, mode="connectivity")
    matrix = laplacian(linked(0.5 * (graph + graph.T), features), normed=True)
    start = np.random.default_rng(0).standard_normal(n)
    values, vectors = eigsh(matrix, k=min(MOST + 1, n - 1), sigma=-0.01, v0=start)
    order = values.argsort()
    return values[order], vectors[:, order]


def linked(graph: Any, features: NDArray[np.float32]) -> Any:
    """A symmetric graph of N features [N, F] as a sparse matrix, in one piece if it has more than `MOST` pieces.

    Each piece has an eigenvector of 0, and of more than `MOST` a solver finds any mixture, or none: copies of a few
    pictures make such graphs. The pieces are joined by a minimum spanning tree of their means, an edge between the two
    nearest features each.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    count, piece = connected_components(graph, directed=False)
    if count <= MOST:
        return graph
    means = np.stack([features[piece == k].mean(0) for k in range(count)])
    distances = needed("metrics").pairwise_distances(means) + 1e-6  # an edge of length 0 is none
    ends = []
    for k, other in zip(*minimum_spanning_tree(np.triu(distances, 1)).nonzero(), strict=True):
        own, far = np.flatnonzero(piece == k), np.flatnonzero(piece == other)
        nearest_, distance = needed("metrics").pairwise_distances_argmin_min(features[own], features[far])
        at = int(distance.argmin())
        ends.append((own[at], far[nearest_[at]]))
    rows, columns = np.array(ends).T
    edges = coo_array((np.ones(len(ends)), (rows, columns)), shape=graph.shape)
    return graph + edges + edges.T


def _cluster(features: NDArray[np.float32], count: int | None, seed: int) -> Any:
    """The cluster of each map, int64 [N]; `count`: how many, None for the number at the largest eigengap."""
    values, vectors = embedding(features)
    count = count or 2 + int(np.diff(values)[1:].argmax())  # the largest eigengap; at least two clusters
    rows = vectors[:, :count] / np.linalg.norm(vectors[:, :count], axis=1, keepdims=True).clip(min=1e-12)
    return needed("cluster").KMeans(count, n_init=10, random_state=seed).fit_predict(rows)


def group(features: NDArray[np.float32], seed: int = 0) -> Grouping:
    """Cluster features, float32 [N, F], of at least 20 pictures. The seed makes the result reproducible.

    It runs on one thread: a class is small, and threads that wait for each other take longer on a busy machine. Raises
    `UsageError` if scikit-learn is not installed.
    """
    metrics = needed("metrics")
    with optional("threadpoolctl", NEEDS, "discover").threadpool_limits(1):
        return _grouped(features, seed, metrics)


def _grouped(features: NDArray[np.float32], seed: int, metrics: Any) -> Grouping:
    """As `group`, on the threads that there are."""
    labels = _cluster(features, None, seed)
    count, rng, alike = int(labels.max()) + 1, np.random.default_rng(seed), []
    for _ in range(BOOTSTRAPS):
        rows = np.sort(rng.choice(len(features), round(KEPT * len(features)), replace=False))
        alike.append(metrics.adjusted_rand_score(labels[rows], _cluster(features[rows], count, seed)))
    silhouette = metrics.silhouette_samples(features, labels)
    return Grouping(labels.astype(np.int64), silhouette, float(np.mean(alike)))


def apart(features: NDArray[np.float32], members: NDArray[np.bool_]) -> float:
    """The mean silhouette of `members`, bool [N], in the space of features; 0 if they are all or none."""
    if members.all() or not members.any():
        return 0.0
    return float(needed("metrics").silhouette_samples(features, members)[members].mean())


def nearest(landmarks: NDArray[np.float32], features: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The numbers of the `count` nearest of the landmarks [L, F] to each of the features [N, F]: int64 [N, count]."""
    found = needed("neighbors").NearestNeighbors(n_neighbors=count).fit(landmarks)
    near: NDArray[np.int64] = found.kneighbors(features, return_distance=False)
    return near


def layout(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """A place in a plane for each of the features [N, F], near those of similar ones: float64 [N, 2] in 0..1.

    The first two eigenvectors that are not constant (Laplacian eigenmaps, Belkin & Niyogi 2003).
    """
    plane = embedding(features)[1][:, 1:3]
    low, high = plane.min(0), plane.max(0)
    found: NDArray[np.float64] = (plane - low) / (high - low).clip(min=1e-12)
    return found
