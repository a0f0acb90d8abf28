"""The chapters of the book, one module each, and what they share.

A chapter reads records and makes tables, sentences and figures of them. Nothing here needs torch.
"""
