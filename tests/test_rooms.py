"""Rooms import only what lies below them: the contracts of pyproject.toml."""

from importlinter.cli import lint_imports

from tests.helpers.runs import HOME


def test_the_contracts_are_kept(monkeypatch, capsys):
    monkeypatch.chdir(HOME)
    code = lint_imports(no_cache=True)
    assert code == 0, capsys.readouterr().out
