"""The home of connections: what a connection may ask for, a hub has."""

from __future__ import annotations

from tests.worker.conftest import Run
from tests.worker.service import make_app, make_hub
from wsworker.worker.home import Home


def test_a_hub_is_a_home(run: Run) -> None:
    """Every member of Home is there in a Hub; mypy compares their types at the assignment."""

    async def main() -> None:
        home: Home = make_hub(make_app())
        members = {name for name in [*Home.__annotations__, *vars(Home)] if not name.startswith("_")}
        assert {"config", "tick", "full", "schedule"} <= members
        assert [] == sorted(name for name in members if not hasattr(home, name))

    run(main())
