r"""The initial problem, all positions at once: few calls of the score one after another, many points in each.

A window of the path, at first all of it, is collocated at `q` Radau points (`radau`). As in the boundary solver the
score is frozen at the points of an iterate, the geodesic equation is solved exactly for that score, without evaluating
it again, and the solution is the next iterate. Three things make the fixed point fast:

- the direction of the path and the curvature of the sphere are no part of it: with the score given they follow from
  sweeps of `v = v0 + int g''`, `x = x0 + int v`, which cost no evaluation;
- the score is not quite frozen: between iterates it is linear at each node, by the secants of the last iterates
  (`local_secants`), so that convergence is faster than linear;
- a window that does not settle, or is not resolved by its nodes, is narrowed; the next grows by what its predecessor
  had to spare. The path before a window is final.

Each pair has windows of its own, so its result does not depend on the batch; one call serves all pairs.

References:
    Bai and Junkins, Modified Chebyshev-Picard iteration methods for orbit propagation (2011); Shih et al., Parallel
    sampling of diffusion models (2023), arXiv 2305.16317 (the idea of a window of positions that are solved together).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.core.fields import guarded
from latent_geodesics.core.records import InitialProblem, Solution, Status
from latent_geodesics.core.solvers.initial import InitialSolver, launch, resolved_tolerance
from latent_geodesics.core.solvers.local_secants import LocalModel
from latent_geodesics.core.solvers.radau import radau_rule
from latent_geodesics.core.solvers.trajectory import Knots, Trajectory
from latent_geodesics.core.solvers.windows import Relaxed, WindowEquation, Windows

CLOSE = 0.1
SMALLEST_WINDOW = 1e-6
LEAST_NARROWING, MOST_NARROWING = 0.7, 0.25
QUICK, USUAL = 3, 6


class ParallelCollocation(InitialSolver):
    """Integrates the geodesic equation by an accelerated fixed point on windows of the path.

    Args:
        nodes: `q`, the points of a window, at least 4; an iteration costs as many evaluations, in one call.
        tolerance: the error of one window, in its points and velocities, as a share of the length of the path; in
            float32 it should not be below 1e-6.
        max_evaluations: score evaluations that a pair may cost.
        memory: how many earlier iterates the model of the score is made of; 0 keeps it frozen.
        patience: iterations after which a window that has not settled is halved.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        *,
        nodes: int = 16,
        tolerance: float = 1e-5,
        max_evaluations: int = 4000,
        memory: int = 5,
        patience: int = 12,
    ) -> None:
        if nodes < 4:
            raise ValueError(f"nodes must be at least 4; received {nodes}.")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1; received {tolerance}.")
        if max_evaluations < 1:
            raise ValueError(f"max_evaluations must be at least 1; received {max_evaluations}.")
        if memory < 0:
            raise ValueError(f"memory must not be negative; received {memory}.")
        if patience < 2:
            raise ValueError(f"patience must be at least 2; received {patience}.")
        self.nodes, self.tolerance, self.max_evaluations = nodes, tolerance, max_evaluations
        self.memory, self.patience = memory, patience

    def solve(self, problem: InitialProblem) -> Solution:
        """Integrate all pairs together; see `InitialSolver.solve`."""
        run = _Integration(self, problem)
        while run.open:
            run.iterate()
        return run.solution()


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """What becomes of each window after an iteration; the others go on.

    Attributes:
        taken: it is solved, its nodes are passed.
        coarse: its nodes do not resolve the path; it is narrowed and keeps its iterate.
        lost: it does not settle, or the score is not finite there; it is halved and begins anew.
        room: the factor on its width at which its nodes would just resolve the path.
    """

    taken: Bool[Tensor, " a"]
    coarse: Bool[Tensor, " a"]
    lost: Bool[Tensor, " a"]
    room: Float[Tensor, " a"]


