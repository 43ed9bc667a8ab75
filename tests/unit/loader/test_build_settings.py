"""A build's access to the network and to packages: how it is handed over, and that its credentials are not shown."""

import configparser

import pytest

from orchestrator.loader.build_settings import Credentials, build_arguments, masked


def test_pip_has_its_settings_as_a_configuration_file() -> None:
    """Under the one argument of Docker's that leaves nothing in an image; several indexes, and signs that mean much."""
    arguments = build_arguments(
        {
            "HTTPS_PROXY": "http://proxy:1",
            "PIP_INDEX_URL": "https://u:p%40ss@index.example/simple",
            "PIP_EXTRA_INDEX_URL": "https://one.example\n https://two.example",
            "PIP_TRUSTED_HOST": "index.example",
        }
    )
    assert set(arguments) == {"HTTPS_PROXY", "FTP_PROXY"}
    parser = configparser.RawConfigParser()
    parser.read_string(arguments["FTP_PROXY"])
    assert dict(parser["global"]) == {
        "index-url": "https://u:p%40ss@index.example/simple",
        "extra-index-url": "https://one.example https://two.example",
        "trusted-host": "index.example",
    }


def test_without_settings_there_are_no_arguments() -> None:
    """pip has its defaults then."""
    assert build_arguments({"PIP_INDEX_URL": "", "HTTP_PROXY": ""}) == {}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://index.example/simple", "https://index.example/simple"),
        ("http://user:hunter2@proxy:1", "http://user:***@proxy:1"),
        ("user:hunter2@proxy:1", "user:***@proxy:1"),
        ("https://u:p%40ss:w@x/s https://v:hunter2@y/s", "https://u:***@x/s https://v:***@y/s"),
        ("https://u:p@ss@index/simple", "https://u:***@index/simple"),
        ("https://t0ken@index/simple", "https://***@index/simple"),
        ("https://t0ken:@index/simple", "https://***@index/simple"),
        ("https://t0ken:x-oauth-basic@index/simple", "https://***@index/simple"),
        ("https://:hunter2@index/simple", "https://:***@index/simple"),
        ("localhost,.example", "localhost,.example"),
    ],
)
def test_passwords_and_tokens_are_masked(text: str, shown: str) -> None:
    """The address and the user's name stay readable."""
    assert masked(text) == shown


@pytest.mark.parametrize(
    "line",
    [
        "Looking in indexes: https://reader:s3cret%2Fword@index.example/simple",
        "401 Error for url: https://index.example/simple?auth=s3cret/word",
        "proxy refused s3cret%2Fword",
        "cloning https://other:unknown-to-us@forge.example/x.git",
        "cloning https://unknown-to-us@forge.example/x.git",
        "the index wants t0ken-of-mine",
    ],
)
def test_credentials_are_masked_in_what_a_build_says(line: str) -> None:
    """In every form, and those of URLs in requirements.txt."""
    settings = {
        "PIP_INDEX_URL": "https://reader:s3cret%2Fword@index.example/simple",
        "HTTPS_PROXY": "t0ken-of-mine@proxy:1",
    }
    said = Credentials(settings).mask(line)
    assert "***" in said
    assert [secret for secret in ("s3cret", "t0ken", "unknown-to-us") if secret in said] == []


def test_what_is_no_credential_is_said_as_it_is() -> None:
    """A short password occurs in much else."""
    line = "Collecting name @ https://index.example/a.whl by author@example.org"
    assert Credentials({"PIP_INDEX_URL": "https://reader:a@index.example/simple"}).mask(line) == line
