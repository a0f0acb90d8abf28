"""The chapters of the book, one module each, and what they share.

`notebooks/X.ipynb` opens the chapter `X`, and `tests/book/test_X.py` proves it. A chapter reads
records and makes tables, sentences and figures of them; in its file come first what is counted,
then tables (`*_table`), sentences (`*_in_words`) and figures. `records`, `drawing` and `exhibits`
are no chapters but what these share. Nothing here needs torch.
"""
