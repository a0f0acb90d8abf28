"""Records of runs: content-addressed, never rewritten, published as Parquet.

`record.py` says what a record is and makes its key, `folder.py` keeps records (`Store`),
`published.py` reads and writes Parquet files, `claims.py` divides work, `provenance.py` says where
a record came from, `files.py` writes files whole or not at all.
"""

from __future__ import annotations

from unlearnlib.store.claims import STALE_AFTER as STALE_AFTER
from unlearnlib.store.claims import Claims as Claims
from unlearnlib.store.files import write_file as write_file
from unlearnlib.store.folder import Store as Store
from unlearnlib.store.provenance import git_commit as git_commit
from unlearnlib.store.provenance import provenance as provenance
from unlearnlib.store.published import COLUMNS as COLUMNS
from unlearnlib.store.published import Library as Library
from unlearnlib.store.published import read_parquet as read_parquet
from unlearnlib.store.published import write_parquet as write_parquet
from unlearnlib.store.record import FORMAT as FORMAT
from unlearnlib.store.record import STATUSES as STATUSES
from unlearnlib.store.record import Basis as Basis
from unlearnlib.store.record import Record as Record
from unlearnlib.store.record import run_key as run_key
