"""`TokenScores`: what one forward pass over documents leaves behind.

It is the one currency of evaluation. A forward pass per model and split stores, for every
target token, its log-probability, whether it was the most likely token, and the mean and
variance of the log-probability under the model's own next-token distribution. Every metric is
a NumPy function of that, so adding a metric never re-runs a model.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unlearnlib.errors import UnlearnError
from unlearnlib.store.files import write_named


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Per-token scores of C chunks with N target tokens in all.

    A chunk of T tokens has T - 1 target tokens: its first token is never predicted. The targets
    of chunk c are `offsets[c]:offsets[c + 1]` of every (N,) array.

    ids        (C,) str      chunk names, "DOCUMENT#INDEX"
    offsets    (C + 1,) i64  where each chunk's targets begin
    tokens     (N,) i32      the target token ids
    logprob    (N,) f32      natural log of the probability of the target
    top1       (N,) bool     the target was the model's most likely token
    mean       (N,) f32      E[log p(v)] for v drawn from the model's distribution (<= 0), nats
    variance   (N,) f32      Var[log p(v)] under the same distribution, nats^2
    zlib_bytes (C,) i64      length of the zlib-compressed UTF-8 text of the chunk
    kl         (N,) f32 or None   KL(reference || model) of the next-token distribution, nats
    """

    ids: tuple[str, ...]
    offsets: np.ndarray
    tokens: np.ndarray
    logprob: np.ndarray
    top1: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    zlib_bytes: np.ndarray
    kl: np.ndarray | None = None

    def __post_init__(self) -> None:
        offsets = self.offsets
        if (
            offsets.ndim != 1
            or offsets.dtype.kind not in "iu"
            or len(offsets) == 0
            or offsets[0] != 0
            or np.any(offsets[1:] < offsets[:-1])
        ):
            raise UnlearnError(
                f"TokenScores.offsets has shape {offsets.shape} and type {offsets.dtype}, and is "
                "no list of chunk boundaries: give C + 1 integers that begin at 0 and never fall."
            )
        count = int(offsets[-1])
        for name in ("tokens", "logprob", "top1", "mean", "variance", "kl"):
            array = getattr(self, name)
            if array is not None and array.shape != (count,):
                raise UnlearnError(
                    f"TokenScores.{name} has shape {array.shape}, but offsets end at {count}: "
                    "give one value per target token."
                )
        if len(self.ids) + 1 != len(self.offsets) or len(self.zlib_bytes) != len(self.ids):
            raise UnlearnError(
                f"TokenScores has {len(self.ids)} ids, {len(self.offsets)} offsets and "
                f"{len(self.zlib_bytes)} zlib lengths: give C, C + 1 and C."
            )

    def __len__(self) -> int:
        """The number of chunks."""
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """(C,) number of target tokens of each chunk."""
        return np.diff(self.offsets)

    def chunk(self, index: int) -> slice:
        """The slice of the (N,) arrays that belongs to chunk `index` (-1 is the last one)."""
        index = range(len(self))[index]
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def chunk_means(self, values: np.ndarray) -> np.ndarray:
        """(C,) mean of an (N,) array over each chunk's targets, in float64; NaN if it has none."""
        means = np.full(len(self), np.nan)
        # reduceat gives an empty stretch the value of its successor, so it may not see one.
        filled = self.lengths > 0
        if filled.any():
            starts = self.offsets[:-1][filled]
            means[filled] = np.add.reduceat(values.astype(np.float64), starts)
            means[filled] /= self.lengths[filled]
        return means

    def select(self, indices: Sequence[int]) -> TokenScores:
        """The scores of some chunks, in the given order."""
        slices = [self.chunk(i) for i in indices]
        take = np.concatenate(
            [np.arange(s.start, s.stop) for s in slices] or [np.zeros(0, np.int64)]
        )
        lengths = [s.stop - s.start for s in slices]
        return TokenScores(
            ids=tuple(self.ids[i] for i in indices),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            tokens=self.tokens[take],
            logprob=self.logprob[take],
            top1=self.top1[take],
            mean=self.mean[take],
            variance=self.variance[take],
            zlib_bytes=self.zlib_bytes[list(indices)],
            kl=None if self.kl is None else self.kl[take],
        )

    def save(self, path: str | Path | BinaryIO) -> None:
        """Write as .npz (no pickle), to exactly this path, or to a file that is open.

        A file of that name is replaced by a whole one, or stays as it is.
        """
        if isinstance(path, str | Path):
            # Given a name, NumPy would append ".npz" to it; given a file, it does not.
            buffer = io.BytesIO()
            self.save(buffer)
            write_named(Path(path), buffer.getvalue(), replace=True)
            return
        arrays = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        np.savez_compressed(path, ids=np.array(self.ids, dtype=np.str_), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> TokenScores:
        """Read what `save` wrote; `UnlearnError` if the file is not that."""
        try:
            # NumPy leaves a file that it opened itself open when it is no archive.
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in _ARRAYS if name in file}
                return cls(ids=tuple(str(i) for i in file["ids"]), **arrays)
        except _UNREADABLE as error:
            raise UnlearnError(
                f"{path} is not a file of token scores ({error}): score the documents again."
            ) from error


_ARRAYS = ("offsets", "tokens", "logprob", "top1", "mean", "variance", "zlib_bytes", "kl")

# What NumPy and zipfile raise on a file that is missing, cut short, altered or of another kind.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    AttributeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
