"""The dense part of a DLRM by PyTorch, for `slackline-bench dense --peers`, which starts this and takes turns with it.

One JSON object a line on standard input, one on standard output:
  {"do": "build", "bottom": [widths], "top": [widths], "tables": T, "batch": B, "how": "eager"|"traced"}
  {"do": "sweep", "times": N}      N calls on the same batch; answers {"seconds": ..., "sum": ...}
  {"do": "versions"}
"""
import json, os, sys, time, warnings

warnings.filterwarnings("ignore")
import torch

torch.set_grad_enabled(False)
torch.set_num_threads(1)


def mlp(widths, last):
    layers = []
    for at, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        activation = torch.nn.Sigmoid() if last and at == len(widths) - 2 else torch.nn.ReLU()
        layers += [torch.nn.Linear(inputs, outputs), activation]
    return torch.nn.Sequential(*layers)


class Dense(torch.nn.Module):
    def __init__(self, say):
        super().__init__()
        self.bottom, self.top = mlp(say["bottom"], False), mlp(say["top"], True)
        rows, columns = torch.tril_indices(say["tables"] + 1, say["tables"] + 1, -1)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)

    def forward(self, dense, pooled):
        bottom = self.bottom(dense)
        vectors = torch.cat([bottom.unsqueeze(1), pooled], 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))[:, self.rows, self.columns]
        return self.top(torch.cat([bottom, products], 1))


class Job:
    def __init__(self, say):
        torch.manual_seed(1)
        self.inputs = torch.randn(say["batch"], say["bottom"][0]), torch.randn(say["batch"], say["tables"], say["bottom"][-1])
        self.model = Dense(say).eval()
        if say["how"] == "traced":
            self.model = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(self.model, self.inputs)))
        for _ in range(8):
            self.model(*self.inputs)

    def sweep(self, times):
        begin = time.perf_counter()
        for _ in range(times):
            out = self.model(*self.inputs)
        return {"seconds": time.perf_counter() - begin, "sum": float(out.sum())}


def answer(job, say):
    if say["do"] == "versions":
        return job, {"torch": torch.__version__}
    if say["do"] == "build":
        return Job(say), {}
    return job, job.sweep(say["times"])


def main():
    # What libraries print must not end up between the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = None
    for line in sys.stdin:
        try:
            job, said = answer(job, json.loads(line))
        except Exception as error:  # noqa: BLE001 (said to whoever asked)
            said = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(said) + "\n")
        out.flush()


main()
