"""Machine unlearning of pre-trained language models: methods, metrics, runs that verify.

from unlearnlib import save, score, unlearn
texts = {"forget": [...], "retain": [...]}
model, record = unlearn(model, tokenizer, method="ga_gd_in_dist", **texts)
save(model, tokenizer, record, "folder", texts)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Resolved on first use: `unlearn --help` should not wait for torch to load.
_PUBLIC = {
    "METHODS": "unlearnlib.methods",
    "Document": "unlearnlib.corpus.documents",
    "Execution": "unlearnlib.engine",
    "RunSpec": "unlearnlib.spec",
    "TokenScores": "unlearnlib.metrics.scores",
    "UnlearnError": "unlearnlib.errors",
    "audit": "unlearnlib.audits.audit",
    "load_domain": "unlearnlib.profiles",
    "load_model": "unlearnlib.models",
    "load_tokenizer": "unlearnlib.models",
    "plan": "unlearnlib.planning",
    "save": "unlearnlib.report.saved",
    "score": "unlearnlib.scoring",
    "tune": "unlearnlib.tuning",
    "unlearn": "unlearnlib.run",
    "verify": "unlearnlib.verification",
}
__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from unlearnlib.audits.audit import audit as audit
    from unlearnlib.corpus.documents import Document as Document
    from unlearnlib.engine import Execution as Execution
    from unlearnlib.errors import UnlearnError as UnlearnError
    from unlearnlib.methods import METHODS as METHODS
    from unlearnlib.metrics.scores import TokenScores as TokenScores
    from unlearnlib.models import load_model as load_model
    from unlearnlib.models import load_tokenizer as load_tokenizer
    from unlearnlib.planning import plan as plan
    from unlearnlib.profiles import load_domain as load_domain
    from unlearnlib.report.saved import save as save
    from unlearnlib.run import unlearn as unlearn
    from unlearnlib.scoring import score as score
    from unlearnlib.spec import RunSpec as RunSpec
    from unlearnlib.tuning import tune as tune
    from unlearnlib.verification import verify as verify


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
