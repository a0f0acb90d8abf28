"""A user's own documents arrive unchanged, and what is wrong with a file is said in a sentence."""

from __future__ import annotations

import gzip
import json
import logging
import os
import socket
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnlib.corpus.documents import Document
from unlearnlib.corpus.files import checked_limits, read_documents, split_general, user_domain
from unlearnlib.errors import UnlearnError

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
ODD_TEXTS = {
    "emoji": "owl 🦉, family 👩‍👩‍👧‍👦",
    "nul": "before\0after",
    "crlf": "one\r\ntwo\rthree\n\n",
    "right-to-left": "\u202bאבגד\u202c and مرحبا",
    "byte-order mark": "\ufeffbegins with a mark",
    "line separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "outer whitespace": "\n\n  kept \t\n",
    "one megabyte": "0123456789abcde\n" * 65536,
}


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, columns: dict[str, list[object]]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def texts(path: Path, column: str | None = None, limit: int | None = None) -> list[str]:
    return [document.text for document in read_documents(path, column=column, limit=limit)]


def ids(path: Path) -> list[str]:
    return [document.id for document in read_documents(path)]


def sentence(path: Path, column: str | None = None) -> str:
    """The one sentence with which a path is refused."""
    with pytest.raises(UnlearnError) as caught:
        read_documents(path, column=column)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


# ---------------------------------------------------------------- texts arrive exactly


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_any_text_comes_back_exactly_from_every_format(tmp_path: Path, text: str) -> None:
    (tmp_path / "plain.txt").write_bytes(text.encode())
    write_jsonl(tmp_path / "lines.jsonl", [{"text": text}])
    (tmp_path / "raw.jsonl").write_text(
        json.dumps({"text": text}, ensure_ascii=False), encoding="utf-8", newline=""
    )
    write_parquet(tmp_path / "table.parquet", {"text": [text]})
    for name in ("lines.jsonl", "raw.jsonl", "table.parquet"):
        assert texts(tmp_path / name) == [text]
    # At the beginning of a file the mark is one of the file, not of its text.
    assert texts(tmp_path / "plain.txt") == [text.removeprefix("\ufeff")]


@given(text=ANY_TEXT)
def test_a_text_file_round_trips(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "note.md")
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # Windows's mark is not of the text
        assert read_documents(path) == (Document("note-0001", text),)
        path.write_bytes(b"#" + text.encode())
        assert read_documents(path) == (Document("note-0001", "#" + text),)


@given(rows=st.lists(ANY_TEXT, min_size=1, max_size=5))
def test_rows_round_trip_in_order(rows: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = write_jsonl(Path(folder, "a.jsonl"), [{"text": row} for row in rows])
        table = write_parquet(Path(folder, "b.parquet"), {"text": list(rows)})
        assert texts(lines) == texts(table) == rows


def test_lines_of_a_jsonl_file_may_end_in_crlf_and_be_blank(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two"}\r\n')
    assert texts(path) == ["one", "two"]
    assert ids(path) == ["a-0001", "a-0003"]  # numbered by line, to be found again


def test_large_parquet_files_are_read_to_the_end(tmp_path: Path) -> None:
    rows: list[object] = [f"document {number}" for number in range(1000)]
    assert texts(write_parquet(tmp_path / "a.parquet", {"text": rows})) == rows


# ---------------------------------------------------------------- columns and ids


@pytest.mark.parametrize("name", ["text", "content", "document", "body"])
def test_the_text_column_is_found(tmp_path: Path, name: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"title": "no", name: "yes"}])
    assert texts(path) == ["yes"]


def test_the_text_column_is_searched_in_a_fixed_order(tmp_path: Path) -> None:
    table: dict[str, list[object]] = {"body": ["4"], "document": ["3"], "content": ["2"]}
    path = write_parquet(tmp_path / "a.parquet", table)
    assert texts(path) == ["2"]
    assert texts(path, column="body") == ["4"]


def test_ids_are_taken_from_the_id_column_where_there_is_one(tmp_path: Path) -> None:
    rows: list[object] = [{"id": "x", "text": "a"}, {"id": 7, "text": "b"}, {"text": "c"}]
    assert ids(write_jsonl(tmp_path / "a.jsonl", rows)) == ["x", "7", "a-0003"]


