"""What finery itself provides through the hooks of plugins: its commands and its executor.

Contains only names: commands are found here before plugins are loaded, since a build with nothing
to do needs none of them.
"""

COMMANDS = {
    "init": "finery.cli.commands.init:command",
    "check": "finery.cli.commands.check:command",
    "plan": "finery.cli.commands.plan:command",
    "build": "finery.cli.commands.build:command",
    "explain": "finery.cli.commands.explain:command",
    "show": "finery.cli.commands.show:command",
    "runs": "finery.cli.compare.runs:command",
    "diff": "finery.cli.compare.diff:command",
    "report": "finery.cli.compare.report:command",
    "export": "finery.cli.commands.export:command",
    "plugins": "finery.cli.commands.plugins:command",
    "plugin": "finery.cli.commands.plugin:command",
    "schema": "finery.cli.commands.schema:command",
}
"""Name → a click command, in the order of `finery --help`."""
EXECUTORS = {"local": "finery.execute.local:LocalExecutor"}
