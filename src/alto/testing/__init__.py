"""Test a pipeline without waiting.

    from alto.testing import run

    def test_my_pipeline():
        assert run(main()) == ...        # an hour of asyncio.sleep takes no time

`run` is `asyncio.run` on virtual time; a program that would hang raises `Stuck`.
"""

from .loop import Stuck, VirtualLoop, run

__all__ = ["Stuck", "VirtualLoop", "run"]
