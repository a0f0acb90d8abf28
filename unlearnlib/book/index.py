"""The first page: the results in brief, by the functions of the chapters that follow."""

from __future__ import annotations

from unlearnlib.book.learning_rates import learning_rates as learning_rates
from unlearnlib.book.learning_rates import robustness_in_words as robustness_in_words
from unlearnlib.book.main_table import at_rate as at_rate
from unlearnlib.book.main_table import distance_to_oracle as distance_to_oracle
from unlearnlib.book.main_table import equal_forgetting_in_words as equal_forgetting_in_words
from unlearnlib.book.main_table import findings as findings
from unlearnlib.book.main_table import findings_in_words as findings_in_words
from unlearnlib.book.main_table import forget_vs_general as forget_vs_general
from unlearnlib.book.real_model import claims_at_hand as claims_at_hand
from unlearnlib.book.real_model import claims_table as claims_table
from unlearnlib.book.target_check import target_check as target_check
from unlearnlib.book.what_holds import verdicts_of as verdicts_of
