"""Expectations hold or fail by their bounds; what a run did not give fails."""

import json

import pytest

from latent_geodesics import UserError
from latent_geodesics.run.expectations import compare


@pytest.fixture
def expected(tmp_path):
    def write(content):
        file = tmp_path / "expected.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return write


@pytest.mark.parametrize(
    ("claim", "value", "held"),
    [
        ({"at_least": 0.9}, 0.9, True),
        ({"at_least": 0.9}, 0.89, False),
        ({"at_most": 2}, 2.0, True),
        ({"at_most": 2}, 2.1, False),
        ({"at_least": 1, "at_most": 2, "because": "so it is"}, 1.5, True),
        ({"at_least": 1, "at_most": 2}, 2.5, False),
        ({"at_least": -1e9}, None, False),
    ],
)
def test_bounds(expected, claim, value, held):
    (verdict,) = compare(expected({"x": claim}), {} if value is None else {"x": value})
    assert verdict.held is held
    assert ("held" in str(verdict)) is held


@pytest.mark.parametrize("content", ["no json", {"x": {}}, {"x": {"at_lest": 1}}])
def test_a_wrong_file_is_refused(expected, content):
    with pytest.raises(UserError, match=r"expected\.json"):
        compare(expected(content), {"x": 1.0})


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="do not exist"):
        compare(tmp_path / "none.json", {})
