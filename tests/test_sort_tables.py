"""Tables sort as a reader expects: the script's rules in node, its buttons in a browser."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from unlearnlib.book.exhibits import table_html
from unlearnlib.text import number

SCRIPT = Path(__file__).resolve().parent.parent / "book" / "_static" / "sort_tables.js"
NODE = shutil.which("node") or shutil.which("nodejs")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_node = pytest.mark.skipif(NODE is None, reason="needs node, to run the book's script")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, to click in a page")


@functools.cache
def evaluated(expression: str) -> Any:
    """The value of a JavaScript expression in which `script` is what the script exports."""
    program = (
        f"const script = require({json.dumps(str(SCRIPT))});"
        # JSON has no NaN and no infinities.
        "const plain = (_, x) => typeof x === 'number' && !isFinite(x) ? String(x) : x;"
        f"console.log(JSON.stringify({expression}, plain));"
    )
    done = subprocess.run([str(NODE), "-e", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def ordered(cells: list[str], direction: int = 1) -> list[str]:
    places = evaluated(f"script.order({json.dumps(cells)}, {direction})")
    return [cells[place] for place in places]


@needs_node
def test_a_cell_counts_as_the_number_that_it_begins_with() -> None:
    cells = {
        "0.500": 0.5,
        "12.3 ± 0.4": 12.3,
        "1.2e-5": 1.2e-5,
        "2.0 × 10⁻⁵": 2e-5,
        "4.1 × 10¹² (×3.0)": 4.1e12,
        "10⁻⁴": 1e-4,
        "−0.250": -0.25,
        "+3.2 %": 3.2,
        "2,150": 2150,
        "35 of 56 (48 to 74 %)": 35,
        "×1.2": 1.2,
        "7.5×": 7.5,
        "< 0.01": 0.01,
        "∞": "Infinity",
        "−∞": "-Infinity",
        "4.0 updates early": -4,
        "never": "NaN",
        "–": "NaN",
        "": "NaN",
        "GA + GD": "NaN",
        "2D": "NaN",
    }
    found = evaluated(f"{json.dumps(list(cells))}.map(script.numberIn)")
    assert dict(zip(cells, found, strict=True)) == cells


@needs_node
@pytest.mark.parametrize("x", [0.5, 31.42, 2150.4, 4.1e12, -0.25, 0.0, 2e-5, 1e6, 9.99e5])
def test_every_number_as_the_book_prints_it_is_read_again(x: float) -> None:
    read = evaluated(f"script.numberIn({json.dumps(number(x))})")
    assert read == pytest.approx(x, rel=0.05)


@needs_node
def test_numbers_sort_by_size_and_what_has_no_value_stays_last() -> None:
    cells = ["12.3 ± 0.4", "–", "2,150", "never", "9.1", "2.0 × 10⁻⁵", "∞", "−0.250"]
    rising = ["−0.250", "2.0 × 10⁻⁵", "9.1", "12.3 ± 0.4", "2,150", "∞"]
    assert ordered(cells) == [*rising, "never", "–"]
    assert ordered(cells, -1) == [*reversed(rising), "never", "–"]


@needs_node
def test_words_sort_by_the_alphabet_whatever_their_case() -> None:
    cells = ["Random labels", "adversarial labels", "GA + KL", "", "GA"]
    assert ordered(cells) == ["adversarial labels", "GA", "GA + KL", "Random labels", ""]
    assert ordered(cells, -1) == ["Random labels", "GA + KL", "GA", "adversarial labels", ""]


@needs_node
def test_equal_cells_keep_their_order_both_ways() -> None:
    for direction, expected in ((1, [1, 0, 2, 3]), (-1, [0, 2, 3, 1])):
        assert evaluated(f"script.order(['1', '0', '1.0', '1'], {direction})") == expected


# --- in a page

CLICKED = """
<script>
const texts = (cells) => Array.from(cells, (cell) => cell.textContent);
const state = () => ({
  rows: Array.from(document.querySelectorAll("tbody tr"), (row) => texts(row.cells).join("|")),
  sorted: Array.from(document.querySelectorAll("th[aria-sort]"), (th) =>
    [th.textContent, th.getAttribute("aria-sort")].join(" ")),
});
window.addEventListener("load", () => {
  const buttons = Array.from(document.querySelectorAll("table button"));
  const seen = { buttons: texts(buttons), states: [state()] };
  for (const place of PRESSED) { buttons[place].click(); seen.states.push(state()); }
  const shown = document.createElement("pre");
  shown.id = "seen";
  shown.textContent = encodeURIComponent(JSON.stringify(seen));
  document.body.append(shown);
});
</script>
"""


def seen_after(table: str, pressed: list[int], folder: Path) -> dict[str, Any]:
    """What a page with the table and the script shows at first and after each pressed button."""
    from urllib.parse import unquote

    page = folder / "page.html"
    script = f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>"
    clicks = CLICKED.replace("PRESSED", json.dumps(pressed))
    page.write_text(f"<!doctype html><meta charset=utf-8>{table}{script}{clicks}", encoding="utf-8")
    words = [str(CHROMIUM), "--headless", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    words += ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*words, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    match = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout)
    assert match, done.stderr
    return json.loads(unquote(match[1]))


@pytest.fixture(scope="module")
def grouped() -> str:
    index = pd.MultiIndex.from_tuples(
        [("arXiv", "GA"), ("arXiv", "Adversarial"), ("Books", "GA"), ("Books", "KL")],
        names=["domain", "method"],
    )
    columns = pd.MultiIndex.from_tuples([("Perplexity", "forget"), ("Perplexity", "general")])
    rows = [["10.0", "3.0"], ["9.0", "–"], ["2,000 ± 1", "1.0"], ["7.0", "2.0"]]
    return table_html(pd.DataFrame(rows, index=index, columns=columns), "A caption")


@pytest.mark.browser
@needs_chromium
def test_a_header_sorts_up_then_down_then_restores_within_groups(
    grouped: str, tmp_path: Path
) -> None:
    seen = seen_after(grouped, [1, 1, 1, 2, 0], tmp_path)
    assert seen["buttons"] == ["method", "forget", "general"]  # the groups above have none
    ga, adversarial, other, kl = (
        "GA|10.0|3.0",
        "Adversarial|9.0|–",
        "GA|2,000 ± 1|1.0",
        "KL|7.0|2.0",
    )
    as_written = {"rows": ["arXiv", ga, adversarial, "Books", other, kl], "sorted": []}
    assert seen["states"] == [
        as_written,
        {"rows": ["arXiv", adversarial, ga, "Books", kl, other], "sorted": ["forget ascending"]},
        {"rows": ["arXiv", ga, adversarial, "Books", other, kl], "sorted": ["forget descending"]},
        as_written,
        {"rows": ["arXiv", ga, adversarial, "Books", other, kl], "sorted": ["general ascending"]},
        {"rows": ["arXiv", adversarial, ga, "Books", other, kl], "sorted": ["method ascending"]},
    ]


@pytest.mark.browser
@needs_chromium
def test_tables_that_are_not_ours_and_single_rows_get_no_buttons(tmp_path: Path) -> None:
    one = table_html(pd.DataFrame({"a": ["1"]}, index=pd.Index(["x"], name="n")))
    plain = "<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr>"
    plain += "<tr><td>2</td></tr></tbody></table>"
    assert seen_after(one + plain, [], tmp_path)["buttons"] == []
