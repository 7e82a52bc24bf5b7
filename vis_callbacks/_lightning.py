"""Everything that depends on Lightning, private Trainer state included."""

import logging
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning import Callback as LightningCallback, LightningModule, Trainer
else:
    LightningModule = Trainer = Any
    # The two packages' callbacks are unrelated classes, and each Trainer accepts its own alone: inherit from both.
    _packages = [name for name in ("pytorch_lightning", "lightning.pytorch") if find_spec(name.split(".")[0])]
    LightningCallback = type(
        "LightningCallback",
        tuple(import_module(name).Callback for name in _packages),
        {"__module__": __name__, "__doc__": "A callback for the Trainer of every Lightning package that is installed."},
    )

__all__ = ["LightningCallback", "LightningModule", "Trainer"]


def is_fitting(trainer: Trainer) -> bool:
    """Whether the Trainer is in ``fit``, in any part of it."""
    return stage_of(trainer) == "fit"


def stage_of(trainer: Trainer) -> str:
    """Return the method that the user called: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``."""
    return str(trainer.state.fn.value) if trainer.state.fn is not None else "fit"


def metric_step(trainer: Trainer) -> int:
    """Return the x-axis value that Lightning gives to the metrics it logs now.

    It is the number of batches that stepped an optimizer, which Lightning keeps private. Without it, this is
    `Trainer.global_step`, which counts the steps of every optimizer.
    """
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    return int(getattr(loop, "_batches_that_stepped", trainer.global_step))


def has_validation(trainer: Trainer) -> bool:
    """Whether this fit runs validation epochs. Known from the start of training on."""
    # The loaders are created when validation first runs, which can be epochs later.
    unknown = trainer.val_dataloaders is None
    return bool(trainer.enable_validation) and (unknown or sum(trainer.num_val_batches) > 0)


def is_ending(trainer: Trainer) -> bool:
    """Whether, as far as is known, this fit ends with the batch or epoch that is running."""
    if trainer.should_stop and getattr(trainer.fit_loop, "_can_stop_early", True):
        return True
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    epochs = trainer.max_epochs
    return epochs is not None and 0 <= epochs <= trainer.current_epoch + 1 and bool(trainer.is_last_batch)


def validation_intervals(trainer: Trainer) -> str:
    """Return the options of a Trainer that say when validation runs, as text, where they are not the defaults."""
    options = {"check_val_every_n_epoch": 1, "val_check_interval": 1.0}
    values = {name: getattr(trainer, name) for name in options}
    return ", ".join(f"{name}={value}" for name, value in values.items() if value != options[name])


def builds_model_late(module: LightningModule) -> bool:
    """Whether a module may build its model, or parts of it, after the callbacks' `setup`."""
    return any(
        next(cls for cls in type(module).__mro__ if name in vars(cls)).__module__.split(".")[0]
        not in ("lightning", "pytorch_lightning")
        for name in ("setup", "configure_model")
    )


def sharded_strategy(trainer: Trainer) -> str | None:
    """Return the name of the Trainer's strategy if it splits the weights among the processes."""
    # By name: the classes of two packages, of which DeepSpeed's needs a third.
    names = [cls.__name__ for cls in type(trainer.strategy).__mro__]
    return next(
        (name for name in names if name in ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")), None
    )


def log_dir(trainer: Trainer) -> str:
    """Return the folder of this run, the same in every process. All processes must call this: it is broadcast."""
    return str(trainer.log_dir or trainer.default_root_dir)


def logger_of(trainer: Trainer) -> logging.Logger:
    """Return the logger of the Trainer's own package, which users have configured."""
    modules = (cls.__module__ for cls in type(trainer).__mro__)
    return logging.getLogger(next(name for name in modules if name.startswith(("lightning.", "pytorch_lightning."))))


def callbacks_of(trainer: Any) -> list[Any]:
    """Return the callbacks of a Trainer."""
    return list(trainer.callbacks)


def put_first(trainer: Any, kind: type) -> None:
    """Put the callbacks of a kind before all others, in the same order.

    Weight averaging swaps weights when an epoch of validation ends: whoever comes first sees those it was made with.
    """
    # A new list: Lightning may be going through the other one.
    trainer.callbacks = sorted(callbacks_of(trainer), key=lambda callback: not isinstance(callback, kind))


def optimized_parameters(trainer: Trainer) -> frozenset[int]:
    """Return the identities of the parameters that the Trainer's optimizers train; none outside of a fit."""
    groups = (
        [group for optimizer in trainer.optimizers for group in optimizer.param_groups] if is_fitting(trainer) else []
    )
    return frozenset(id(parameter) for group in groups for parameter in group["params"])


def training_batch_size(trainer: Trainer) -> int:
    """Return how many items a training batch has, as far as a loader says so; 0 if none does."""
    sizes = [getattr(loader, "batch_size", None) for loader in _flat(trainer.train_dataloader)]
    return min((size for size in sizes if isinstance(size, int)), default=0)


def data_holders(trainer: Trainer, module: LightningModule) -> list[Any]:
    """Return the objects that may state class names or normalization: datasets, data module and module."""
    loaders = [trainer.val_dataloaders, trainer.train_dataloader, trainer.test_dataloaders]
    datasets = [getattr(loader, "dataset", None) for loader in _flat(loaders)]
    return [holder for holder in (*datasets, getattr(trainer, "datamodule", None), module) if holder is not None]


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in _flat(part)]
    return [] if value is None else [value]
