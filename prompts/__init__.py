"""Words: tasks, instruction pools and chat templates."""
