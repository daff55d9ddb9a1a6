"""What the logger is told."""

import pytest

from latent_geodesics.tracking import WandbRun


class Listener:
    """Takes the place of a wandb run."""

    def __init__(self):
        self.rows = []

    def define_metric(self, name, step_metric=None, step_sync=None):
        """Is told of the axes first."""

    def log(self, row):
        self.rows.append(row)


@pytest.mark.parametrize(("count", "told"), [(0, 0), (1, 1), (2, 2), (100, 100), (101, 100), (491, 100)])
def test_a_long_curve_is_told_in_part_with_both_its_ends(count, told):
    listener = Listener()
    run = WandbRun(listener)
    values = [float(index) ** 2 for index in range(count)]
    run.curve("residual", values, against=range(count), axis="iteration")
    positions = [row["iteration"] for row in listener.rows]
    assert len(positions) == told == len(set(positions))
    assert positions == sorted(positions)
    assert all(row["residual"] == row["iteration"] ** 2 for row in listener.rows)
    if count:
        assert positions[0] == 0
        assert positions[-1] == count - 1
