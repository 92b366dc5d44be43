"""Fine-tuning on chat answers (LoRA, bias-only, full) by the paper's recipe, run by transformers' Trainer and peft."""
