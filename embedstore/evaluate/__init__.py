"""Run classifiers and OOD scores on cached features. No model and no image is touched.

:class:`Study` is what may be looked at, ``METHODS`` are functions of it, ``PRESETS`` are named choices of their
options, and :func:`run_methods` makes results of them.
"""

from embedstore.evaluate.duplicates import Duplicate, duplicates, rows_to_leave_out, same_files
from embedstore.evaluate.finding import Finding, Method
from embedstore.evaluate.methods import METHODS
from embedstore.evaluate.presets import PRESETS, Preset
from embedstore.evaluate.run import run_methods, settings
from embedstore.evaluate.study import Study

__all__ = [
    "METHODS",
    "PRESETS",
    "Duplicate",
    "Finding",
    "Method",
    "Preset",
    "Study",
    "duplicates",
    "rows_to_leave_out",
    "run_methods",
    "same_files",
    "settings",
]
