"""`farm completion`: what a shell needs to finish words after TAB."""

import click
from click.shell_completion import get_completion_class

from farm.cli import output
from farm.domain.errors import InvalidRequest

# Where each shell looks; the second line of help tells how to get it there.
SHELLS = {
    "bash": "farm completion bash > ~/.local/share/bash-completion/completions/farm",
    "zsh": "farm completion zsh > ~/.zfunc/_farm   # with fpath+=~/.zfunc before compinit",
    "fish": "farm completion fish > ~/.config/fish/completions/farm.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print the script that completes `farm` in SHELL.

    \b
    farm completion bash > ~/.local/share/bash-completion/completions/farm
    farm completion zsh > ~/.zfunc/_farm
    farm completion fish > ~/.config/fish/completions/farm.fish
    """
    from farm.cli.main import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise InvalidRequest(f"nothing completes words in {shell}", f"choose one of: {', '.join(SHELLS)}", "shell")
    output.data(kind(cli, {}, "farm", "_FARM_COMPLETE").source())
    output.note(f"keep it: {SHELLS[shell]}")
