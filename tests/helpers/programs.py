"""What a program is made of, counted by its equations: what JAX prints of a program differs between versions."""

import jax


def equations(program):
    """Yields all equations of a jaxpr and of the programs in it, each as often as it is called."""
    for equation in getattr(program, "jaxpr", program).eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def count(primitive, function, *args):
    """How often `function` of `args` calls the primitive of that name."""
    return sum(equation.primitive.name == primitive for equation in equations(jax.make_jaxpr(function)(*args)))
