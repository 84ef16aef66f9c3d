"""Training settings: detrex's keys and additional ones."""

train = dict(
    output_dir="./output",
    # path of a checkpoint, or a name such as "coco" for the published weights of the recipe
    init_checkpoint="",
    # Batch size and number of training images that the learning rates, EMA decay and warm-ups are tuned for; these are
    # scaled to the actual values.
    reference_batch_size=None,
    reference_dataset_size=None,
    # keys with learning rates, EMA decay or warm-ups that are not scaled; with --data, the keys set on the command line
    unscaled_keys=[],
    # modules (such as backbone or encoder) whose weights and normalization statistics are not trained
    freeze=[],
    # name of the recipe, stored in checkpoints; set from the config file
    recipe="",
    # The schedule of common/schedule.py in iterations on COCO's images, for trainers that count iterations; see
    # deim.config.with_iterations. `deim train` derives max_iter, eval_period and checkpointer.period from the schedule
    # and the data, unless they are set to numbers.
    iterations=dict(images=118_287, max_iter=266_112, eval_period=3_696, checkpoint_period=14_784),
    max_iter="${.iterations.max_iter}",
    eval_period="${.iterations.eval_period}",
    # number of minutes since the last evaluation after which a further one takes place
    eval_minutes=None,
    # number of training images that are also evaluated, without augmentation
    eval_train_images=0,
    checkpointer=dict(period="${..iterations.checkpoint_period}", max_to_keep=3),
    # metric that selects the checkpoint stored as model_best.pth
    best_metric="bbox/AP",
    # end the run after `patience` evaluations in succession that do not improve best_metric by more than min_delta;
    # final_epochs: skip to the final epochs of the schedule first
    early_stopping=dict(enabled=False, patience=10, min_delta=0.0, final_epochs=True),
    log_period=20,
    # log a warning if the model does not start to learn
    plateau_warning=True,
    # memory format of convolutions: channels_last or contiguous
    memory_format="channels_last",
    # torch.compile of the backbone and encoder; recompiles for every image size
    compile=False,
    # replay the model up to the decoder as CUDA graphs; single GPU only
    cuda_graphs=False,
    amp=dict(enabled=False, dtype="bfloat16"),
    ddp=dict(
        broadcast_buffers=False,
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
        fp16_compression=False,
    ),
    sync_bn=True,
    # modules (such as backbone, encoder, decoder) whose activations are recomputed in the backward pass to save memory
    activation_checkpointing=[],
    # number of gradient-accumulation steps; more steps need less memory
    accumulation_steps=1,
    clip_grad=dict(enabled=True, params=dict(max_norm=0.1, norm_type=2)),
    model_ema=dict(
        enabled=True,
        decay=0.9999,
        warmup_iters=1000,
        device="${..device}",
        use_ema_weights_for_eval_only=True,
    ),
    seed=0,
    # maximum number of steps with NaN/Inf loss or gradients to skip; 0 stops at the first
    max_non_finite_steps=0,
    # write report.html at the end of training; single process only
    report=False,
    # smoke test: 20 iterations with an evaluation after 10
    fast_dev_run=dict(enabled=False),
    wandb=dict(enabled=False, params=dict(dir="./wandb_output", project="deim", name="deim")),
    # further trackers of experiments: mlflow, clearml, comet
    trackers=[],
    device="cuda",
)
