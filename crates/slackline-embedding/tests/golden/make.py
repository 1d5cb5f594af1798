"""Makes quantised.safetensors: rows packed and bags pooled by PyTorch and by FBGEMM, on a CPU.

    pip install torch==2.8.0 fbgemm-gpu-cpu==1.3.0 numpy safetensors
    python make.py

Tensors, for each dimension C of DIMS: "C.values" [rows, dim] f32; "C.indices" and "C.offsets" (the last bag ends at
len(indices)) i64; "C.weights" f32, one for each index;
"C.int8", "C.int4": rows of embedding_bag_byte_prepack and embedding_bag_4bit_prepack;
"C.int8-fbgemm", "C.int4-fbgemm": rows of FloatToFused8BitRowwiseQuantized and FloatToFusedNBitRowwiseQuantizedSBHalf, rearranged
as FBGEMM's inference tables have them (f16 scale and bias first); only for multiples of 4, all that these tables take, as
4bit_prepack takes even ones;
"C.FORMAT.sum", "C.FORMAT.weighted" [bags, dim]: outputs of torch.ops.quantized.embedding_bag_{byte,4bit}_rowwise_offsets, and
for the FBGEMM formats of int_nbit_split_embedding_codegen_lookup_function;
"C.f32.sum", "C.f32.mean", "C.f32.weighted": of torch.nn.functional.embedding_bag.
"""

import pathlib

import numpy as np
import torch
from safetensors.torch import save_file

torch.manual_seed(7)
random = np.random.default_rng(7)
torch.set_num_threads(1)

DIMS = [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129, 130]


def values(rows, dim):
    """Ordinary rows, and odd ones: constant, all zero, negative, of tiny and of huge range."""
    data = random.standard_normal((rows, dim)).astype(np.float32)
    data[0] = 0.0
    data[1] = -1.25
    data[2] = -np.abs(data[2]) - 3.0
    data[3] *= 1e-6
    data[4] *= 1e4 / max(1.0, np.abs(data[4]).max())
    data[5] = 3.0 + data[5] * 1e-4
    return data


def bags(rows):
    """Bags of 0 to 40 rows, some of which repeat."""
    lengths = [0, 1, 2, 3, 40, 0, 7, 19]
    indices = random.integers(0, rows, sum(lengths))
    return indices.astype(np.int64), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def quantised(prepack, lookup, weight, indices, offsets, weights):
    packed = prepack(weight)
    options = dict(scale_grad_by_freq=False, mode=0, pruned_weights=False, include_last_offset=True)
    plain = lookup(packed, indices, offsets, **options)
    weighted = lookup(packed, indices, offsets, per_sample_weights=weights, **options)
    return packed, plain, weighted


def main():
    import fbgemm_gpu  # noqa: F401
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

    def fbgemm(kind, packed, rows, dim, indices, offsets, weights):
        table = IntNBitTableBatchedEmbeddingBagsCodegen(
            [("t", rows, dim, kind, EmbeddingLocation.HOST)],
            device="cpu",
            pooling_mode=PoolingMode.SUM,
            output_dtype=SparseType.FP32,
        )
        table.fill_random_weights()
        table.assign_embedding_weights([(packed[:, 4:].contiguous(), packed[:, :4].contiguous())])
        i, o = indices.int(), offsets.int()
        return table(i, o), table(i, o, weights)

    out = {}
    for dim in DIMS:
        rows = 12
        weight = torch.from_numpy(values(rows, dim))
        indices, offsets = map(torch.from_numpy, bags(rows))
        weights = torch.from_numpy(random.standard_normal(len(indices)).astype(np.float32))
        case = {"values": weight, "indices": indices, "offsets": offsets, "weights": weights}
        ops = torch.ops.quantized
        for name, prepack, lookup in [
            ("int8", ops.embedding_bag_byte_prepack, ops.embedding_bag_byte_rowwise_offsets),
            ("int4", ops.embedding_bag_4bit_prepack, ops.embedding_bag_4bit_rowwise_offsets),
        ]:
            if name == "int4" and dim % 2:
                continue
            packed, plain, weighted = quantised(prepack, lookup, weight, indices, offsets, weights)
            case |= {name: packed, f"{name}.sum": plain, f"{name}.weighted": weighted}
        for name, bits, kind in [("int8-fbgemm", 8, SparseType.INT8), ("int4-fbgemm", 4, SparseType.INT4)]:
            if dim % 4:  # what the module takes
                continue
            if bits == 8:  # as fbgemm_gpu.split_embedding_utils does: scale and bias are rounded afterwards
                fused = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(weight)
                scale_bias = fused[:, -8:].contiguous().view(torch.float32).to(torch.float16).view(torch.uint8)
                packed = torch.cat([scale_bias, fused[:, :-8]], dim=1).contiguous()
            else:
                fused = torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(weight, bits)
                packed = torch.cat([fused[:, -4:], fused[:, :-4]], dim=1).contiguous()
            plain, weighted = fbgemm(kind, packed, rows, dim, indices, offsets, weights)
            case |= {name: packed, f"{name}.sum": plain, f"{name}.weighted": weighted}
        bag = torch.nn.functional.embedding_bag
        options = dict(include_last_offset=True)
        case["f32.sum"] = bag(indices, weight, offsets, mode="sum", **options)
        case["f32.mean"] = bag(indices, weight, offsets, mode="mean", **options)
        case["f32.weighted"] = bag(indices, weight, offsets, mode="sum", per_sample_weights=weights, **options)
        out |= {f"{dim}.{name}": tensor.contiguous() for name, tensor in case.items()}
    versions = {"torch": torch.__version__, "fbgemm": fbgemm_gpu.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    save_file(out, pathlib.Path(__file__).with_name("quantised.safetensors"), metadata=versions)


main()
