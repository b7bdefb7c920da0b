"""Imported by the server process that forks decoders, before it forks any, and by nobody else: what they say."""

import sys

from embedstore.extract.loading import report_unless_alone

sys.excepthook = report_unless_alone
