"""Mixup and CutMix: neighbours in a batch are mixed, both images and targets."""

import jax
import jax.numpy as jnp
import optax

# Folded into an example's key; `augment_images` folds in smaller numbers.
_STREAM = 1 << 16


def smooth_labels(labels: jax.Array, classes: int, smoothing: float) -> jax.Array:
    """Returns targets (batch, classes) float32 for integer labels (batch,), with `smoothing` spread over all classes.

    Szegedy et al., arXiv:1512.00567, section 7.
    """
    return optax.smooth_labels(jax.nn.one_hot(labels, classes), smoothing)


def mix(
    keys: jax.Array, images: jax.Array, targets: jax.Array, *, mixup: float, cutmix: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes each example with its neighbour in the batch, 0 with 1, 2 with 3 and so on.

    Mixup (Zhang et al., arXiv:1710.09412, section 1) averages images; CutMix (Yun et al., arXiv:1905.04899, section
    3.1) pastes a box of one image into the other. Targets are averaged with the same weights. Each example's key draws
    the weight of the example itself from Beta(α, α); if both are on, it draws mixup or CutMix with equal probability.
    Batches are in random order, so a neighbour is as random as any partner, and it is on the same device.

    Args:
        keys: (batch,) PRNG keys, see `example_keys`.
        images: (batch, height, width, channels), float32 or float64.
        targets: (batch, classes), of the same type.
        mixup: α of mixup; 0 turns it off.
        cutmix: α of CutMix; 0 turns it off.

    Returns:
        Mixed images and targets of the same shapes; with both off, the arguments themselves.

    Raises:
        ValueError: the batch size is odd.
    """
    if not mixup and not cutmix:
        return images, targets
    batch, height, width, _ = images.shape
    if batch % 2:
        raise ValueError(f"mixup and CutMix need an even batch; given {batch}")
    cutmix_rate = 0.5 if mixup and cutmix else float(cutmix > 0)

    def weigh(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws an example's weight in each of its pixels, (height, width, 1), and in its target, ()."""
        use_key, share_key, box_key = jax.random.split(jax.random.fold_in(key, _STREAM), 3)
        cut = jax.random.bernoulli(use_key, cutmix_rate)
        alpha = jnp.where(cut, cutmix, mixup)
        share = jax.random.beta(share_key, alpha, alpha)
        outside = ~cutmix_box(box_key, height, width, 1 - share)[..., None]
        # The image's border may cut off part of the box, so the target's weight is a count of pixels.
        return jnp.where(cut, outside, share), jnp.where(cut, outside.mean(dtype=share.dtype), share)

    pixel_shares, shares = jax.vmap(weigh)(keys)
    mixed = pixel_shares * images + (1 - pixel_shares) * _neighbours(images)
    return mixed, shares[:, None] * targets + (1 - shares[:, None]) * _neighbours(targets)


def cutmix_box(key: jax.Array, height: int, width: int, area: jax.Array) -> jax.Array:
    """Draws the box of CutMix: (height, width) bool, True inside.

    Before rounding, the box has the image's aspect and the share `area` of its area. Its centre is uniform over the
    image, and the part of the box outside the image is cut off (arXiv:1905.04899, equation 2).
    """
    size = jnp.array([height, width])
    low, high = box_around(jax.random.randint(key, (2,), 0, size), size, area)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    return (rows >= low[0]) & (rows < high[0]) & (columns >= low[1]) & (columns < high[1])


def box_around(middle: jax.Array, size: jax.Array, area: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the first row and column of CutMix's box around its `middle`, and those behind its last; not cut off.

    Args:
        middle: (2,) int32, row and column.
        size: (2,) int32, the image's height and width.
        area: (), the box's share of the image's area.
    """
    half = jnp.floor(size * jnp.sqrt(area)).astype(jnp.int32) // 2
    return middle - half, middle + half


def _neighbours(x: jax.Array) -> jax.Array:
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