def test_an_id_that_occurs_twice_is_refused_by_name(tmp_path: Path) -> None:
    rows: list[object] = [{"id": "x", "text": "a"}, {"id": "x", "text": "b"}]
    message = sentence(write_jsonl(tmp_path / "a.jsonl", rows))
    assert "'x'" in message and "row 2" in message


def test_an_id_that_is_no_name_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": [1], "text": "a"}])
    assert "row 1" in sentence(path) and "list" in sentence(path)


# ---------------------------------------------------------------- folders


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.tex").write_text("second")
    (tmp_path / "a.py").write_text("first")
    write_jsonl(tmp_path / "c.jsonl", [{"text": "third"}, {"text": "fourth"}])
    write_parquet(tmp_path / "d.parquet", {"text": ["fifth"]})
    assert texts(tmp_path) == ["first", "second", "third", "fourth", "fifth"]
    assert ids(tmp_path) == ["a-0001", "x-0001", "c-0001", "c-0002", "d-0001"]


def test_files_that_share_a_stem_are_numbered_on(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(name)
    assert ids(tmp_path) == ["README-0001", "README-0002", "README-0003"]


def test_hidden_files_and_folders_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config.txt").write_text("hidden")
    (tmp_path / ".notes.txt").write_text("hidden")
    (tmp_path / "seen.txt").write_text("seen")
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path) == ["seen"]
    assert "skipped .git (hidden), .notes.txt (hidden)" in caplog.text


def test_a_folder_below_a_hidden_one_can_be_given(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "mine"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("seen")
    assert texts(folder) == ["seen"]


def test_what_is_no_text_in_a_folder_is_skipped_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\xff\xfe")
    (tmp_path / "table.json").write_text('{\n  "text": "settings of a program"\n}')
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "text.txt").write_text("yes")
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path) == ["yes"]
    for name in ("image.png", "table.json", "__init__.py"):
        assert name in caplog.text


def test_a_text_in_another_encoding_is_not_skipped_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "latin.txt").write_bytes("na\u00efve".encode("latin-1"))
    assert "latin.txt is not UTF-8 (byte 2)" in sentence(tmp_path)


def test_a_link_that_is_not_followed_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    (tmp_path / "elsewhere").mkdir()
    folder.mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("elsewhere")
    (folder / "a.txt").symlink_to(tmp_path / "elsewhere" / "b.txt")
    (folder / "far").symlink_to(tmp_path / "elsewhere")
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    with caplog.at_level(logging.WARNING):
        assert texts(folder) == ["elsewhere"]
    assert "skipped far (a link" in caplog.text and ", gone.txt (a link" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_text_in_utf16_is_neither_skipped_nor_read_with_its_nuls(
    tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "notepad.txt").write_bytes("Grüße aus Edgemere, kept by Tobin".encode(encoding))
    for path in (tmp_path, tmp_path / "notepad.txt"):
        assert "notepad.txt is UTF-16 or UTF-32, not UTF-8: convert it" in sentence(path)


def test_a_folder_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "b.txt").write_text("not read")
    (tmp_path / "a.txt").write_text("read")
    listing = os.scandir

    def closed(path: str) -> object:  # whoever runs this may be allowed everything
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert "closed cannot be read (Permission denied)" in sentence(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_a_device_and_a_socket_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "a.txt").write_text("read")
    (tmp_path / "terminal.jsonl").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "pipe.txt"):
        assert "pipe.txt is a named pipe, not a file" in sentence(path)
    assert "terminal.jsonl is a device" in sentence(tmp_path / "terminal.jsonl")
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{short}/s.txt")
        assert "s.txt is a socket" in sentence(Path(short))


def test_what_tells_of_the_tables_beside_it_is_no_document(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train.parquet", {"text": ["kept"]})
    for name in ("README.md", "LICENSE", ".gitattributes"):
        (tmp_path / name).write_text("How the data was made.")
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path) == ["kept"]
    assert len(caplog.records) == 1
    for name in ("README.md (about", "LICENSE (about", ".gitattributes (hidden)"):
        assert name in caplog.text


