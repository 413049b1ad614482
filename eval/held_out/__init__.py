"""The card: what a model can do on held-out photos and scenes, beside what it does without seeing them."""

from fourfold.eval.held_out.items import CONTROLS, SOURCES, Group, card_groups
from fourfold.eval.held_out.run import run_card
from fourfold.eval.held_out.table import card_markdown

__all__ = ["CONTROLS", "SOURCES", "Group", "card_groups", "card_markdown", "run_card"]
