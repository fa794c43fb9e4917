"""What finery itself provides through the hooks of plugins: its commands and its executor.

Contains only names: commands are found here before plugins are loaded, since a build with nothing
to do needs none of them.
"""

COMMANDS = {
    name: f"finery.cli.commands.{name}:command"
    for name in (
        "init", "check", "plan", "rehearse", "build", "explain", "accept", "show", "runs", "diff",
        "report", "release", "export", "import", "fetch", "verify", "cache", "config", "plugins",
        "plugin", "schema", "completion",
    )
} | {"import": "finery.cli.commands.export:import_command"}  # fmt: skip
"""Name → a click command, in the order of `finery --help`."""
EXECUTORS = {"local": "finery.execute.local:LocalExecutor"}
