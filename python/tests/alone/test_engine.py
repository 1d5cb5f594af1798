"""The engine from Python: the bits of `slackline infer`, inputs of all kinds, errors by name."""

import json
import os
import subprocess
import threading

import numpy as np
import pytest
import torch

import slackline

ROWS = [1000, 20, 300]
CONFIG = {
    "arch_sparse_feature_size": 8,
    "arch_embedding_size": "-".join(map(str, ROWS)),
    "arch_mlp_bot": "5-16-8",
    "arch_mlp_top": "14-16-1",
}


class Reference(torch.nn.Module):
    """The reference DLRM's forward pass, with its names."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.emb_l = torch.nn.ModuleList(torch.nn.EmbeddingBag(rows, 8, mode="sum") for rows in ROWS)
        linear, relu = torch.nn.Linear, torch.nn.ReLU
        self.bot_l = torch.nn.Sequential(linear(5, 16), relu(), linear(16, 8), relu())
        self.top_l = torch.nn.Sequential(linear(14, 16), relu(), linear(16, 1), torch.nn.Sigmoid())

    def forward(self, dense, indices, offsets):
        x = self.bot_l(dense)
        vectors = torch.stack([x] + [bag(i, o) for bag, i, o in zip(self.emb_l, indices, offsets, strict=True)], 1)
        products = vectors @ vectors.transpose(1, 2)
        lower = torch.tril_indices(4, 4, -1)
        return self.top_l(torch.cat([x, products[:, lower[0], lower[1]]], 1)).flatten()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    reference = Reference().eval()
    torch.save(reference.state_dict(), folder / "model.pt")
    (folder / "model.json").write_text(json.dumps(CONFIG))
    opened = slackline.import_checkpoint(folder / "model.pt", folder / "model.json", folder / "model")
    return reference, opened, folder


def lookups(samples, seed=3):
    generator = torch.Generator().manual_seed(seed)
    lengths = [torch.randint(0, 4, (samples,), generator=generator) for _ in ROWS]
    indices = [torch.randint(rows, (int(n.sum()),), generator=generator) for rows, n in zip(ROWS, lengths, strict=True)]
    offsets = torch.stack([torch.cat([torch.zeros(1, dtype=torch.int64), n.cumsum(0)[:-1]]) for n in lengths])
    return torch.rand(samples, 5, generator=generator), indices, offsets


@pytest.mark.parametrize("samples", [1, 128])
def test_predictions_are_pytorchs(model, samples):
    reference, ours, _ = model
    assert (ours.tables, ours.dense_features, ours.dim, ours.rows) == (3, 5, 8, ROWS)
    dense, indices, offsets = lookups(samples)
    with torch.no_grad():
        wanted = reference(dense, indices, offsets).numpy()
    got = ours.predict(dense, indices, offsets)
    assert got.dtype == np.float32 and got.shape == (samples,)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    # Every way to say the same gives the same bits.
    ends = torch.cat([offsets, torch.tensor([[len(i)] for i in indices])], 1)
    for same in (
        ours.predict(dense.numpy(), [i.numpy() for i in indices], offsets.numpy()),
        ours.predict(dense.double(), [i.int() for i in indices], list(offsets)),
        ours.predict(dense.t().contiguous().t(), indices, ends),
        ours.predict(dense.tolist(), [i.tolist() for i in indices], offsets.tolist()),
    ):
        assert (same == got).all()
    one_each = torch.stack([torch.arange(samples) % rows for rows in ROWS])
    starts = torch.arange(samples).expand(3, -1)
    assert (ours.predict(dense, one_each, starts) == ours.predict(dense, list(one_each), starts)).all()


@pytest.mark.parametrize("batch", [1, 128])
def test_predictions_are_the_commands(model, batch, tmp_path):
    program = os.environ.get("SLACKLINE_PROGRAM")
    if program is None:
        pytest.skip("SLACKLINE_PROGRAM does not name a command `slackline` of the same sources")
    _, ours, folder = model
    dense, indices, offsets = lookups(300, 5)
    arrays = {"dense": dense.numpy()}
    for table, bags in enumerate(zip(indices, offsets, strict=True)):
        arrays[f"indices_{table}"], arrays[f"offsets_{table}"] = (part.numpy() for part in bags)
    np.savez(tmp_path / "rows.npz", **arrays)
    options = ["--input", tmp_path / "rows.npz", "--output", tmp_path / "predictions.csv", "--batch", str(batch)]
    subprocess.run([program, "infer", folder / "model", *options], check=True)
    written = (tmp_path / "predictions.csv").read_text().split()[1:]
    wanted = np.array([line.split(",")[1] for line in written], np.float32)
    assert len(set(wanted)) > 100
    assert (ours.predict(dense, indices, offsets).view(np.uint32) == wanted.view(np.uint32)).all()


def test_threads_share_a_model(model):
    _, ours, _ = model
    batches = [lookups(20, seed) for seed in range(8)]
    wanted = [ours.predict(*batch) for batch in batches]
    got = [None] * len(batches)

    def work(number):
        for _ in range(20):
            got[number] = ours.predict(*batches[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(batches))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all((a == b).all() for a, b in zip(got, wanted, strict=True))
    ours.intact()


def test_embedding_bags(model):
    reference, _, folder = model
    bags = slackline.EmbeddingBags.open(folder / "model", tables=[2, 0])
    _, indices, offsets = lookups(50)
    picked = [indices[2], indices[0]]
    pooled = bags(picked, offsets[[2, 0]])
    assert isinstance(pooled, torch.Tensor) and pooled.shape == (2, 50, 8) and bags.rows == [300, 1000]
    for got, table in zip(pooled, (2, 0), strict=True):
        with torch.no_grad():
            torch.testing.assert_close(got, reference.emb_l[table](indices[table], offsets[table]), atol=1e-6, rtol=0)
    ends = torch.cat([offsets[[2, 0]], torch.tensor([[len(i)] for i in picked])], 1)
    same = bags([i.numpy() for i in picked], ends, include_last_offset=True)
    assert isinstance(same, np.ndarray) and (same == pooled.numpy()).all()


def test_errors_name_what_is_wrong(model):
    _, ours, folder = model
    dense, indices, offsets = lookups(4)
    outside = [indices[0], torch.tensor([20]), indices[2]]
    one = offsets.clone()
    one[1] = torch.tensor([0, 0, 0, 0])
    for arguments, words in [
        ((dense, outside, one), ["table", "20"]),
        ((dense[:, :3], indices, offsets), ["dense", "5"]),
        ((dense, indices[:2], offsets), ["2 tables"]),
        ((dense, indices, offsets[:, :2]), ["2 offsets"]),
        ((dense, [i.float() for i in indices], offsets), ["whole numbers"]),
    ]:
        with pytest.raises(slackline.ModelError) as caught:
            ours.predict(*arguments)
        assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(slackline.ModelError, match="nowhere"):
        slackline.Model.open(folder / "nowhere")
    with pytest.raises(slackline.ModelError, match="mapped, prefaulted"):
        slackline.Model.open(folder / "model", load="quickly")
    with pytest.raises(slackline.ModelError):
        slackline.import_checkpoint(folder / "model.json", folder / "model.json", folder / "other")
    assert not (folder / "other").exists()
