"""The tool that runs other people's functions takes those that it names, and no more of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = """
import a_package_that_nobody_has

raise RuntimeError("a file is not run")

@registered(name="outer")
def outer(x):
    return inner_constant + x

def main():
    if True:
        def nested(x):
            return outer(x) * 2
"""


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import golden

    return golden


def test_only_named_functions_of_a_file_are_run(golden: Any, tmp_path: Path) -> None:
    path = tmp_path / "theirs.py"
    path.write_text(SOURCE, encoding="utf-8")
    made = golden.borrowed(path, ("outer", "nested"), {"inner_constant": 1})
    assert (made["outer"](2), made["nested"](2)) == (3, 6)


def test_a_function_that_is_not_there_is_named(golden: Any, tmp_path: Path) -> None:
    path = tmp_path / "theirs.py"
    path.write_text(SOURCE, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"theirs\.py has no function gone"):
        golden.borrowed(path, ("outer", "gone"), {})


def test_documents_are_padded_and_padding_is_no_label(golden: Any) -> None:
    batch = golden.padded([[5, 6, 7], [8]], 0, first=False)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [-100, -100, -100]]
    assert golden.padded([[5, 6]], 0, first=True)["labels"].tolist() == [[5, 6]]


def test_values_are_kept_to_ten_digits(golden: Any) -> None:
    kept = golden.entry("release", "ppl", "a.py", "f", np.float64(1 / 3))
    assert kept["values"] == [0.3333333333]
