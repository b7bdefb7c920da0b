"""Perturb out-of-distribution images until a model takes them for in-distribution ones; files, and features of them.

The attack is that of Adaloglou et al. (arXiv 2303.05828), with a budget, other targets and a PGD baseline beside it.
:func:`attack` works on a whole selection, block by block; :func:`perturb` on tensors.
"""

from __future__ import annotations

from embedstore.attack.aim import Aim
from embedstore.attack.budget import Budget
from embedstore.attack.craft import Progress, Side, attack
from embedstore.attack.features import refuse_other, store_features
from embedstore.attack.options import PRESETS, Options
from embedstore.attack.perturb import Batches, perturb
from embedstore.attack.perturbed import Perturbed
from embedstore.attack.selection import draw_pairs
from embedstore.attack.shards import Attacked, read_attack, refuse_foreign

__all__ = [
    "PRESETS",
    "Aim",
    "Attacked",
    "Batches",
    "Budget",
    "Options",
    "Perturbed",
    "Progress",
    "Side",
    "attack",
    "draw_pairs",
    "perturb",
    "read_attack",
    "refuse_foreign",
    "refuse_other",
    "store_features",
]
