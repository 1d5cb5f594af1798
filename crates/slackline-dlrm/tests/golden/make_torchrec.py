"""Makes the golden files of models with TorchRec's names and of rows that are quantised already.

    python make_torchrec.py    # torch 1.12.1, torchsnapshot 0.1.0, numpy<2; Python 3.10

torchrec.pt, .json, .npz      a model with the module names and the interaction of TorchRec's DLRM (the upper triangle of all
                              products), as DLRMTrain saves it; inputs and predictions as in make.py
torchrec_snapshot             the same state, taken with torchsnapshot, large tensors in parts
quantised_<format>.pt         the tables of dot.pt in the bytes of a format, with its dense layers; int8 and int4 are made by
                              PyTorch's operators, the rows of FBGEMM from them by its rules, padded to 16 bytes
quantised.npz                 what PyTorch predicts with the int8 and the int4 rows, for the inputs of dot.npz
"""

import json
import os
import shutil

import numpy as np
import torch
from torchsnapshot import Snapshot, StateDict
from torchsnapshot.knobs import override_max_chunk_size_bytes

HERE = os.path.dirname(os.path.abspath(__file__))
TABLES, DIM, BATCH = [9, 4, 17], 4, 11


def here(name):
    return os.path.join(HERE, name)


def torchrec():
    torch.manual_seed(21)
    n = len(TABLES) + 1
    widths = {"dense_arch.model._mlp": [5, 6, DIM], "over_arch.model.0._mlp": [DIM + n * (n - 1) // 2, 8, 7]}
    state = {
        f"sparse_arch.embedding_bag_collection.embedding_bags.t_cat_{t}.weight": torch.randn(rows, DIM)
        for t, rows in enumerate(TABLES)
    }
    for name, of_mlp in widths.items():
        for i, (inputs, outputs) in enumerate(zip(of_mlp, of_mlp[1:])):
            state[f"{name}.{i}._linear.weight"] = torch.randn(outputs, inputs) * (2 / (inputs + outputs)) ** 0.5
            state[f"{name}.{i}._linear.bias"] = torch.randn(outputs) * 0.3
    state["over_arch.model.1.weight"], state["over_arch.model.1.bias"] = torch.randn(1, 7) * 0.5, torch.randn(1) * 0.3

    rng = np.random.default_rng(21)
    arrays = {"dense": rng.normal(size=(BATCH, 5)).astype(np.float32)}
    pooled = []
    for t, rows in enumerate(TABLES):
        lengths = rng.integers(0, 5, BATCH)
        indices = rng.integers(0, rows, lengths.sum()).astype(np.int64)
        offsets = (np.cumsum(lengths) - lengths).astype(np.int64)
        arrays[f"indices_{t}"], arrays[f"offsets_{t}"] = indices, offsets
        weight = state[f"sparse_arch.embedding_bag_collection.embedding_bags.t_cat_{t}.weight"]
        bag = torch.nn.functional.embedding_bag
        pooled.append(bag(torch.from_numpy(indices), weight, torch.from_numpy(offsets), mode="sum"))
    layer = lambda x, name: x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
    x = torch.from_numpy(arrays["dense"])
    for i in range(2):
        x = torch.relu(layer(x, f"dense_arch.model._mlp.{i}._linear"))
    vectors = torch.stack([x] + pooled, dim=1)
    products = torch.bmm(vectors, vectors.transpose(1, 2))
    upper = torch.triu_indices(n, n, offset=1)
    z = torch.cat([x, products[:, upper[0], upper[1]]], dim=1)
    for i in range(2):
        z = torch.relu(layer(z, f"over_arch.model.0._mlp.{i}._linear"))
    arrays["prob"] = torch.sigmoid(layer(z, "over_arch.model.1")).numpy()

    trained = {f"model.{name}": tensor for name, tensor in state.items()}
    torch.save(trained, here("torchrec.pt"))
    np.savez_compressed(here("torchrec.npz"), **arrays)
    with open(here("torchrec.json"), "w") as file:
        arguments = {
            "arch_sparse_feature_size": DIM,
            "arch_embedding_size": TABLES,
            "arch_mlp_bot": widths["dense_arch.model._mlp"],
            "arch_mlp_top": [8, 7, 1],
        }
        json.dump(arguments, file, indent=2)
        file.write("\n")
    shutil.rmtree(here("torchrec_snapshot"), ignore_errors=True)
    snapshot = StateDict()
    snapshot.data.update(trained)
    with override_max_chunk_size_bytes(80):
        Snapshot.take(here("torchrec_snapshot"), {"model": snapshot, "step": StateDict(n=3)})


def quantised():
    model = torch.load(here("dot.pt"))["state_dict"]
    inputs = np.load(here("dot.npz"))
    tables = sorted((k for k in model if k.startswith("emb_l.")), key=lambda k: int(k.split(".")[1]))
    rows = {
        "int8": {k: torch.ops.quantized.embedding_bag_byte_prepack(model[k]) for k in tables},
        "int4": {k: torch.ops.quantized.embedding_bag_4bit_prepack(model[k]) for k in tables},
    }
    # Scale and bias first and as halves; rows padded to 16 bytes, as in tables for a GPU.
    padded = lambda row: torch.from_numpy(np.concatenate([row, np.zeros((len(row), -row.shape[1] % 16), np.uint8)], axis=1))
    halves = lambda row: row[:, -8:].copy().view(np.float32).astype(np.float16).view(np.uint8)
    int8, int4 = ({k: v.numpy() for k, v in rows[name].items()} for name in ("int8", "int4"))
    rows["int8_fbgemm"] = {k: padded(np.concatenate([halves(v), v[:, :-8]], axis=1)) for k, v in int8.items()}
    rows["int4_fbgemm"] = {k: padded(np.concatenate([v[:, -4:], v[:, :-4]], axis=1)) for k, v in int4.items()}
    for name, packed in rows.items():
        torch.save({**model, **packed}, here(f"quantised_{name}.pt"))

    def mlp(x, name, last):
        layers = sorted({int(k.split(".")[1]) for k in model if k.startswith(name)})
        for layer in layers:
            x = x @ model[f"{name}.{layer}.weight"].T + model[f"{name}.{layer}.bias"]
            x = last(x) if layer == layers[-1] else torch.relu(x)
        return x

    arrays = {}
    for name, lookup in [("int8", torch.ops.quantized.embedding_bag_byte_rowwise_offsets), ("int4", torch.ops.quantized.embedding_bag_4bit_rowwise_offsets)]:
        x = mlp(torch.from_numpy(inputs["dense"]), "bot_l", torch.relu)
        vectors = [x]
        for t, k in enumerate(tables):
            indices, offsets = (torch.from_numpy(inputs[f"{what}_{t}"]) for what in ("indices", "offsets"))
            vectors.append(lookup(rows[name][k], indices, offsets, mode=0))
        stacked = torch.stack(vectors, dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))
        pairs = [(i, j) for i in range(len(vectors)) for j in range(i)]
        z = torch.cat([x, products[:, [i for i, _ in pairs], [j for _, j in pairs]]], dim=1)
        arrays[f"prob_{name}"] = mlp(z, "top_l", torch.sigmoid).numpy()
    np.savez_compressed(here("quantised.npz"), **arrays)


torchrec()
quantised()
