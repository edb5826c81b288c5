"""What LangChain's suites are told about chat models over `scripted` answers."""

from __future__ import annotations


class Able:
    """What `scripted` can do; see langchain-tests for what each of them turns on."""

    @property
    def has_tool_calling(self):
        return True

    @property
    def has_tool_choice(self):
        return True

    @property
    def has_structured_output(self):
        return True

    @property
    def supports_json_mode(self):
        return True

    @property
    def returns_usage_metadata(self):
        return True
