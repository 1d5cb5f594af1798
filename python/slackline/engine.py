"""The engine: model directories, predictions, and embedding bags over mapped tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from . import _native
from .errors import ModelError

__all__ = ["EmbeddingBags", "Model", "import_checkpoint"]

Path = Union[str, "os.PathLike[str]"]
Array = Any
"""NumPy arrays, torch tensors on the CPU, or anything with `__array__`, the array interface or DLPack."""


def _array(values: Array, dtype: Any) -> npt.NDArray[Any]:
    """The same memory where type and layout fit."""
    if type(values) is np.ndarray and values.dtype == dtype and values.flags.c_contiguous:
        return values
    if not hasattr(values, "__array__") and not hasattr(values, "__array_interface__") and hasattr(values, "__dlpack__"):
        values = np.from_dlpack(values)
    if getattr(values, "requires_grad", False):
        values = values.detach()
    array = np.asarray(values)
    if dtype is np.int64 and array.size and array.dtype.kind not in "iu":
        raise ModelError(f"indices and offsets are whole numbers, not {array.dtype}")
    return np.ascontiguousarray(array, dtype)


def _lookups(
    indices: Array | Sequence[Array], offsets: Array | Sequence[Array], tables: int
) -> tuple[npt.NDArray[Any], list[int], npt.NDArray[Any], int]:
    """Flat indices, how many of them belong to each table, flat offsets, and how many belong to each table."""
    if isinstance(indices, (list, tuple)):
        parts = [_array(part, np.int64) for part in indices]
        if any(part.ndim != 1 for part in parts):
            raise ModelError("the indices of a table are one-dimensional")
        flat, lengths = np.concatenate(parts) if parts else np.zeros(0, np.int64), [len(part) for part in parts]
    else:
        flat = _array(indices, np.int64)
        if flat.ndim != 2:
            raise ModelError(f"indices have {flat.ndim} dimensions: give [tables, lookups], or a list of an array for each table")
        lengths = [flat.shape[1]] * flat.shape[0]
    starts = np.stack([_array(part, np.int64) for part in offsets]) if isinstance(offsets, (list, tuple)) else _array(offsets, np.int64)
    if starts.ndim != 2 or len(lengths) != tables or starts.shape[0] != tables:
        raise ModelError(
            f"indices for {len(lengths)} tables and offsets of shape {list(starts.shape)} for a model of {tables} tables: "
            "offsets are [tables, samples], or [tables, samples + 1] with the end"
        )
    return flat, lengths, starts, starts.shape[1]


def _samples(width: int, samples: int) -> None:
    if width not in (samples, samples + 1):
        raise ModelError(f"{width} offsets for each table and {samples} samples: there are as many, or one more")


class Model:
    """A whole model in this process. Threads may share it: `predict` releases the GIL."""

    def __init__(self, native: _native.Model) -> None:
        self._native = native
        self.tables: int = native.tables()
        self.dense_features: int = native.dense_features()
        self.dim: int = native.dim()
        self.rows: list[int] = native.rows()

    @classmethod
    def open(cls, directory: Path, load: str = "mapped") -> Model:
        """Opens a model directory, verifies its checksums, and warms it up.

        Args:
            directory: Written by `import_checkpoint` or by the command `slackline import`.
            load: How tables are held: `mapped`, `prefaulted`, `locked` or `copied`.

        Raises:
            ModelError: The directory is not a sound model; the text names the file.
        """
        return cls(_native.Model.open(os.fspath(directory), load))

    def predict(
        self, dense: Array, indices: Array | Sequence[Array], offsets: Array | Sequence[Array]
    ) -> npt.NDArray[np.float32]:
        """Predicts a batch.

        Args:
            dense: `[samples, dense_features]`, float32, as the model was trained with (for Criteo `log(x + 1)`).
            indices: Rows that are looked up: `[tables, lookups]`, or for each table an array `[lookups]` (the reference's `lS_i`).
            offsets: For each table where each sample's lookups begin: `[tables, samples]` (the reference's `lS_o`), or with the
                end of the last `[tables, samples + 1]`.

        Returns:
            `[samples]`, float32.

        Raises:
            ModelError: Shapes that are not the model's, or an index outside of its table, by table, sample and value.
        """
        numbers = _array(dense, np.float32)
        if numbers.ndim != 2 or numbers.shape[1] != self.dense_features:
            raise ModelError(f"dense features are [samples, {self.dense_features}], not {list(numbers.shape)}")
        flat, lengths, starts, width = _lookups(indices, offsets, self.tables)
        samples = numbers.shape[0]
        _samples(width, samples)
        out = np.empty(samples, np.float32)
        self._native.predict(numbers, flat, lengths, starts, width, out)
        return out

    def intact(self) -> None:
        """Raises if a mapped file was cut short while rows were looked up."""
        self._native.intact()


class EmbeddingBags:
    """The tables of a model directory, in whatever row format they have, as a stand-in for `EmbeddingBag` modules."""

    def __init__(self, native: _native.Bags) -> None:
        self._native = native
        self.tables: int = native.tables()
        self.dim: int = native.dim()
        self.rows: list[int] = native.rows()

    @classmethod
    def open(cls, directory: Path, tables: Sequence[int] | None = None, load: str = "mapped") -> EmbeddingBags:
        """Opens all tables of a model directory, or some, in the order given.

        Raises:
            ModelError: The directory is not a sound model, or has no such table.
        """
        return cls(_native.Bags.open(os.fspath(directory), None if tables is None else list(tables), load))

    def __call__(
        self,
        indices: Array | Sequence[Array],
        offsets: Array | Sequence[Array],
        mode: str = "sum",
        include_last_offset: bool = False,
    ) -> Any:
        """Pools the rows of each bag.

        Args:
            indices: As in `Model.predict`, for the tables of this object.
            offsets: `[tables, samples]`, where each bag begins; with `include_last_offset` `[tables, samples + 1]`.
            mode: `sum` or `mean`.
            include_last_offset: The last offset of a table is the number of its lookups, as in `torch.nn.EmbeddingBag`.

        Returns:
            `[tables, samples, dim]`, float32: a torch tensor if the indices are one (or a list of them), else a NumPy array.

        Raises:
            ModelError: Shapes that do not fit, or an index outside of its table.
        """
        if mode not in ("sum", "mean"):
            raise ModelError(f"there is no mode {mode!r}: use 'sum' or 'mean'")
        flat, lengths, starts, width = _lookups(indices, offsets, self.tables)
        samples = width - include_last_offset
        if samples < 0:
            raise ModelError("include_last_offset, and no offsets")
        out = np.empty((self.tables, samples, self.dim), np.float32)
        self._native.pool(flat, lengths, starts, width, samples, mode == "mean", out)
        first = indices[0] if isinstance(indices, (list, tuple)) and indices else indices
        if type(first).__module__.startswith("torch"):
            import torch

            return torch.from_numpy(out)
        return out

    def intact(self) -> None:
        """Raises if a mapped file was cut short while rows were looked up."""
        self._native.intact()


def import_checkpoint(
    checkpoint: Path,
    config: Path,
    output: Path,
    *,
    rows: str | Sequence[str] = (),
    shards: int = 1,
    restart: bool = False,
) -> Model:
    """Imports a checkpoint of PyTorch (the reference DLRM or TorchRec; `.pt`, safetensors or torchsnapshot), and opens the model.

    Args:
        checkpoint: The file or directory.
        config: The model's shape by the reference's argument names, JSON.
        output: The directory to be written; it must not exist.
        rows: Row formats, as `slackline import --rows` takes them: `int8`, or `emb_l.3*=f16`.
        shards: Files of tables.
        restart: Throw away what an import that was killed has left, instead of going on with it.

    Raises:
        ModelError: With the file and what is wrong.
    """
    choices = [rows] if isinstance(rows, str) else list(rows)
    _native.import_checkpoint(os.fspath(checkpoint), os.fspath(config), os.fspath(output), choices, shards, restart)
    return Model.open(output)
