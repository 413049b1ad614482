"""What corrections are worth: a simulated user corrects the model, it learns, and is asked again."""
