"""The plain recipe that ours is measured against, on `transformers.Trainer`.

What a careful reader of the paper would write in an afternoon: every chunk padded to the maximum
length, one chunk in a micro-batch and gradients accumulated, full logits, for KL a second full
copy of the model, and evaluation as one pass for perplexity and accuracy and another for
membership. It computes the same quantities: `tests/test_benchmarks.py` holds its gradients and
its scores against ours.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from unlearnlib.corpus.chunks import Chunk
from unlearnlib.metrics.membership import KS

IGNORED = -100  # the label that cross-entropy leaves out


def padded(chunk: Chunk, length: int) -> dict[str, torch.Tensor]:
    """One chunk, padded on the right to `length`; padding has label -100."""
    tokens = torch.tensor(chunk.tokens)
    rest = length - len(tokens)
    return {
        "input_ids": torch.nn.functional.pad(tokens, (0, rest)),
        "attention_mask": torch.nn.functional.pad(torch.ones_like(tokens), (0, rest)),
        "labels": torch.nn.functional.pad(tokens, (0, rest), value=IGNORED),
    }


class Rows(Dataset):  # type: ignore[type-arg]
    """Chunks of an update in turn: forget, retain, forget, retain ..."""

    def __init__(self, forget: Sequence[Chunk], retain: Sequence[Chunk], length: int):
        self.rows = []
        for pair in zip(forget, retain, strict=True):
            for kind, chunk in enumerate(pair):
                self.rows.append({**padded(chunk, length), "kind": torch.tensor(kind)})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


class PlainTrainer(Trainer):  # type: ignore[misc]
    """Ascent on forget rows; on retain rows descent, or KL to a frozen copy of the model.

    `totals` are the target tokens of an update in forget and retain rows: the loss is a mean over
    each, as ours is.
    """

    def __init__(self, *args: Any, kl: bool, totals: tuple[int, int], **more: Any):
        super().__init__(*args, **more)
        self.totals = totals
        self.original = copy.deepcopy(self.model).eval().requires_grad_(False) if kl else None
        # The loss is a sum with its own divisor: Trainer must not divide it again.
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Any:
        """The share of one padded chunk in the update's loss."""
        kind = int(inputs.pop("kind"))
        labels = inputs.pop("labels")
        out = model(**inputs, use_cache=False)
        logits, targets = out.logits[:, :-1].float(), labels[:, 1:]
        if kind and self.original is not None:
            with torch.no_grad():
                old = self.original(**inputs, use_cache=False).logits[:, :-1].float()
            divergence = torch.nn.functional.kl_div(
                logits.log_softmax(-1), old.log_softmax(-1), reduction="none", log_target=True
            ).sum(-1)
            loss = divergence[targets != IGNORED].sum()
        else:
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
            )
        loss = loss * (1 if kind else -1) / self.totals[kind]
        return (loss, out) if return_outputs else loss


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes the time after every update."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After an optimiser step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.stamps.append(time.perf_counter())


def train(
    model: Any,
    forget: Sequence[Chunk],
    retain: Sequence[Chunk],
    *,
    kl: bool,
    length: int,
    updates: int,
    rate: float,
    folder: str,
    bf16: bool = False,
) -> list[float]:
    """Unlearn by the plain recipe, all chunks in each update; the times at which updates ended."""
    clock = Clock()
    totals = (sum(c.targets for c in forget), sum(c.targets for c in retain))
    trainer = PlainTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2 * len(forget),
            max_steps=updates,
            learning_rate=rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=0.0,
            use_cpu=not torch.cuda.is_available(),
            bf16=bf16,
            save_strategy="no",
            report_to=[],
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        ),
        train_dataset=Rows(forget, retain, length),
        callbacks=[clock],
        kl=kl,
        totals=totals,
    )
    trainer.train()
    return clock.stamps


@torch.no_grad()
def perplexity_and_accuracy(
    model: Any, chunks: Sequence[Chunk], length: int
) -> tuple[float, float]:
    """The first pass: perplexity and top-1 accuracy over the target tokens of `chunks`."""
    loss, right, count = 0.0, 0, 0
    device = next(model.parameters()).device
    for chunk in chunks:
        row = {k: v[None].to(device) for k, v in padded(chunk, length).items()}
        labels = row.pop("labels")[:, 1:]
        logits = model(**row, use_cache=False).logits[:, :-1].float()
        mask = labels != IGNORED
        loss += float(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            )
        )
        right += int((logits.argmax(-1) == labels)[mask].sum())
        count += int(mask.sum())
    return math.exp(loss / count), right / count


@torch.no_grad()
def membership_scores(model: Any, chunks: Sequence[Chunk], length: int) -> dict[str, np.ndarray]:
    """The second pass: every attack's score of each chunk (loss, zlib, Min-K%, Min-K%++)."""
    device = next(model.parameters()).device
    rows: dict[str, list[float]] = {}
    for chunk in chunks:
        row = {k: v[None].to(device) for k, v in padded(chunk, length).items()}
        labels = row.pop("labels")[0, 1:]
        logits = model(**row, use_cache=False).logits[0, :-1].float()
        mask = labels != IGNORED
        logp = logits.log_softmax(-1)[mask]  # (T, V)
        probability = logits.softmax(-1)[mask]
        picked = logp.gather(1, labels[mask, None]).squeeze(1)
        mean = (probability * logp).sum(-1)
        variance = (probability * logp.square()).sum(-1) - mean.square()
        standard = (picked - mean) / variance.clamp(min=float(np.finfo(np.float32).eps)).sqrt()
        scores = {"loss": float(picked.mean())}
        scores["zlib"] = float(picked.sum()) / max(1, chunk.zlib_bytes)
        for k in KS:
            few = max(1, int(k * len(picked)))
            scores[f"min_k_{round(100 * k)}"] = float(picked.sort().values[:few].mean())
            scores[f"min_k_plus_plus_{round(100 * k)}"] = float(standard.sort().values[:few].mean())
        for name, value in scores.items():
            rows.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in rows.items()}
