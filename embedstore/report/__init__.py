"""Results as something to look at: one self-contained HTML page, CSV and JSON.

``write_report`` reads a store and writes the files. Beneath it are functions from records to records: ``cells`` and
``absences`` are the rows of the main table, ``correlations`` the R² of ID accuracy against AUROC over the models.
"""

from embedstore.report.content import Content, gather
from embedstore.report.fits import Correlation, Point, correlations
from embedstore.report.table import Absence, Cell, absences, cells
from embedstore.report.write import write_report

__all__ = [
    "Absence",
    "Cell",
    "Content",
    "Correlation",
    "Point",
    "absences",
    "cells",
    "correlations",
    "gather",
    "write_report",
]
