"""Run a script under `accelerate launch` with FSDP on the CPU, which torch can do and accelerate 1.15 leaves out.

    ACCELERATE_TORCH_DEVICE=cpu accelerate launch --config_file … tests/fsdp_on_cpu.py recipes/embed.py --config …

All that is changed is the answer to the question for the kind of devices.
"""

import runpy
import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer

PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
inner_training_loop = Trainer._inner_training_loop


def train(self, *args, **kwargs):
    result = inner_training_loop(self, *args, **kwargs)
    sharded = [name for name, module in self.model.named_modules() if "FSDP" in type(module).__name__]
    if self.is_world_process_zero():
        print(f"sharded layers: {sum('.layers.' in name for name in sharded)}")
    return result


Trainer._inner_training_loop = train
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
