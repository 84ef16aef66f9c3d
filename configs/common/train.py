"""Settings of a run: detrex's keys, with a few more."""

train = dict(
    output_dir="./output",
    # a file, or "coco" and the like for what is published for the recipe
    init_checkpoint="",
    # batch size, and number of images, that learning rates, averages and warm-ups are for: they are scaled to those in use
    reference_batch_size=None,
    reference_images=None,
    # name of the recipe, which checkpoints keep; from the config that is run
    recipe="",
    # The schedule of common/schedule.py on COCO, for trainers that count iterations; see deim.config.with_iterations.
    # `deim train` derives all three from the schedule and the data, unless they are numbers.
    iterations=dict(max_iter=266_112, eval_period=3_696, checkpoint_period=14_784),
    max_iter="${.iterations.max_iter}",
    eval_period="${.iterations.eval_period}",
    checkpointer=dict(period="${..iterations.checkpoint_period}", max_to_keep=3),
    # the checkpoint with the best value is kept as model_best.pth
    best_metric="bbox/AP",
    log_period=20,
    # say so when a model does not start to learn
    warn_of_plateau=True,
    # of convolutions: channels_last or contiguous
    memory_format="channels_last",
    # torch.compile of backbone and encoder, anew for every size of images
    compile=False,
    # replay what comes before the decoder, on one GPU
    cuda_graphs=False,
    amp=dict(enabled=False, dtype="bfloat16"),
    ddp=dict(
        broadcast_buffers=False,
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
        fp16_compression=False,
    ),
    sync_bn=True,
    # parts such as backbone, encoder and decoder whose activations are not kept, but computed again in the backward pass
    activation_checkpointing=[],
    # each batch in so many parts, for little memory
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
    # steps with a loss or gradient that is not finite: how many may be left out before one ends the run
    non_finite_steps_allowed=0,
    # report.html at the end of training, in one process
    report=False,
    # 20 iterations with an evaluation after 10, to see whether everything works
    fast_dev_run=dict(enabled=False),
    wandb=dict(enabled=False, params=dict(dir="./wandb_output", project="deim", name="deim")),
    device="cuda",
)
