"""The gradient identity on residual functions of your own: python examples/gradient_identity.py."""

import jax
import jax.numpy as jnp

from theory_flax import gradient_identity_of

keys = jax.random.split(jax.random.key(0), 13)
weights = [0.1 * jax.random.normal(key, (64, 64)) for key in keys[:12]]
residuals = [lambda x, w=w: jnp.tanh(x @ w) for w in weights]  # h_l, of twelve blocks x + h_l(x)
x1 = jax.random.normal(keys[12], (8, 64))

found = gradient_identity_of(x1, residuals, loss_of=lambda x: jnp.mean(x**2))

print(f"∂L/∂x₁ by jax.grad and g + Σ c_l differ by {found.relative_error:.1e} of their norm")
print(f"the shortcuts alone carry {found.identity_share:.0%} of it; the blocks, first to last:")
print("  " + "  ".join(f"{share:.1%}" for share in found.shares))
