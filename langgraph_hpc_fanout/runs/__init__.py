"""Live runs: where the router, the branches and the scheduler of a fan-out meet."""
