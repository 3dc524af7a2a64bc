"""Commands about what is shipped: reports, checks, releases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from phiforge.cli import render
from phiforge.cli.options import Output, Quiet, app
from phiforge.cli.progress import ProgressWatcher

if TYPE_CHECKING:
    from phiforge.release.signing import Trust

SignerIdentity = Annotated[
    Optional[str], typer.Option("--identity", help="Who signed keyless: the identity in Sigstore's certificate.")
]
SignerProvider = Annotated[
    Optional[str], typer.Option("--identity-provider", help="Who vouches for that identity, as an address.")
]


@app.command()
def report(
    packages: Annotated[list[Path], typer.Argument(metavar="PACKAGE...", help="Packages (.ortpackage folders).")],
    output: Output = Path("artifacts/report"),
    evidence: Annotated[
        Optional[list[Path]],
        typer.Option("--evidence", "-e", help="An evidence file from a device, or a single record; may be repeated."),
    ] = None,
) -> int:
    """Judge packages' evidence again and write one report over all of them.

    report.html (opens offline), report.md and report.json, and the measured rows as llama-bench.json and perf.yaml.
    What `phiforge measure` wrote on other machines is merged: it must be of one of these packages.
    """
    from phiforge.verbs.report import report as run

    return render.reports(run(packages, output=output, evidence=evidence or ()))


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A package (.ortpackage folder), or a release on disk in any form.")],
    key: Annotated[
        Optional[Path], typer.Option("--key", help="The public key (PEM) whose signature the release must have.")
    ] = None,
    identity: SignerIdentity = None,
    identity_provider: SignerProvider = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="A release that nobody signed will do; a signed one is not less checked.")
    ] = False,
) -> int:
    """Find any changed, missing or added file of a package or a release, offline; check who signed the release.

    Ends with 4 where all is as it was sealed and nobody says who made it: no key or identity was given, or nobody
    signed.
    """
    from phiforge.cli.release import verified
    from phiforge.verbs.verify import verify as run

    if unsigned and (key is not None or identity is not None):
        raise typer.BadParameter("Give whose signature is expected, or --unsigned.")
    return verified(run(path, trust=_trust(key, identity, identity_provider)), unsigned=unsigned)


@app.command()
def release(
    package: Annotated[Path, typer.Argument(help="The package to release (.ortpackage folder).")],
    to: Annotated[
        list[str],
        typer.Option(
            "--to", help="Where: DIR, hf:DIR, hf://OWNER/NAME, oci:DIR[:TAG] or foundry:DIR; may be repeated."
        ),
    ],
    against: Annotated[
        Optional[Path], typer.Option("--against", help="The previous release or package, which must not be better.")
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="There is no previous release, nor one at --to.")] = False,
    evidence: Annotated[
        Optional[list[Path]],
        typer.Option("--evidence", "-e", help="An evidence file from a device, or a single record; may be repeated."),
    ] = None,
    waive: Annotated[
        Optional[list[str]],
        typer.Option("--waive", help="PROFILE=REASON for unverified checks, PROFILE/CHECK=REASON for one by name."),
    ] = None,
    require: Annotated[
        Optional[list[str]],
        typer.Option("--require", help="A profile that must pass; by default all. Others may be unverified, not fail."),
    ] = None,
    key: Annotated[Optional[Path], typer.Option("--key", help="Sign with this private key (PEM, P-256).")] = None,
    keyless: Annotated[bool, typer.Option("--keyless", help="Sign by Sigstore with the CI's identity.")] = False,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Do not sign.")] = False,
    public_key: Annotated[
        Optional[Path], typer.Option("--public-key", help="The public key that the previous release was signed with.")
    ] = None,
    identity: SignerIdentity = None,
    identity_provider: SignerProvider = None,
    version: Annotated[
        Optional[str], typer.Option("--version", help="What it is called; by default from the package's content.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show exactly what would go; write nothing.")] = False,
    quiet: Quiet = False,
) -> int:
    """Publish a package, or refuse to with every reason.

    Refused unless every required profile passes or is waived by name with a reason, the recipe is complete, licences
    are known, and nothing got worse than allowed against the previous release.
    """
    from phiforge.cli.release import released, show_plan
    from phiforge.cli.terminal import console
    from phiforge.release.signing import Signer
    from phiforge.verbs.release import ReleaseOptions
    from phiforge.verbs.release import release as run

    if [key is not None, keyless, unsigned].count(True) != 1:
        raise typer.BadParameter("Give one of --key, --keyless and --unsigned.")
    options = ReleaseOptions(
        destinations=tuple(to),
        against=against,
        first=first,
        evidence=tuple(evidence or ()),
        waivers=tuple(waive or ()),
        require=tuple(require or ()),
        signer=Signer(form="key" if key else "keyless" if keyless else "none", key=key),
        trust=_trust(public_key, identity, identity_provider),
        version=version,
        dry_run=dry_run,
    )
    with ProgressWatcher(quiet=quiet) as watcher:
        found = run(package, options, on_plan=lambda plan: show_plan(plan, console(quiet=quiet)), watcher=watcher)
    return released(found)


def _trust(key: Path | None, identity: str | None, provider: str | None) -> Trust:
    """Whose signature is expected."""
    from phiforge.release.signing import Trust

    if (identity is None) != (provider is None) or (key is not None and identity is not None):
        raise typer.BadParameter("Give a public key, or --identity together with --identity-provider.")
    return Trust(key=key, identity=identity, provider=provider)
