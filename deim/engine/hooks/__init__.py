"""Hooks of a training run. A resumed run is identical to an uninterrupted one, including its ``metrics.json``.

In each iteration ``i``, the hooks write in this order::

    step                    losses and other scalars enter the event storage, in memory only
    PeriodicCheckpointer    model_<i>.pth, if due: with the scalars that metrics.json does not contain yet
    EvalHook, BestCheckpointer, FinalStageHook
                            evaluation, if due; model_best.pth and model_best.json, if it is the best
    MetricsWriter           lines of metrics.json, if due: every train.log_period, and after every evaluation
    EvaluationResumeHook    model_<i>.pth again, if an evaluation followed its first version
    PreemptionHook          model_<i>.pth, if a signal ends the run

A run that is killed after the first version of ``model_<i>.pth`` resumes from this file. What is missing or superfluous
depends on the moment:

=================================================  ===================================================================
killed                                             on resume
=================================================  ===================================================================
before or during the evaluation of iteration i     :class:`EvaluationResumeHook` repeats the evaluation
before the line of iteration i is written          :class:`MetricsResumeHook` restores the scalars of the checkpoint
                                                   and has the line written
in a later iteration                               :class:`MetricsResumeHook` removes the lines of the iterations after
                                                   i, which the resumed run repeats
=================================================  ===================================================================
"""

from deim.engine.hooks.checkpoints import BestCheckpointer, PeriodicCheckpointer
from deim.engine.hooks.criterion_epoch import CriterionEpochHook
from deim.engine.hooks.early_stopping import EarlyStoppingHook
from deim.engine.hooks.ema import EMAHook
from deim.engine.hooks.evaluation_resume import EvaluationResumeHook
from deim.engine.hooks.final_stage import FinalStageHook
from deim.engine.hooks.metrics import MetricsResumeHook, MetricsWriter
from deim.engine.hooks.plateau import PlateauHook
from deim.engine.hooks.preemption import PreemptionHook
from deim.engine.hooks.timed_evaluation import TimedEvaluationHook

__all__ = [
    "BestCheckpointer",
    "CriterionEpochHook",
    "EMAHook",
    "EarlyStoppingHook",
    "EvaluationResumeHook",
    "FinalStageHook",
    "MetricsResumeHook",
    "MetricsWriter",
    "PeriodicCheckpointer",
    "PlateauHook",
    "PreemptionHook",
    "TimedEvaluationHook",
]
