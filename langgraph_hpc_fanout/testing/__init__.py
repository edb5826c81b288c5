"""For users, too: fake and small real servers, virtual time, the endpoint conformance suite."""
