"""The original MiniGPT-v2 release: read strictly, written as an ordinary checkpoint."""
