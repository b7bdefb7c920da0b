"""Labels without a labeller: what class names say about images, and which of the rows so labelled to train on.

:func:`pseudo_labels` and the soft :func:`pseudo_probabilities` come from text embeddings; :func:`confident`,
:func:`few_shot` and :func:`balanced` choose rows; :func:`agreement` compares with true labels where there are some.
"""

from embedstore.labels.sampling import agreement, balanced, class_agreement, few_shot, short_classes
from embedstore.labels.zero_shot import (
    confidence,
    confident,
    pseudo_labels,
    pseudo_probabilities,
    zero_shot_logits,
)

__all__ = [
    "agreement",
    "balanced",
    "class_agreement",
    "confidence",
    "confident",
    "few_shot",
    "pseudo_labels",
    "pseudo_probabilities",
    "short_classes",
    "zero_shot_logits",
]
