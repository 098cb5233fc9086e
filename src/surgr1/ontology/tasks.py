"""The paper's 13 tasks and their reasoning levels (Methods, "Hierarchical Chain-of-Thought Design"), plus
open VQA.
"""

from enum import StrEnum


class Task(StrEnum):
    """One kind of question about one frame. Values are what `Sample.task` stores."""

    TOOL_RECOGNITION = "tool_recognition"
    TISSUE_RECOGNITION = "tissue_recognition"
    TOOL_LOCALIZATION = "tool_localization"
    TISSUE_LOCALIZATION = "tissue_localization"
    GRID_POSITION_RECOGNITION = "grid_position_recognition"
    CVS_CRITERIA_ASSESSMENT = "cvs_criteria_assessment"
    ACTION_RECOGNITION = "action_recognition"
    MOTION_RECOGNITION = "motion_recognition"
    TRIPLET_EXTRACTION = "triplet_extraction"
    TOOL_COUNTING = "tool_counting"
    STEP_RECOGNITION = "step_recognition"
    PHASE_RECOGNITION = "phase_recognition"
    OVERALL_CVS_ASSESSMENT = "overall_cvs_assessment"
    SURGICAL_VQA = "surgical_vqa"

    @property
    def level(self) -> int:
        """Deepest reasoning level of the task: 1 perceptual grounding, 2 relational, 3 contextual."""
        return _LEVELS[self]


_LEVELS = {
    Task.TOOL_RECOGNITION: 1,
    Task.TISSUE_RECOGNITION: 1,
    Task.TOOL_LOCALIZATION: 1,
    Task.TISSUE_LOCALIZATION: 1,
    Task.GRID_POSITION_RECOGNITION: 1,
    Task.CVS_CRITERIA_ASSESSMENT: 1,
    Task.ACTION_RECOGNITION: 2,
    Task.MOTION_RECOGNITION: 2,
    Task.TRIPLET_EXTRACTION: 2,
    Task.TOOL_COUNTING: 3,
    Task.STEP_RECOGNITION: 3,
    Task.PHASE_RECOGNITION: 3,
    Task.OVERALL_CVS_ASSESSMENT: 3,
    # The paper gives open VQA no level; an open question may need any of them.
    Task.SURGICAL_VQA: 3,
}

LEVEL_NAMES = {1: "perceptual grounding", 2: "relational understanding", 3: "contextual reasoning"}
