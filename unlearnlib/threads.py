"""One lock for what belongs to the whole process.

While transformers or peft build a model they set the usual dtype, how modules register parameters
and which warnings are shown, for all threads. Two threads would build each other's models.
"""

from __future__ import annotations

import threading

ONE_AT_A_TIME = threading.RLock()
