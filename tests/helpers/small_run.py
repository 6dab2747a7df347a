"""The front door with two layers in each block of a DenseNet, or one block in each stage of a residual network.

No option of the command line makes them.

python tests/helpers/small_run.py OPTIONS
"""

import sys
from dataclasses import replace

import jax

from training_flax import fit, join_processes, keep_compiled_programs, keep_memory, plan
from training_flax.train_command import parse

options = parse(sys.argv[1:])
keep_memory()
keep_compiled_programs()
if options.dtype == "float64":
    jax.config.update("jax_enable_x64", True)
join_processes(options.coordinator, options.num_processes, options.process_id)
job = plan(options.training, extend=options.extend)
few = dict(block_sizes=(2, 2, 2)) if options.arch.startswith("densenet") else dict(stage_sizes=(1, 1, 1))
small = job.eval_model.clone(**few)
fit(replace(job, eval_model=small, model=small.clone(axis_name=job.devices.model_axis_name)))
