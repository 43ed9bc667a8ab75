"""The folder of the sockets: by default one that outlives a logout."""

import pwd

import pytest

from orchestrator import run_folder

UID = 1000


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host on which user 1000, `ada`, has logged in."""
    monkeypatch.setattr(run_folder, "SESSIONS", tmp_path / "run-user")
    monkeypatch.setattr(run_folder, "LINGERING", tmp_path / "linger")
    monkeypatch.setattr("os.getuid", lambda: UID)
    monkeypatch.setattr(
        pwd, "getpwuid", lambda _: pwd.struct_passwd(("ada", "x", UID, UID, "", "/home/ada", "/bin/sh"))
    )
    session = tmp_path / "run-user" / str(UID)
    session.mkdir(parents=True)
    monkeypatch.setattr(run_folder, "_runtime_path", lambda: session / "plugin-orchestrator")
    (tmp_path / "linger").mkdir()
    return tmp_path


@pytest.fixture
def of_session(host):
    return host / "run-user" / str(UID) / "plugin-orchestrator"


def test_without_lingering_it_is_in_the_state_folder(host, of_session):
    """logind would remove the other one, with the sockets of all running plugins, at a logout."""
    assert run_folder.default_run_dir(host / "s") == host / "s" / "run"
    assert "loginctl enable-linger" in (run_folder.logout_warning(of_session) or "")
    assert run_folder.logout_warning(host / "s" / "run") is None


def test_with_lingering_it_is_where_sessions_have_theirs(host, of_session):
    (host / "linger" / "ada").touch()
    assert run_folder.default_run_dir(host / "s") == of_session
    assert run_folder.logout_warning(of_session) is None


def test_one_in_use_stays_in_use(host, of_session):
    """Whatever changes: running plugins have their sockets there."""
    (of_session / "01234567").mkdir(parents=True)
    assert run_folder.default_run_dir(host / "s") == of_session
    (host / "t" / "run").mkdir(parents=True)
    (host / "linger" / "ada").touch()
    assert run_folder.default_run_dir(host / "t") == host / "t" / "run"


def test_paths_of_sockets_fit(host, of_session):
    fitting = host / ("x" * (run_folder.MAX_LENGTH - len(str(host)) - len("/") - len("/run")))
    assert len(f"{fitting}/run/01234567/01234567/control.sock") == run_folder.SOCKET_PATH_LIMIT
    assert run_folder.default_run_dir(fitting) == fitting / "run"
    assert run_folder.default_run_dir(fitting.with_name(fitting.name + "x")) == of_session


def test_a_folder_that_logind_does_not_make_stays(host, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "_runtime_path", lambda: tmp_path / "own" / "plugin-orchestrator")
    assert run_folder.default_run_dir(host / "s") == tmp_path / "own" / "plugin-orchestrator"
    assert not run_folder.goes_with_session(tmp_path / "own" / "plugin-orchestrator")


def test_the_end_of_the_last_session_is_seen(host, of_session):
    assert not run_folder.session_ended(of_session)
    of_session.parent.rmdir()
    assert run_folder.session_ended(of_session)
    assert not run_folder.session_ended(host / "s" / "run")


def test_a_user_without_a_name_does_not_linger(host, monkeypatch):
    def unknown(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert not run_folder.lingers()
