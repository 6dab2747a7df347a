"""Table of parameters and multiply-adds of every architecture: `python -m benchmarks.sizes densenet`."""

import sys

import densenet_flax
import resnet_flax
from layers_flax import count_multiply_adds, count_parameters
from weights_flax.io.archs import published_size

PACKAGES = {"densenet": densenet_flax, "resnet": resnet_flax}


def main(name: str) -> None:
    print("| family | name | parameters | multiply-adds, 10⁹ |")
    print("|---|---|---:|---:|")
    for family, archs in PACKAGES[name].FAMILIES.items():
        for arch in archs:
            model = arch()
            shape = (published_size(model), published_size(model), 3)
            parameters, multiply_adds = count_parameters(model, shape), count_multiply_adds(model, shape)
            print(f"| {family} | `{arch.__name__}` | {parameters:,} | {multiply_adds / 1e9:.3f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] not in [[name] for name in PACKAGES]:
        sys.exit(f"usage: python -m benchmarks.sizes [{'|'.join(PACKAGES)}]")
    main(sys.argv[1])
