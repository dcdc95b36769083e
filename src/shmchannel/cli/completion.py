"""Completion scripts for bash, zsh and fish, generated from the parser, so they always match it.

argparse has no public list of commands and arguments: ``commands_of`` reads private attributes of the parser.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

_HANDLES = "ls /dev/shm 2>/dev/null | grep -Ex 'shmch-[A-Za-z0-9_-]{16}'"


class Option(NamedTuple):
    """An option, with all that a shell has to know."""

    flags: Sequence[str]
    help: str
    takes_value: bool
    choices: list[str]


class Command(NamedTuple):
    """A command. Its arguments are choices, or a handle."""

    name: str
    help: str
    options: list[Option]
    arguments: list[str]
    takes_handle: bool


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for that shell: bash, zsh or fish."""
    return SHELLS[shell](parser.prog, commands_of(parser))


def commands_of(parser: argparse.ArgumentParser) -> list[Command]:
    """The commands of the parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return [_command(name, helps[name], command) for name, command in action.choices.items()]
    raise ValueError("the parser has no commands")


def _command(name: str, text: str, parser: argparse.ArgumentParser) -> Command:
    options, arguments, takes_handle = [], [], False
    for action in parser._actions:
        choices = [str(choice) for choice in action.choices or ()]
        if action.option_strings:
            takes_value = action.nargs != 0
            options.append(Option(action.option_strings, action.help or "", takes_value, choices))
        else:
            arguments += choices
            takes_handle |= action.dest == "handle"
    return Command(name, text, options, arguments, takes_handle)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _bash(prog: str, commands: list[Command]) -> str:
    words = " ".join([command.name for command in commands] + ["--help", "--version"])
    lines = [
        f'# bash completion for {prog}: eval "$({prog} completion bash)"',
        f"_{prog}() {{",
        '    local current="${COMP_WORDS[COMP_CWORD]}" words=""',
        '    if [ "$COMP_CWORD" -eq 1 ]; then',
        f"        words={_quoted(words)}",
        "    else",
        '        case "${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD-1]}" in',
    ]
    for command in commands:
        for option in command.options:
            if option.takes_value:
                patterns = "|".join(_quoted(f"{command.name} {flag}") for flag in option.flags)
                lines.append(f"        {patterns}) words={_quoted(' '.join(option.choices))} ;;")
    for command in commands:
        flags = [flag for option in command.options for flag in option.flags if flag.startswith("--")]
        words = _quoted(" ".join(command.arguments + flags))
        more = f'" $({_HANDLES})"' if command.takes_handle else ""
        lines.append(f"        {_quoted(command.name + ' ')}*) words={words}{more} ;;")
    lines += [
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        f"complete -F _{prog} {prog}",
    ]
    return "\n".join(lines) + "\n"


def _zsh(prog: str, commands: list[Command]) -> str:
    lines = [
        f"#compdef {prog}",
        f"# zsh completion for {prog}: put it into a file _{prog} in $fpath, or",
        f"# source <({prog} completion zsh) after compinit",
        f"_{prog}() {{",
        "    local -a commands handles",
        "    commands=(",
        *(f"        {_quoted(command.name + ':' + command.help)}" for command in commands),
        "    )",
        "    if (( CURRENT == 2 )); then",
        "        _describe command commands",
        "        return",
        "    fi",
        f'    handles=(${{(f)"$({_HANDLES})"}})',
        "    local name=$words[2]",
        "    shift words; (( CURRENT-- ))",
        "    case $name in",
    ]
    for command in commands:
        lines.append(f"    {command.name})")
        specifications = [_zsh_option(option, flag) for option in command.options for flag in option.flags]
        if command.takes_handle:
            specifications.append('"*:handle:($handles)"')
        elif command.arguments:
            specifications.append(_quoted(f"1:argument:({' '.join(command.arguments)})"))
        lines += [f"        _arguments {' '.join(specifications)}", "        ;;"]
    lines += ["    esac", "}", f"compdef _{prog} {prog}"]
    return "\n".join(lines) + "\n"


def _zsh_option(option: Option, flag: str) -> str:
    text = option.help.replace("[", "(").replace("]", ")").replace(":", ";")
    value = f":value:({' '.join(option.choices)})" if option.takes_value else ""
    return _quoted(f"{flag}[{text}]{value}")


def _fish(prog: str, commands: list[Command]) -> str:
    lines = [
        f"# fish completion for {prog}: {prog} completion fish > ~/.config/fish/completions/{prog}.fish",
        f"complete -c {prog} -f",
    ]
    for command in commands:
        lines.append(
            f"complete -c {prog} -n __fish_use_subcommand -a {command.name} -d {_quoted(command.help)}"
        )
    for command in commands:
        begin = f"complete -c {prog} -n '__fish_seen_subcommand_from {command.name}'"
        if command.takes_handle:
            lines.append(f'{begin} -a "({_HANDLES})"')
        if command.arguments:
            lines.append(f"{begin} -a {_quoted(' '.join(command.arguments))}")
        for option in command.options:
            flags = " ".join(
                f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags
            )
            value = f" -x -a {_quoted(' '.join(option.choices))}" if option.takes_value else ""
            lines.append(f"{begin} {flags}{value} -d {_quoted(option.help)}")
    return "\n".join(lines) + "\n"


SHELLS: dict[str, Callable[[str, list[Command]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
