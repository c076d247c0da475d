"""The grids behind tables and figures, the requested experiments, their status and cost."""