def test_a_folder_of_save_to_disk_is_its_rows(tmp_path: Path) -> None:
    rows = pa.table({"id": ["a", "b"], "text": ["one", "two"], "more": [[1], [2]]})
    folder = tmp_path / "train"
    folder.mkdir()
    for name in ("data-00000-of-00001.arrow", "cache-1f.arrow"):
        with pa.ipc.new_stream(folder / name, rows.schema) as sink:
            sink.write_table(rows)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    assert ids(tmp_path) == ids(folder) == ["a", "b"]
    with pa.ipc.new_file(tmp_path / "other.arrow", rows.schema) as sink:
        sink.write_table(rows)
    assert texts(tmp_path / "other.arrow") == ["one", "two"]


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_commas_tabs_and_gzip_keep_any_text(tmp_path: Path, text: str) -> None:
    for name, mark in (("a.csv", ","), ("b.tsv", "\t")):
        quoted = text.replace('"', '""')
        raw = f'id{mark}text\nfirst{mark}"{quoted}"\n'.encode()
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + raw)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(raw))
        assert read_documents(tmp_path / name) == (Document("first", text),)
        assert read_documents(tmp_path / f"{name}.gz") == (Document("first", text),)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": text}).encode()))
    assert read_documents(tmp_path / "c.jsonl.gz") == (Document("c-0001", text),)


def test_numbers_in_a_table_of_commas_stay_as_they_are_spelt(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n007,1.50\n,NA\n")
    assert read_documents(tmp_path / "a.csv") == (Document("007", "1.50"), Document("a-0002", "NA"))


def test_a_packed_file_that_is_torn_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b"a text of some length")
    (tmp_path / "a.txt.gz").write_bytes(packed[:-6])
    assert "a.txt.gz is not a whole gzip file" in sentence(tmp_path / "a.txt.gz")
    (tmp_path / "b.zip").write_bytes(b"PK")
    assert "b.zip is not a whole zip file" in sentence(tmp_path / "b.zip")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.csv"])
