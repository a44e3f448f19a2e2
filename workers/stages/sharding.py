"""A model shared out over devices: FSDP2 (Zhao et al., arXiv:2304.11277), a layer at a time.

Each process holds a part of every weight, gradient and optimizer state, and sees a layer whole
only while it works on it. accelerate does this on GPUs alone; `fully_shard` does on any device,
so that what runs there is what the tests run here. Saved files are those of an unshared model.
"""

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from workers.stages.run import say

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def shard(model: Any, device: torch.device) -> None:
    """In place. The process group is there already."""
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    model.to(device)
    layers = set(model._no_split_modules or ())  # noqa: SLF001 - where transformers names them
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    say(f"The model is shared out over {mesh.size()} devices")
    # so that the Trainer leaves it as it is, instead of wrapping it once more
    model._is_distributed_loading_by_transformers = True  # noqa: SLF001


def told(model: Any) -> None:
    """The Trainer knows by now; to save, transformers would gather what we have gathered."""
    model._is_distributed_loading_by_transformers = False  # noqa: SLF001


def weights(model: Any) -> dict[str, Any]:
    """All of them, whole, in the first process; the others help and get nothing."""
    found: dict[str, Any] = get_model_state_dict(model, options=WHOLE)
    for tied in getattr(model, "all_tied_weights_keys", None) or {}:
        found.pop(tied, None)
    return found


def save(directory: Path, model: Any, optimizer: Any, schedule: Any, rank: int) -> None:
    """What a run needs to go on, beside the weights."""
    state = get_optimizer_state_dict(model, optimizer, options=WHOLE)
    if rank == 0:
        torch.save(state, directory / "optimizer.pt")
        torch.save(schedule.state_dict(), directory / "scheduler.pt")


def load(directory: Path, model: Any, optimizer: Any, schedule: Any, rank: int) -> None:
    state = torch.load(directory / "optimizer.pt", weights_only=True) if rank == 0 else {}
    set_optimizer_state_dict(model, optimizer, state, options=FROM_FIRST)
    schedule.load_state_dict(torch.load(directory / "scheduler.pt", weights_only=True))


def load_weights(directory: Path, model: Any, rank: int) -> None:
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    if rank == 0:
        for path in sorted(directory.glob("*.safetensors")):
            state |= load_file(path)
        for tied, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
            state.setdefault(tied, state[source])
    set_model_state_dict(model, state, options=FROM_FIRST)
