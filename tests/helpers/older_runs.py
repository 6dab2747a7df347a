"""Runs as older versions wrote them."""

import json

from training_flax.config.run_config import numbers_options, plain


def write_older_config(run, config, dataset):
    """Writes config.json as before there were marks and check sums."""
    (run / "config.json").write_text(json.dumps(plain(numbers_options(config, dataset))))
