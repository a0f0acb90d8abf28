"""What a user keeps: the saved model with its card, and reports of tuning and verification.

`saved.py` writes the folder and `card.py` its model card; `tuning.py` (with `search_figure.py`) and
`verification.py` make HTML pages through `page.py`. The words are Jinja2 templates in `templates/`.
"""
