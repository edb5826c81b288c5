"""FIRST's batch API as an endpoint: a bundle is a file with many requests, and a job.

| module | its idea |
|---|---|
| `endpoint` | the endpoint |
| `submitter` | writing a batch's file and submitting it |
| `follower` | waiting for a batch, and reading what it has brought |
| `finder` | batches of which nobody knows whether they were submitted |
| `state` | what these know of each other |
| `file`, `results` | what a batch reads, and what it writes |
| `routes` | the gateway's routes for batches |
| `storage` | where the files are |
| `turns` | one batch at a time |
"""
