"""Makes tensor_train.safetensors: tensor-train tables and their rows, in PyTorch, on a CPU.

    pip install torch==2.8.0 numpy safetensors
    python make_tensor_train.py

Tensors, for each case N: "N.core.K" [1, p, r * q * s], parameter tt_cores.K of FBTT-Embedding; "N.columns" and "N.ranks" i64, its
tt_q_shapes and tt_ranks; "N.rows" [rows, dim] f32, the products in double precision, rounded once.
"""

import pathlib

import numpy as np
import torch
from safetensors.torch import save_file

random = np.random.default_rng(11)

# Rows, p, q and the ranks between the cores.
CASES = [
    (57, [3, 4, 5], [2, 3, 2], [4, 3]),
    (20, [4, 5], [4, 4], [8]),
    (115, [2, 3, 4, 5], [2, 2, 2, 2], [2, 5, 3]),
    (6, [6], [9], []),
]


def main():
    out = {}
    for number, (rows, p, q, between) in enumerate(CASES):
        ranks = [1] + between + [1]
        made = torch.ones(1, 1, 1, dtype=torch.float64)
        for k in range(len(p)):
            core = torch.from_numpy(random.standard_normal((p[k], ranks[k], q[k], ranks[k + 1])).astype(np.float32))
            out[f"{number}.core.{k}"] = core.reshape(1, p[k], -1).contiguous()
            # [rows so far, columns so far, rank] and [p, rank, q, next rank].
            made = torch.einsum("ncr,prqs->npcqs", made, core.double())
            made = made.reshape(made.shape[0] * p[k], -1, ranks[k + 1])
        out[f"{number}.columns"] = torch.tensor(q)
        out[f"{number}.ranks"] = torch.tensor(between, dtype=torch.int64)
        out[f"{number}.rows"] = made[:rows, :, 0].float().contiguous()
    file = pathlib.Path(__file__).with_name("tensor_train.safetensors")
    save_file(out, file, metadata={"torch": torch.__version__})


main()
