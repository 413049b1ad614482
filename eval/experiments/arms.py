"""The ways of learning that the benchmark compares."""

from dataclasses import dataclass, replace

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
    """

    name: str
    form: Form = "text"
    trained: bool = True
    remembered: bool = False

    def settings(self, refinement: Refinement) -> Refinement:
        """The refinement's settings under this arm. Every correction is learnt: others are measured with."""
        base = replace(refinement, held_out=0.0)
        match self.name:
            case "sft" | "sft, memory":
                return replace(base, contrast=False, preference=None)
            case "sft + contrast":
                return replace(base, contrast=True, preference=None)
            case "sft + dpo":
                return replace(base, contrast=True, preference=Preference(weight=0.1))
            case "no replay":
                return replace(base, share=1.0)
            case "lower quarter":
                return replace(base, lora=replace(base.lora, last=0.25))
            case "upper quarter":
                return replace(base, lora=replace(base.lora, first=0.75))
            case "projector":
                return replace(base, lora=replace(base.lora, rank=0), lora_lr=0.0, projector_lr=3e-4)
            case _:
                return base


ARMS = {
    arm.name: arm
    for arm in (
        Arm("memory", trained=False, remembered=True),
        Arm("sft"),  # the default recipe
        Arm("sft, memory", remembered=True),
        Arm("sft + contrast"),
        Arm("sft + dpo"),
        Arm("box", form="box"),
        Arm("text and box", form="text and box"),
        Arm("no replay"),
        Arm("projector"),
        Arm("lower quarter"),
        Arm("upper quarter"),
    )
}
"""By name. Arms that end in a part of the model train only that part, in as many steps as the default recipe."""

CURVE = ("memory", "sft", "sft, memory", "sft + dpo")
"""What is measured at every number of corrections; the others at one."""
