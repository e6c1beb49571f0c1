"""Schedulers of `diffusers` as solvers of our processes: the same network and law, followed with
fewer evaluations. Training knows nothing of them.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from arra.errors import InputError
from arra.heads.processes import TIMES, Diffusion, Flow, Predict, Process

Solver = Literal["own", "dpm++", "unipc"]
"""Our own steps; DPM-Solver++ (arXiv 2211.01095); UniPC (arXiv 2302.04867): both of second
order, one evaluation a step."""
_CLASSES = {"dpm++": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}


class Solved(Process):
    """A process that is trained as it is, and sampled by a scheduler of diffusers."""

    process: Diffusion | Flow

    draws = 1

    def __init__(self, process: Diffusion | Flow, solver: Solver):
        """Raises `InputError` where diffusers is missing, or the process is none that a solver
        could follow."""
        super().__init__()
        if solver not in _CLASSES:
            known = ", ".join(name for name in get_args(Solver) if name != "own")
            raise InputError(f"solver: {solver!r}, expected one of {known}")
        if find_spec("diffusers") is None:
            raise InputError(f"solver: {solver} is one of diffusers: pip install 'arra[diffusers]'")
        random = process.draws > 1
        certain = isinstance(process, Diffusion) and float(process.training_steps.signal[-1]) == 0.0
        learned = isinstance(process, Diffusion) and process.learned
        if random or certain or learned:
            why = "adds noise at every step" if random else "has a learned variance"
            why = "begins where nothing of the data is left" if certain else why
            raise InputError(f"solver: {solver} cannot follow this process, which {why}")
        self.process, self.solver, self.outputs = process, solver, process.outputs

    def times(self, count: int, random: torch.Generator | None, device: torch.device) -> Tensor:
        return self.process.times(count, random, device)

    def losses(self, predict: Predict, data: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        return self.process.losses(predict, data, time, noise)

    def sample(self, predict: Predict, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """`temperature` scales the start."""
        scheduler = self.scheduler()
        x = temperature * noise[0]
        for number, time in enumerate(scheduler.timesteps.tolist()):
            # of a flow diffusers rounds times to whole thousandths; the network is told the truth
            told = TIMES * float(scheduler.sigmas[number]) if self._flows else float(time)
            said = predict(x, torch.full((len(x),), told, device=x.device)).float()
            x = scheduler.step(said, scheduler.timesteps[number], x).prev_sample
        return x

    @property
    def _flows(self) -> bool:
        return isinstance(self.process, Flow)

    def scheduler(self) -> Any:
        """A new scheduler of this process, its times set."""
        import diffusers

        common = {"solver_order": 2, "final_sigmas_type": "zero", "num_train_timesteps": TIMES}
        kind = getattr(diffusers, _CLASSES[self.solver])
        if isinstance(self.process, Flow):
            made = kind(prediction_type="flow_prediction", use_flow_sigmas=True, **common)
        else:
            signal = self.process.training_steps.signal
            before = torch.cat((torch.ones(1, dtype=signal.dtype), signal[:-1]))
            said = {"v": "v_prediction", "epsilon": "epsilon"}[self.process.objective]
            betas = (1.0 - signal / before).numpy()
            made = kind(trained_betas=betas, prediction_type=said, **common)
        made.set_timesteps(self.process.steps)
        return made
