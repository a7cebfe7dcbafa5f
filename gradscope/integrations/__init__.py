"""The monitor in other people's trainers, and its numbers in other people's dashboards.

Trainers that make and drive a monitor:

    lightning.MonitorCallback       a Lightning callback
    transformers.MonitorCallback    a callback of the Hugging Face Trainer
    accelerate.AcceleratedMonitor   a monitor for a loop written with accelerate

Sinks, called with each sample; their ``finding`` is called with each finding:

    tensorboard.TensorBoard    wandb.WandB    mlflow.MLflow    jsonl.JSONL

    sink = TensorBoard("runs/first")
    with Monitor(model, optimizer, on_sample=sink, on_finding=sink.finding) as monitor: ...

Nothing is imported here: each file imports its package when it is used, and says which extra of
gradscope brings it where it is missing.
"""
