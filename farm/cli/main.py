"""`farm`: finds the command, loads only its file, and turns every FarmError into words and an exit code."""

import importlib
import os
import sys

import click

from farm.cli.config import speak_utf8
from farm.cli.output import fault, note
from farm.domain.errors import Exit, FarmError
from farm.domain.version import VERSION

# name: (module of farm.cli, attribute, one line of help, section). Help must not load the modules.
COMMANDS: dict[str, tuple[str, str, str, str]] = {
    "submit": ("submit", "submit", "Render a prompt; prints the job's id.", "Videos"),
    "watch": ("watch", "watch", "Follow a job live until it is done.", "Videos"),
    "list": ("jobs", "list_jobs", "List jobs, newest first.", "Videos"),
    "open": ("jobs", "open_page", "Show a job, or the farm, in the browser.", "Videos"),
    "show": ("jobs", "show", "Everything about a job.", "Videos"),
    "why": ("jobs", "why", "Why a job is where it is, and what would help.", "Videos"),
    "inspect": ("inspect", "inspect", "How a video was made, and whether it is whole.", "Videos"),
    "download": ("download", "download", "Save a job's video.", "Videos"),
    "cancel": ("jobs", "cancel", "Stop jobs, or take them out of the queue.", "Videos"),
    "priority": ("jobs", "priority", "Let queued jobs go earlier or later.", "Videos"),
    "retry": ("jobs", "retry", "Run failed or cancelled jobs once more.", "Videos"),
    "rerun": ("jobs", "rerun", "Render a job's settings again as a new job.", "Videos"),
    "hold": ("jobs", "hold", "Keep queued jobs from starting.", "Videos"),
    "release": ("jobs", "release", "Let held jobs go.", "Videos"),
    "logs": ("queue", "logs", "What was logged about a job.", "Videos"),
    "prune": ("prune", "prune", "Remove old jobs and their videos, to free room.", "Videos"),
    "usage": ("queue", "usage", "GPU time by owner and project.", "Videos"),
    "config": ("profiles", "config", "Your farms, and how you sign in there.", "Videos"),
    "batch": ("batch", "batch", "Many prompts at once.", "Videos"),
    "up": ("farm", "up", "Start a farm on this machine.", "Farm"),
    "down": ("farm", "down", "Stop it.", "Farm"),
    "serve": ("nodes", "serve", "Start the server of a farm of several machines.", "Farm"),
    "worker": ("nodes", "worker", "Let this machine render for a server.", "Farm"),
    "top": ("top", "top", "Workers, running jobs and the queue, live.", "Farm"),
    "status": ("farm", "status", "Is it well, who works, how much waits.", "Farm"),
    "workers": ("workers", "workers", "Who renders; drain, restart, resume, quarantine.", "Farm"),
    "token": ("token", "token", "Who may sign in: create, list, revoke.", "Farm"),
    "models": ("models", "models", "The model library of this machine: list, pull, import, verify, plan.", "Farm"),
    "bench": ("bench", "bench", "How fast it is here: kernels, model, farm.", "Farm"),
    "doctor": ("doctor", "doctor", "What is wrong with this machine, and what to do.", "Farm"),
    "sweep": ("sweep", "sweep", "Free what nobody can see any more in the store.", "Farm"),
    "migrate": ("farm", "migrate", "Bring the database to this version's schema.", "Farm"),
    "chaos": ("chaos", "chaos", "Prove on a throw-away farm that kills lose nothing.", "Farm"),
    "completion": ("completion", "completion", "Complete words after TAB in bash, zsh or fish.", "Farm"),
    "demo": ("demo", "demo", "", ""),
}


class Farm(click.Group):
    """Loads a command when it is called, so that `farm submit` never pays for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _, _ = COMMANDS[cmd_name]
        return getattr(importlib.import_module(f"farm.cli.{module}"), attribute)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # `farm list | head`: nobody reads any more, and that is fine. Click would call it a failure.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.OK

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in ("Videos", "Farm"):
            with formatter.section(section):
                formatter.write_dl([(name, c[2]) for name, c in COMMANDS.items() if c[3] == section])


@click.group(cls=Farm, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="farm")
def cli() -> None:
    """A render farm for text-to-video.

    \b
    farm up                                        start it here
    farm submit "a red star moving up" --wait      render, and watch it happen

    FARM_URL names the farm to talk to (default http://127.0.0.1:7860), FARM_TOKEN says who you are.
    """


def main() -> None:
    speak_utf8()
    try:
        cli.main(prog_name="farm", standalone_mode=False)
    except FarmError as error:
        fault(error)
        sys.exit(error.exit)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(Exit.USAGE)
    except (click.Abort, KeyboardInterrupt):
        note("stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
