"""Draws of a part in which each class has its share of images."""

import numpy as np


def held_out_of(examples: int, share: float) -> int:
    """Returns the number of images that are held out of a class: within one of the share, and never all of them."""
    return min(max(int(examples * share + 0.5), 1), examples - 1) if examples else 0


def draw_several(labels: np.ndarray, order: np.ndarray, share: float) -> np.ndarray:
    """Draws images that may have none, one or several classes.

    Classes take turns as in iterative stratification (Sechidis et al. 2011, "On the stratification of multi-label
    data", algorithm 1): the one with the fewest images that are not placed yet comes next, and its images are placed,
    as many as it lacks of its share in the part. So what frequent classes get by rare ones is made up for by the images
    that are left. Of a class's images, those with the same other classes have their share too. Images without a class
    count as one of their own. A class of two images or more is in the part, and left out of it, wherever moving one
    image can do that. Images of one class each are drawn as `held_out_of` of each class, those first in order.

    Args:
        labels: (examples, classes) uint8 of 0 and 1.
        order: (examples,) the images, in the order in which they are taken.
        share: of the images, over 0 and under 1.

    Returns:
        (examples,) bool: True for the images of the part.
    """
    ordered = labels[order].astype(bool)
    ordered = np.column_stack([ordered, ~ordered.any(1)])
    counts = ordered.sum(0)
    wanted = np.array([held_out_of(int(count), share) for count in counts], int)
    held, free = np.zeros(len(ordered), bool), np.ones(len(ordered), bool)
    left = counts.copy()
    while left.any():
        rarest = int(np.where(left, left, len(labels) + 1).argmin())
        own = np.flatnonzero(free & ordered[:, rarest])
        lacking = wanted[rarest] - int((held & ordered[:, rarest]).sum())
        held[own[_evenly(ordered[own], min(max(lacking, 0), len(own)))]] = True
        free[own] = False
        left -= ordered[own].sum(0)
    _move(ordered, counts, held)
    part = np.empty_like(held)
    part[order] = held
    return part


def _evenly(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns (images,) bool, True for `count` of them: of each set of classes its share, the first ones.

    Where shares are no whole numbers, those with the largest rest are rounded up; of equal ones the first.
    """
    _, first, kinds, sizes = np.unique(labels, axis=0, return_index=True, return_inverse=True, return_counts=True)
    kinds = kinds.reshape(-1)
    shares = count * sizes
    taken, rest = shares // len(labels), shares % len(labels)
    taken[np.lexsort((first, -rest))[: count - taken.sum()]] += 1
    by_kind = np.argsort(kinds, kind="stable")
    place = np.empty_like(kinds)  # of each image among those of its kind
    place[by_kind] = np.arange(len(kinds)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place < taken[kinds]


def _move(labels: np.ndarray, counts: np.ndarray, held: np.ndarray) -> None:
    """Moves an image of each class that lacks one in the part, or outside, if no class is lost there by the move."""
    for rarest in np.argsort(counts, kind="stable"):
        for inside in (True, False):  # the side that may lack the class
            lacks = labels[held == inside].sum(0)[rarest] == 0
            own = np.flatnonzero((held != inside) & labels[:, rarest])
            if lacks and counts[rarest] > 1:
                there = labels[held != inside].sum(0)
                spare = own[(~labels[own] | (there > 1)).all(1)]
                held[spare[:1]] = inside
