"""The authors' data: a local copy in the layout of the hub, read by the code that reads the hub."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearnlib.corpus.hub import HUB_DATASET, hub_layout, load_hub
from unlearnlib.errors import UnlearnError

pytest.importorskip("datasets", reason="needs the package datasets")

LAYOUT = {
    "arxiv": {"forget": 3, "approximate": 4, "retain": 5},
    "github": {"forget": 2, "approximate": 2, "retain": 2},
    "general": {"evaluation": 3, "retain": 4},
}


def column_of(config: str) -> str:
    return "content" if config == "general" else "text"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No progress bars of `datasets` among the test results."""
    import datasets

    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A small data set in the published layout."""
    folder = tmp_path / "copy"
    for config, splits in LAYOUT.items():
        (folder / config).mkdir(parents=True)
        for split, count in splits.items():
            rows = [f"{config} {split} {number}\r\nπ 🦉" for number in range(1, count + 1)]
            write(folder / config / f"{split}-00000-of-00001.parquet", rows, column_of(config))
    return folder


def write(file: Path, texts: Sequence[str | None], column: str = "text") -> None:
    pq.write_table(pa.table({"meta": ["m"] * len(texts), column: texts}), file)


def test_each_split_is_read_from_its_config_and_column(copy: Path, tmp_path: Path) -> None:
    data = load_hub("arxiv", copy, cache=tmp_path / "cache")
    sizes = [
        len(data.split(name))
        for name in ("forget", "retain", "approximate", "general_retain", "general_evaluation")
    ]
    assert sizes == [3, 5, 4, 4, 3]
    assert data.forget[0].text == "arxiv forget 1\r\nπ 🦉"
    assert data.general_evaluation[2].text == "general evaluation 3\r\nπ 🦉"
    assert [document.id for document in data.approximate][:2] == [
        "arxiv-approximate-0001",
        "arxiv-approximate-0002",
    ]


def test_a_limit_takes_the_first_documents(copy: Path, tmp_path: Path) -> None:
    data = load_hub("github", copy, limits={"forget": 1, "retain": 99}, cache=tmp_path / "cache")
    assert [document.id for document in data.forget] == ["github-forget-0001"]
    assert len(data.retain) == 2


def test_several_files_of_a_split_are_joined_in_order(copy: Path, tmp_path: Path) -> None:
    (copy / "arxiv" / "forget-00000-of-00001.parquet").unlink()
    write(copy / "arxiv" / "forget-00001-of-00002.parquet", ["last"])
    write(copy / "arxiv" / "forget-00000-of-00002.parquet", ["first", "second"])
    data = load_hub("arxiv", copy, cache=tmp_path / "cache")
    assert [document.text for document in data.forget] == ["first", "second", "last"]


def test_empty_rows_are_skipped_aloud_and_keep_their_number(
    copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(copy / "arxiv" / "forget-00000-of-00001.parquet", [None, " ", "third"])
    with caplog.at_level(logging.WARNING):
        data = load_hub("arxiv", copy, cache=tmp_path / "cache")
    assert [(document.id, document.text) for document in data.forget] == [
        ("arxiv-forget-0003", "third")
    ]
    assert "skipped 2 empty documents" in caplog.text


def test_where_a_copy_lies_is_no_part_of_the_data(copy: Path, tmp_path: Path) -> None:
    data = load_hub("arxiv", copy, cache=tmp_path / "cache")
    elsewhere = tmp_path / "elsewhere" / "copy"
    elsewhere.parent.mkdir()
    copy.rename(elsewhere)
    again = load_hub("arxiv", elsewhere, cache=tmp_path / "cache")
    assert again == data and str(tmp_path) not in data.source


def test_a_users_own_books_lie_beside_the_copy(copy: Path, tmp_path: Path) -> None:
    (copy / "books").mkdir()
    for split in ("forget", "retain", "approximate"):
        write(copy / "books" / f"{split}.parquet", [f"a {split} novel"])
    data = load_hub("books", copy, cache=tmp_path / "cache")
    assert [d.text for d in data.forget] == ["a forget novel"] and data.general_evaluation


# ---------------------------------------------------------------- what is refused, and how


def sentence(domain: str, source: str | Path = HUB_DATASET, cache: Path | None = None) -> str:
    with pytest.raises(UnlearnError) as caught:
        load_hub(domain, source, cache=cache)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_the_books_were_not_published() -> None:
    assert "'books' was not published" in sentence("books")


def test_a_copy_without_books_says_where_they_would_lie(copy: Path, tmp_path: Path) -> None:
    said = sentence("books", copy, tmp_path / "cache")
    assert "copy/books holds no forget*.parquet" in said and "or your own books" in said


def test_an_unknown_domain_lists_the_published_ones_nearest_first() -> None:
    assert "choose one of github, arxiv" in sentence("git")
    with pytest.raises(UnlearnError, match="choose one of arxiv, github"):
        hub_layout("arXiv")


def test_a_source_that_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path) -> None:
    assert "neither a folder" in sentence("arxiv", tmp_path / "nowhere")


def test_an_unreachable_hub_is_one_sentence_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.config
    import huggingface_hub.constants

    # The suite runs offline; these are what HF_HUB_OFFLINE=1 sets when the libraries are imported.
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = sentence("arxiv", cache=tmp_path / "cache")
    assert "arxiv/forget of llmunlearn/unlearn_dataset" in message
    assert "HF_HUB_OFFLINE" in message and "local folder" in message


def test_a_missing_library_is_one_sentence(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "needs the package 'datasets'" in sentence("arxiv", copy)


def test_a_missing_file_is_named(copy: Path, tmp_path: Path) -> None:
    (copy / "general" / "evaluation-00000-of-00001.parquet").unlink()
    message = sentence("arxiv", copy, tmp_path / "cache")
    assert "general" in message and "evaluation*.parquet" in message


def test_a_wrong_column_lists_those_found(copy: Path, tmp_path: Path) -> None:
    write(copy / "arxiv" / "retain-00000-of-00001.parquet", ["a"], "tekst")
    message = sentence("arxiv", copy, tmp_path / "cache")
    assert "arxiv/retain" in message and "'meta', 'tekst'" in message


def test_texts_that_are_no_strings_are_refused(copy: Path, tmp_path: Path) -> None:
    table = pa.table({"text": [1, 2]})
    pq.write_table(table, copy / "arxiv" / "retain-00000-of-00001.parquet")
    assert "row 1 of arxiv/retain" in sentence("arxiv", copy, tmp_path / "cache")


def test_a_split_without_a_text_is_refused(copy: Path, tmp_path: Path) -> None:
    write(copy / "arxiv" / "retain-00000-of-00001.parquet", ["", " "])
    assert "arxiv/retain" in sentence("arxiv", copy, tmp_path / "cache")


def test_a_corrupt_file_is_one_sentence(copy: Path, tmp_path: Path) -> None:
    (copy / "arxiv" / "forget-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    message = sentence("arxiv", copy, tmp_path / "cache")
    assert "arxiv/forget" in message and "write the Parquet files again" in message
