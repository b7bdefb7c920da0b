"""Run methods and make results of their findings, or find the results that are there already."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable, UnknownName
from embedstore.evaluate.finding import Finding, Method
from embedstore.evaluate.layers import keep_layers
from embedstore.evaluate.methods import METHODS
from embedstore.evaluate.presets import PRESETS
from embedstore.evaluate.study import Study
from embedstore.metrics import accuracy, aurc, ood_metrics
from embedstore.records import FloatArray, Result

Options = Mapping[str, Mapping[str, Any]]

_CONFUSIONS = 50  # pairs of classes that a result keeps


def run_methods(
    study: Study,
    methods: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] = (),
    preset: str = "default",
    options: Options | None = None,
    known: Iterable[Result] = (),
) -> Iterator[Result]:
    """Run methods in the order of ``METHODS``; a seeded one gives a :class:`Result` per seed.

    A method that lacks something (labels, prompts, a train split) gives a result that says why it is absent, while the
    others run.

    Parameters
    ----------
    methods : sequence of str, optional
        All those of the preset if not given.
    seeds : sequence of int
        The preset's if empty.
    preset : str
        One of ``PRESETS``.
    options : mapping, optional
        By method, options other than the preset's.
    known : iterable of Result
        Results that need not be computed again: those of the same parameters and inputs are passed on as they are, and
        where only the metric set differs their scores are used.

    Raises
    ------
    UnknownName
        If there is no such method, preset or option.
    """
    chosen = _look_up("preset", preset, PRESETS)
    wanted = list(methods or chosen.methods or METHODS)
    for name in [*wanted, *(options or {})]:
        _look_up("method", name, METHODS)
    seeds = tuple(dict.fromkeys(seeds)) or (chosen.seed,)
    there = _Known(known)
    keep_layers(study, there)
    for name in [name for name in METHODS if name in wanted]:
        settled = settings(name, preset, (options or {}).get(name, {}))
        yield from _results(study, name, settled, seeds, chosen.metrics, there)


def settings(name: str, preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a method: its default, the preset's choice, or what was given."""
    method = METHODS[name]
    for option in given:
        _look_up(f"option of {name}", option, method.defaults())
    return {**method.defaults(), **PRESETS[preset].options.get(name, {}), **given}


def _look_up(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise UnknownName(kind, name, known)
    return known[name]


class _Known:
    """Results by what they depend on.

    An absent one is none, for what it lacked may be there now; nor is one of another version, which may compute
    something else.
    """

    def __init__(self, results: Iterable[Result]) -> None:
        self.by_method: dict[tuple[str, str, str], list[Result]] = {}
        made_by = version("embedstore")
        for result in results:
            if result.absent is None and result.version == made_by:
                self.by_method.setdefault(_place(result), []).append(result)

    def __iter__(self) -> Iterator[Result]:
        return (result for results in self.by_method.values() for result in results)

    def find(self, blank: Result) -> Result | None:
        """The same result; or else one whose scores hold those that are asked for."""
        there = self.by_method.get(_place(blank), [])
        same = (result for result in there if (result.params, result.inputs) == (blank.params, blank.inputs))
        return next(same, None) or next((result for result in there if _holds(result, blank)), None)


def _place(result: Result) -> tuple[str, str, str]:
    return result.model, result.id_dataset, result.method


def _holds(result: Result, blank: Result) -> bool:
    """Whether a result has all scores of another: it may be measured otherwise, and on more OOD sets."""
    mine, its = ({name: value for name, value in each.params.items() if name != "metrics"} for each in (blank, result))
    more = {what.partition("/")[2] for what in set(result.inputs) - set(blank.inputs)}
    own = f"{blank.id_dataset}/"
    others = all(f"images/{name}" not in blank.inputs and not name.startswith(own) for name in more)
    return mine == its and blank.inputs.items() <= result.inputs.items() and others


def _results(
    study: Study, name: str, options: Mapping[str, Any], seeds: Sequence[int], metrics: str, known: _Known
) -> Iterator[Result]:
    """One method's results, in the order of the seeds."""
    method = METHODS[name]
    blanks = [_blank(study, name, options, seed, metrics) for seed in (seeds if method.seeded else (None,))]
    found = {blank.key(): known.find(blank) for blank in blanks}
    missing = [blank for blank in blanks if found[blank.key()] is None]
    began, absent, findings = time.perf_counter(), None, [Finding(scores={})] * len(missing)
    if missing:
        try:
            findings = _run(study, method, options, [blank.params.get("seed") for blank in missing])
        except NotAvailable as error:
            absent = str(error)
    seconds = (time.perf_counter() - began) / max(len(missing), 1)
    notes = tuple(study.notes())
    fresh = {
        blank.key(): _filled(study, replace(blank, absent=absent, seconds=seconds), finding, notes)
        for blank, finding in zip(missing, findings, strict=True)
    }
    for blank in blanks:
        there = found[blank.key()]
        yield fresh[blank.key()] if there is None else _measured_again(study, there, blank)


def _run(study: Study, method: Method, options: Mapping[str, Any], seeds: Sequence[Any]) -> list[Finding]:
    return list(method.run(study, seeds, **options)) if method.seeded else [method.run(study, **options)]


def _blank(study: Study, name: str, options: Mapping[str, Any], seed: int | None, metrics: str) -> Result:
    """A result without figures: what it will depend on."""
    method = METHODS[name]
    text = method.reads_text(options)
    given: dict[str, Any] = {} if seed is None else {"seed": seed}
    given |= {"templates": study.templates} if text else {}
    params = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    splits = {"train_split": study.train_split} if method.train and study.train_split != "train" else {}
    splits |= {"test_split": study.test_split} if study.test_split != "test" else {}
    left_out, train_left_out = study.rows_left_out(), study.rows_left_out(train=True) if method.train else 0
    differs = {key: value for key, value in options.items() if value != method.defaults()[key]}
    differs |= splits | ({"left_out": left_out} if left_out else {})
    differs |= {"train_left_out": train_left_out} if train_left_out else {}
    differs |= {} if metrics == "default" else {"metrics": metrics}
    variant = ", ".join(
        f"{key}={'+'.join(value) if isinstance(value, tuple) else value}" for key, value in differs.items()
    )
    return Result(
        model=study.model,
        id_dataset=study.id_name,
        method=name,
        params={**given, **splits, **params, "metrics": metrics},
        inputs=study.fingerprints(train=method.train, text=text),
        variant=variant,
    )


def _filled(study: Study, blank: Result, finding: Finding, notes: tuple[str, ...]) -> Result:
    id_accuracy, details = None, dict(finding.details)
    if finding.predicted is not None and (study.test_labels >= 0).any():
        id_accuracy = accuracy(finding.predicted, study.test_labels)
        details |= _by_class(study, finding.predicted)
        details["aurc"] = _aurc(study, finding.scores, finding.predicted)
    filled = replace(
        blank,
        id_accuracy=id_accuracy,
        metrics=_metrics(study, finding.scores, blank.params["metrics"]),
        scores=_by_row(study, finding),
        weights=finding.weights,
        details=details,
        notes=notes + finding.notes,
    )
    return _stamped(filled)


def _by_class(study: Study, predicted: npt.NDArray[Any]) -> dict[str, Any]:
    """Where a classifier errs: accuracy and count of every ID class, and which classes it takes for which."""
    known = study.test_labels >= 0
    truth, guess = study.test_labels[known].astype(np.int64), np.asarray(predicted)[known].astype(np.int64)
    names = study.test_class_names(max(int(truth.max()), int(guess.max())) + 1)
    counts, hits = (np.bincount(rows, minlength=len(names)).tolist() for rows in (truth, truth[truth == guess]))
    rows = [[name, hit / count if count else None, count] for name, hit, count in zip(names, hits, counts, strict=True)]
    pairs = Counter(zip(truth[truth != guess].tolist(), guess[truth != guess].tolist(), strict=True))
    most = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:_CONFUSIONS]
    return {"class_accuracy": rows, "confused": [[names[t], names[g], count] for (t, g), count in most]}


