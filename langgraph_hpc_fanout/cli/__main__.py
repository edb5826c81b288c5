"""`python -m langgraph_hpc_fanout.cli`, where the script is not on the path."""

from langgraph_hpc_fanout.cli.app import main

if __name__ == "__main__":
    main()
