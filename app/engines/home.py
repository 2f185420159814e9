"""Where the data of the embedded engines lives, who owns it, and who may use it now.

Guarantees: one process at a time holds a data directory (a lock of the kernel's, which a
killed process can't leave behind); secrets are files of mode 0600; when root starts Volley,
the engines run as the owner of their data, `nobody` for new data. Where that account can't
reach the data directory (below /root, say), the engines' folder is made where it can, and
`<data dir>/engines` is a symbolic link to it, so that the next start finds it.

    <data dir>/           lock, engines.json (ports, passwords), api-key, volley.toml, logs/
    <data dir>/engines/   postgres/ (the cluster), valkey/ (the append-only file),
                          programs/ (copies of the servers, only where the wheels' can't be reached)
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import pwd
import secrets
import shutil
import stat
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from app.engines import EngineError, programs
from app.engines.process import Account, answer

UNPRIVILEGED = "nobody"
ELSEWHERE = ("/var/lib", "/var/tmp", "/tmp")  # noqa: S108  state first: cleaners empty the other two
PASS_THROUGH = stat.S_IRWXU | stat.S_IXGRP | stat.S_IXOTH


class Secrets(msgspec.Struct):
    """What engines.json holds: kept from start to start, so that tools of the operator keep working."""

    postgres_password: str
    valkey_password: str
    postgres_port: int = 0
    valkey_port: int = 0


class Home:
    """A data directory that this process holds. Use as a context manager, or `close` it."""

    def __init__(self, data_dir: Path) -> None:
        """Make the directory if need be and lock it; EngineError when another process holds it."""
        self.data_dir = data_dir.absolute()
        _make(self.data_dir, "data directory (VOLLEY_DATA_DIR)")
        self._locks = [_lock(self.data_dir)]
        try:
            self.secrets = self._load_secrets()
        except BaseException:
            self.close()
            raise

    @functools.cached_property
    def account(self) -> Account | None:
        """Who the engines run as; None for ourselves. Raises EngineError."""
        return _account(self.data_dir / "engines" / "postgres")

    @functools.cached_property
    def engines(self) -> Path:
        """The folder of the engines' data, made and locked on first use. Raises EngineError."""
        folder = _engines_folder(self.data_dir, self.account)
        if folder.parent != self.data_dir:
            self._locks.append(_lock(folder))
        return folder

    @functools.cached_property
    def programs(self) -> programs.Programs:
        """The servers' programs, where the account can run them. Raises EngineError."""
        return programs.reachable(self.engines / "programs", self.account)

    @property
    def logs(self) -> Path:
        """The folder of the log files, made on first use."""
        folder = self.data_dir / "logs"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @property
    def key_file(self) -> Path:
        """Where the first API key is kept, mode 0600."""
        return self.data_dir / "api-key"

    def make_engine_folder(self, name: str) -> Path:
        """A private folder of the engines' account below `engines/`, made if it is missing."""
        folder = self.engines / name
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            self.give(folder)
        return folder

    def give(self, path: Path) -> None:
        """Make the engines' account the owner of a path that we made."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def write_private(self, path: Path, text: str, *, for_engine: bool = False) -> None:
        """Replace a file by one of mode 0600, in one step; the engines' account's if `for_engine`."""
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if for_engine:
            self.give(temporary)
        temporary.replace(path)

    def save_secrets(self) -> None:
        """Write engines.json."""
        text = msgspec.json.format(msgspec.json.encode(self.secrets)).decode()
        self.write_private(self.data_dir / "engines.json", text + "\n")

    def _load_secrets(self) -> Secrets:
        found = read_secrets(self.data_dir)
        if found is None:
            found = self.secrets = Secrets(secrets.token_urlsafe(24), secrets.token_urlsafe(24))
            self.save_secrets()
        return found

    def close(self) -> None:
        """Let go of the directory. The data stays."""
        while self._locks:
            os.close(self._locks.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_secrets(data_dir: Path) -> Secrets | None:
    """Ports and passwords of the engines of a data directory; None before its first start."""
    path = data_dir / "engines.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Secrets)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EngineError(f"{path} can't be read: {error.strerror}; start Volley as its owner") from None
    except msgspec.DecodeError as error:
        raise EngineError(f"{path} can't be read: {error}") from None


def _make(folder: Path, what: str) -> None:
    """Make a folder whose content others may pass through but not list; an existing one stays as it is."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        folder.chmod(PASS_THROUGH)
    except FileExistsError:
        if not folder.is_dir():
            raise EngineError(f"the {what} {folder} is a file") from None
    except OSError as error:
        raise EngineError(f"can't make the {what} {folder}: {error.strerror}") from None


def _lock(folder: Path) -> int:
    """An open file whose lock says that we hold the folder. The kernel drops it when we die."""
    path = folder / "lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise EngineError(f"can't open {path}: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(file, 32).decode(errors="replace").strip()
        os.close(file)
        raise EngineError(
            f"Volley already runs on {folder}" + (f" (process {holder})" if holder else "")
        ) from None
    os.truncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return file


def _account(cluster: Path) -> Account | None:
    """Who the engines run as: ourselves, or, when we are root, the owner of the data or `nobody`."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError):
        owner = cluster.stat()
        if owner.st_uid != 0:
            with contextlib.suppress(KeyError):
                return Account(pwd.getpwuid(owner.st_uid).pw_name, owner.st_uid, owner.st_gid)
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise EngineError(
            f"PostgreSQL doesn't run as root, and this system has no user {UNPRIVILEGED!r}: "
            "start Volley as an ordinary user"
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def demand_a_name() -> None:
    """EngineError when our uid has no name: initdb looks it up, and would end in the middle of a start."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise EngineError(
            f"PostgreSQL doesn't run as a user without a name: add uid {os.geteuid()} to /etc/passwd, "
            "or set VOLLEY_DATABASE_URL"
        ) from None


def _engines_folder(data_dir: Path, account: Account | None) -> Path:
    """The folder of the engines' data: below the data directory, or elsewhere behind a symbolic link."""
    folder = data_dir / "engines"
    if folder.is_symlink() and not folder.exists():
        raise EngineError(f"the engines' data is gone: {folder} points to {os.readlink(folder)}")
    if not folder.exists():
        if account is None or _can_enter(data_dir, account):
            _make(folder, "engines' folder")
        else:
            folder.symlink_to(_make_elsewhere(account))
    real = folder.resolve()
    if folder.is_symlink() and real.stat().st_uid != os.geteuid():
        raise EngineError(f"{real} belongs to another user")
    if account is not None and not _can_enter(real, account):
        raise EngineError(f"user {account.name!r}, who runs PostgreSQL, can't reach {real}")
    return real if folder.is_symlink() else folder


def _make_elsewhere(account: Account) -> Path:
    """A new folder of ours that the account can pass through."""
    for parent in ELSEWHERE:
        try:
            folder = Path(tempfile.mkdtemp(prefix="volley-", dir=parent))
        except OSError:
            continue
        folder.chmod(PASS_THROUGH)
        if _can_enter(folder, account):
            return folder
        shutil.rmtree(folder)
    raise EngineError(f"user {account.name!r}, who runs PostgreSQL, can reach none of {', '.join(ELSEWHERE)}")


def _can_enter(folder: Path, account: Account) -> bool:
    """Whether the account can pass through the folder; asked of the kernel, since modes alone don't say."""
    return answer(["/bin/sh", "-c", 'cd -- "$1"', "sh", folder], account) is not None