def _aurc(
    study: Study, scores: Mapping[str, Mapping[str, FloatArray]], predicted: npt.NDArray[Any]
) -> dict[str, float]:
    """By score: whether a high one of an ID test image means that it is classified rightly."""
    known = study.test_labels >= 0
    right = (np.asarray(predicted) == study.test_labels)[known]
    return {score: aurc(by_set[study.test.name][known], right) for score, by_set in scores.items()}


def _stamped(result: Result) -> Result:
    created = datetime.now(UTC).isoformat(timespec="microseconds")
    return replace(result, created=created, version=version("embedstore"))


def _measured_again(study: Study, there: Result, blank: Result) -> Result:
    """A stored result as it is; or its scores of the sets that are asked for, measured as is asked for."""
    if (there.params, there.inputs) == (blank.params, blank.inputs):
        return there
    tested = study.tested
    kept = {path: np.asarray(there.scores[path]) for path in there.scores if path.partition("/")[2] in tested}
    scores: dict[str, dict[str, FloatArray]] = {}
    for path, values in kept.items():
        score, _, name = path.partition("/")
        scores.setdefault(score, {})[name] = values[study.used(tested[name])]
    metrics = _metrics(study, scores, blank.params["metrics"])
    others = {name for by_set in there.metrics.values() for name in by_set} - set(tested)
    notes = tuple(note for note in there.notes if note.partition(":")[0] not in others)
    asked = replace(there, params=blank.params, inputs=blank.inputs, variant=blank.variant)
    return _stamped(replace(asked, metrics=metrics, scores=kept, notes=notes))


def _metrics(
    study: Study, scores: Mapping[str, Mapping[str, FloatArray]], preset: str
) -> dict[str, dict[str, dict[str, float]]]:
    return {
        score: {name: ood_metrics(by_set[study.test.name], by_set[name], preset=preset) for name in study.ood}
        for score, by_set in scores.items()
    }


def _by_row(study: Study, finding: Finding) -> dict[str, FloatArray]:
    """Scores of used rows, spread over all rows of their split."""
    spread: dict[str, FloatArray] = {}
    for score, by_set in finding.scores.items():
        for name, values in by_set.items():
            images = study.tested[name]
            column = np.full(len(images), np.nan)
            column[study.used(images)] = values
            spread[f"{score}/{name}"] = column
    return spread
