"""Saving and restoring a run; the only file that imports orbax.

A checkpoint holds the train state and the position of the data iterator, so that a resumed run
sees exactly the images that the uninterrupted one would have seen.
"""

from pathlib import Path

import grain
import jax
import orbax.checkpoint as ocp

from vtadl_jax.errors import UserError

_STATE, _DATA = "state", "data"


class Checkpoints:
    """The checkpoints of a workdir, the newest `keep` of them."""

    def __init__(self, workdir: Path, keep: int = 2):
        self.directory = (workdir / "checkpoints").absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=(_STATE, _DATA)
        )

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state, data_iterator) -> None:
        """Write in the background; a checkpoint appears whole or not at all."""
        if step == self.latest_step:
            return
        args = ocp.args.Composite(
            **{
                _STATE: ocp.args.StandardSave(state),
                _DATA: grain.checkpoint.CheckpointSave(data_iterator),
            }
        )
        self._manager.save(step, args=args)

    def restore(self, state_like, data_iterator=None):
        """The newest state, shaped and sharded as `state_like`; sets the iterator too."""
        args = {
            _STATE: ocp.args.StandardRestore(
                jax.tree.map(ocp.utils.to_shape_dtype_struct, state_like)
            )
        }
        if data_iterator is not None:
            args[_DATA] = grain.checkpoint.CheckpointRestore(data_iterator)
        step = self.latest_step
        if step is None:
            raise UserError(f"{self.directory} holds no checkpoint: train first")
        return self._manager.restore(step, args=ocp.args.Composite(**args))[_STATE]

    def wait(self) -> None:
        """Until what was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()
