"""Settings from the environment: each mistake is one line that names the variable and leaks nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import settings
from app.settings import Settings, SettingsError

SECRET = "hunter2hunter2hu"


def test_nothing_set():
    assert settings.load({"HOME": "/", "PATH": "/bin"}) == Settings()
    assert settings.load({"VOLLEY_PORT": "", "VOLLEY_API_KEY": ""}) == Settings()


def test_all_set(tmp_path: Path):
    config = tmp_path / "volley.toml"
    config.touch()
    environ = {
        "VOLLEY_HOST": "0.0.0.0",
        "VOLLEY_PORT": "8080",
        "VOLLEY_DATA_DIR": str(tmp_path),
        "VOLLEY_API_KEY": SECRET,
        "VOLLEY_URL": "https://sms.example.org/v",
        "VOLLEY_DATABASE_URL": "postgresql://volley:x@db/volley",
        "VOLLEY_REDIS_URL": "rediss://:x@cache:6380/1",
        "VOLLEY_CONFIG": str(config),
        "VOLLEY_API_WORKERS": "2",
        "VOLLEY_DISPATCHER_HOST": "0.0.0.0",
        "VOLLEY_DISPATCHER_PORT": "9001",
        "VOLLEY_SANDBOX_PORT": "2776",
        "VOLLEY_DRAIN_S": "30",
        "VOLLEY_WEBHOOK_ALLOW_PRIVATE": "yes",
        "VOLLEY_LOG_LEVEL": "WARNING",
    }
    read = settings.load(environ)
    assert read == Settings(
        host="0.0.0.0",
        port=8080,
        data_dir=tmp_path,
        api_key=SECRET,
        url="https://sms.example.org/v",
        database_url="postgresql://volley:x@db/volley",
        redis_url="rediss://:x@cache:6380/1",
        config=config,
        api_workers=2,
        dispatcher_host="0.0.0.0",
        dispatcher_port=9001,
        sandbox_port=2776,
        drain_s=30,
        webhook_allow_private=True,
        log_level="warning",
    )
    assert settings.explicit(environ) == set(settings.READERS)
    assert settings.load(settings.child_environment(read, environ)).port == 8080


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("VOLLEY_PORT", "eighty", "VOLLEY_PORT: 'eighty' is not a whole number"),
        ("VOLLEY_PORT", "0", "VOLLEY_PORT: 0 is not between 1 and 65535"),
        ("VOLLEY_PORT", "65536", "VOLLEY_PORT: 65536 is not between 1 and 65535"),
        ("VOLLEY_PROT", "80", "VOLLEY_PROT: there is no such setting; did you mean VOLLEY_PORT?"),
        (
            "VOLLEY_HOST",
            "http://x",
            "VOLLEY_HOST: a host name or an address is wanted, without scheme or path",
        ),
        ("VOLLEY_DATA_DIR", "/dev/null", "VOLLEY_DATA_DIR: /dev/null is not a folder"),
        ("VOLLEY_CONFIG", "/no/such", "VOLLEY_CONFIG: there is no file /no/such"),
        ("VOLLEY_CONFIG", "/tmp", "VOLLEY_CONFIG: /tmp is not a file"),
        ("VOLLEY_API_KEY", "hunter2" * 40, "VOLLEY_API_KEY: a key has at most 256 characters"),
        ("VOLLEY_API_KEY", f"{SECRET} x", "VOLLEY_API_KEY: a key has only visible ASCII characters"),
        ("VOLLEY_API_KEY", f"{SECRET}é", "VOLLEY_API_KEY: a key has only visible ASCII characters"),
        (
            "VOLLEY_DATABASE_URL",
            f"mysql://u:{SECRET}@db/x",
            "VOLLEY_DATABASE_URL: postgresql:// or postgres:// is wanted",
        ),
        (
            "VOLLEY_DATABASE_URL",
            f"postgresql://u:{SECRET}@db",
            "VOLLEY_DATABASE_URL: the URL names no database",
        ),
        (
            "VOLLEY_DATABASE_URL",
            f"postgresql://u:{SECRET}@db:port/x",
            "VOLLEY_DATABASE_URL: not a URL; postgresql:// or postgres://host:port is wanted",
        ),
        ("VOLLEY_REDIS_URL", f"{SECRET}", "VOLLEY_REDIS_URL: redis:// or rediss:// or unix:// is wanted"),
        ("VOLLEY_REDIS_URL", "redis://", "VOLLEY_REDIS_URL: the URL names no host"),
        ("VOLLEY_URL", "localhost:8000", "VOLLEY_URL: http:// or https:// is wanted"),
        ("VOLLEY_API_WORKERS", "65", "VOLLEY_API_WORKERS: 65 is not between 1 and 64"),
        ("VOLLEY_SANDBOX_PORT", "-1", "VOLLEY_SANDBOX_PORT: -1 is not between 1 and 65535"),
        (
            "VOLLEY_LOG_LEVEL",
            "loud",
            "VOLLEY_LOG_LEVEL: 'loud' is none of debug, info, warning, error",
        ),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(name: str, value: str, line: str):
    with pytest.raises(SettingsError) as caught:
        settings.load({name: value})
    assert str(caught.value) == line
    assert "hunter2" not in str(caught.value)


def test_roles_get_no_key():
    environ = settings.child_environment(
        Settings(api_key=SECRET, port=9), {"HOME": "/x", "VOLLEY_API_KEY": SECRET}
    )
    assert SECRET not in environ.values()
    assert environ["HOME"] == "/x"
    assert environ["VOLLEY_PORT"] == "9"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (Settings(), "http://127.0.0.1:8000"),
        (Settings(host="0.0.0.0", port=81), "http://127.0.0.1:81"),
        (Settings(host="::1"), "http://[::1]:8000"),
        (Settings(url="https://x.example"), "https://x.example"),
    ],
)
def test_where_the_client_commands_find_the_api(given: Settings, url: str):
    assert given.api_url == url
