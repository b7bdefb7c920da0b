"""Linear probes: multinomial logistic regression on frozen features.

:class:`LinearProbe` is trained as the paper trains it, :class:`LogisticProbe` to the optimum; :func:`fit_probes` trains
several of the first kind in one loop.
"""

from embedstore.probes.base import moments
from embedstore.probes.linear import LinearProbe, fit_probes
from embedstore.probes.logistic import LogisticProbe
from embedstore.probes.training import learning_rates

__all__ = ["LinearProbe", "LogisticProbe", "fit_probes", "learning_rates", "moments"]