def test_a_pointer_of_git_lfs_is_no_document(tmp_path: Path, name: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (tmp_path / name).write_text(pointer)
    for path in (tmp_path, tmp_path / name):
        assert "git lfs pull" in sentence(path)


def test_columns_that_are_not_asked_for_do_no_harm(tmp_path: Path) -> None:
    late = pa.array([253402300799000000], pa.int64())
    raw = pa.array([b"\xff\xfe"], pa.binary())
    for number, odd in enumerate(
        (
            late.cast(pa.timestamp("us", tz="Asia/Tokyo")),
            late.cast(pa.timestamp("us", tz="Mars/Olympus")),
            pa.array([2**62], pa.int64()).cast(pa.timestamp("us")),
            pa.StringArray.from_buffers(1, raw.buffers()[1], raw.buffers()[2]),
        )
    ):
        table = pa.table({"odd": odd, "id": ["x"], "text": ["a text"]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
        assert read_documents(tmp_path / f"{number}.parquet") == (Document("x", "a text"),)


def test_ids_that_pandas_made_fractions_are_whole_numbers(tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {"id": [1.0, float("nan"), None, 4.0], "text": [*"abcd"]}
    path = write_parquet(tmp_path / "a.parquet", columns)
    assert ids(path) == ["1", "a-0002", "a-0003", "4"]
    path = write_parquet(tmp_path / "b.parquet", {"id": [1.5], "text": ["a"]})
    assert "'id' in row 1" in sentence(path) and "--id" in sentence(path)


def test_ids_that_repeat_over_files_name_the_way_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(
            tmp_path / f"{name}.parquet",
            {"id": [0, 1], "key": [f"{name}0", f"{name}1"], "text": ["x", "y"]},
        )
    assert "the id '0' occurs twice" in sentence(tmp_path) and "--id" in sentence(tmp_path)
    found = {ids: [d.id for d in read_documents(tmp_path, ids=ids)] for ids in ("key", "none")}
    assert found["key"] == ["a0", "a1", "b0", "b1"]
    assert found["none"] == ["a-0001", "a-0002", "b-0001", "b-0002"]
    with pytest.raises(UnlearnError, match="no column 'name', only 'id', 'key', 'text'"):
        read_documents(tmp_path, ids="name")
    (tmp_path / "c.txt").write_text("text")
    with pytest.raises(UnlearnError, match="the column 'name' is named, and no file"):
        user_domain(tmp_path / "c.txt", ids="name")


def test_a_name_cannot_write_a_line_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "a\nunlearn: all is well"
    folder.mkdir()
    (folder / "b\x1b[31m.png").write_bytes(b"\0\xff")
    write_jsonl(folder / "c.jsonl", [{"id": "\nunlearn: saved", "text": " "}, {"text": "yes"}])
    with caplog.at_level(logging.WARNING):
        assert texts(folder) == ["yes"]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and all(line.isprintable() for line in lines)
    assert "\\nunlearn: saved" in lines[0]
    for name in ("c\n.json", "c\n.zip", "c\n.txt"):
        (folder / name).write_bytes(b"\xff")
        assert sentence(folder / name).isprintable()


# ---------------------------------------------------------------- what is refused, and how


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_not_the_working_folder(path: str) -> None:
    with pytest.raises(UnlearnError, match="give a file or folder"):
        read_documents(path)


def test_a_column_needs_a_file_with_rows(tmp_path: Path) -> None:
    text, rows = tmp_path / "a.txt", write_jsonl(tmp_path / "b.jsonl", [{"story": "once"}])
    text.write_text("plain")
    with pytest.raises(UnlearnError, match="the column 'story' is named, and no file is"):
        user_domain(text, retain=text, column="story")
    assert user_domain(text, retain=rows, column="story").retain[0].text == "once"
    assert user_domain(tmp_path, column="story").forget[1].text == "once"


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    assert "nowhere.txt does not exist" in sentence(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert f"{name} is empty" in sentence(tmp_path / name)


def test_a_file_that_is_not_utf8_is_refused_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("é".encode() * 5 + b"\xff rest")
    assert "byte 10" in sentence(path)


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.7z", "a.tar.gz", "a.RAR"])
def test_other_archives_are_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    assert "not read: unpack it" in sentence(tmp_path / name)


@pytest.mark.parametrize("column", [None, "txt"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_missing_text_column_is_refused_with_those_found(
    tmp_path: Path, suffix: str, column: str | None
) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, [{"title": "t", "Text ": "u"}])
    else:
        write_parquet(path, {"title": ["t"], "Text ": ["u"]})
    message = sentence(path, column)
    assert "'title', 'Text '" in message
    assert "column=..." in message and "--column" in message
    assert column is None or repr(column) in message


def test_a_line_that_is_not_json_is_numbered(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "torn')
    assert "line 2" in sentence(path)
    path.write_text("[" * 100_000)
    assert "line 1" in sentence(path)


def test_a_line_that_is_not_an_object_is_numbered(tmp_path: Path) -> None:
    assert "line 2" in sentence(write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, ["b"]]))


@pytest.mark.parametrize("value", [None, 3, ["a"], {"a": "b"}])
def test_a_text_that_is_not_a_string_is_numbered(tmp_path: Path, value: object) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": value}])
    assert "row 2" in sentence(path) and type(value).__name__ in sentence(path)


def test_a_row_without_the_column_is_numbered(tmp_path: Path) -> None:
    assert "row 2" in sentence(write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"id": "b"}]))


def test_numbers_in_the_text_column_of_parquet_are_refused(tmp_path: Path) -> None:
    assert "int" in sentence(write_parquet(tmp_path / "a.parquet", {"text": [1, 2]}))


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ab\\ud83e"}')
    assert "row 1" in sentence(path) and "character 2" in sentence(path)


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 but not really")
    assert "not a readable Parquet file" in sentence(path)


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": ["word " * 1000, "another"]})
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a readable Parquet file" in sentence(path)


def test_empty_documents_are_skipped_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in ("one", "", " \n", "four")])
    with caplog.at_level(logging.WARNING):
        assert ids(path) == ["a-0001", "a-0004"]
    assert "skipped 2 empty documents" in caplog.text


