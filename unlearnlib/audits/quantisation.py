"""Quantisation: round a model's weights to few bits, and see whether what it forgot is back.

Unlearning changes weights little, and rounding may undo just that (Zhang et al. 2025, arXiv
2410.16454). Weights of the linear layers are rounded to the nearest of a few values, in groups
along the input that share a scale; the output head and the embedding stay as they are, as in
the usual libraries. A rounded model computes as before, on the values that it was rounded to.

int8, int4  evenly spaced values, symmetric, 128 weights per group
nf4         quantiles of the normal distribution, 64 weights per group (Dettmers et al. 2023,
            arXiv 2305.14314, appendix E)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unlearnlib.audits.case import Case, Measured, Tick, losses_of, measured, tokens
from unlearnlib.audits.findings import FORMATS
from unlearnlib.decoder import decoder_of
from unlearnlib.errors import unknown

GROUP = {"int8": 128, "int4": 128, "nf4": 64}
LOOKED_AT = ("forget", "approximate", "general_evaluation")


def nf4_values() -> Tensor:
    """(16,) the values of NormalFloat4, from -1 to 1.

    Quantiles of the normal distribution, 8 of its negative half and 9 of its positive one, which
    share the 0, between the same outermost probability and 1/2; divided by the largest.
    """
    outermost = 0.5 * ((1 - 1 / 32) + (1 - 1 / 30))
    positive = torch.special.ndtri(torch.linspace(0.5, outermost, 9, dtype=torch.float64))
    negative = -torch.special.ndtri(torch.linspace(0.5, outermost, 8, dtype=torch.float64))
    values = torch.cat([negative.flip(0)[:-1], positive])
    return values / values.abs().max()


def rounded(weight: Tensor, name: str) -> Tensor:
    """A (out, in) weight with every number rounded to the nearest that the format has."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    rows, width = weight.shape
    group = min(GROUP[name], width)
    padded = torch.nn.functional.pad(weight.float(), (0, -width % group))
    parts = padded.view(rows, -1, group)
    scale = parts.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    if name == "nf4":
        values = nf4_values().to(parts)
        middles = (values[1:] + values[:-1]) / 2
        back = values[torch.bucketize(parts / scale, middles)] * scale
    else:
        most = 2 ** (int(name.removeprefix("int")) - 1) - 1
        back = (parts / scale * most).round() * (scale / most)
    return back.view(rows, -1)[:, :width].to(weight.dtype)


@torch.no_grad()
def quantised(model: nn.Module, name: str) -> nn.Module:
    """A copy of a model whose linear layers are rounded, but for the output head."""
    made = copy.deepcopy(model)
    for layer in decoder_of(made).modules():
        weight: Any = getattr(layer, "weight", None)
        if isinstance(layer, nn.Linear):
            weight.copy_(rounded(weight, name))
        elif type(layer).__name__ == "Conv1D":  # of GPT-2 and its like: (in, out)
            weight.copy_(rounded(weight.T, name).T)
    return made


@dataclass(frozen=True)
class Quantisation:
    """Round to each of several formats, and score."""

    formats: tuple[str, ...] = FORMATS
    audit: ClassVar[str] = "quantisation"

    def work(self, case: Case) -> int:
        """Tokens that are looked at."""
        return (1 + len(self.formats)) * sum(tokens(case.chunks(s)) for s in LOOKED_AT)

    def measure(self, case: Case, model: nn.Module, tick: Tick) -> Measured:
        """The losses on the documents and on unread ones, in full and in each format.

        `general` is the loss on other texts: what rounding costs anyway.
        """
        found = Measured()
        chunks = {split: case.chunks(split) for split in LOOKED_AT}
        for name in ("full", *self.formats):
            made = model if name == "full" else quantised(model, name)
            losses = {s: losses_of(made, c, case.execution) for s, c in chunks.items()}
            row = {"format": name, **measured(losses["forget"], losses["approximate"])}
            if others := losses["general_evaluation"]:
                row["general"] = sum(others) / len(others)
            found.rows.append(row)
            tick(sum(map(tokens, chunks.values())))
        return found
