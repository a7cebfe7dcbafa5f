import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

set_seed(9)
config = GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=2, n_head=2)
texts = [{"input_ids": row, "labels": row} for row in torch.randint(32, (60, 8))]
model = GPT2LMHeadModel(config)
trainer = Trainer(
    model,
    TrainingArguments(
        output_dir="checkpoints",
        max_steps=12,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        logging_steps=6,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=texts,
)
trainer.train()
print([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
torch.save([model.state_dict(), torch.get_rng_state()], "weights.pt")
