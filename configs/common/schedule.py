"""Default schedule, adapted by every recipe, and the learning rate that follows it."""

from detectron2.config import LazyCall as L

from deim.schedule import LearningRate, Schedule

schedule = L(Schedule)(
    epochs=72,
    warmup_iters=500,
    warmup="linear",
    flat_epochs=0,
    no_aug_epochs=0,
    # first epoch with Dense O2O, and first epoch after it
    dense_epochs=(0, 0),
    # first epoch after the augmentation stage STRONG, which follows Dense O2O; None: STRONG lasts until the final stage
    strong_end_epoch=None,
    lr_gamma=1.0,
    # epochs at which the learning rate is divided by 10; an alternative to flat_epochs and lr_gamma
    drop_epochs=(),
    final_from_best=False,
    final_restarts=True,
    final_ema_decay=None,
    eval_epochs=1,
    checkpoint_epochs=4,
)

lr_multiplier = L(LearningRate)(schedule="${schedule}", max_iter="${train.max_iter}")
