"""What is compared: the fan-out, a loop written by hand, plain LangGraph."""
