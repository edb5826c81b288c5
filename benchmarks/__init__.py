"""What the fan-out costs, measured against a bare loop and against plain LangGraph.

    python -m benchmarks                  all in full; writes docs/benchmarks.md
    python -m benchmarks --check          all small; exits 1 when a ratio misses its bar
    python -m benchmarks overhead fleet   some of them, printed only
    python -m benchmarks --write peers    some of them; writes their sections of the page

`cases` holds one benchmark a module, `contenders` what they run, `report` what is made of it.
Every figure comes from a process of its own (`sample`), so that peak memory is its own and no
run warms or fills the caches of another. CPU time is compared, not wall time, unless width is
the claim: it hardly depends on who else uses the machine.
"""
