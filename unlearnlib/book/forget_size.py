"""How much to forget: from one document to the whole set, at once or in several requests.

The functions are those of the chapter on sensitivity, with documents or requests swept.
"""

from __future__ import annotations

from unlearnlib.book.sensitivity import swept as swept
from unlearnlib.book.sensitivity import swept_in_words as swept_in_words
from unlearnlib.book.sensitivity import swept_table as swept_table
