"""Where a program finds its servers: flags first, the environment behind them, never both at once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from credits_fast import ConfigurationError
from credits_fast.settings import Settings

URLS = Settings(redis_url="redis://flag", database_url="sqlite:///flag.db")
FOLDER = Settings(embedded=Path("flag"))
ENVIRONMENT_URLS = {
    "CREDITS_REDIS_URL": "redis://environment",
    "CREDITS_DATABASE_URL": "sqlite:///environment.db",
    "CREDITS_CONFIG": "environment.toml",
}
ENVIRONMENT_FOLDER = {"CREDITS_EMBEDDED": "environment"}


def test_the_environment_is_read_by_its_names() -> None:
    expected = Settings(
        redis_url="redis://environment",
        database_url="sqlite:///environment.db",
        config=Path("environment.toml"),
    )

    assert expected == Settings.of(ENVIRONMENT_URLS)


def test_an_empty_variable_says_nothing() -> None:
    assert Settings() == Settings.of(dict.fromkeys([*ENVIRONMENT_URLS, *ENVIRONMENT_FOLDER], ""))


def test_a_flag_wins_over_its_variable_and_leaves_the_others() -> None:
    settings = Settings(redis_url="redis://flag").over(Settings.of(ENVIRONMENT_URLS))

    assert "redis://flag" == settings.redis_url
    assert "sqlite:///environment.db" == settings.database_url


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        (URLS, ENVIRONMENT_FOLDER, URLS),
        (
            FOLDER,
            ENVIRONMENT_URLS,
            Settings(embedded=Path("flag"), config=Path("environment.toml")),
        ),
    ],
)
def test_naming_one_kind_of_place_passes_over_the_other_in_the_environment(
    flags: Settings, environment: dict[str, str], expected: Settings
) -> None:
    assert expected == flags.over(Settings.of(environment))


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        (Settings(), {**ENVIRONMENT_URLS, **ENVIRONMENT_FOLDER}),
        (Settings(embedded=Path("flag"), redis_url="redis://flag"), {}),
    ],
)
def test_a_folder_and_a_server_in_one_place_are_a_mistake(
    flags: Settings, environment: dict[str, str]
) -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        flags.over(Settings.of(environment))


@pytest.mark.parametrize(
    ("need", "flag", "variable"),
    [
        (Settings.need_redis_url, "--redis-url", "CREDITS_REDIS_URL"),
        (Settings.need_database_url, "--database-url", "CREDITS_DATABASE_URL"),
        (Settings.need_config, "--config", "CREDITS_CONFIG"),
    ],
)
def test_what_is_missing_is_named_by_flag_and_variable(
    need: Callable[[Settings], object], flag: str, variable: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"give {flag} or {variable}"):
        need(Settings())


def test_an_embedded_folder_has_its_own_ledger_and_configuration(tmp_path: Path) -> None:
    own = tmp_path / "credits.toml"
    own.write_text("")
    settings = Settings(embedded=tmp_path)

    assert own == settings.need_config()
    assert f"sqlite:///{tmp_path}/credits.db" == settings.need_database_url()
