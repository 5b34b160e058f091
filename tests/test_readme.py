"""README, sample configuration and `--help` say what the code does."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from supervisor_memwatch import cli, config, options

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command's own parser."""
    for action in cli.parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("no commands")


def test_the_options_table_is_the_codes() -> None:
    """Name, default, meaning, valid: rendered from the fields."""
    between = README.split("<!-- options -->")[1].split("<!-- /options -->")[0]
    assert between.strip() == options.table().strip()


def test_every_command_and_every_argument_is_in_the_readme() -> None:
    """And nothing else: a row for each command, with its options as the parser has them."""
    rows = dict(re.findall(r"^\| `memwatch (\w+)([^`]*)` \|", README, re.MULTILINE))
    assert rows.keys() == commands().keys()
    for name, parser in commands().items():
        flags = {flag for action in parser._actions for flag in action.option_strings}
        flags -= {"-h", "--help", "--configuration"}
        assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rows[name])) == flags, name


def test_the_block_to_paste_loads(tmp_path: Path) -> None:
    """The first ini block is a configuration without problems."""
    block = re.search(r"```ini\n(.*?)```", README, re.DOTALL)
    assert block is not None
    path = tmp_path / "supervisord.conf"
    path.write_text("[supervisord]\n[program:web]\ncommand=gunicorn\n" + block[1])
    loaded = config.load(str(path), {})
    assert loaded.warnings == () and loaded.options("web", "web").mode == "observe"
    assert loaded.unmatched([("web", "web")]) == ()


def test_options_without_effect_are_named() -> None:
    """What is read but does nothing yet is said so."""
    for name in options.NOT_YET:
        assert re.search(rf"`{name}`[^|]*have no effect in this version", README.replace("\n", " "))


def test_the_make_targets_exist() -> None:
    """Every `make TARGET` of the README is one of the Makefile's."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make (\w[\w-]*)", README, re.MULTILINE))
    assert {"demo", "test", "test-fast"} <= named <= targets
