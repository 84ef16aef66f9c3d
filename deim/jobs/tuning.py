"""Search over config keys: every trial is a training run in a process of its own."""

import copy
import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf

from deim.config import load_config
from deim.config.batch_size import BATCH_SIZE_KEY, scaled_learning_rates, scaled_length_keys
from deim.config.loading import apply_overrides, override_keys
from deim.config.random_weights import DENSE_KEY
from deim.engine.initial_state import starts_from_random_weights
from deim.errors import ConfigError, DeimError
from deim.jobs.search_space import overrides_of, parse_search, shorten_schedule
from deim.processes import PREEMPTED_EXIT_STATUS, PreemptionRecorder, child_command, deim_environment
from deim.visualization import read_scores
from deim.visualization.search import TrialSummary

PRUNERS = ("median", "hyperband", "none")
_POLL_SECONDS = 1.0
# Number of suggestions in a row that repeat earlier trials, after which all values count as tried.
_MAX_REPEATS = 30
# Attribute of a trial that repeats the values of another one: the number of the other trial.
_REPEAT = "repeats"
# Exit statuses of runs that a signal has ended, after or before they could save a checkpoint.
_INTERRUPTED = (PREEMPTED_EXIT_STATUS, -signal.SIGTERM)
# Seconds that a run gets to save a checkpoint when it is stopped.
_GRACE_SECONDS = 120


@dataclass(frozen=True)
class SearchSettings:
    """What is trained in every trial, and what is searched. A study has the same settings for all of its trials.

    Attributes:
        config_file, data, image_root, switches, overrides: see :func:`deim.config.load_config`.
        search: keys with the values to try; see :func:`deim.jobs.search_space.parse_search`.
        metric: metric to maximize, such as "bbox/AP"; empty for ``train.best_metric`` of the config.
        epochs: number of epochs per trial; None for that of the recipe.
    """

    config_file: str
    search: Sequence[str]
    data: str | None = None
    image_root: str | None = None
    switches: Mapping[str, bool] = field(default_factory=dict)
    overrides: Sequence[str] = ()
    metric: str = ""
    epochs: int | None = None

    def train_arguments(self) -> list[str]:
        """Return the arguments of ``deim train`` that all trials share, without the overrides of the search."""
        arguments = ["--config-file", self.config_file]
        arguments += ["--data", self.data] if self.data else []
        arguments += ["--image-root", self.image_root] if self.image_root else []
        for name, is_on in self.switches.items():
            arguments += ["--with" if is_on else "--without", name]
        return [*arguments, *self.overrides]


@dataclass
class _Run:
    """Training process of a trial."""

    trial: Any
    folder: Path
    slot: str | None
    process: subprocess.Popen
    num_reported: int = 0
    is_pruned: bool = False


