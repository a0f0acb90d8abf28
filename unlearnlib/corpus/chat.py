"""Prompts and conversations as one text: by a space, or by the tokenizer's chat template."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from unlearnlib.corpus.documents import Document
from unlearnlib.errors import UnlearnError, first_line, is_failure
from unlearnlib.text import printable

# Some templates write today's date: on another day a run would have other tokens.
_DAY = datetime(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


def _undated(template: str) -> str:
    """A template in which it is always the same day."""
    return _TODAY.sub(lambda call: json.dumps(_DAY.strftime(call[2])), template)


def spelt(document: Document, tokenizer: Any, name: str) -> tuple[str, str]:
    """The prompt of a document, and prompt and text as one: the former begins the latter.

    Of a conversation both are as the tokenizer's chat template has them, up to where the assistant
    begins to speak and up to the end of its turn. `name` is the document's in errors.
    """
    if isinstance(document.prompt, str):
        prompt, text = document.prompt, document.text
        apart = not prompt or prompt[-1].isspace() or text[:1].isspace()
        return prompt, prompt + ("" if apart else " ") + text
    turns = [{"role": role, "content": said} for role, said in document.prompt]
    whole = _templated(tokenizer, [*turns, {"role": "assistant", "content": document.text}], name)
    for asks in (True, False):
        before = _templated(tokenizer, turns, name, asks)
        if whole.startswith(before) and before != whole:
            return before, whole
    raise UnlearnError(
        f"the tokenizer's chat template writes what comes before {printable(name)} in another way "
        "where the answer follows: give question and answer with --prompt-column, without --chat."
    )


def _templated(tokenizer: Any, turns: list[dict[str, str]], name: str, asks: bool = False) -> str:
    """Turns as the template writes them; with `asks` the assistant's turn is begun."""
    if not getattr(tokenizer, "chat_template", None):
        raise UnlearnError(
            f"{printable(name)} is part of a conversation, and the tokenizer has no chat template: "
            "give the tokenizer of a chat model, or question and answer with --prompt-column."
        )
    try:
        return str(
            tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=asks,
                chat_template=_undated(tokenizer.get_chat_template()),
                date_string=_DAY.strftime("%d %b %Y"),
            )
        )
    except BaseException as error:
        if not is_failure(error):
            raise
        raise UnlearnError(
            f"the tokenizer's chat template refuses {printable(name)} ({first_line(error)}): "
            "correct its turns, or give question and answer with --prompt-column."
        ) from error
