"""The report as Markdown and HTML: complete, escaped, self-contained, the same every time."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import sys
import unicodedata
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from phiforge.evidence import Estimate, Kind
from phiforge.reporting import (
    Fleet,
    Report,
    llama_bench_json,
    perf_yaml,
    report_html,
    report_json,
    report_markdown,
    write_report,
)
from phiforge.reporting.content import headline
from phiforge.reporting.markdown import escape
from phiforge.target import Budgets
from unit.reporting import samples

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from pathlib import Path

    from phiforge.evidence import AnyEvidence

EVIL = "<script>alert(1)</script>\"'&|`"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Reads a page: its tags, attributes, text, and whether every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """The page's words, one space between them."""
        return " ".join(" ".join(self.words).split())


def evil(report: Report) -> Report:
    """The same report with hostile text wherever text comes from files."""
    data = report.model_dump()

    def spoil(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {name: spoil(item, name) for name, item in value.items()}
        if isinstance(value, tuple | list):
            return [spoil(item, key) for item in value]
        fixed = {
            "schema_version",
            "evidence",
            "kind",
            "outcome",
            "accepts",
            "budget",
            "comparison",
            "metric",
            "shape",
            "taken_at",
            "lacking",
        }
        return f"{value} {EVIL}" if isinstance(value, str) and key not in fixed else value

    spoiled = spoil(data)
    assert isinstance(spoiled, dict)
    spoiled["verdict"]["findings"][0]["budget"] = EVIL
    spoiled["variant"]["operators"] = {EVIL: 3}
    spoiled["pipeline"]["options"] = {EVIL: EVIL}
    return Report.model_validate(spoiled)


def hostile(report: Report) -> Fleet:
    """A whole report of it, with hostile names of package and files too."""
    fleet = samples.fleet(evil(report))
    (entry,) = fleet.entries
    sources = tuple(
        source.model_copy(update={"file": f"{EVIL}.json", "href": "../%3Cscript%3E%29%22%27%7C.json"})
        for source in entry.sources
    )
    entry = entry.model_copy(update={"package": f"{EVIL}.ortpackage", "sources": sources})
    return fleet.model_copy(update={"entries": (entry,), "notices": (EVIL,)})


def test_the_page_is_well_formed_and_has_every_part() -> None:
    page = Reader(report_html(samples.fleet()))
    assert page.open == []
    assert page.tags.count("figure") == 7
    said = f"fail {headline(samples.report().verdict)}"
    for words in (said, samples.VARIANT, "0.02134 ± 0.00081 nats", "12,411 ms"):
        assert words in page.text, words
    titles = (
        "Budgets",
        "Drift",
        "Answers",
        "Probes",
        "Time",
        "Memory",
        "Variant",
        "Build",
        "Evidence",
        "What is missing",
    )
    for title in titles:
        assert title in page.text


def test_markdown_shows_what_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "EVIL", "\x1b[31m\x9b\u202e\u200b")
    text = report_markdown(hostile(samples.report()))
    assert not [letter for letter in text if unicodedata.category(letter) in ("Cc", "Cf") and letter != "\n"]
    assert r"\\x1b\[31m\\x9b\\u202e\\u200b" in text


def test_the_page_asks_for_nothing_from_outside() -> None:
    text = report_html(samples.fleet())
    page = Reader(text)
    assert not {"link", "img", "iframe", "object", "embed", "base", "image", "use"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {"src", "srcset", "xlink:href", "action", "data", "poster", "background"} & names
    assert not [name for name in names if name.startswith("on")]
    assert all(not re.match(r"[a-z]+:|//", value) for name, value in page.attributes if name == "href")
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"https?:|url\(|@import", style)


