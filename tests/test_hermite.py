"""The path that integrators leave behind, at knots of each pair's own."""

import pytest
import torch

import latent_geodesics as lg

U = torch.tensor([0.0, 0.13, 0.4, 0.77, 1.0], dtype=torch.float64)
NODES = torch.tensor([[0.0, 0.1, 0.4, 1.0, 1.0], [0.0, 0.3, 0.5, 0.6, 1.0]], dtype=torch.float64)


def curve(u):
    """A quintic in three dimensions, which the path must reproduce, and its first two derivatives."""
    powers = torch.stack([u**k for k in range(6)], -1)
    slopes = torch.stack([k * u ** max(k - 1, 0) for k in range(6)], -1)
    bends = torch.stack([k * (k - 1) * u ** max(k - 2, 0) for k in range(6)], -1)
    coefficients = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return tuple(part @ coefficients for part in (powers, slopes, bends))


def path(nodes=NODES):
    x, v, a = curve(nodes)
    return lg.HermitePath(knots=x, velocities=v, accelerations=a, manifold=lg.Euclidean(), nodes=nodes)


def test_a_quintic_is_reproduced_at_any_nodes():
    x, v, a = curve(U)
    found = path()
    for part, wanted in ((found.point(U), x), (found.velocity(U), v), (found.acceleration(U), a)):
        torch.testing.assert_close(part, wanted.expand(2, -1, -1), atol=1e-12, rtol=1e-12)
    assert found.breaks.tolist() == [0.0, 0.1, 0.3, 0.4, 0.5, 0.6, 1.0]


def test_pairs_keep_their_nodes():
    second = path().restrict(torch.tensor([1]))
    assert torch.equal(second.point(U), path().point(U)[1:])
    assert second.breaks.tolist() == [0.0, 0.3, 0.5, 0.6, 1.0]
    back = path().reversed()
    torch.testing.assert_close(back.point(1 - U), path().point(U), atol=1e-12, rtol=0)
    torch.testing.assert_close(back.velocity(1 - U), -path().velocity(U), atol=1e-11, rtol=0)


def test_one_row_of_nodes_serves_all_pairs():
    nodes = NODES[1:]
    x, v, a = curve(nodes.expand(2, -1))
    shared = lg.HermitePath(knots=x, velocities=v, accelerations=a, manifold=lg.Euclidean(), nodes=nodes)
    assert torch.equal(shared.point(U), path(nodes.repeat(2, 1)).point(U))


def test_a_path_may_stop_at_a_knot():
    nodes = torch.tensor([[0.0, 0.5, 0.5, 1.0]], dtype=torch.float64)
    x = torch.tensor([[[0.0], [1.0], [1.0], [1.0]]], dtype=torch.float64)
    v = torch.tensor([[[2.0], [2.0], [0.0], [0.0]]], dtype=torch.float64)
    stopped = lg.HermitePath(
        knots=x, velocities=v, accelerations=torch.zeros_like(x), manifold=lg.Euclidean(), nodes=nodes
    )
    at = torch.tensor([0.25, 0.49, 0.5, 0.75, 1.0], dtype=torch.float64)
    torch.testing.assert_close(stopped.point(at)[0, :, 0], (2 * at).clamp(max=1))
    assert stopped.velocity(at)[0, :, 0].tolist() == pytest.approx([2, 2, 0, 0, 0], abs=1e-9)


@pytest.mark.parametrize("nodes", [NODES[:, :4], NODES.flip(1), NODES * 0.9, NODES[0], NODES.repeat(2, 1)])
def test_nodes_are_validated(nodes):
    x, v, a = curve(NODES)
    with pytest.raises(ValueError, match="nodes must"):
        lg.HermitePath(knots=x, velocities=v, accelerations=a, manifold=lg.Euclidean(), nodes=nodes)
