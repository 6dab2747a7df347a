"""A network of ours against the stored arrays of torchvision's, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import references

BOUND = 1e-10


def error(ours, theirs):
    """The largest difference, relative to the largest reference value."""
    theirs = np.asarray(theirs)
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1).mean()


def check_parity(package, arch, **options):
    """Logits, loss, gradients of every tensor and updated running statistics, in eval and train mode."""
    manifest, stored = references.load(arch)
    state_dict = {name: references.tensor(name, shape) for name, shape in manifest}
    model = package.ARCHS[arch](running_variance="unbiased", **options)
    variables = package.from_torch(model, state_dict)

    back = package.to_torch(model, variables)
    assert back.keys() == state_dict.keys()
    assert all(np.array_equal(back[name], state_dict[name]) for name in state_dict)

    images = references.images()

    def loss_of(params):
        logits, updates = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, images, train=True, mutable=["batch_stats"]
        )
        return cross_entropy(logits, references.LABELS), (logits, updates)

    eval_logits = jax.jit(model.apply)(variables, images)
    (loss, (train_logits, updates)), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(variables["params"])
    grads, stats = package.to_torch(model, grads), package.to_torch(model, updates)
    norms = [np.linalg.norm(grads[name]) for name, _ in manifest if name in grads]
    probes = [np.sum(grads[name] * references.probe(name, shape)) for name, shape in manifest if name in grads]
    sums = {
        kind: [stats[name].sum() for name, _ in manifest if name.endswith(kind)]
        for kind in ("running_mean", "running_var")
    }
    errors = {
        "eval_logits": error(eval_logits, stored["eval_logits"]),
        "train_logits": error(train_logits, stored["train_logits"]),
        "train_loss": error(loss, stored["train_loss"]),
        "grad_norm": error(norms, stored["grad_norm"]),
        "grad_probe": error(probes, stored["grad_probe"]),
        "running_mean": error(sums["running_mean"], stored["running_mean_sum"]),
        "running_var": error(sums["running_var"], stored["running_var_sum"]),
    }
    assert all(value <= BOUND for value in errors.values()), errors
