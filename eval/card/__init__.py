"""The card: what a model can do on held-out photos and scenes, beside what it does without seeing them."""

from eval.card.items import CONTROLS, SOURCES, Group, card_groups
from eval.card.run import run_card
from eval.card.table import card_markdown

__all__ = ["CONTROLS", "SOURCES", "Group", "card_groups", "card_markdown", "run_card"]
