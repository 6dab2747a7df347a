"""Learning rates that fall from the head of a network to its stem."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from training_flax.config.config import TrainConfig, build_network


@cache
def parts_of(model: Any) -> dict[str, tuple[str, ...]]:
    """Returns the names of the parameters' modules in each part of a network: stem, stage 0, stage 1, …, head.

    The network's own methods `stem`, `stage` and `head` are traced, so this holds for each family.
    """
    stages = range(len(model.stage_sizes))
    calls: list[tuple[str, str, tuple[int, ...]]] = [("stem", "stem", ())]
    calls += [(f"stage {index}", "stage", (index,)) for index in stages]
    x: Any = jax.ShapeDtypeStruct((1, model.published_size, model.published_size, 3), jnp.float32)
    parts = {}
    for part, method, arguments in [*calls, ("head", "head", ())]:
        run = partial(model.init_with_output, train=False, method=method)
        x, variables = jax.eval_shape(
            lambda key, x, run=run, given=arguments: run(key, x, *given), jax.random.key(0), x
        )
        parts[part] = tuple(variables.get("params", {}))
    return parts


def factors_of(config: TrainConfig, layer_decay: float) -> dict[str, float]:
    """Returns each part's factor on the learning rate: `layer_decay` to the power of its distance from the head.

    As in BEiT (Bao et al., arXiv:2106.08254) and timm, with a stage where these have a transformer's block. Parts
    without parameters are left out, and do count.
    """
    parts = parts_of(build_network(config, 1))
    last = len(parts) - 1
    return {part: layer_decay ** (last - number) for number, (part, names) in enumerate(parts.items()) if names}


def scale_by_part(config: TrainConfig, layer_decay: float) -> optax.GradientTransformation:
    """Multiplies updates by the factors of their parts; weight decay that is decoupled is multiplied too."""
    factors = factors_of(config, layer_decay)
    parts = parts_of(build_network(config, 1))
    factor_of = {name: factors[part] for part, names in parts.items() for name in names}

    def scale(updates: Mapping[str, Any], params: Any = None) -> dict[str, Any]:
        return {
            name: jax.tree.map(lambda leaf, factor=factor_of[name]: factor * leaf, module)
            for name, module in updates.items()
        }

    return optax.stateless(scale)


def told(config: TrainConfig, layer_decay: float) -> str:
    """Says the factors in a line: "stem × 0.316, stages × 0.422, 0.562, 0.75, head × 1"."""
    factors = factors_of(config, layer_decay)
    stages = ", ".join(f"{factor:.3g}" for part, factor in factors.items() if part.startswith("stage"))
    ends = {part: f"{part} × {factors[part]:.3g}" for part in ("stem", "head") if part in factors}
    return ", ".join([*([ends["stem"]] if "stem" in ends else []), f"stages × {stages}", ends["head"]])
