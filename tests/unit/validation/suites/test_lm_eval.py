"""The adapter of the lm-evaluation-harness, without the harness: requests, cutting, and the reading of samples."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from phiforge import errors
from phiforge.validation.suites import lm_eval
from phiforge.validation.suites.lm_eval import Prompt, Requests, cut, run_of


class Fake:
    name = "fake"

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []
        self.pairs: list[tuple[str, str]] = []

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        turns = "".join(f"<|{turn['role']}|>{turn['content']}<|end|>" for turn in messages)
        return turns + ("<|assistant|>" if add_generation_prompt else "")

    def generate(self, prompts: Sequence[Prompt]) -> Sequence[str]:
        self.prompts += prompts
        return [f"<think>\n\nno</think>{prompt.text}\n\nmore<|end|>" for prompt in prompts]

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[float, bool]]:
        self.pairs += pairs
        return [(-float(len(text)), text == "a") for _, text in pairs]


class Item:
    def __init__(self, *args: Any) -> None:
        self.args = args


def test_answers_have_no_thinking_and_end_where_the_task_says() -> None:
    fake = Fake()
    asked: list[tuple[str, Mapping[str, Any]]] = [
        ("one", {"until": ["\n\n", ""], "max_gen_toks": 5}),
        ("two", {"until": "m"}),
        ("three", {}),
    ]
    assert Requests(fake).generate(asked) == ["one", "two\n\n", "three\n\nmore"]
    assert [(prompt.until, prompt.limit_tokens) for prompt in fake.prompts] == [
        (("\n\n", ""), 5),
        (("m",), None),
        ((), None),
    ]


def test_log_likelihoods_are_passed_through() -> None:
    fake = Fake()
    assert Requests(fake).log_likelihoods([("q", "a"), ("q", "bb")]) == [(-1.0, True), (-2.0, False)]
    assert Requests(fake).rolling([("abc",)]) == [-3.0]
    assert fake.pairs == [("q", "a"), ("q", "bb"), ("", "abc")]


@pytest.mark.parametrize(
    ("text", "until", "expected"),
    [("abc", ("b",), "a"), ("abc", ("c", "b"), "a"), ("abc", (), "abc"), ("abc", ("",), "abc"), ("abc", ("x",), "abc")],
)
def test_the_first_end_counts(text: str, until: tuple[str, ...], expected: str) -> None:
    assert cut(text, until) == expected


def sample(doc_id: int, filter: str = "none", **metrics: Any) -> dict[str, Any]:  # noqa: A002
    return {"doc_id": doc_id, "filter": filter, "metrics": list(metrics), **metrics}


def test_a_run_says_right_or_wrong_of_each_question() -> None:
    run = run_of("arc", [sample(3, acc=1.0, acc_norm=0.0), sample(4, acc=0.0, acc_norm=1.0)], "1.0")
    assert (run.task, run.metric, run.right, run.version) == ("arc", "acc,none", {3: True, 4: False}, "1.0")


def test_the_filter_for_whole_sentences_is_preferred() -> None:
    samples = [
        sample(0, "strict-match", exact_match=0.0),
        sample(0, "flexible-extract", exact_match=1.0),
    ]
    run = run_of("gsm8k", samples, "3.0")
    assert (run.metric, run.right) == ("exact_match,flexible-extract", {0: True})


@pytest.mark.parametrize("samples", [[], [sample(0, word_perplexity=12.5)], [sample(0, acc=0.5), sample(1, acc=1)]])
def test_tasks_without_right_and_wrong_are_refused(samples: list[dict[str, Any]]) -> None:
    with pytest.raises(errors.TasksInvalidError, match="wikitext"):
        run_of("wikitext", samples, "")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lm_eval", "lm_eval.evaluator", "lm_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, None)
    for attempt in (lambda: lm_eval.evaluate(Fake(), ["gsm8k"]), lambda: lm_eval.as_lm(Fake())):
        with pytest.raises(errors.DependencyMissingError) as caught:
            attempt()
        assert "pip install 'phiforge[tasks]'" in caught.value.fix


class HarnessModel:
    """What the adapter needs of the harness's `LM`."""

    rank = 0


class HarnessError(Exception):
    """The harness's library of data sets cannot get one."""


class Manager:
    """What the adapter needs of the harness's `TaskManager`."""

    failure: Exception | None = None
    unsafe = False

    def match_tasks(self, names: list[str]) -> list[str]:
        return [name for name in names if name == "sums"]

    def load(self, names: list[str]) -> dict[str, Any]:
        if self.failure:
            raise self.failure
        return {"tasks": {"sums": types.SimpleNamespace(UNSAFE_CODE=self.unsafe)}}


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> type[Manager]:
    manager = type("FakeManager", (Manager,), {})

    def simple_evaluate(*, model: Any, tasks: list[Any], **_: Any) -> dict[str, Any]:
        prompt = model.apply_chat_template([{"role": "user", "content": "1+1?"}])
        (said,) = model.generate_until([Item(prompt, {"until": ["\n"]})])
        (value,) = model.loglikelihood([Item(prompt, "a")])
        assert (len(tasks), model.rank, model.tokenizer_name, value) == (1, 0, "fake", (-1.0, True))
        assert model.loglikelihood_rolling([Item("ab")]) == [-2.0]
        return {"samples": {"sums": [sample(0, exact_match=float("1+1?" in said))]}, "versions": {"sums": 2.0}}

    modules: dict[str, dict[str, Any]] = {
        "lm_eval.evaluator": {"simple_evaluate": simple_evaluate},
        "lm_eval.tasks": {"TaskManager": manager},
        "lm_eval.api.model": {"LM": HarnessModel},
        "datasets.exceptions": {"DatasetsError": HarnessError},
    }
    found = {name: types.SimpleNamespace(**members) for name, members in modules.items()}
    monkeypatch.setattr(importlib, "import_module", found.__getitem__)
    return manager


def test_the_harness_asks_through_the_adapter(harness: type[Manager]) -> None:
    del harness
    (run,) = lm_eval.evaluate(Fake(), ["sums"])
    assert (run.task, run.right, run.version) == ("sums", {0: True}, "2.0")


@pytest.mark.parametrize(
    ("name", "failure", "error"),
    [
        ("products", None, errors.TasksInvalidError),
        ("sums", HarnessError("offline"), errors.NetworkError),
        ("sums", ConnectionError("offline"), errors.NetworkError),
        ("sums", FileNotFoundError("no file"), errors.TasksInvalidError),
        ("none.yaml", KeyError("none.yaml"), errors.TasksInvalidError),
    ],
)
def test_tasks_that_cannot_be_loaded_are_told(
    harness: type[Manager], name: str, failure: Exception | None, error: type[errors.PhiforgeError]
) -> None:
    harness.failure = failure
    with pytest.raises(error, match=name):
        lm_eval.evaluate(Fake(), [name])


def test_tasks_that_run_code_are_refused(harness: type[Manager]) -> None:
    harness.unsafe = True
    with pytest.raises(errors.TasksInvalidError, match="sums") as caught:
        lm_eval.evaluate(Fake(), ["sums"])
    assert "sandbox" in caught.value.why