class Search:
    """Search over config keys with Optuna, in a directory that holds the study and one run per trial.

    Args:
        settings: what is trained and searched.
        output: directory of the search. A search that ended early continues here: interrupted trials are resumed.
        pruner: one of :data:`PRUNERS`, which stops trials that are worse than earlier ones after the same number of
            evaluations.
        seed: seed of the sampler.

    Raises:
        ConfigError: if a key does not exist, a value is invalid, Optuna is not installed, or the directory holds another
            search.
    """

    def __init__(self, settings: SearchSettings, output: Path, pruner: str = "median", seed: int = 0):
        cfg = load_config(
            settings.config_file, settings.overrides, settings.data, settings.image_root, dict(settings.switches)
        )
        self.settings, self.output = settings, output
        self.dimensions = parse_search(settings.search, cfg)
        for dimension in self.dimensions:
            for value in dimension.examples():
                apply_overrides(copy.deepcopy(cfg), overrides_of({dimension.key: value}))
        self.metric = settings.metric or cfg.train.best_metric
        if "/" not in self.metric:
            raise ConfigError(f"--metric {self.metric} is not a metric of metrics.json, such as bbox/AP or segm/AP50")
        set_by_user = override_keys(settings.overrides)
        shortened = [] if settings.epochs is None else shorten_schedule(cfg, settings.epochs)
        self.fixed_overrides = [override for override in shortened if override.partition("=")[0] not in set_by_user]
        if settings.metric:
            self.fixed_overrides.append(f"train.best_metric={settings.metric}")
        self.study = self._open_study(pruner, seed)
        scaled = scaled_learning_rates(cfg)
        own_values = {
            dimension.key: dimension.find(scaled.get(dimension.key, OmegaConf.select(cfg, dimension.key)))
            for dimension in self.dimensions
        }
        # The recipe's own warm-ups and EMA decay depend on the number of images, which is unknown here. So do further
        # settings of runs from random weights.
        unknown = {*scaled_length_keys(cfg)}
        if cfg.train.reference_batch_size is not None and starts_from_random_weights(cfg):
            unknown |= {*scaled, BATCH_SIZE_KEY, DENSE_KEY}
        is_known = None not in own_values.values() and not own_values.keys() & unknown
        if not self.study.get_trials(deepcopy=False) and is_known:
            self.study.enqueue_trial(own_values)  # the first trial is the recipe as it is

    def _open_study(self, pruner: str, seed: int) -> Any:
        optuna = _import_optuna()
        self.output.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=_open_storage(self.output / "study.log"),
            study_name="deim",
            direction="maximize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
            pruner={
                "median": optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
                "hyperband": optuna.pruners.HyperbandPruner(),
                "none": optuna.pruners.NopPruner(),
            }[pruner],
        )
        settings = json.loads(json.dumps(asdict(self.settings)))
        previous = study.user_attrs.get("settings", settings)
        if differences := [key for key in settings if settings[key] != previous.get(key)]:
            lines = [f"\n  {key}: {previous.get(key)} there, {settings[key]} now" for key in differences]
            raise ConfigError(f"{self.output} holds another search; choose another --study:{''.join(lines)}")
        study.set_user_attr("settings", settings)
        return study

    def run(self, num_trials: int, slots: Sequence[str | None], after_trial: Callable[[], object]) -> None:
        """Train until the study has this number of finished trials; a failed trial counts, and does not end the search.

        Args:
            num_trials: number of trials of the study, with those of earlier calls.
            slots: GPUs, one trial at a time on each; None for the devices that are visible.
            after_trial: called after every trial.

        Raises:
            ConfigError: if another process searches in the same directory.
            SystemExit: if the process receives SIGTERM or SIGUSR1; running trials have saved a checkpoint.
        """
        with _exclusive(self.output):
            recorder = PreemptionRecorder()
            runs: list[_Run] = []
            try:
                self._run(num_trials, list(slots), runs, recorder, after_trial)
            finally:
                _stop(runs)
                recorder.restore_handlers()
            if recorder.received is not None:
                raise SystemExit(PREEMPTED_EXIT_STATUS)

    def _run(
        self,
        num_trials: int,
        free: list[str | None],
        runs: list[_Run],
        recorder: PreemptionRecorder,
        after_trial: Callable[[], object],
    ) -> None:
        from optuna.trial import Trial, TrialState

        interrupted = [Trial(self.study, trial._trial_id) for trial in self._trials([TrialState.RUNNING])]
        num_repeats = 0
        while recorder.received is None:
            while free and interrupted:
                runs.append(self._start(interrupted.pop(0), free.pop(0)))
            while free and len(self._trials()) < num_trials and num_repeats < _MAX_REPEATS:
                trial = self._ask()
                num_repeats = num_repeats + 1 if self._is_repeat(trial) else 0
                if not num_repeats:
                    runs.append(self._start(trial, free.pop(0)))
                elif num_repeats == _MAX_REPEATS:
                    print("the search ends before --trials: it finds only values that it has tried")
            if not runs:
                return
            time.sleep(_POLL_SECONDS)
            for run in list(runs):
                self._report_scores(run)
                status = run.process.poll()
                if status is None:
                    continue
                runs.remove(run)
                free.append(run.slot)
                if status in _INTERRUPTED and not run.is_pruned:
                    interrupted.append(run.trial)
                else:
                    self._finish(run, status)
                    after_trial()

    def _ask(self) -> Any:
        return self.study.ask({dimension.key: dimension.distribution() for dimension in self.dimensions})

    def _is_repeat(self, trial: Any) -> bool:
        """Return whether an earlier trial has tried the same values; the trial then gets its result, and is not counted."""
        from optuna.trial import TrialState

        finished = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        earlier = next((t for t in self._trials(finished) if t.params == trial.params), None)
        if earlier is not None:
            trial.set_user_attr(_REPEAT, earlier.number)
            is_complete = earlier.state == TrialState.COMPLETE
            self.study.tell(trial, earlier.value if is_complete else None, None if is_complete else TrialState.FAIL)
        return earlier is not None

    def _trials(self, states: Sequence[Any] | None = None) -> list[Any]:
        """Return Optuna's trials, without those that repeat the values of another one and those that have not started."""
        trials = self.study.get_trials(deepcopy=False, states=None if states is None else tuple(states))
        return [trial for trial in trials if _REPEAT not in trial.user_attrs and trial.state.name != "WAITING"]

    def folder(self, number: int) -> Path:
        """Return the ``train.output_dir`` of a trial."""
        return self.output / f"trial{number:03d}"

    def _start(self, trial: Any, slot: str | None) -> _Run:
        folder = self.folder(trial.number)
        folder.mkdir(exist_ok=True)
        values = overrides_of(trial.params)
        print(f"trial {trial.number}: {' '.join(values)}" + (f" on GPU {slot}" if slot else ""), flush=True)
        environment = deim_environment() | ({"CUDA_VISIBLE_DEVICES": slot} if slot is not None else {})
        arguments = [*self.settings.train_arguments(), *self.fixed_overrides, *values, f"train.output_dir={folder}"]
        with (folder / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                child_command("train", "--resume", *arguments),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the search only, which stops its runs
            )
        reported = self.study.trials[trial.number].intermediate_values
        return _Run(trial, folder, slot, process, num_reported=max(reported, default=0))

    def scores(self, number: int) -> list[float]:
        """Return the metric of each evaluation of a trial so far."""
        task, name = self.metric.split("/", 1)
        try:
            points = read_scores(self.folder(number) / "metrics.json", name, task)
        except DeimError:  # the file does not exist yet, or its last line is being written
            return []
        return [value for _, value in points]

    def _report_scores(self, run: _Run) -> None:
        """Report new evaluations to Optuna, and stop the run if the trial is to be pruned."""
        scores = self.scores(run.trial.number)
        for number, score in enumerate(scores[run.num_reported :], run.num_reported + 1):
            if math.isfinite(score):
                run.trial.report(max(filter(math.isfinite, scores[:number])), number)
        if len(scores) > run.num_reported and not run.is_pruned and run.process.poll() is None:
            run.is_pruned = run.trial.should_prune()
            if run.is_pruned:
                run.process.terminate()
        run.num_reported = max(run.num_reported, len(scores))

    def _finish(self, run: _Run, status: int) -> None:
        from optuna.trial import TrialState

        number, scores = run.trial.number, [score for score in self.scores(run.trial.number) if math.isfinite(score)]
        if run.is_pruned and status != 0:
            self.study.tell(run.trial, state=TrialState.PRUNED)
            # NaN if the end of the process left an incomplete line in metrics.json.
            best = max(scores, default=math.nan)
            print(f"trial {number}: stopped after {len(scores)} evaluations, {self.metric} {best:.1f}", flush=True)
        elif status == 0 and scores:
            self.study.tell(run.trial, max(scores))
            print(f"trial {number}: {self.metric} {max(scores):.1f}", flush=True)
        else:
            error = f"exit status {status}" if status else f"metrics.json has no {self.metric}"
            self.study.tell(run.trial, state=TrialState.FAIL)
            print(f"trial {number} failed, {error}: {_last_error(run.folder / 'output.txt')}", flush=True)

    def summaries(self) -> list[TrialSummary]:
        """Return all trials that have been started, in order."""
        return [
            TrialSummary(
                trial.number,
                trial.state.name.lower(),
                trial.params,
                self.scores(trial.number),
                trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=None),
                trial.duration.total_seconds() / 60 if trial.duration is not None else None,
            )
            for trial in self._trials()
        ]

    def train_command(self, values: Mapping[str, Any]) -> list[str]:
        """Return the command that trains the recipe with the values of a trial, for all epochs of the recipe."""
        return ["deim", "train", *self.settings.train_arguments(), *overrides_of(dict(values))]


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("the search requires Optuna: pip install 'deim[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _open_storage(file: Path) -> Any:
    """Return Optuna's storage in a journal file, which is created if it does not exist."""
    from optuna.storages import JournalStorage, journal

    # The default lock is a symbolic link, which Windows allows only to administrators.
    lock = journal.JournalFileOpenLock(str(file)) if os.name == "nt" else None
    return JournalStorage(journal.JournalFileBackend(str(file), lock))


def _stop(runs: Sequence[_Run]) -> None:
    """Let the runs save a checkpoint and exit; kill those that do not exit."""
    for run in runs:
        run.process.terminate()
    for run in runs:
        try:
            run.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            run.process.kill()
            run.process.wait()


def _last_error(file: Path) -> str:
    """Return the last line of a log that states an error, or its last line."""
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return f"{(errors or lines or ['no output'])[-1]} ({file})"


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold a lock file in a directory that names this process.

    Raises:
        ConfigError: if the lock file names another process that is running.
    """
    lock = folder / "search.pid"
    words = lock.read_text(encoding="utf-8").split() if lock.is_file() else []
    if len(words) == 2 and psutil.pid_exists(int(words[0])):
        started = psutil.Process(int(words[0])).create_time()
        if abs(started - float(words[1])) < 1:
            raise ConfigError(f"process {words[0]} is searching in {folder}: wait for it, or stop it")
    lock.write_text(f"{os.getpid()} {psutil.Process().create_time()}", encoding="utf-8")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
