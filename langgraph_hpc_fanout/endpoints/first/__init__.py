"""FIRST, ALCF's inference gateway: one model on one cluster as an endpoint.

| module | its idea |
|---|---|
| `catalogue` | which cluster serves a model, under which framework and id |
| `jobs` | whether a model runs, starts, waits in a queue or is not there |
| `faults` | what the gateway's answers other than 200 mean |
| `gateway` | where it is, whose token, and what it says of itself, asked once for all endpoints |
| `endpoint` | the endpoint |
| `batches/` | the endpoint for batches |
"""
