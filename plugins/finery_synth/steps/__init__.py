"""The step types of this plugin, one module each."""
