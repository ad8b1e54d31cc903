"""Which labels an image is given: the rule that a user names -> a threshold for each class.

Nothing heavy is imported before a rule is applied, so that a wrong one is reported at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from oass_jax.errors import UserError
from oass_jax.run import workdir
from oass_jax.run.files import read_json
from oass_jax.run.workdir import Workdir

BEST_F1 = "best_f1"
PRECISION = "precision"
_PROBABILITY = "probability"


class Rule(NamedTuple):
    """How thresholds are found.

    Attributes:
      name: 'best_f1', 'precision' or 'probability'.
      number: the wanted precision, or the threshold itself; of 'best_f1' the threshold of a run
        that has chosen none.
    """

    name: str
    number: float


class Decision(NamedTuple):
    """From which probability on a class is predicted, and why.

    Attributes:
      threshold: float64 `[C]`.
      source: where the thresholds come from, for people.
      step: of the network whose scores they are of; None where they are of none.
    """

    threshold: np.ndarray
    source: str
    step: int | None = None


def parse(rule: str | float) -> Rule:
    """Understands a rule.

    Args:
      rule: 'best_f1', a probability such as 0.5 or '0.5', or 'precision=0.9'.

    Raises:
      UserError: it is something else.
    """
    if rule == BEST_F1:
        return Rule(BEST_F1, 0.5)
    name, _, number = str(rule).rpartition("=")
    try:
        parsed = Rule(name or _PROBABILITY, float(number))
    except ValueError:
        parsed = Rule(name, -1.0)
    if parsed.name in (_PROBABILITY, PRECISION) and 0 < parsed.number <= 1:
        return parsed
    raise UserError(
        f"the threshold {rule} is not {BEST_F1}, a probability such as 0.5, or {PRECISION}=0.9"
    )


def decide(rule: Rule, folder: Workdir, evaluation: Path, class_names: Sequence[str]) -> Decision:
    """Applies a rule to a run.

    Args:
      rule: 'best_f1' takes the thresholds that the run has chosen; 'precision' the lowest with
        which the predictions of a class had that precision on the validation split.
      folder: the workdir.
      evaluation: folder of the evaluation of the validation split.
      class_names: C names.

    Raises:
      UserError: a precision is wanted and the run has not been evaluated, or otherwise than it
        predicts.
    """
    if rule.name == PRECISION:
        return _for_precision(rule.number, folder, evaluation, class_names)
    source = f"{rule.number:g} for every class"
    if rule.name == BEST_F1:
        from oass_jax.evaluation import thresholds

        if chosen := thresholds.read(folder, class_names):
            return Decision(chosen.probability, f"{chosen.rule} on {chosen.source}")
        source += f": {folder.thresholds} is missing or of another version"
    return Decision(np.full(len(class_names), rule.number), source)


def _for_precision(
    wanted: float, folder: Workdir, evaluation: Path, class_names: Sequence[str]
) -> Decision:
    from oass_jax.evaluation import scores, thresholds

    try:
        found = scores.read(evaluation / workdir.SCORES)
    except UserError as error:
        raise UserError(
            f"{PRECISION}={wanted:g} needs the scores of the validation split: {error}"
        ) from error
    if found.class_name != tuple(class_names):
        raise UserError(f"{found.path} is of other classes: evaluate with --mode=eval first")
    summary, fields = read_json(evaluation / workdir.SUMMARY), folder.fields()
    for field in (f"eval.{name}" for name in workdir.SETTINGS):
        was = summary.get(field.removeprefix("eval."))
        if field in fields and was != fields[field]:
            raise UserError(
                f"{evaluation} was evaluated with {field}={was}, and the run predicts with "
                f"{fields[field]}: evaluate with --mode=eval first"
            )
    source = f"{evaluation.name}, {len(found.image)} images"
    chosen = thresholds.for_precision(found.prediction, found.label, wanted, source=source)
    below = chosen.precision < 100 * wanted * (1 - 1e-9)  # rounding; False where it is NaN
    missed = ", ".join(name for name, is_below in zip(class_names, below, strict=True) if is_below)
    note = f"; no threshold has it for {missed}" if missed else ""
    return Decision(
        chosen.probability, f"{chosen.rule} on {chosen.source}{note}", step=summary.get("step")
    )
