"""The model, its weights, the conversation, and learning from corrections."""
