"""Completes commands, keys and choices in a shell.

`eval "$(robot-wm --shell-completion bash)"`, or zsh, makes a shell ask this module for the words
that may follow.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

from robot_wm.types import UserError

_BASH = """_robot_wm() {
    local IFS=$'\\n'
    COMP_WORDBREAKS=${COMP_WORDBREAKS//=/}
    COMPREPLY=($(robot-wm --complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
}
complete -o default -F _robot_wm robot-wm
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def completion_script(shell: str) -> str:
    """Returns the script that a shell evaluates to get completion.

    Args:
        shell: Name of the shell, `"bash"` or `"zsh"`.

    Returns:
        The script.

    Raises:
        UserError: the shell is another one.
    """
    if shell not in ("bash", "zsh"):
        raise UserError(f"--shell-completion: got {shell!r}, want bash or zsh")
    return (_ZSH if shell == "zsh" else "") + _BASH


def complete(words: Sequence[str], modules: Mapping[str, str]) -> list[str]:
    """Lists the words that may stand in the place of the last one.

    Args:
        words: The words after `robot-wm`, the last one as far as it is typed.
        modules: The module of each command.

    Returns:
        The words.
    """
    *before, last = words or [""]
    command = " ".join(before[: 2 if before[:1] == ["bench"] else 1])
    if command not in modules:
        names = [name for name in modules if name.startswith(" ".join([*before, last]))]
        return sorted({name.split()[len(before)] for name in names})
    from robot_wm.cli.config import choices, compose_values
    from robot_wm.cli.fields import settings_of

    settings_type = importlib.import_module(modules[command]).SETTINGS
    groups = choices(settings_type)
    key, equals, _ = last.partition("=")
    if equals:
        return [f"{key}={name}" for name in groups.get(key, []) if f"{key}={name}".startswith(last)]
    defaults = compose_values(settings_type, before)  # of the choices that are typed already
    keys = {*groups, *(setting.key for setting in settings_of(settings_type, defaults=defaults))}
    return sorted(f"{name}=" for name in keys if name.startswith(last))
