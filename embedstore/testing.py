"""For tests of code that builds on embedstore: an encoder that needs no weights and gives the same features everywhere.

``FakeEncoder`` is also reachable from the command line, as ``--model fake``.
"""

from __future__ import annotations

from embedstore.encoders.fake import FakeEncoder

__all__ = ["FakeEncoder"]
