"""Named sweeps: definitions, planner, launchers and status."""