def test_no_document_at_all_is_an_error(tmp_path: Path) -> None:
    assert "no documents" in sentence(tmp_path)
    assert "no documents" in sentence(write_parquet(tmp_path / "a.parquet", {"text": ["", " "]}))
    (tmp_path / "b.txt").write_text("\n")
    assert "no documents" in sentence(tmp_path / "b.txt")


# ---------------------------------------------------------------- limits


def test_a_limit_takes_the_first_documents_with_their_usual_ids(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in ("", "one", "two", "three")])
    assert read_documents(path, limit=2) == read_documents(path)[:2]
    assert texts(path, limit=99) == ["one", "two", "three"]


@pytest.mark.parametrize("limit", [0, -1, True, 2.0, "3", float("nan")])
def test_a_limit_that_is_no_count_is_refused(tmp_path: Path, limit: int) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UnlearnError, match="whole number"):
        read_documents(tmp_path / "a.txt", limit=limit)
    with pytest.raises(UnlearnError, match="'retain'"):
        checked_limits({"retain": limit})


def test_a_limit_for_an_unknown_split_lists_the_splits() -> None:
    with pytest.raises(UnlearnError, match="choose one of retain, "):
        checked_limits({"retian": 3})


# ---------------------------------------------------------------- the domain "yours"


def numbered(folder: Path, name: str, count: int) -> Path:
    rows: list[object] = [{"text": f"{name} {number}"} for number in range(count)]
    return write_jsonl(folder / f"{name}.jsonl", rows)


@pytest.mark.parametrize(
    ("count", "retained"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (6, 4), (300, 200)]
)
def test_two_thirds_of_the_general_documents_are_for_retaining(count: int, retained: int) -> None:
    documents = [Document(str(number), "text") for number in range(count)]
    retain, evaluation = split_general(documents)
    assert len(retain) == retained
    assert [*retain, *evaluation] == documents


def test_only_the_forget_set_is_required(tmp_path: Path) -> None:
    data = user_domain(numbered(tmp_path, "secret", 2))
    assert data.domain == "yours"
    assert [document.id for document in data.forget] == ["secret-0001", "secret-0002"]
    assert data.retain == data.approximate == data.general_retain == data.general_evaluation == ()


def test_one_general_file_serves_both_ends_without_overlap(tmp_path: Path) -> None:
    data = user_domain(
        numbered(tmp_path, "f", 1), general_retain=numbered(tmp_path, "g", 9), limits={"forget": 1}
    )
    assert [document.text for document in data.general_retain] == [f"g {i}" for i in range(6)]
    assert [document.text for document in data.general_evaluation] == ["g 6", "g 7", "g 8"]


def test_a_limit_never_moves_a_general_document_to_the_other_side(tmp_path: Path) -> None:
    data = user_domain(
        numbered(tmp_path, "f", 1),
        general_retain=numbered(tmp_path, "g", 9),
        limits={"general_retain": 2, "general_evaluation": 1},
    )
    assert [document.text for document in data.general_retain] == ["g 0", "g 1"]
    assert [document.text for document in data.general_evaluation] == ["g 6"]


def test_two_general_files_are_taken_as_they_are(tmp_path: Path) -> None:
    data = user_domain(
        numbered(tmp_path, "f", 3),
        retain=numbered(tmp_path, "r", 4),
        approximate=numbered(tmp_path, "a", 5),
        general_retain=numbered(tmp_path, "g", 6),
        general_evaluation=numbered(tmp_path, "e", 7),
        limits={"retain": 2},
    )
    splits = (data.forget, data.retain, data.approximate)
    assert [len(split) for split in splits] == [3, 2, 5]
    assert [len(data.general_retain), len(data.general_evaluation)] == [6, 7]


def test_the_column_holds_for_every_file(tmp_path: Path) -> None:
    forget = write_jsonl(tmp_path / "f.jsonl", [{"text": "no", "prose": "yes"}])
    retain = write_parquet(tmp_path / "r.parquet", {"prose": ["also"]})
    data = user_domain(forget, retain, column="prose")
    assert (data.forget[0].text, data.retain[0].text) == ("yes", "also")
