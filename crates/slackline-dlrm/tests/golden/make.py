"""Makes the golden files of this folder: small DLRM models, inputs, and what PyTorch computes for them.

    python make.py            # needs torch and numpy

Each model is built as the reference DLRM builds it (Linear, ReLU, ..., Sigmoid; EmbeddingBag with sums) and saved as the
reference saves it. Per model: <name>.pt, <name>.json (the arguments by the reference's names) and <name>.npz with the
inputs (dense, offsets_i, indices_i; the last bag ends at len(indices_i); weights_i where bags are weighted) and every
stage (bottom, pooled_i, interaction, prob). Some bags are empty, many hold duplicates.
"""

import json
import os

import numpy as np
import torch

TABLES = [7, 3, 1, 11, 29]
DIM = 4
BATCH = 13


def mlp(widths, sigmoid):
    layers = []
    for i, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        linear = torch.nn.Linear(inputs, outputs)
        torch.nn.init.normal_(linear.weight, 0.0, (2.0 / (inputs + outputs)) ** 0.5)
        torch.nn.init.normal_(linear.bias, 0.0, (1.0 / outputs) ** 0.5)
        layers += [linear, torch.nn.Sigmoid() if i == sigmoid else torch.nn.ReLU()]
    return torch.nn.Sequential(*layers)


class Model(torch.nn.Module):
    def __init__(self, bottom, top, sigmoid_bot, sigmoid_top):
        super().__init__()
        self.emb_l = torch.nn.ModuleList([torch.nn.EmbeddingBag(n, DIM, mode="sum") for n in TABLES])
        self.bot_l = mlp(bottom, sigmoid_bot)
        self.top_l = mlp(top, sigmoid_top)


def interact(op, itself, bottom, pooled):
    if op == "cat":
        return torch.cat([bottom] + pooled, dim=1)
    vectors = torch.stack([bottom] + pooled, dim=1)
    products = torch.bmm(vectors, vectors.transpose(1, 2))
    n = len(pooled) + 1
    pairs = [(i, j) for i in range(n) for j in range(i + (1 if itself else 0))]
    rows, columns = [i for i, _ in pairs], [j for _, j in pairs]
    return torch.cat([bottom, products[:, rows, columns]], dim=1)


def make(name, seed, op="dot", itself=False, threshold=0.0, sigmoid_bot=-1, multi_hot=True, weighted=False):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    n = len(TABLES) + 1
    width = n * DIM if op == "cat" else DIM + n * (n + (1 if itself else -1)) // 2
    bottom, top = [5, 8, DIM], [6, 1]
    model = Model(bottom, [width] + top, sigmoid_bot, len(top) - 1)
    arrays = {"dense": rng.normal(size=(BATCH, bottom[0])).astype(np.float32)}
    for t, rows in enumerate(TABLES):
        lengths = rng.integers(0, 6, BATCH) if multi_hot else np.ones(BATCH, np.int64)
        if multi_hot:
            lengths[[0, BATCH - 1]] = [0, 3] if t % 2 else [4, 0]
        arrays[f"indices_{t}"] = rng.integers(0, rows, lengths.sum()).astype(np.int64)
        arrays[f"offsets_{t}"] = (np.cumsum(lengths) - lengths).astype(np.int64)
        if weighted:
            arrays[f"weights_{t}"] = rng.normal(size=lengths.sum()).astype(np.float32)
    with torch.no_grad():
        x = model.bot_l(torch.from_numpy(arrays["dense"]))
        pooled = [
            table(
                torch.from_numpy(arrays[f"indices_{t}"]),
                torch.from_numpy(arrays[f"offsets_{t}"]),
                torch.from_numpy(arrays[f"weights_{t}"]) if weighted else None,
            )
            for t, table in enumerate(model.emb_l)
        ]
        z = interact(op, itself, x, pooled)
        p = model.top_l(z)
        if 0.0 < threshold < 1.0:
            p = torch.clamp(p, min=threshold, max=1.0 - threshold)
    arrays |= {"bottom": x.numpy(), "interaction": z.numpy(), "prob": p.numpy()}
    arrays |= {f"pooled_{t}": v.numpy() for t, v in enumerate(pooled)}
    arguments = {
        "arch_sparse_feature_size": DIM,
        "arch_embedding_size": "-".join(map(str, TABLES)),
        "arch_mlp_bot": "-".join(map(str, bottom)),
        "arch_mlp_top": "-".join(map(str, top)),
        "arch_interaction_op": op,
        "arch_interaction_itself": itself,
        "sigmoid_bot": sigmoid_bot,
        "loss_threshold": threshold,
        "mini_batch_size": BATCH,
    }
    here = os.path.dirname(os.path.abspath(__file__))
    torch.save({"state_dict": model.state_dict(), "nepochs": 1, "test_acc": 0.5}, os.path.join(here, f"{name}.pt"))
    np.savez_compressed(os.path.join(here, f"{name}.npz"), **arrays)
    with open(os.path.join(here, f"{name}.json"), "w") as file:
        json.dump(arguments, file, indent=2)
        file.write("\n")


make("dot", 1)
make("dot_itself", 2, itself=True, weighted=True)
make("cat", 3, op="cat")
make("one_hot_clamped", 4, threshold=0.4, sigmoid_bot=0, multi_hot=False)