def test_the_policy_lets_only_the_page_s_own_scripts_run() -> None:
    text = report_html(samples.fleet())
    (policy,) = [value for name, value in Reader(text).attributes if value.startswith("default-src")]
    given = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert given["default-src"] == "'none'"
    scripts = re.findall(r"<script(?: type=\"text/plain\" id=\"vega\")?>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(hashes) == 3
    assert sorted(given["script-src"].split()) == sorted(f"'sha256-{digest}'" for digest in hashes)
    assert "unsafe" not in given["script-src"]


def test_every_link_inside_the_page_leads_somewhere() -> None:
    for fleet in (samples.fleet(), samples.fleet(samples.report(), samples.npu_report())):
        page = Reader(report_html(fleet))
        ids = {value for name, value in page.attributes if name == "id"}
        inside = {value.removeprefix("#") for name, value in page.attributes if name == "href" and value[0] == "#"}
        assert len(inside) > len(fleet.entries)
        assert inside <= ids


def test_a_number_leads_to_its_evidence_and_that_to_its_file() -> None:
    text = report_html(samples.fleet())
    assert 'href="#/Phi-4-mini-instruct/cpu-x64/evidence-latency">9.87</a>' in text
    row = text[text.index('<tr id="/Phi-4-mini-instruct/cpu-x64/evidence-latency">') :]
    row = row[: row.index("</tr>")]
    assert '<a href="../evidence/v/latency.json">evidence/v/latency.json</a>' in row
    assert "<code>abababababab</code>" in row


def test_ids_are_unique() -> None:
    twice = (*samples.npu_evidence(), samples.drift(Kind.EMULATED), samples.probes(), samples.latency())
    for report in (samples.report(), samples.npu_report(evidence=(*twice, samples.latency(Kind.EMULATED)))):
        ids = [value for name, value in Reader(report_html(samples.fleet(report))).attributes if name == "id"]
        assert len(ids) == len(set(ids))


def test_text_from_files_is_never_markup() -> None:
    text = report_html(hostile(samples.report()))
    page, plain = Reader(text), Reader(report_html(samples.fleet()))
    assert page.open == []
    assert page.tags.count("script") == plain.tags.count("script")
    assert sorted(set(page.tags)) == sorted(set(plain.tags))
    assert "<script>alert(1)</script>\"'&|`" in page.text
    drawings = text[text.index('id="drawings">') + len('id="drawings">') :]
    drawings = drawings[: drawings.index("</script>")]
    assert not set("<>&") & set(drawings)
    assert "<script>alert(1)</script>" in json.dumps(json.loads(drawings))


def test_markdown_text_from_files_is_never_markup() -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    plain, spoiled = (
        Reader(reader.render(report_markdown(fleet))) for fleet in (samples.fleet(), hostile(samples.report()))
    )
    assert set(spoiled.tags) == set(plain.tags)
    assert spoiled.tags.count("td") == plain.tags.count("td") - 2 * (len(samples.variant().operators) - 1)
    assert "<script>alert(1)</script>\"'&|`" in spoiled.text


def test_markdown_rows_are_as_wide_as_their_heads() -> None:
    def width(line: str) -> int:
        return len(re.findall(r"(?<!\\)\|", line))

    plain = samples.report(), samples.npu_report()
    for fleet in (*map(samples.fleet, plain), samples.fleet(*plain), *map(hostile, plain)):
        table: list[int] = []
        for line in [*report_markdown(fleet).splitlines(), ""]:
            if line.startswith("|"):
                table.append(width(line))
            else:
                assert len(set(table)) <= 1
                table = []


def test_escape() -> None:
    assert escape("a|b\n*c* <d> [e](f) \\") == r"a\|b \*c\* &lt;d&gt; \[e\](f) \\"


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_evidence_is_shown(kind: Kind) -> None:
    report = samples.report(evidence=(samples.drift(kind),))
    assert f"Evidence: **{kind}**" in report_markdown(samples.fleet(report))
    assert f'class="kind kind-{kind}"' in report_html(samples.fleet(report))


@pytest.mark.parametrize("given", [samples.report(), samples.npu_report()], ids=["cpu", "npu"])
def test_the_same_report_gives_the_same_bytes(given: Report) -> None:
    first = samples.fleet(given)
    second = Fleet.model_validate_json(report_json(first))
    for render in (report_html, report_markdown, report_json, llama_bench_json, perf_yaml):
        assert render(first) == render(second)


NPU_WORDS = (
    "Latency is unverified until the device has measured it",
    "Drift on the surrogate",
    "Drift on the emulator",
    "0.02134 ± 0.00081 nats",
    "0.0230 ± 0.0041 nats",
    "Where the drift comes from",
    "weights and activations",
    "Agreement",
    "Emulator, prefill",
    "Emulator, decode",
    "1.51 %",
    "the variant cpu-int4",
    "agreement (prefill)",
    "drift (surrogate), drift (emulated)",
    "On the NPU",
    "2.45.0.260326",
    "60, SC8380XP (not confirmed)",
    f"SoC not confirmed: {samples.SOC_SOURCE}",
    "on the CPU",
    "8 bits",
    "4,096 tokens",
    "ships",
    "stays with the build",
    "past.*.key",
    "0.031 to 0.035",
)


def test_an_npu_s_report_has_every_part_on_both_pages() -> None:
    report = samples.npu_report()
    page = Reader(report_html(samples.fleet(report)))
    markdown = Reader(
        MarkdownIt("commonmark", {"html": True}).enable("table").render(report_markdown(samples.fleet(report)))
    )
    assert page.open == []
    for text in (page.text, markdown.text):
        for words in NPU_WORDS:
            assert words in text.replace("\u00a0", " "), words


def test_an_npu_s_report_says_at_the_top_that_latency_is_unverified() -> None:
    report = samples.npu_report()
    markdown, page = report_markdown(samples.fleet(report)), report_html(samples.fleet(report))
    assert markdown.index("Latency is unverified") < markdown.index(report.checkpoint.name)
    own = page[page.index('<div class="header">') :]
    assert own.index("Latency is unverified") < own.index(report.checkpoint.name)


def test_kinds_stand_in_sections_of_their_own() -> None:
    lines = report_markdown(samples.fleet(samples.npu_report())).splitlines()
    for title, kind in (("Drift on the surrogate", "surrogate"), ("Drift on the emulator", "emulated")):
        assert lines[lines.index(f"## {title}") + 2] == f"Evidence: **{kind}**"
    assert "## Drift" in report_markdown(samples.fleet()).splitlines()


def test_a_confirmed_soc_raises_no_doubt_and_a_cpu_has_no_npu() -> None:
    confirmed = report_markdown(samples.fleet(samples.npu_report(confirmed=True)))
    assert "not confirmed" not in confirmed
    assert samples.SOC_SOURCE in confirmed
    plain = report_markdown(samples.fleet())
    for title in ("On the NPU", "Agreement", "Where the drift comes from"):
        assert f"## {title}" not in plain


def test_hostile_text_about_an_npu_is_never_markup() -> None:
    page = Reader(report_html(hostile(samples.npu_report())))
    assert page.open == []
    assert set(page.tags) == set(Reader(report_html(samples.fleet(samples.npu_report()))).tags)


def test_a_budget_on_two_kinds_has_two_bars() -> None:
    text = report_html(samples.fleet(samples.npu_report()))
    assert "71.1 % ✓ pass, surrogate" in text
    assert "76.7 % ? unverified, emulated" in text


ABSENT: dict[str, tuple[AnyEvidence, ...]] = {
    "no latency": (samples.drift(), samples.tasks(), samples.probes()),
    "no tasks": (samples.drift(), samples.probes(), samples.latency()),
    "no drift": (samples.tasks(), samples.probes(), samples.latency()),
    "nothing": (),
    "empty lists": (
        samples.drift().model_copy(update={"kl_by_position": ()}),
        samples.tasks().model_copy(update={"scores": ()}),
        samples.probes().model_copy(update={"probes": ()}),
        samples.latency().model_copy(update={"rows": (), "memory": ()}),
    ),
    "one of each": (
        samples.drift().model_copy(update={"kl_by_position": samples.drift().kl_by_position[:1]}),
        samples.latency().model_copy(
            update={"rows": samples.latency().rows[:1], "memory": samples.latency().memory[:1]}
        ),
    ),
}


@pytest.mark.parametrize("name", ABSENT)
def test_a_report_with_evidence_missing_renders(name: str) -> None:
    report = samples.report(evidence=ABSENT[name])
    page = Reader(report_html(samples.fleet(report)))
    assert page.open == []
    assert "nan" not in page.text.split()
    assert "There is no latency evidence" in report_markdown(samples.fleet(report)) or report.latency is not None


def test_numbers_that_are_not_finite_render() -> None:
    nan = float("nan")
    drift = samples.drift()
    bad_bins = tuple(
        bin_.model_copy(update={"kl_nats": Estimate(mean=mean, standard_error=error)})
        for bin_, mean, error in zip(drift.kl_by_position, (0.02, nan, 0.03), (nan, nan, float("inf")), strict=False)
    )
    broken = drift.model_copy(
        update={
            "kl_by_position": bad_bins,
            "kl_nats": drift.kl_nats.model_copy(update={"mean": nan, "standard_error": nan}),
            "kl_percentiles_nats": drift.kl_percentiles_nats.model_copy(update={"p1": 0.0, "max": float("inf")}),
        }
    )
    page = Reader(
        report_html(samples.fleet(samples.report(evidence=(broken,), budgets=Budgets(kl_mean_nats_max=0.03))))
    )
    assert "Mean KL divergence came out as nan" in page.text


def test_without_the_drawing_libraries_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def hide(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "vl_convert" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", hide)
    page = Reader(report_html(samples.fleet()))
    assert "figure" not in page.tags
    assert "This page has no charts" in page.text


def test_the_files_are_written_whole(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    for _ in range(2):
        files = write_report(samples.fleet(), folder)
    names = ["llama-bench.json", "perf.yaml", "report.html", "report.json", "report.md"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert files.json.read_text(encoding="utf-8") == report_json(samples.fleet())
    assert files.markdown.read_text(encoding="utf-8") == report_markdown(samples.fleet())
    assert files.html.read_text(encoding="utf-8") == report_html(samples.fleet())
