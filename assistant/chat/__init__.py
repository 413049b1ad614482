"""The conversation: history, answers as they stream, looking again."""
