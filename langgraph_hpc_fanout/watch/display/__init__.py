"""How people are shown where a run stands: a bar, a view in a notebook, or lines."""