class _Integration:
    """The integration of all pairs."""

    _windows: Windows
    _equation: WindowEquation
    _tolerance: Float[Tensor, " p"] | None = None

    def __init__(self, solver: ParallelCollocation, problem: InitialProblem) -> None:
        self._solver, self._problem, self._rule = solver, problem, radau_rule(solver.nodes)
        self._all_field = guarded(problem.field)
        velocity, moves = launch(problem)
        self._trajectory = Trajectory(problem, moves)
        pairs = self._trajectory.open_pairs()
        self._go_on(Windows.whole(pairs, problem.x0[pairs], velocity[pairs], nodes=solver.nodes, memory=solver.memory))
        self._windows = self._equation.shortest(self._windows)

    @property
    def open(self) -> bool:
        """Whether any pair is still on its way."""
        return bool(len(self._windows.pairs))

    def solution(self) -> Solution:
        """The paths as far as they got."""
        return self._trajectory.solution()

    def iterate(self) -> None:
        """One call of the score at all nodes of all windows, and what follows from it."""
        spent = self._trajectory.evaluations[self._windows.pairs] + self._solver.nodes
        self._end(spent > self._solver.max_evaluations, Status.STOPPED_SHORT)
        if not self.open:
            return
        windows = self._windows
        score = self._field.score(windows.points, self._equation.positions(windows).to(windows.points))
        self._trajectory.call(windows.pairs, self._solver.nodes)
        if self._tolerance is None:
            self._tolerance = self._resolved(windows, score)
        self._trajectory.step(windows.pairs)
        finite = torch.isfinite(score).flatten(1).all(1)
        windows = replace(windows, iterations=windows.iterations + 1)
        points, scores = windows.remember(score.nan_to_num(0.0, 0.0, 0.0))
        model = LocalModel.through(points, scores)
        relaxed = self._relax(windows, model)
        if not bool(relaxed.settled.all()):
            model = model.frozen(~relaxed.settled)
            relaxed = self._relax(windows, model)
        residual = windows.distance(relaxed.points, relaxed.velocities)
        verdict = self._judge(windows, relaxed, residual, finite)
        windows = replace(
            windows,
            residual=residual,
            past_points=points[1:].movedim(0, 1),
            past_scores=scores[1:].movedim(0, 1),
        ).changed(finite & relaxed.settled, points=relaxed.points, velocities=relaxed.velocities)
        self._pass(windows, verdict.taken, relaxed, model(relaxed.points))
        self._windows = self._narrowed(self._advanced(windows, verdict, model), verdict)
        stuck = (verdict.lost | verdict.coarse) & (self._windows.width < SMALLEST_WINDOW)
        self._end(stuck & finite, Status.STEP_TOO_SMALL, also=stuck & ~finite, instead=Status.NON_FINITE_SCORE)

    def _relax(self, windows: Windows, model: LocalModel) -> Relaxed:
        return self._equation.relax(windows, model, self._solver.tolerance / 100)

    def _resolved(self, windows: Windows, score: Float[Tensor, "a q d"]) -> Float[Tensor, " p"]:
        """The tolerance in force for each pair of the problem."""
        positions = self._equation.positions(windows).to(windows.points)
        resolution = self._field.resolution(windows.points, positions)
        found = resolved_tolerance(
            self._problem, self._solver.tolerance, size=windows.size, score=score, resolution=resolution
        )
        self._trajectory.resolve(windows.pairs, found, resolution)
        every = torch.full_like(self._trajectory.evaluations, self._solver.tolerance, dtype=found.dtype)
        every[windows.pairs] = found
        return every

    def _judge(
        self, windows: Windows, relaxed: Relaxed, residual: Float[Tensor, " a"], finite: Bool[Tensor, " a"]
    ) -> _Verdict:
        """What becomes of each window."""
        rules, tolerance = self._solver, self._tolerance_of(windows)
        # Convergence is faster than linear: what is left is below the last move times the last ratio of moves.
        ratio = torch.where(windows.iterations == 1, 1.0, (residual / windows.residual).clamp(max=1.0))
        unresolved = self._equation.unresolved(windows, relaxed.acceleration)
        usable = finite & relaxed.settled
        resolved = unresolved <= tolerance
        taken = usable & resolved & (residual * ratio <= tolerance)
        coarse = usable & ~resolved & (residual < CLOSE)
        growing = (windows.iterations > QUICK) & (residual > windows.residual)
        lost = ~taken & ~coarse & (~usable | growing | (windows.iterations >= rules.patience))
        room = (tolerance / 2 / unresolved.clamp(min=1e-300)) ** (1 / rules.nodes)
        return _Verdict(taken=taken, coarse=coarse, lost=lost, room=room)

    def _tolerance_of(self, windows: Windows) -> Float[Tensor, " a"]:
        assert self._tolerance is not None
        return self._tolerance[windows.pairs]

    def _narrowed(self, windows: Windows, verdict: _Verdict) -> Windows:
        """With the windows that will not be solved as they are made narrower."""
        share = verdict.room.clamp(MOST_NARROWING, LEAST_NARROWING)
        share = torch.where(verdict.lost, 0.5, torch.where(verdict.coarse, share, 1.0))
        changed = verdict.lost | verdict.coarse
        narrow = self._equation.resampled(windows, share)
        restarted = self._equation.shortest(narrow)
        windows = windows.changed(
            changed,
            width=narrow.width,
            points=narrow.points,
            velocities=narrow.velocities,
            residual=torch.full_like(windows.residual, torch.inf),
            iterations=torch.zeros_like(windows.iterations),
        )
        return windows.changed(verdict.lost, points=restarted.points, velocities=restarted.velocities)

    def _advanced(self, windows: Windows, verdict: _Verdict, model: LocalModel) -> Windows:
        """With the windows that are solved moved on behind their ends."""
        if not bool(verdict.taken.any()):
            return windows
        scores = model(windows.points)
        slope = (self._rule.end_slope.to(scores) @ scores) / windows.width.to(scores)[:, None]
        end = self._end_of(windows)
        spare = torch.where(windows.iterations <= QUICK, 3.0, torch.where(windows.iterations <= USUAL, 1.5, 0.7))
        wanted = windows.width * torch.minimum(verdict.room, spare).clamp(0.5, 3.0)
        # The rest of the way in windows of equal width.
        width = (1 - end) / ((1 - end) / wanted).ceil().clamp(min=1)
        windows = windows.changed(
            verdict.taken,
            start=end,
            width=width,
            x0=windows.points[:, -1],
            v0=windows.velocities[:, -1],
            level=self._equation.levels(windows, windows.velocities, scores)[:, -1],
            residual=torch.full_like(width, torch.inf),
            iterations=torch.zeros_like(windows.iterations),
        )
        guess = self._equation.shortest(windows)
        windows = windows.changed(verdict.taken, points=guess.points, velocities=guess.velocities)
        # A better guess: the path that follows if the score goes on changing as it did.
        expected = scores[:, -1:] + self._equation.ahead(windows) * slope[:, None]
        relaxed = self._relax(windows, LocalModel.through(windows.points[None], expected[None]))
        known = verdict.taken & relaxed.settled
        return windows.changed(known, points=relaxed.points, velocities=relaxed.velocities)

    def _pass(
        self,
        windows: Windows,
        taken: Bool[Tensor, " a"],
        relaxed: Relaxed,
        scores: Float[Tensor, "a q d"],
    ) -> None:
        """Pass the nodes of the windows that are solved; in the first window of a path its start too."""
        rows = taken.nonzero().flatten()
        first = (taken & (windows.start == 0)).nonzero().flatten()
        u = self._equation.positions(windows)
        u[:, -1] = self._end_of(windows)
        at_start = self._rule.start.to(scores)
        begin = Knots(
            u=torch.zeros_like(u[first, :1]),
            x=windows.x0[first, None],
            v=windows.v0[first, None],
            acceleration=(at_start @ relaxed.acceleration[first])[:, None],
            score=(at_start @ scores[first])[:, None],
        )
        nodes = Knots(
            u=u[rows],
            x=relaxed.points[rows],
            v=relaxed.velocities[rows],
            acceleration=relaxed.acceleration[rows],
            score=scores[rows],
        )
        self._trajectory.pass_knots(windows.pairs[first], begin)
        self._trajectory.pass_knots(windows.pairs[rows], nodes)

    def _end_of(self, windows: Windows) -> Float[Tensor, " a"]:
        end = windows.start + windows.width
        return torch.where(1 - end < SMALLEST_WINDOW, 1.0, end)

    def _end(
        self,
        ended: Bool[Tensor, " a"],
        status: Status,
        *,
        also: Bool[Tensor, " a"] | None = None,
        instead: Status = Status.INTEGRATED,
    ) -> None:
        """End some pairs with a status, those of another mask with another, and those that have arrived."""
        windows = self._windows
        arrived = windows.start == 1
        also = torch.zeros_like(ended) if also is None else also
        going = (~(ended | also | arrived)).nonzero().flatten()
        if len(going) == len(windows.pairs):
            return
        for rows, how in ((ended, status), (also, instead), (arrived, Status.INTEGRATED)):
            self._trajectory.close(windows.pairs[rows], how)
        self._go_on(windows.restrict(going))

    def _go_on(self, windows: Windows) -> None:
        """Work on the given windows from here on."""
        self._windows = windows
        self._field = self._all_field.restrict(windows.pairs)
        self._equation = WindowEquation(
            manifold=self._problem.manifold.restrict(windows.pairs), geometry=self._problem.geometry, rule=self._rule
        )
