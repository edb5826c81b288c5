"""The Globus Compute web service and its side of AMQP, emulated."""
