"""Makes the golden files beside this script: python make_golden.py (needs torch 2.8, numpy, safetensors).

`expected.safetensors` and `odd_expected.safetensors` hold the tensors of the other files in row-major order.
"""
import argparse
import collections
import json
import os

import numpy as np
import torch
from safetensors.torch import save_file

os.chdir(os.path.dirname(os.path.abspath(__file__)))
torch.manual_seed(5)

base = torch.randn(6, 8)
cube = torch.randn(3, 4, 5)
state = collections.OrderedDict()
state["emb_l.0.weight"] = torch.nn.Parameter(torch.randn(10, 4))
state["f64"] = torch.randn(3, 3, dtype=torch.float64)
state["f16"] = torch.randn(7).to(torch.float16)
state["bf16"] = torch.randn(7).to(torch.bfloat16)
state["i64"] = torch.tensor([[-(2**62), 0, 2**62 + 1]])
state["i32"] = torch.tensor([-(2**31), 7, 2**31 - 1], dtype=torch.int32)
state["i16"] = torch.tensor([-(2**15), 7], dtype=torch.int16)
state["i8"] = torch.tensor([-128, 127], dtype=torch.int8)
state["u8"] = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
state["bool"] = torch.tensor([True, False, True])
state["scalar"] = torch.tensor(2.5)
state["empty"] = torch.zeros(0, 3)
state["base"] = base
state["transposed"] = base.t()
state["columns"] = base[:, 2:5]
state["every_other"] = base[1::2, ::3]
state["expanded"] = base[:1, :].expand(4, 8)
state["permuted"] = cube.permute(2, 0, 1)
state["offset"] = base[4]
expected = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
save_file(expected, "expected.safetensors", metadata={"format": "pt"})

fields = {
    "epoch": 4,
    "test_auc": np.float64(0.75),
    "iter": np.int64(9),
    "losses": [0.5, 0.25],
    "args": argparse.Namespace(lr=0.1),
    "state_dict": state,
    "opt_state_dict": {"state": {0: {"sum": torch.ones(10, 4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}
torch.save(fields, "fields.pt")
torch.save(fields, "fields_legacy.pt", _use_new_zipfile_serialization=False)
torch.save(state, "bare_protocol4.pt", pickle_protocol=4)
torch.save(state, "bare_legacy_protocol4.pt", pickle_protocol=4, _use_new_zipfile_serialization=False)
torch.save({"module." + name: tensor for name, tensor in state.items()}, "parallel.pt")

# What is listed but not read, and what is not even listed.
odd = collections.OrderedDict()
odd["u16"] = torch.tensor([1, 65535], dtype=torch.uint16)
odd["u64"] = torch.tensor([1, 2**63], dtype=torch.uint64)
odd["attributes"] = torch.nn.Parameter(torch.arange(4.0))
odd["attributes"].note = "a Python attribute"
odd["noted"] = torch.arange(3.0)
odd["noted"].note = "another"
odd_expected = {name: tensor.detach().clone() for name, tensor in odd.items()}
odd["complex"] = torch.randn(2, 2, dtype=torch.complex64)
odd["float8"] = torch.randn(4).to(torch.float8_e4m3fn)
odd["sparse"] = torch.eye(3).to_sparse()
odd["quantised"] = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
torch.save(odd, "odd.pt")
save_file(odd_expected, "odd_expected.safetensors")

# A sharded set.
half = len(expected) // 2
shards = {"model-00001-of-00002.safetensors": list(expected)[:half], "model-00002-of-00002.safetensors": list(expected)[half:]}
for file, names in shards.items():
    save_file({name: expected[name] for name in names}, file)
index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, names in shards.items() for name in names}}
with open("model.safetensors.index.json", "w") as f:
    json.dump(index, f, indent=1)

# A whole module, which only Python can read.
torch.save(torch.nn.Linear(2, 2), "module.pt")
