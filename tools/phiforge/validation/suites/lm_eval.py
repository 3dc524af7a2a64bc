"""Tasks of the lm-evaluation-harness, by name: its questions and its judging, our models' answers. Needs `[tasks]`.

The harness asks through a subclass of its `LM`, which hands every request to an `Answerer`. Prompts go through the chat
template, answers are cut where their thinking ends, and nothing is sampled. Tasks that run a model's code are refused,
since the harness would run it unprotected; the `humaneval` format has a sandbox.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from phiforge import errors
from phiforge.validation import tasks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# What a task is scored by, the first that it has: metrics that are 0 or 1 for each question.
METRICS = ("acc", "exact_match", "prompt_level_strict_acc", "em", "is_correct")
# Of several ways to read an answer, the one that is made for answers in whole sentences.
PREFERRED_FILTER = "flexible-extract"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text to go on from, greedily.

    Attributes:
        text: The rendered prompt.
        until: Texts that end the answer; they are cut off here, so stopping at them only saves time.
        limit_tokens: The most new tokens; None leaves it to the answerer.
    """

    text: str
    until: tuple[str, ...]
    limit_tokens: int | None


class Answerer(Protocol):
    """A model as the harness needs it: the original or a variant."""

    @property
    def name(self) -> str:
        """What the harness calls the model."""
        ...

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """Return a conversation as the chat template writes it."""
        ...

    def generate(self, prompts: Sequence[Prompt]) -> Sequence[str]:
        """Return what the model writes after each prompt, as decoded."""
        ...

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[float, bool]]:
        """Return, for each context and continuation, the log-likelihood in nats and whether it is the greedy one.

        A context may be empty; the continuation's first token then follows whatever begins a text.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """One task of the harness as one model answered it.

    Attributes:
        task: The harness's name.
        metric: What `right` is by: the harness's metric and filter.
        right: By the question's number in the task.
        version: Of the task, as the harness has it.
    """

    task: str
    metric: str
    right: dict[int, bool]
    version: str


def evaluate(answerer: Answerer, names: Sequence[str], *, limit: int | None = None) -> tuple[Run, ...]:
    """Ask a model the tasks of the harness, each in its own number of shots.

    Args:
        answerer: The model.
        names: Tasks, groups or tags of the harness, or paths of its task files (.yaml).
        limit: Questions of each task; None for all.

    Raises:
        DependencyMissingError: The harness is not installed.
        NetworkError: A task's data set is not here and cannot be fetched.
        TasksInvalidError: A task is unknown or broken, runs code, or is not scored by right and wrong.
    """
    evaluator, manager = _import("lm_eval.evaluator"), _import("lm_eval.tasks").TaskManager()
    loaded = _load(manager, names)
    results: dict[str, Any] = evaluator.simple_evaluate(
        model=as_lm(answerer), tasks=list(loaded.values()), task_manager=manager, limit=limit, bootstrap_iters=0,
        apply_chat_template=True, log_samples=True,
    )  # fmt: skip
    versions = results.get("versions", {})
    return tuple(run_of(name, results["samples"][name], str(versions.get(name, ""))) for name in sorted(loaded))


def as_lm(answerer: Answerer) -> Any:
    """Return an instance of a subclass of the harness's `LM` that asks the answerer.

    Raises:
        DependencyMissingError: The harness is not installed.
    """
    base = _import("lm_eval.api.model").LM
    requests = Requests(answerer)
    methods: dict[str, Any] = {
        "generate_until": lambda _, asked: requests.generate(item.args for item in asked),
        "loglikelihood": lambda _, asked: requests.log_likelihoods(item.args for item in asked),
        "loglikelihood_rolling": lambda _, asked: requests.rolling(item.args for item in asked),
        "apply_chat_template": lambda _, history, add_generation_prompt=True: answerer.render(
            history, add_generation_prompt=add_generation_prompt
        ),
        "chat_template": lambda _, name=False: "",
        "tokenizer_name": property(lambda _: answerer.name),
    }
    return type("PhiforgeLM", (base,), methods)()


@dataclass(frozen=True)
class Requests:
    """The harness's requests, by the arguments that it gives them, answered by an `Answerer`."""

    answerer: Answerer

    def generate(self, asked: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Return the answers to prompts, without thinking and cut at the texts that end them."""
        prompts = [_prompt(text, options) for text, options in asked]
        said = self.answerer.generate(prompts)
        return [cut(tasks.answer_of(text), prompt.until) for text, prompt in zip(said, prompts, strict=True)]

    def log_likelihoods(self, asked: Iterable[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the greedy one."""
        return list(self.answerer.log_likelihoods(list(asked)))

    def rolling(self, asked: Iterable[tuple[str]]) -> list[float]:
        """Return the log-likelihood of whole texts."""
        return [value for value, _ in self.answerer.log_likelihoods([("", text) for (text,) in asked])]


def cut(text: str, until: Sequence[str]) -> str:
    """Return a text up to the first of the texts that end it; an empty one ends nothing."""
    ends = [place for stop in until if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def run_of(task: str, samples: Sequence[Mapping[str, Any]], version: str) -> Run:
    """Return a run from the samples that the harness logs, one for each question and filter.

    Raises:
        TasksInvalidError: No metric says right or wrong.
    """
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    chosen = PREFERRED_FILTER if PREFERRED_FILTER in filters else next(iter(filters), "none")
    kept = [sample for sample in samples if sample["filter"] == chosen]
    metric = next((name for name in METRICS if kept and all(_is_binary(sample.get(name)) for sample in kept)), None)
    if metric is None:
        had = sorted({name for sample in samples for name in sample.get("metrics", ())})
        raise _fault(task, f"Its metrics ({', '.join(had) or 'none'}) do not say right or wrong of each question.")
    right = {int(sample["doc_id"]): bool(sample[metric]) for sample in kept}
    return Run(task=task, metric=f"{metric},{chosen}", right=right, version=version)


def _prompt(text: str, options: Mapping[str, Any]) -> Prompt:
    until = options.get("until") or ()
    return Prompt(
        text=text,
        until=(until,) if isinstance(until, str) else tuple(until),
        limit_tokens=options.get("max_gen_toks") or options.get("max_new_tokens"),
    )


def _is_binary(value: object) -> bool:
    return isinstance(value, bool | int | float) and value in {0, 1}


def _load(manager: Any, names: Sequence[str]) -> dict[str, Any]:
    """Tasks by name, groups and tags as the tasks in them."""
    offline = _import("datasets.exceptions").DatasetsError
    for name in names:
        if not name.endswith(".yaml") and not manager.match_tasks([name]):
            raise _fault(name, "The harness has no task, group or tag of this name.")
    try:
        loaded: dict[str, Any] = manager.load(list(names))["tasks"]
    except (ConnectionError, offline) as error:
        raise errors.NetworkError(
            f"The data of the lm-eval task {', '.join(names)} cannot be fetched.",
            why=f"{error}.",
            fix="Connect, or name a task file (.yaml) whose `dataset_kwargs` point at files here.",
        ) from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _fault(", ".join(names), f"The harness cannot load it: {error}.") from error
    for name, task in loaded.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise _fault(name, "It runs what the model writes, and the harness has no sandbox.")
    return loaded


def _fault(name: str, why: str) -> errors.TasksInvalidError:
    return errors.TasksInvalidError(
        f"The lm-eval task {name} cannot be used.",
        why=why,
        fix="`lm_eval ls tasks` lists the names; docs/tasks.md says which tasks can be compared.",
    )


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise errors.DependencyMissingError(
            "The lm-evaluation-harness is not installed.",
            why=f"There is no module {error.name}.",
            fix="Install phiforge with the extra: pip install 'phiforge[tasks]'.",
        ) from error
