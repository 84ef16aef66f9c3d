"""The learning rate follows the schedule, which every recipe completes."""

from detectron2.config import LazyCall as L

from deim.schedule import LearningRate, Schedule

schedule = L(Schedule)(
    epochs=72,
    warmup_iters=500,
    warmup="linear",
    flat_epochs=0,
    no_aug_epochs=0,
    lr_gamma=1.0,
    final_from_best=False,
    final_ema_decay=None,
    eval_epochs=1,
    checkpoint_epochs=4,
)

lr_multiplier = L(LearningRate)(schedule="${schedule}", max_iter="${train.max_iter}")
