"""The dashboard of a run, in TensorBoard: four callbacks, each of use without the others.

| callback | shows |
|---|---|
| `TrainingCurves` | loss by term and noise level, gradient norm, learning rate, curricula, speed, skipped steps |
| `SampleGrids` | samples from fixed seeds by number of evaluations, real data, inversions |
| `GameWatch` | of a method with a discriminator: its logits, the samples' diversity, and a warning of collapse |
| `RunSummary` | the configuration as text and as hyper-parameters |

Every point stands at the number of images seen, whatever the batch size, the number of optimizers or of processes.
Together they take about 1 % of the three-minute default run.
"""

from evaluation.dashboard_curves import TrainingCurves
from evaluation.dashboard_game import GameWatch
from evaluation.dashboard_grids import SampleGrids
from evaluation.dashboard_run import RunSummary

__all__ = ["GameWatch", "RunSummary", "SampleGrids", "TrainingCurves"]
