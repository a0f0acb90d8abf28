"""Audits: attempts to bring back what a model is to have forgotten. Is it gone, or hidden?

Each audit is an attack in a file of its own, with settings and one function, `measure`, that
measures one model. The same attack is made on the unlearned model, on the model before
(vanilla), on the exactly retrained one where there is one (the oracle), and on an impostor
(`impostor.py`), which has forgotten nothing: an audit that does not catch it is no evidence.
`audit.py` makes them all and keeps what is done, `findings.py` says what follows from it.
"""
