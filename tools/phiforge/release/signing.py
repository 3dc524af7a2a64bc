"""The signature of a release folder, by the OpenSSF's model-signing: a Sigstore bundle over every other file.

`model_signing verify key FOLDER --signature FOLDER/signature.json --public_key PEM` checks it too. Files of git, which
model-signing passes over, are in SHA256SUMS, which is signed.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from phiforge import errors
from phiforge.hashing import hash_files
from phiforge.release.layout import SIGNATURE
from phiforge.store import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_GIT = (".git/", ".gitattributes", ".github/", ".gitignore")
# How model-signing's errors begin where the signature is right and a file is other, gone or a link.
_OTHER_FILES = ("Signature mismatch", "Cannot use ")
_INSTALL = "Install it: pip install 'phiforge[release]'."


@dataclass(frozen=True, kw_only=True)
class Signer:
    """How a release is signed: with a key file, keyless by Sigstore, or not."""

    form: Literal["key", "keyless", "none"]
    key: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Whose signature is expected: of a public key, or of an identity that a provider vouches for."""

    key: Path | None = None
    identity: str | None = None
    provider: str | None = None


State: TypeAlias = Literal["verified", "not checked", "none"]


def check_signer(signer: Signer) -> None:
    """Find out before any work whether a release can be signed.

    Raises:
        DependencyMissingError: model-signing is not installed.
        SignatureInvalidError: The key cannot be used, or nobody vouches for a keyless signature.
    """
    if signer.form == "none":
        return
    _signing_modules()
    if signer.key is not None:
        _key_signer(signer.key)
    else:
        _identity_token()


def sign(folder: Path, signer: Signer) -> None:
    """Sign all files of a release folder into signature.json; without a signer, remove what is there.

    Raises:
        SignatureInvalidError: It cannot be signed so.
        NetworkError: Sigstore cannot be reached.
    """
    (folder / SIGNATURE).unlink(missing_ok=True)
    if signer.form == "none":
        return
    hashing, _, _ = _signing_modules()
    config = _key_signer(signer.key) if signer.key is not None else _keyless_signer()
    partial = folder.parent / f".{folder.name}.{SIGNATURE}"
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE]))
    try:
        _sign(config, folder, partial)
        bundle = json.loads(partial.read_text(encoding="utf-8"))
    finally:
        partial.unlink(missing_ok=True)
    write_atomically(folder / SIGNATURE, _canonical(bundle))


def check_signature(folder: Path, trust: Trust) -> State:
    """Check the signature of a release folder, and that it is of these files.

    Without a key or an identity, what it lists is held against the files all the same; who signed is not checked.

    Returns:
        "verified", "not checked" if there is a signature and nobody's was asked for, "none" if there is none.

    Raises:
        DependencyMissingError: model-signing is needed and not installed.
        SignatureInvalidError: It is absent though somebody's was asked for, broken, or by somebody else.
        PackageTamperedError: It is of other files.
    """
    wanted = trust.key is not None or trust.identity is not None
    path = folder / SIGNATURE
    if not path.is_file():
        if wanted:
            raise _invalid(
                f"{folder.name} has no {SIGNATURE}.", "It was published unsigned, or the signature was removed."
            )
        return "none"
    bundle = _read(path)
    same = _check_signer(path, bundle, trust) if wanted else True
    _check_listed(folder, bundle)
    if not same:
        raise _invalid(f"{path.name} is of other files.", "Which they are, the names and hashes it lists do not tell.")
    return "verified" if wanted else "not checked"


def _check_listed(folder: Path, bundle: Mapping[str, Any]) -> None:
    """Hold the files that the signature lists against those that are there."""
    try:
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True))
        listed = {str(item["name"]): str(item["digest"]) for item in payload["predicate"]["resources"]}
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid(f"{SIGNATURE} of {folder.name} cannot be read.", f"It lists no files: {error!r}.") from error
    try:
        hashes = hash_files(folder)
    except OSError as error:
        raise errors.PackageTamperedError(
            f"{folder.name} cannot be held against what was signed.",
            why=f"unreadable: {error.filename} ({error.strerror})",
            fix="Make its files readable for you, or get it again from where it was published.",
        ) from error
    present = {
        name: "a link" if (folder / name).is_symlink() else digest
        for name, digest in hashes.items()
        if name != SIGNATURE and not name.startswith(_GIT)
    }
    faults = [f"added: {name}" for name in sorted(present.keys() - listed.keys())]
    faults += [f"missing: {name}" for name in sorted(listed.keys() - present.keys())]
    faults += [f"changed: {name}" for name, digest in listed.items() if present.get(name, digest) != digest]
    if faults:
        raise errors.PackageTamperedError(
            f"{len(faults)} files of {folder.name} are not those that were signed.",
            why="; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else ""),
            fix="Do not use this release; get it again from where it was published.",
        )


