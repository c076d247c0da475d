"""The grids behind tables and figures, what was requested, their status and cost."""
