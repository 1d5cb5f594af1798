"""Makes the torchsnapshot directories of this folder, with torchsnapshot itself, and what they must hold.

    python make_snapshots.py    # torch 1.12.1, torchsnapshot 0.1.0, numpy<2, safetensors; Python 3.10

snapshot_ranks    taken by two processes: tables cut into rows (2 pieces a rank) and columns, one table whole on one rank,
                  replicated dense layers (one of them in chunks), optimizer state, a counter and an object beside them
snapshot_batched  taken by one process: small tensors of every element type share files, by ranges of bytes; its metadata
                  are then written as versions before 0.1.0 did, in YAML's own style (later ones write JSON)
snapshot.safetensors, snapshot_batched.safetensors   the same tensors, whole
"""

import json
import os
import shutil
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from safetensors.torch import save_file
from torch.distributed._shard import sharded_tensor
from torch.distributed._shard.metadata import ShardMetadata
from torchsnapshot import Snapshot, StateDict
from torchsnapshot.knobs import (
    override_is_batching_disabled,
    override_max_chunk_size_bytes,
    override_max_shard_size_bytes,
)

HERE = os.path.dirname(os.path.abspath(__file__))
TABLE = "sparse_arch.embedding_bag_collection.embedding_bags.t_cat_{}.weight"


def whole():
    """The model: the same on every rank."""
    g = torch.Generator().manual_seed(5)
    new = lambda *shape: torch.randn(*shape, generator=g)
    return {
        TABLE.format(0): new(13, 4),
        TABLE.format(1): new(6, 8),
        TABLE.format(2): new(3, 4).half(),
        "dense_arch.model._mlp.0._linear.weight": new(9, 5),
        "dense_arch.model._mlp.0._linear.bias": new(9),
        "over_arch/odd%name": new(2, 3).to(torch.complex64),
    }


def sharded(rank, tensor, boxes):
    """`boxes` are (offsets, sizes, rank that holds it)."""
    shards = []
    for offsets, sizes, owner in boxes:
        if owner == rank:
            part = tensor[tuple(slice(o, o + s) for o, s in zip(offsets, sizes))].contiguous()
            metadata = ShardMetadata(shard_offsets=offsets, shard_sizes=sizes, placement=f"rank:{owner}/cpu")
            shards.append(sharded_tensor.Shard(tensor=part, metadata=metadata))
    return sharded_tensor.init_from_local_shards(shards, *tensor.shape)


def rank_of_two(rank, store, path):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = whole()
    rows, columns, one = (model[TABLE.format(n)] for n in range(3))
    model[TABLE.format(0)] = sharded(rank, rows, [([0, 0], [7, 4], 1), ([7, 0], [6, 4], 0)])
    model[TABLE.format(1)] = sharded(rank, columns, [([0, 0], [6, 5], 0), ([0, 5], [6, 3], 1)])
    model[TABLE.format(2)] = sharded(rank, one, [([0, 0], [3, 4], 1)])
    state = {"model": StateDict(), "optimizer": StateDict(momentum=torch.ones(3) * rank)}
    state |= {"progress": StateDict(steps=7, seen={1, 2})}
    state["model"].data.update(model)
    # 4 rows of 16 bytes a piece; 2 rows of 20 bytes a chunk.
    with override_max_shard_size_bytes(64), override_max_chunk_size_bytes(40), override_is_batching_disabled(True):
        Snapshot.take(path, state, replicated=["model/dense_arch*", "model/over_arch*"])


def main():
    paths = {name: os.path.join(HERE, name) for name in ("snapshot_ranks", "snapshot_batched")}
    for path in paths.values():
        shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank_of_two, (os.path.join(folder, "store"), paths["snapshot_ranks"]), nprocs=2)
    tensors = {name: t for name, t in whole().items() if not t.is_complex()}
    save_file(tensors, os.path.join(HERE, "snapshot.safetensors"))

    g = torch.Generator().manual_seed(6)
    types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
    tensors = {str(t).split(".")[1]: (torch.randn(3, 4, generator=g) * 50).abs().to(t) for t in types}
    tensors |= {"bool": torch.tensor([True, False, True]), "scalar": torch.tensor(2.5)}
    tensors["transposed"] = torch.randn(4, 3, generator=g).t()
    nested = StateDict(layers=[tensors["float32"], {"weight": tensors["int32"]}], lr=0.5, name="x", **tensors)
    with override_is_batching_disabled(False):
        Snapshot.take(paths["snapshot_batched"], {"net": nested})
    metadata = os.path.join(paths["snapshot_batched"], ".snapshot_metadata")
    with open(metadata) as file:
        content = json.load(file)
    with open(metadata, "w") as file:
        yaml.dump(content, file, sort_keys=False, Dumper=yaml.CSafeDumper)
    expected = {f"net.{name}": t.contiguous() for name, t in tensors.items()}
    expected |= {"net.layers.0": tensors["float32"].clone(), "net.layers.1.weight": tensors["int32"].clone()}
    save_file(expected, os.path.join(HERE, "snapshot_batched.safetensors"))


if __name__ == "__main__":
    main()
