"""Records to tables, figures and the page."""
