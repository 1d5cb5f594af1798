"""Distributed inference of deep learning recommendation models with bounded lag.

Importing this where PyTorch is installed registers the backend of `torch.distributed`::

    import slackline
    import torch.distributed as dist

    dist.init_process_group("slackline")

Without PyTorch, the engine alone is here.
"""

from __future__ import annotations

import importlib.util

from ._native import __version__
from .engine import EmbeddingBags, Model, import_checkpoint
from .errors import CollectiveError, DeadRankError, Error, LateRankError, MismatchError, ModelError

__all__ = [
    "CollectiveError",
    "DeadRankError",
    "EmbeddingBags",
    "Error",
    "LateRankError",
    "MismatchError",
    "Model",
    "ModelError",
    "__version__",
    "import_checkpoint",
]

if importlib.util.find_spec("torch") is not None:
    from .bounded_lag import BoundedLag, BoundedLagAllToAll, bounded_lag
    from .distributed import Options, ProcessGroup

    __all__ += ["BoundedLag", "BoundedLagAllToAll", "Options", "ProcessGroup", "bounded_lag"]
