"""What of a verdict is the variant's, and not what else this machine does meanwhile."""

from __future__ import annotations

from phiforge.budget_rules import RULES
from phiforge.gate import Finding, Outcome, Verdict


def unpassed(verdict: Verdict) -> list[Finding]:
    """The findings that did not pass, without times and speeds that are known: those are of a busy machine too."""
    return [finding for finding in verdict.findings if finding.outcome is not Outcome.PASS and not _is_busy(finding)]


def _is_busy(finding: Finding) -> bool:
    return finding.value is not None and _is_time(finding) and "not known at prompts" not in finding.reason


def _is_time(finding: Finding) -> bool:
    rule = RULES.get(finding.budget)
    return rule is not None and rule.needs == "latency" and rule.unit != "bytes"
