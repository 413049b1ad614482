"""The ways of learning that the benchmark compares."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fourfold.assistant.refine.training.recipe import Refinement
from fourfold.assistant.training.preference import Preference
from fourfold.eval.experiments.simulated_user import Form


@dataclass(frozen=True)
class Arm:
    """A way of learning.

    Attributes:
        name: in the table.
        form: how the user corrects.
        trained: whether an adapter is trained (tier 1).
        remembered: whether the question that was corrected is answered from memory (tier 0).
        changes, lora: settings of the refinement and of its adapter that are not the default recipe's.
    """

    name: str
    form: Form = "text"
    trained: bool = True
    remembered: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, refinement: Refinement) -> Refinement:
        """The refinement's settings under this arm. Every correction is learnt: others are measured with."""
        return replace(refinement, held_out=0.0, lora=replace(refinement.lora, **self.lora), **self.changes)


_SFT = {"contrast": False, "preference": None}
ARMS = {
    arm.name: arm
    for arm in (
        Arm("memory", trained=False, remembered=True),
        Arm("sft", changes=_SFT),  # the default recipe
        Arm("sft, memory", remembered=True, changes=_SFT),
        Arm("sft + contrast", changes={"contrast": True, "preference": None}),
        Arm("sft + dpo", changes={"contrast": True, "preference": Preference(weight=0.1)}),
        Arm("box", form="box"),
        Arm("text and box", form="text and box"),
        Arm("no replay", changes={"share": 1.0}),
        Arm("projector", changes={"lora_lr": 0.0, "projector_lr": 3e-4}, lora={"rank": 0}),
        Arm("lower quarter", lora={"last": 0.25}),
        Arm("upper quarter", lora={"first": 0.75}),
    )
}
"""By name. Arms that end in a part of the model train only that part, in as many steps as the default recipe."""

CURVE = ("memory", "sft", "sft, memory", "sft + dpo")
"""What is measured at every number of corrections; the others at one."""
