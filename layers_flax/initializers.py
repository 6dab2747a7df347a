"""The weight distributions of the papers and of torchvision, as JAX initialisers `(key, shape, dtype) -> array`.

Kernels are HWIO or (in, out); a fan counts the receptive field, and for grouped convolutions the group's inputs.
"""

from jax.nn.initializers import variance_scaling

he_normal_fan_in = variance_scaling(2.0, "fan_in", "normal")
"""Normal, variance 2 / fan_in (He et al., Delving Deep into Rectifiers, arXiv:1502.01852, equation 10)."""

he_normal_fan_out = variance_scaling(2.0, "fan_out", "normal")
"""Normal, variance 2 / fan_out (the same paper, equation 14): torchvision's choice for ResNet and VGG."""

torch_linear = variance_scaling(1.0 / 3.0, "fan_in", "uniform")
"""Uniform on ±1/sqrt(fan_in): the default of PyTorch's Linear."""
