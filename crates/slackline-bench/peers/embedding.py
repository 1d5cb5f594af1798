"""Pooled lookups by PyTorch and FBGEMM, for `slackline-bench embedding --peers`, which starts this and takes turns with it.

One JSON object a line on standard input, one on standard output:
  {"do": "build", "impl": "fbgemm"|"embedding_bag", "format": ..., "tables": T, "rows": R, "dim": D, "threads": N, "split": bool}
      tables of constant rows; `split` gives every thread its share of the tables, else there is one call with N threads
  {"do": "load", "file": ..., "batch": B, "pool": L}     indices, 32 bits each, [batches, T, B, L]
  {"do": "sweep"}                                        all batches once; answers {"seconds": ..., "sum": ...}
  {"do": "versions"}
"""
import json, os, sys, threading, time, warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("TORCH_LOGS", "-all")
import numpy as np
import torch

torch.set_grad_enabled(False)


def fbgemm(tables, rows, dim, kind):
    import fbgemm_gpu  # noqa: F401 (registers the operators)
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

    kind = {"f32": SparseType.FP32, "f16": SparseType.FP16, "int8": SparseType.INT8, "int4": SparseType.INT4}[kind]
    specs = [(f"t{at}", rows, dim, kind, EmbeddingLocation.HOST) for at in range(tables)]
    bag = IntNBitTableBatchedEmbeddingBagsCodegen(
        specs, pooling_mode=PoolingMode.SUM, device="cpu", output_dtype=SparseType.FP32,
        bounds_check_mode=BoundsCheckMode.NONE, row_alignment=1)
    bag.initialize_weights()
    bag.weights_host.fill_(1)  # touches every page
    return bag


class Job:
    def __init__(self, say):
        self.tables, self.threads, self.split = say["tables"], say["threads"], say["split"]
        self.impl = say["impl"]
        parts = self.threads if self.split else 1
        self.shares = [self.tables // parts + (at < self.tables % parts) for at in range(parts)]
        torch.set_num_threads(1 if self.split else self.threads)
        if self.impl == "fbgemm":
            self.parts = [fbgemm(share, say["rows"], say["dim"], say["format"]) for share in self.shares]
        else:
            weight = lambda: torch.full((say["rows"], say["dim"]), 0.5)
            bag = lambda: torch.nn.EmbeddingBag(say["rows"], say["dim"], mode="sum", include_last_offset=True, _weight=weight())
            self.parts = [[bag() for _ in range(share)] for share in self.shares]

    def load(self, say):
        batch, pool = say["batch"], say["pool"]
        indices = np.fromfile(say["file"], dtype=np.int32).reshape(-1, self.tables, batch * pool)
        self.batches, firsts = [], np.cumsum([0] + self.shares)
        for one in indices:
            row = []
            for first, share in zip(firsts, self.shares):
                mine = one[first:first + share]
                if self.impl == "fbgemm":
                    row.append((torch.from_numpy(mine.reshape(-1).copy()), torch.arange(0, share * batch * pool + 1, pool).int()))
                else:
                    row.append([(torch.from_numpy(table.copy()).long(), torch.arange(0, batch * pool + 1, pool)) for table in mine])
            self.batches.append(row)

    def share(self, part):
        total = 0.0
        for batch in self.batches:
            if self.impl == "fbgemm":
                out = self.parts[part](*batch[part])
                total += float(out[0, 0])
            else:
                for bag, (indices, offsets) in zip(self.parts[part], batch[part]):
                    out = bag(indices, offsets)
                total += float(out[0, 0])
        return total

    def sweep(self):
        sums = [0.0] * len(self.parts)

        def work(part):
            if self.split:
                os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[part % len(os.sched_getaffinity(0))]})
            sums[part] = self.share(part)

        begin = time.perf_counter()
        if len(self.parts) == 1:
            sums[0] = self.share(0)
        else:
            threads = [threading.Thread(target=work, args=(part,)) for part in range(len(self.parts))]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
        return {"seconds": time.perf_counter() - begin, "sum": sum(sums)}


def answer(job, say):
    if say["do"] == "versions":
        try:
            import fbgemm_gpu
            fbgemm = getattr(fbgemm_gpu, "__version__", "unknown")
        except ImportError:
            fbgemm = None
        return job, {"torch": torch.__version__, "fbgemm": fbgemm}
    if say["do"] == "build":
        return Job(say), {}
    if say["do"] == "load":
        job.load(say)
        return job, {}
    return job, job.sweep()


def main():
    # What libraries print must not end up between the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = None
    for line in sys.stdin:
        say = json.loads(line)
        if say["do"] == "build":
            job = None  # the memory of the one before
        try:
            job, said = answer(job, say)
        except Exception as error:  # noqa: BLE001 (said to whoever asked)
            said = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(said) + "\n")
        out.flush()


main()
