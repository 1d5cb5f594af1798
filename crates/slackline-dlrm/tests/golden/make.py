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


class QuotientRemainder(torch.nn.Module):
    """Two tables, each pooled by itself: of the rows' quotients and of their remainders (arXiv:1909.02107)."""

    def __init__(self, rows, dim, collisions, operation):
        super().__init__()
        self.collisions, self.operation = collisions, operation
        self.weight_q = torch.nn.Parameter(torch.randn(-(-rows // collisions), dim))
        self.weight_r = torch.nn.Parameter(torch.randn(collisions, dim))

    def forward(self, indices, offsets, weights):
        pool = torch.nn.functional.embedding_bag
        quotients, remainders = indices // self.collisions, indices % self.collisions
        q = pool(quotients, self.weight_q, offsets, mode="sum", per_sample_weights=weights)
        r = pool(remainders, self.weight_r, offsets, mode="sum", per_sample_weights=weights)
        return {"mult": lambda: q * r, "add": lambda: q + r, "concat": lambda: torch.cat([q, r], dim=1)}[self.operation]()


class MixedDimension(torch.nn.Module):
    """A table with fewer columns and a projection; without one if it has all of them (arXiv:1909.11810)."""

    def __init__(self, rows, columns, dim):
        super().__init__()
        self.embs = torch.nn.EmbeddingBag(rows, columns, mode="sum")
        self.proj = torch.nn.Linear(columns, dim, bias=False) if columns < dim else torch.nn.Identity()

    def forward(self, indices, offsets, weights):
        return self.proj(self.embs(indices, offsets, weights))


class Hashed(torch.nn.EmbeddingBag):
    """A table of fewer rows, which are looked up modulo their number."""

    def forward(self, indices, offsets, weights):
        return super().forward(indices % self.num_embeddings, offsets, weights)


def table(rows, number, extra):
    """One table by the reference's rules, with the arguments that compress it."""
    if extra.get("qr_flag") and rows > extra["qr_threshold"]:
        dim = DIM // 2 if extra["qr_operation"] == "concat" else DIM
        return QuotientRemainder(rows, dim, extra["qr_collisions"], extra["qr_operation"])
    if extra.get("md_flag") and rows > extra["md_threshold"]:
        return MixedDimension(rows, MD_DIMS[number], DIM)
    return Hashed(min(rows, extra.get("max_ind_range", rows)), DIM, mode="sum")


# The columns of mixed-dimension tables: not those of the reference's formula, since a checkpoint counts.
MD_DIMS = [4, 4, 4, 3, 1]


class Model(torch.nn.Module):
    def __init__(self, bottom, top, sigmoid_bot, sigmoid_top, extra):
        super().__init__()
        self.emb_l = torch.nn.ModuleList([table(n, number, extra) for number, n in enumerate(TABLES)])
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


def make(name, seed, op="dot", itself=False, threshold=0.0, sigmoid_bot=-1, multi_hot=True, weighted=False, **extra):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    n = len(TABLES) + 1
    width = n * DIM if op == "cat" else DIM + n * (n + (1 if itself else -1)) // 2
    bottom, top = [5, 8, DIM], [6, 1]
    model = Model(bottom, [width] + top, sigmoid_bot, len(top) - 1, extra)
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
            pool(
                torch.from_numpy(arrays[f"indices_{t}"]),
                torch.from_numpy(arrays[f"offsets_{t}"]),
                torch.from_numpy(arrays[f"weights_{t}"]) if weighted else None,
            )
            for t, pool in enumerate(model.emb_l)
        ]
        z = interact(op, itself, x, pooled)
        p = model.top_l(z)
        if 0.0 < threshold < 1.0:
            p = torch.clamp(p, min=threshold, max=1.0 - threshold)
    arrays |= {"bottom": x.numpy(), "interaction": z.numpy(), "prob": p.numpy()}
    arrays |= {f"pooled_{t}": v.numpy() for t, v in enumerate(pooled)}
    arguments = {
        "arch_sparse_feature_size": DIM // 2 if extra.get("qr_operation") == "concat" else DIM,
        "arch_embedding_size": "-".join(map(str, TABLES)),
        "arch_mlp_bot": "-".join(map(str, bottom)),
        "arch_mlp_top": "-".join(map(str, top)),
        "arch_interaction_op": op,
        "arch_interaction_itself": itself,
        "sigmoid_bot": sigmoid_bot,
        "loss_threshold": threshold,
        "mini_batch_size": BATCH,
    } | extra
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
make("qr_mult", 5, qr_flag=True, qr_threshold=6, qr_collisions=4, qr_operation="mult")
make("qr_add", 6, op="cat", weighted=True, qr_flag=True, qr_threshold=2, qr_collisions=3, qr_operation="add")
make("qr_concat", 7, qr_flag=True, qr_threshold=0, qr_collisions=5, qr_operation="concat")
make("md", 8, weighted=True, md_flag=True, md_threshold=6)
make("hashed", 9, max_ind_range=8)
