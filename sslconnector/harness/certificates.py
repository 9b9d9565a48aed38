"""Certificates for a test: a CA that lives as long as its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

__all__ = ["Certificates", "make_certificates"]


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files."""

    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, *names: str) -> Certificates:
    """Makes a CA and a server certificate for ``names`` in ``folder``."""
    ca = trustme.CA()
    leaf = ca.issue_cert(*names)
    made = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    ca.cert_pem.write_to_path(str(made.ca))
    for blob in leaf.cert_chain_pems:
        blob.write_to_path(str(made.certificate), append=True)
    made.key.touch(mode=0o600)
    leaf.private_key_pem.write_to_path(str(made.key))
    return made