def _check_signer(path: Path, bundle: Mapping[str, Any], trust: Trust) -> bool:
    """Check who signed, and return whether the files are those that were signed, as far as model-signing can tell."""
    _, _, verifying = _signing_modules()
    # Imported here: all of it belongs to the extra.
    from cryptography.exceptions import InvalidSignature
    from sigstore.errors import Error as SigstoreError
    from sigstore_models.bundle.v1 import Bundle

    config = verifying.Config()
    try:
        if json.loads(Bundle.from_json(json.dumps(bundle)).to_json()) != bundle:
            raise _invalid(f"{path.name} is not as it was written.", "It holds what no Sigstore bundle holds.")
        if trust.key is not None:
            _expect_key(config, trust.key)
        else:
            config.use_sigstore_verifier(identity=trust.identity or "", oidc_issuer=trust.provider or "")
        # What it lists is held against the files by name afterwards; here only who signed is asked.
        config.set_ignore_unsigned_files(True)
        config.verify(path.parent, path)
    except (SigstoreError, InvalidSignature, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ValueError) and str(error).startswith(_OTHER_FILES):
            return False
        whose = f"the key {trust.key}" if trust.key is not None else f"{trust.identity} of {trust.provider}"
        raise _invalid(f"{path.name} is not a signature by {whose}.", _told(error)) from error
    return True


def _expect_key(config: Any, key: Path) -> None:
    try:
        config.use_elliptic_key_verifier(public_key=key)
    except (OSError, TypeError, ValueError, AttributeError) as error:
        raise errors.SignatureInvalidError(
            f"The key {key} cannot check a signature.",
            why=_told(error),
            fix="Give the public key in PEM: `openssl ec -in private.pem -pubout -out public.pem`.",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """Read the bundle, which must be byte for byte as it was written."""
    try:
        text = path.read_text(encoding="utf-8")
        bundle = json.loads(text)
        strict = isinstance(bundle, dict) and _canonical(bundle) == text and _has_no_slack(bundle)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _invalid(f"{path.name} cannot be read.", _told(error)) from error
    if not strict:
        raise _invalid(f"{path.name} is not as it was written.", "It is JSON, but not as `phiforge release` writes it.")
    return dict(bundle)


def _canonical(bundle: Mapping[str, Any]) -> str:
    return json.dumps(bundle, indent=1, sort_keys=True) + "\n"


def _has_no_slack(bundle: Mapping[str, Any]) -> bool:
    """Whether nothing in it could be other without a change of what it says: spare bits of base64, a key's nickname."""
    envelope = bundle["dsseEnvelope"]
    if any(item.get("keyid") for item in envelope["signatures"]):
        return False
    parts = [envelope["payload"], *(item["sig"] for item in envelope["signatures"])]
    try:
        return all(base64.b64encode(base64.b64decode(part, validate=True)).decode() == part for part in parts)
    except binascii.Error:
        return False


def _signing_modules() -> tuple[Any, Any, Any]:
    """model-signing's modules for hashing, signing and verifying."""
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise errors.DependencyMissingError(
            "Signatures are made and checked by model-signing, which cannot be imported.",
            why=f"{error}.",
            fix=_INSTALL,
        ) from error
    return hashing, signing, verifying


def _key_signer(key: Path) -> Any:
    _, signing, _ = _signing_modules()
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except (OSError, TypeError, ValueError, AttributeError) as error:
        # An encrypted key is a TypeError of cryptography, one that is of no curve an AttributeError.
        raise errors.SignatureInvalidError(
            f"The key {key} cannot sign.",
            why=_told(error),
            fix="Give a private key in PEM, unencrypted, on the curve P-256, P-384 or P-521: "
            "`openssl ecparam -name prime256v1 -genkey -noout -out key.pem`.",
        ) from error


def _identity_token() -> str:
    """The token by which a CI vouches for who it is. No browser is ever opened."""
    from sigstore import oidc

    try:
        token = oidc.detect_credential()
    except oidc.IdentityError as error:
        raise _nobody_vouches(_told(error)) from error
    if token is None:
        raise _nobody_vouches("No CI that Sigstore knows gave this process an OIDC token.")
    return str(token)


def _keyless_signer() -> Any:
    from sigstore.errors import Error as SigstoreError

    _, signing, _ = _signing_modules()
    token = _identity_token()
    try:
        return signing.Config().use_sigstore_signer(identity_token=token)
    except (SigstoreError, OSError) as error:
        raise _unreachable(error) from error


def _sign(config: Any, folder: Path, target: Path) -> None:
    from sigstore.errors import Error as SigstoreError
    from sigstore.oidc import IdentityError

    try:
        config.sign(folder, target)
    except IdentityError as error:
        raise _nobody_vouches(_told(error)) from error
    except SigstoreError as error:
        raise _unreachable(error) from error


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _nobody_vouches(why: str) -> errors.SignatureInvalidError:
    return errors.SignatureInvalidError(
        "The release cannot be signed keyless: nobody vouches for this process.",
        why=why,
        fix="In GitHub Actions give the job `permissions: id-token: write`; elsewhere sign with --key.",
    )


def _unreachable(error: Exception) -> errors.NetworkError:
    return errors.NetworkError(
        "The release cannot be signed keyless: Sigstore did not answer as it should.",
        why=_told(error),
        fix="Run the same command again when it can be reached, or sign with --key.",
    )


def _invalid(what: str, why: str) -> errors.SignatureInvalidError:
    return errors.SignatureInvalidError(
        what,
        why=why,
        fix="Do not use this release unless its publisher says why; get it again from where it was published.",
    )
